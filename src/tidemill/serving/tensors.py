"""Tensors on the wire of the Open Inference Protocol (v2), and canonical values, which are what a request is made of.

| input | datatype | also taken | shape |
|---|---|---|---|
| Text, Category, Sensitive | BYTES | | [N] or [N, 1] |
| Number | FP64 | FP16, FP32, INT*, UINT* | [N] or [N, 1] |
| Image | UINT8 | | [N, H, W] or [N, H, W, C] |
| Tensor | FP32 | FP16, BF16, FP64, INT*, UINT* | [N, *shape] |

Elements come as a flat list, as nested lists, or as bytes (little-endian, C order; each of BYTES behind its length in
four bytes). Bytes become canonical values without a step in Python for each element. Where an input has a default,
null and NaN stand for it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from msgspec import UNSET, Struct, UnsetType

from tidemill.errors import InvalidInput
from tidemill.inputs import default_of
from tidemill.schema import Array, Image, Input, Number, Tensor

MAX_ROWS = 1_000
"""Of one request: each is a prediction of its own."""

_NUMPY: Mapping[str, np.dtype[Any]] = {
    "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"), "BF16": np.dtype("<u2"),
    **{f"{sign}INT{8 * n}": np.dtype(f"<{kind}{n}") for n in (1, 2, 4, 8) for sign, kind in (("", "i"), ("U", "u"))},
}  # fmt: skip
_FLOAT32 = _NUMPY["FP32"]
_LENGTH = struct.Struct("<I")
_SCALARS = {int, float, str}

Buffer = bytes | memoryview


class InvalidTensor(InvalidInput):
    """A tensor of the request is missing, unknown, of the wrong datatype, shape or size, or holds a bad value."""

    status = 400
    title = "Invalid tensor"


class TensorParameters(Struct, gc=False):
    """What a request says of one of its tensors beside its data."""

    binary_data_size: int | UnsetType = UNSET
    shared_memory_region: Any = UNSET


class Wire(Struct, gc=False):
    """A tensor as it came: `data` is a flat or nested list, or the bytes."""

    name: str
    shape: list[int]
    datatype: str
    data: Any = UNSET
    parameters: TensorParameters | UnsetType = UNSET


class FlatWire(Wire, gc=False):
    """A tensor whose data, where it is in the JSON, is a flat list of numbers and strings."""

    data: list[int | float | str] | UnsetType = UNSET


class Slot:
    """Where one declared input comes in: reads its tensor into a canonical value for each row."""

    datatype = "BYTES"
    also: frozenset[str] = frozenset()
    element: type = str

    def __init__(self, name: str, kind: Any, shape: Sequence[int] = ()) -> None:
        self.name, self.kind, self.shape = name, kind, tuple(shape)
        self.num = math.prod(self.shape)  # elements of a row
        self._tail = list(shape)
        self.one = [1, *shape]
        """The shape of one row."""
        self.takes = {self.datatype, *self.also}
        self._elements_of = _SCALARS if default_of(kind) is None else {*_SCALARS, type(None)}

    def describe(self) -> dict[str, Any]:
        """Return what metadata says of it; -1 stands for the number of rows."""
        return {"name": self.name, "datatype": self.datatype, "shape": [-1, *self.shape]}

    def read(self, wire: Wire) -> list[Any]:
        """Return the canonical values, one a row.

        Raises:
            InvalidTensor: the tensor is not as declared, or a value in it is not; the message names the row.
        """
        if wire.datatype not in self.takes:
            hint = " or ".join([self.datatype, *sorted(self.also)])
            raise self.refusal(f"has datatype {wire.datatype[:20]!r}", f"send {hint}")
        if wire.data is UNSET:
            raise self.refusal("has no data", "send its data, or its bytes behind the JSON")
        num_rows = self._num_rows(wire.shape)
        if isinstance(wire.data, bytes | memoryview):
            return self.from_bytes(wire.data, wire.datatype, num_rows)
        data = self._flat(wire.data, wire.shape, num_rows * self.num)
        if type(wire) is not FlatWire and not {*map(type, data)} <= self._elements_of:
            raise self.refusal("holds what is neither a number nor a string", "send its elements alone")
        return self.from_list(data, num_rows)

    def single(self, data: list[Any]) -> Any:
        """Read the flat data of one row quickly; whatever it raises, `read` tells what is wrong."""
        (value,) = data
        return self.kind.parse(value, self.name)

    def from_list(self, data: list[Any], num_rows: int) -> list[Any]:
        """Read a flat list of the right length."""
        raise NotImplementedError

    def from_bytes(self, raw: Buffer, datatype: str, num_rows: int) -> list[Any]:
        """Read bytes of a datatype that is taken."""
        raise NotImplementedError

    def refusal(self, problem: str, hint: str, *, row: int | None = None) -> InvalidTensor:
        """Return the error that says what is wrong with this input, in which row where that is known."""
        where = "" if row is None else f"row {row}: "
        return InvalidTensor(f"{where}input {self.name!r} {problem}.", hint, self.name)

    def _num_rows(self, shape: Sequence[int]) -> int:
        if shape[1:] != self._tail and (self._tail or list(shape[1:]) != [1]):
            declared = "[N] or [N, 1]" if not self.shape else f"[N, {', '.join(map(str, self.shape))}]"
            raise self.refusal(f"has shape {list(shape)[:10]}, not {declared}", "send rows of the declared shape")
        if not shape or not 1 <= shape[0] <= MAX_ROWS:
            raise self.refusal(f"has shape {list(shape)[:10]}", f"send 1 to {MAX_ROWS} rows")
        return shape[0]

    def _flat(self, given: object, shape: Sequence[int], num: int) -> list[Any]:
        if not isinstance(given, list):
            raise self.refusal("has data that is no list", "send a list of its elements")
        data: list[Any] = given
        if data and type(data[0]) is list:
            data = self._unnested(data, shape)
        if len(data) != num:
            raise self.refusal(f"has {len(data)} elements, not the {num} of its shape", "send as many")
        return data

    def _unnested(self, data: list[Any], shape: Sequence[int]) -> list[Any]:
        """Take nested lists apart, one level for each dimension."""
        parts = [data]
        for size in shape:
            if any(type(part) is not list or len(part) != size for part in parts):
                raise self.refusal(f"is nested otherwise than its shape {list(shape)}", "nest it so, or send it flat")
            parts = list(chain.from_iterable(parts))
        return parts

    def _each(self, values: Sequence[Any]) -> list[Any]:
        """Parse one value a row."""
        parse, name, out = self.kind.parse, self.name, []
        try:
            for value in values:
                out.append(parse(value, name))  # noqa: PERF401 - an error names how far it came
        except InvalidInput as error:
            raise InvalidTensor(f"row {len(out)}: {error.message}", error.hint, name) from None
        return out

    def _elements(self, raw: Buffer, datatype: str, num: int) -> Array:
        kind = _NUMPY[datatype]
        if len(raw) != num * kind.itemsize:
            problem = f"has {len(raw)} bytes, not {num * kind.itemsize}"
            raise self.refusal(problem, f"send {num} elements of {datatype} in {kind.itemsize} bytes each")
        if datatype == "BF16":  # the upper half of a float32
            return (np.frombuffer(raw, kind).astype("<u4") << 16).view(_FLOAT32)
        return np.frombuffer(raw, kind)


class Strings(Slot):
    """Text, Category and Sensitive."""

    def from_list(self, data: list[Any], num_rows: int) -> list[Any]:
        """Take strings as they are."""
        return self._each(data)

    def from_bytes(self, raw: Buffer, datatype: str, num_rows: int) -> list[Any]:
        """Take the strings apart."""
        return self._each(self.strings(bytes(raw), num_rows))

    def strings(self, raw: bytes, num: int) -> list[str]:
        """Read `num` strings, each behind its length."""
        out: list[str] = []
        at = 0
        for _ in range(num):
            begin = at + 4
            if begin > len(raw):
                break
            at = begin + _LENGTH.unpack_from(raw, begin - 4)[0]
            if at > len(raw):
                break
            try:
                out.append(raw[begin:at].decode())
            except UnicodeDecodeError:
                raise self.refusal("is not UTF-8", "send text in UTF-8", row=len(out)) from None
        if len(out) != num or at != len(raw):
            raise self.refusal(f"does not hold {num} strings", "send each behind its length in 4 bytes, little-endian")
        return out


class Numbers(Slot):
    """Number."""

    datatype = "FP64"
    also = frozenset(_NUMPY) - {"FP64", "BF16"}
    element = float

    def from_list(self, data: list[Any], num_rows: int) -> list[Any]:
        """Take numbers as they are."""
        return self._each(data)

    def from_bytes(self, raw: Buffer, datatype: str, num_rows: int) -> list[Any]:
        """Take the numbers out."""
        return self._each(self._elements(raw, datatype, num_rows).tolist())


class Pixels(Slot):
    """Image."""

    datatype = "UINT8"
    element = int

    def single(self, data: list[Any]) -> Any:
        """Take integers from 0 to 255."""
        raw = bytes(data)
        if len(raw) != self.num:
            raise ValueError(len(raw))
        return raw

    def from_list(self, data: list[Any], num_rows: int) -> list[Any]:
        """Take integers from 0 to 255."""
        num, out = self.num, []
        try:
            for row in range(num_rows):
                out.append(bytes(data[row * num : (row + 1) * num]))  # noqa: PERF401 - as above
        except (TypeError, ValueError):
            problem = "holds a pixel that is no integer from 0 to 255"
            raise self.refusal(problem, "scale it to 0..255", row=len(out)) from None
        return out

    def from_bytes(self, raw: Buffer, datatype: str, num_rows: int) -> list[Any]:
        """Take the bytes: they are canonical."""
        self._elements(raw, datatype, num_rows * self.num)
        return _rows(raw, self.num, num_rows)


class Floats(Slot):
    """Tensor."""

    datatype = "FP32"
    also = frozenset(_NUMPY) - {"FP32"}
    element = float

    def __init__(self, name: str, kind: Any, shape: Sequence[int] = ()) -> None:
        super().__init__(name, kind, shape)
        self._pack = struct.Struct(f"<{self.num}f").pack

    def single(self, data: list[Any]) -> Any:
        """Pack numbers; of more or fewer than there must be, nothing comes."""
        return self._pack(*data)

    def from_list(self, data: list[Any], num_rows: int) -> list[Any]:
        """Pack numbers; JSON has no others than finite ones, and one beyond float32 is refused."""
        num, pack, out = self.num, self._pack, []
        try:
            for row in range(num_rows):
                out.append(pack(*data[row * num : (row + 1) * num]))  # noqa: PERF401 - as above
        except OverflowError:
            raise self._not_finite(len(out)) from None
        except struct.error:
            raise self.refusal("holds what is no number for float32", "send numbers", row=len(out)) from None
        return out

    def from_bytes(self, raw: Buffer, datatype: str, num_rows: int) -> list[Any]:
        """Take float32 as it is, and turn other numbers into it."""
        array = self._elements(raw, datatype, num_rows * self.num)
        if array.dtype != _FLOAT32:
            with np.errstate(over="ignore"):
                array = array.astype(_FLOAT32)
            raw = array.tobytes()
        elif datatype != self.datatype:
            raw = array.tobytes()
        self.require_finite(array)
        return _rows(raw, 4 * self.num, num_rows)

    def require_finite(self, array: Array) -> None:
        """Refuse NaN and infinity, naming the row.

        Raises:
            InvalidTensor: there is one.
        """
        at = np.isfinite(array).tobytes().find(0)  # a third of the time of `all`
        if at >= 0:
            raise self._not_finite(at // self.num)

    def _not_finite(self, row: int) -> InvalidTensor:
        return self.refusal("holds NaN, infinity or a number beyond float32", "send finite numbers", row=row)


def _rows(raw: Buffer, size: int, num_rows: int) -> list[bytes]:
    if num_rows == 1:
        return [bytes(raw)]
    return [bytes(raw[at : at + size]) for at in range(0, num_rows * size, size)]


def slot(name: str, kind: Input) -> Slot:
    """Return where an input comes in."""
    if isinstance(kind, Number):
        return Numbers(name, kind)
    if isinstance(kind, Image):
        return Pixels(name, kind, kind.shape)
    if isinstance(kind, Tensor):
        return Floats(name, kind, kind.shape)
    return Strings(name, kind)


def numpy_kind(datatype: str) -> np.dtype[Any]:
    """Return what NumPy calls a datatype of numbers."""
    return _NUMPY[datatype]


def packed_strings(values: Sequence[str]) -> bytes:
    """Write strings, each behind its length."""
    return b"".join(_LENGTH.pack(len(raw)) + raw for raw in map(str.encode, values))


_PACKED: Mapping[str, Callable[[Sequence[Any]], bytes]] = {
    "BYTES": packed_strings,
    "BOOL": bytes,
    "FP32": lambda values: struct.pack(f"<{len(values)}f", *values),
    "FP64": lambda values: struct.pack(f"<{len(values)}d", *values),
    "INT64": lambda values: struct.pack(f"<{len(values)}q", *values),
}


def packed(datatype: str, values: Sequence[Any]) -> bytes:
    """Write the elements of an output as bytes."""
    return _PACKED[datatype](values)
