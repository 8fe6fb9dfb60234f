"""The inference calls of the Open Inference Protocol (v2) over HTTP: bodies to rows, and answers to bodies.

A request of N rows is N predictions. Beside the declared inputs it may have two more of N strings, `unit` and
`subject`; `parameters` of those names say it once for all rows. Other parameters are ignored, as the protocol allows.
With the binary extension the body is JSON of `header_length` bytes, then the tensors' bytes in the order of the JSON.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from tidemill.errors import InvalidRequest
from tidemill.schema import Parsed, Schema, Text, Value
from tidemill.serving.infer_body import Output, decode_body
from tidemill.serving.infer_reply import one_row, one_row_as_bytes
from tidemill.serving.protocol import MAX_NAME_CHARS, Answer, PredictRequest, Problem, encode
from tidemill.serving.tensors import FlatWire, InvalidTensor, Slot, Wire, packed, slot

OUTPUTS = ("scores", "decision", "abstained", "request_id", "version")
"""What a reply has, unless the request names some of it."""
_NAMED = ("unit", "subject")


class InferRequest(Struct, gc=False):
    """What a body asks for.

    `rows` are the inputs of each row; `units` and `subjects` have one for each too, or are None. `outputs` names what
    the reply shall have, and whether as bytes; None is everything, as bytes where `binary`.
    """

    rows: list[Parsed]
    units: Sequence[str] | None = None
    subjects: Sequence[str] | None = None
    id: str | None = None
    outputs: Sequence[tuple[str, bool]] | None = None
    binary: bool = False

    def predictions(self, model: str, version: int | None) -> list[PredictRequest]:
        """Return the request of each row, of the version that is pinned where one is."""
        units, subjects = self.units or repeat(None), self.subjects or repeat(None)
        return [
            PredictRequest(inputs=row, unit=unit, subject=subject, model=model, version=version)
            for row, unit, subject in zip(self.rows, units, subjects, strict=False)
        ]


class InferProblem(Problem, kw_only=True):
    """The body of an error of `/v2`: `error` is what clients of the protocol look for."""

    error: str


_UNREAD = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError, struct.error, InvalidRequest)
"""What is raised by bytes that are not as expected."""
_name = Text(MAX_NAME_CHARS)


class InferForm:
    """How one project's tensors are read and written. Made once for a schema; reads and writes without a copy of it."""

    def __init__(self, model: str, schema: Schema) -> None:
        self.model = model
        self.slots: dict[str, Slot] = {name: slot(name, kind) for name, kind in schema.inputs.items()}
        self._named = {name: slot(name, _name) for name in _NAMED}
        self._slots = tuple(self.slots.items())
        self._singles = tuple((name, place.single) for name, place in self._slots)
        self._defaults, self._required = schema.defaults, schema.required
        self.num_scores = schema.output.num_scores
        self._decision = "FP64" if isinstance(schema.output, Value) else "BYTES"
        self._decode_one = _one_row_decoder(self.slots.values())
        self.one = one_row(model, self.num_scores, self._decision)
        self._one_as_bytes = one_row_as_bytes(model, self.num_scores, self._decision)

    # ---- in

    def read(self, body: bytes, header_length: int | None = None) -> InferRequest:
        """Read the body of a request, of which `header_length` bytes are JSON where it has binary tensors.

        Raises:
            Malformed: it is not JSON, or not the envelope.
            InvalidTensor: a tensor is missing, unknown, or not as declared; the message names the input and the row.
        """
        asked = decode_body(body, header_length)
        request = self.request(asked.inputs)
        if asked.id is not UNSET:
            request.id = asked.id
        said = asked.parameters
        if said is not UNSET:
            request.binary = said.binary_data_output
            told(request, unit=said.unit, subject=said.subject)
        if asked.outputs is not UNSET and asked.outputs:
            request.outputs = _requested(asked.outputs, binary=request.binary)
        return request

    def quick(self, body: bytes) -> tuple[Parsed, str | None] | None:
        """Return the row and the id of a body that has one row of JSON and no wishes, None of any other."""
        row = Parsed()
        try:
            asked: Any = self._decode_one(body)
            for tensor, (name, read) in zip(asked.inputs, self._singles, strict=True):
                row[name] = read(tensor.data)
        except _UNREAD:
            return None
        return row, None if asked.id is UNSET else asked.id

    def _single(self, tensors: Sequence[Wire]) -> Parsed | None:
        """Read one row, its inputs in the declared order, quickly; None where it is anything else, or wrong."""
        row = Parsed()
        if len(tensors) != len(self.slots):
            return None
        for tensor, (name, place) in zip(tensors, self._slots, strict=True):
            if tensor.name != name or tensor.shape != place.one or tensor.datatype not in place.takes:
                return None
            data: Any = tensor.data
            try:
                if type(data) is list:
                    if type(tensor) is not FlatWire:
                        return None
                    row[name] = place.single(data)
                else:
                    (row[name],) = place.from_bytes(data, tensor.datatype, 1)
            except _UNREAD:
                return None
        return row

    def request(self, tensors: Sequence[Wire]) -> InferRequest:
        """Return the rows that named tensors make, each of which has a value for each row.

        Raises:
            InvalidTensor: one is missing, unknown, twice there, or not as declared.
        """
        row = self._single(tensors)
        if row is not None:
            return InferRequest([row])
        columns: dict[str, list[Any]] = {}
        slots = self.slots
        for tensor in tensors:
            name = tensor.name
            place = slots.get(name) or self._named.get(name)
            if place is None or name in columns:
                raise self._unexpected(name, twice=name in columns)
            columns[name] = place.read(tensor)
        sizes = {len(column) for column in columns.values()}
        if len(sizes) > 1:
            found = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
            raise InvalidTensor(f"inputs differ in their number of rows: {found}.", "send as many rows of each")
        units, subjects = (columns.pop(name, None) for name in _NAMED)
        return InferRequest(self._rows(columns), _checked(units, "unit"), _checked(subjects, "subject"))

    def _rows(self, columns: dict[str, list[Any]]) -> list[Parsed]:
        if len(columns) < len(self.slots):
            columns = self._filled(columns)
        ordered = [columns[name] for name in self.slots]
        return [Parsed(zip(self.slots, row, strict=True)) for row in zip(*ordered, strict=True)]

    def _filled(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return what was sent with the defaults of what was not, where there is something to tell the rows by."""
        missing = [name for name in self.slots if name not in columns]
        needed = [name for name in missing if name not in self._defaults] if columns else missing
        if needed:
            hint = f"send all of {', '.join(self._required or needed)}"
            raise InvalidTensor(f"input {needed[0]!r} is missing.", hint, needed[0])
        num_rows = len(next(iter(columns.values())))
        return {**columns, **{name: [self._defaults[name]] * num_rows for name in missing}}

    def _unexpected(self, name: str, *, twice: bool) -> InvalidTensor:
        shown = repr(name[:60])
        if twice:
            return InvalidTensor(f"input {shown} is there twice.", "send it once", name[:60])
        return InvalidTensor(f"input {shown} is not declared.", f"send only {', '.join(self.slots)}", name[:60])

    # ---- out

    def write(self, request: InferRequest, answers: Sequence[Answer]) -> tuple[bytes, int | None]:
        """Return the body of a reply, and the length of its JSON where binary tensors follow it."""
        if len(answers) == 1 and request.outputs is None:
            if request.binary:
                return self._one_as_bytes(answers[0], request.id)
            return self.one(answers[0], request.id), None
        outputs, tail = [], []
        for name, binary in request.outputs or zip(OUTPUTS, repeat(request.binary), strict=False):
            about = self.described(name, len(answers))
            values = column(name, answers)
            if binary:
                tail.append(packed(about["datatype"], values))
                about["parameters"] = {"binary_data_size": len(tail[-1])}
            else:
                about["data"] = values
            outputs.append(about)
        said = {"model_name": self.model, "model_version": str(answers[0].version), "outputs": outputs}
        if request.id is not None:
            said["id"] = request.id
        head = encode(said)
        return (b"".join([head, *tail]), len(head)) if tail else (head, None)

    def described(self, name: str, num_rows: int) -> dict[str, Any]:
        """Return name, datatype and shape of an output of so many rows."""
        shape = [num_rows, self.num_scores] if name == "scores" else [num_rows]
        return {"name": name, "datatype": self.datatype(name), "shape": shape}

    def datatype(self, output: str) -> str:
        """Return the datatype of an output."""
        return {"scores": "FP32", "decision": self._decision, "abstained": "BOOL", "version": "INT64"}.get(
            output, "BYTES"
        )

    def metadata(self, versions: Sequence[int]) -> dict[str, Any]:
        """Return the reply to `GET /v2/models/NAME`; -1 stands for the number of rows."""
        outputs = [self.described(name, -1) for name in OUTPUTS]
        return {
            "name": self.model,
            "versions": [str(version) for version in versions],
            "platform": "tidemill",
            "inputs": [place.describe() for place in self.slots.values()],
            "outputs": outputs,
        }


def column(name: str, answers: Sequence[Answer]) -> list[Any]:
    """Return an output of all rows, flat."""
    if name != "scores":
        return [getattr(answer, name) for answer in answers]
    out: list[float] = []
    for answer in answers:
        out += answer.scores
    return out


def _one_row_decoder(slots: Iterable[Slot]) -> Callable[[bytes], Any]:
    """Return what decodes a body of one row, its tensors in the declared order and of the declared types, and no more.

    The decoder checks names, shapes, types and sizes on its way, in half of the time that lists of anything take.
    """
    tensors = tuple(
        msgspec.defstruct(
            "Tensor",
            [
                ("name", Literal[place.name]),
                ("shape", tuple.__class_getitem__(tuple(Literal[size] for size in place.one))),
                ("datatype", Literal[tuple(sorted(place.takes))]),
                ("data", _listed(place.element, place.num)),
            ],
            forbid_unknown_fields=True,
            gc=False,
        )
        for place in slots
    )
    fields: list[Any] = [("inputs", tuple.__class_getitem__(tensors)), ("id", str | UnsetType, UNSET)]
    return msgspec.json.Decoder(msgspec.defstruct("Row", fields, forbid_unknown_fields=True, gc=False)).decode


def _listed(element: Any, num: int) -> Any:
    wire: Any = list.__class_getitem__(element)
    wire = Annotated[wire, Meta(min_length=num, max_length=num)]
    return wire


def told(request: InferRequest, *, unit: str | None, subject: str | None) -> None:
    """Take over what the parameters say for all rows; what an input says of each row goes before.

    Raises:
        InvalidTensor: it is empty or too long.
    """
    num_rows = len(request.rows)
    if unit is not None and request.units is None:
        request.units = _checked([unit] * num_rows, "unit")
    if subject is not None and request.subjects is None:
        request.subjects = _checked([subject] * num_rows, "subject")


def _checked(names: Sequence[str] | None, field: str) -> Sequence[str] | None:
    for row, name in enumerate(names or ()):
        if not 0 < len(name) <= MAX_NAME_CHARS:
            raise InvalidTensor(
                f"row {row}: {field!r} has {len(name)} characters.",
                f"send 1 to {MAX_NAME_CHARS}, or leave it out",
                field,
            )
    return names


def _requested(outputs: Sequence[Output], *, binary: bool) -> list[tuple[str, bool]]:
    asked = []
    for output in outputs:
        if output.name not in OUTPUTS:
            raise InvalidTensor(
                f"output {output.name[:60]!r} is not there.", f"ask for some of {', '.join(OUTPUTS)}", output.name[:60]
            )
        wishes = output.parameters
        as_bytes = binary
        if wishes is not UNSET:
            if wishes.classification is not UNSET or wishes.shared_memory_region is not UNSET:
                raise InvalidTensor(
                    f"output {output.name!r} is asked for by classification or in shared memory.",
                    "ask for it as it is; the class is in the output decision",
                    output.name,
                )
            as_bytes = binary if wishes.binary_data is None else wishes.binary_data
        asked.append((output.name, as_bytes))
    return asked


def problem_v2(error: InvalidRequest) -> bytes:
    """Return the body that tells a caller of `/v2` of an error."""
    return encode(
        InferProblem(
            type=f"urn:tidemill:problem:{type(error).__name__.lower()}",
            title=error.title,
            status=error.status,
            detail=error.message,
            hint=error.hint,
            field=getattr(error, "field", ""),
            request_id=getattr(error, "request_id", ""),
            error=str(error),
        )
    )
