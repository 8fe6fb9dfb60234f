"""The body of an inference call (Open Inference Protocol v2): its envelope, and the bytes of tensors behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from tidemill.errors import Malformed
from tidemill.serving.tensors import FlatWire, InvalidTensor, Wire

_HINT = 'send {"inputs": [{"name": ..., "datatype": ..., "shape": [...], "data": [...]}, ...]}'

T = TypeVar("T", bound=Wire)


class OutputParameters(Struct, gc=False):
    """How an output is asked for."""

    binary_data: bool | None = None
    classification: Any = UNSET
    shared_memory_region: Any = UNSET


class Output(Struct, gc=False):
    """An output that is asked for."""

    name: str
    parameters: OutputParameters | UnsetType = UNSET


class Parameters(Struct, gc=False):
    """What is said of all rows."""

    unit: str | None = None
    subject: str | None = None
    binary_data_output: bool = False


class InferBody(Struct, Generic[T], gc=False):
    """The envelope."""

    inputs: list[T]
    id: str | UnsetType = UNSET
    parameters: Parameters | UnsetType = UNSET
    outputs: list[Output] | UnsetType = UNSET


_quick = msgspec.json.Decoder(InferBody[FlatWire]).decode
_lenient = msgspec.json.Decoder(InferBody[Wire]).decode


def decode_body(body: bytes, header_length: int | None) -> InferBody[Any]:
    """Return what a body says, of which `header_length` bytes are JSON where tensors follow as bytes.

    Raises:
        Malformed: it is not JSON, or not the envelope.
        InvalidTensor: a tensor has other bytes than it says.
    """
    if header_length is None:
        return _decoded(body)
    if not 0 < header_length <= len(body):
        raise Malformed(
            f"Inference-Header-Content-Length is {header_length} of a body of {len(body)} bytes.",
            "send the length of the JSON in front of the binary tensors",
        )
    asked = _decoded(body[:header_length])
    _give_bytes(asked.inputs, memoryview(body)[header_length:])
    return asked


def _decoded(head: bytes) -> InferBody[Any]:
    try:
        return _quick(head)
    except msgspec.ValidationError:
        pass  # nested data, or an error that is told below
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _malformed(error) from None
    try:
        return _lenient(head)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _malformed(error) from None


def _malformed(error: Exception) -> Malformed:
    if isinstance(error, RecursionError):
        return Malformed("the body is nested too deeply.", _HINT)
    what = "not as expected" if isinstance(error, msgspec.ValidationError) else "not JSON"
    return Malformed(f"the body is {what}: {error}.", _HINT)


def _give_bytes(tensors: Sequence[Wire], tail: memoryview) -> None:
    """Give each tensor that has its bytes behind the JSON those bytes."""
    at = 0
    for tensor in tensors:
        size = UNSET if tensor.parameters is UNSET else tensor.parameters.binary_data_size
        if size is UNSET:
            continue
        if not 0 <= size <= len(tail) - at or tensor.data is not UNSET:
            raise InvalidTensor(
                f"input {tensor.name[:60]!r} has binary_data_size {size}, with {len(tail) - at} bytes left.",
                "send that many bytes behind the JSON, in the order of the inputs, and no data beside",
                tensor.name[:60],
            )
        tensor.data = tail[at : at + size]
        at += size
    if at != len(tail):
        raise Malformed(f"{len(tail) - at} bytes behind the JSON belong to no input.", "give each its binary_data_size")
