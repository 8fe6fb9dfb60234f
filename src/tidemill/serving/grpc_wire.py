"""The inference call over gRPC: messages to rows, and answers to the bytes of messages.

A reply is put together from bytes: all of it but the values is the same for every request of as many rows. Where a
request has raw contents the reply has them too; where it has typed contents, so has the reply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tidemill.errors import Malformed
from tidemill.serving.grpc_messages import messages
from tidemill.serving.infer import OUTPUTS, InferForm, InferRequest, column, told
from tidemill.serving.protocol import Answer
from tidemill.serving.tensors import InvalidTensor, Wire, numpy_kind, packed

_CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents", "BYTES": "bytes_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
    "INT64": "int64_contents", "UINT64": "uint64_contents",
    **{f"INT{n}": "int_contents" for n in (8, 16, 32)}, **{f"UINT{n}": "uint_contents" for n in (8, 16, 32)},
}  # fmt: skip


def read(form: InferForm, message: Any) -> InferRequest:
    """Return the rows of a `ModelInferRequest`.

    Raises:
        Malformed: there are other than as many raw contents as inputs.
        InvalidTensor: a tensor is missing, unknown, or not as declared; the message names the input and the row.
    """
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise Malformed(f"{len(raw)} raw contents for {len(message.inputs)} inputs.", "send one for each, in order")
    if raw:
        wires = [Wire(i.name, list(i.shape), i.datatype, data) for i, data in zip(message.inputs, raw, strict=True)]
    else:
        wires = [Wire(i.name, list(i.shape), i.datatype, _typed(i)) for i in message.inputs]
    request = form.request(wires)
    request.binary = bool(raw)
    request.id = message.id or None
    parameters = message.parameters
    if parameters:
        told(request, unit=_text(parameters, "unit"), subject=_text(parameters, "subject"))
    if message.outputs:
        request.outputs = [(_asked(output), request.binary) for output in message.outputs]
    return request


def _typed(tensor: Any) -> Any:
    """Return typed contents as a list of strings, or as bytes of the tensor's datatype."""
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        raise InvalidTensor(
            f"input {tensor.name[:60]!r} has datatype {tensor.datatype[:20]!r} without raw contents.",
            "send raw_input_contents, or one of " + ", ".join(_CONTENTS),
            tensor.name[:60],
        )
    values = getattr(tensor.contents, field)
    if field == "bytes_contents":
        return [_utf8(tensor.name, row, value) for row, value in enumerate(values)]
    if field == "bool_contents":
        return list(values)
    try:
        return np.array(values, numpy_kind(tensor.datatype)).tobytes()
    except OverflowError:
        raise InvalidTensor(
            f"input {tensor.name[:60]!r} holds a number beyond {tensor.datatype}.", "send what fits", tensor.name[:60]
        ) from None


def _utf8(name: str, row: int, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidTensor(f"row {row}: input {name[:60]!r} is not UTF-8.", "send text in UTF-8", name[:60]) from None


def _text(parameters: Any, name: str) -> str | None:
    if name not in parameters:
        return None
    said = parameters[name]
    if said.WhichOneof("parameter_choice") != "string_param":
        raise Malformed(f"parameter {name!r} is no string.", "send string_param")
    text: str = said.string_param
    return text


def _asked(output: Any) -> str:
    name: str = output.name
    if name not in OUTPUTS:
        raise InvalidTensor(f"output {name[:60]!r} is not there.", f"ask for some of {', '.join(OUTPUTS)}", name[:60])
    if "classification" in output.parameters or "shared_memory_region" in output.parameters:
        raise InvalidTensor(
            f"output {name!r} is asked for by classification or in shared memory.",
            "ask for it as it is; the class is in the output decision",
            name,
        )
    return name


class Writer:
    """Writes the replies of one project. Made once for a form."""

    def __init__(self, form: InferForm) -> None:
        self.form = form
        self._head = _field(1, form.model.encode())
        self._described: dict[tuple[int, tuple[str, ...]], bytes] = {}

    def write(self, request: InferRequest, answers: Sequence[Answer]) -> bytes:
        """Return a `ModelInferResponse`."""
        names = OUTPUTS if request.outputs is None else tuple(name for name, _ in request.outputs)
        parts = [self._head, _field(2, b"%d" % answers[0].version)]
        if request.id is not None:
            parts.append(_field(3, request.id.encode()))
        if not request.binary:
            parts.append(self._typed(names, answers))
            return b"".join(parts)
        key = len(answers), names
        described = self._described.get(key)
        if described is None:
            described = self._describe(*key)
        parts.append(described)
        datatype = self.form.datatype
        parts += [_field(6, packed(datatype(name), column(name, answers))) for name in names]
        return b"".join(parts)

    def _describe(self, num_rows: int, names: tuple[str, ...]) -> bytes:
        made = messages()["ModelInferResponse"](outputs=[self.form.described(name, num_rows) for name in names])
        described: bytes = made.SerializeToString()
        if len(self._described) < 100:  # who asks for ever other sizes gets no memory for it
            self._described[num_rows, names] = described
        return described

    def _typed(self, names: Sequence[str], answers: Sequence[Answer]) -> bytes:
        outputs = []
        for name in names:
            about = self.form.described(name, len(answers))
            values = column(name, answers)
            if about["datatype"] == "BYTES":
                values = [value.encode() for value in values]
            outputs.append({**about, "contents": {_CONTENTS[about["datatype"]]: values}})
        made: bytes = messages()["ModelInferResponse"](outputs=outputs).SerializeToString()
        return made


def _field(number: int, value: bytes) -> bytes:
    """Return a field of bytes on the wire: its tag, its length, itself."""
    size = len(value)
    if size < 0x80:
        return bytes((number << 3 | 2, size)) + value
    head = bytearray((number << 3 | 2,))
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + value


Parse = Callable[[bytes], Any]


def parser(name: str) -> Parse:
    """Return what reads a message of this name."""
    parse: Parse = messages()[name].FromString
    return parse
