"""The types of inputs, and how a value of each is checked at the edge.

A value has three forms. On the **wire** it is JSON. **Canonical**, as logged and stored, it is `str`, `float` or
`bytes`. As a **column**, what transforms and models see, a batch of N values is a NumPy array:

| type | wire | canonical | column |
|---|---|---|---|
| Text | string | str | object (N,) |
| Category | string | str | object (N,) |
| Number | number | float | float64 (N,) |
| Image | nested lists of integers, or base64 of the bytes | bytes | uint8 (N, H, W) or (N, H, W, C) |
| Tensor | nested lists of numbers, or base64 of little-endian float32 | bytes | float32 (N, *shape) |

A Text, Category or Number with a `default` may be left out, or be null: the default then stands for it, canonically and
in columns, so that nothing behind the edge meets a missing value.
"""

from __future__ import annotations

import base64
import binascii
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

from tidemill.errors import InvalidInput, ProjectError
from tidemill.records import Json

FLOAT32_END = 3.4028235677973366e38
"""From here on float32 rounds to infinity."""
_MAX_SHOWN = 60
_HINT_NONE = "send {0}; or declare what stands for a missing one, as in {2}(default={1})"
_brief = reprlib.Repr()
_brief.maxlevel, _brief.maxstring = 3, _MAX_SHOWN

Array = npt.NDArray[Any]
Outliers = Literal["flag", "refuse"]
"""What becomes of a request whose input lies outside what the model learnt from: noted on its row, or refused."""

Columns = Mapping[str, Array]
"""A batch: one array per input, all of the same length."""


class Input(Protocol):
    """One declared input."""

    @property
    def tag(self) -> bool:
        """Whether it describes the request (for cohorts) rather than feeding the model by default."""
        ...

    def parse(self, value: object, name: str) -> Any:
        """Turn a wire value into its canonical form, or raise `InvalidInput`."""
        ...

    def column(self, values: Sequence[Any]) -> Array:
        """Turn canonical values into a batch."""
        ...

    def to_json(self) -> Json:
        """Return the declaration as JSON."""
        ...


class _Declared:
    """Shared by the input types: JSON from the dataclass fields."""

    def to_json(self) -> Json:
        body = {"type": type(self).__name__, **{k: _plain(v) for k, v in asdict(self).items()}}  # type: ignore[call-overload]
        for name, usual in (("outliers", "flag"), ("default", None)):
            if body.get(name, ...) == usual:
                del body[name]  # as it was written before there was a choice: equal declarations stay equal
        return body


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def shown(value: object) -> str:
    """Return a value for a message: short, and quickly, however large or deep it is."""
    try:
        text = _brief.repr(value)
    except ValueError:  # Python writes out no integer of more than 4300 digits
        text = f"a very large {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def _unicode(text: str, name: str) -> str:
    """Refuse half of a surrogate pair, which JSON can spell and no file can hold."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidInput(f"{name!r} holds half of a surrogate pair.", "send valid Unicode", name) from None
    return text


@dataclass(frozen=True)
class Text(_Declared):
    """A string of at most `max_chars` characters. `default` stands for one that is missing."""

    max_chars: int = 10_000
    tag: bool = False
    outliers: Outliers = "flag"
    default: str | None = None

    def __post_init__(self) -> None:
        _check_default(self)

    def parse(self, value: object, name: str) -> str:
        """Check that it is a string and not too long."""
        if value is None and self.default is not None:
            return self.default
        if not isinstance(value, str):
            hint = _HINT_NONE.format("a string", "''", "Text") if value is None else "send text as a JSON string"
            raise InvalidInput(f"{name!r} is {shown(value)}, not a string.", hint, name)
        if len(value) > self.max_chars:
            raise InvalidInput(f"{name!r} has {len(value)} characters, more than {self.max_chars}.", "shorten it", name)
        return _unicode(value, name)

    def column(self, values: Sequence[Any]) -> Array:
        """Return an object array (N,) of strings."""
        return np.array([*values, None], dtype=object)[:-1]


@dataclass(frozen=True)
class Category(_Declared):
    """A short string; with `values`, one of them. `default`, one of them too, stands for one that is missing."""

    values: Sequence[str] | None = None
    tag: bool = False
    outliers: Outliers = "flag"
    default: str | None = None
    max_chars: ClassVar[int] = 200

    def __post_init__(self) -> None:
        if self.values is not None:
            if isinstance(self.values, str) or not self.values or any(not isinstance(v, str) for v in self.values):
                raise ProjectError(
                    f"Category({self.values!r}) needs a list of strings.", "give ['red', 'green'], or none"
                )
            object.__setattr__(self, "values", tuple(self.values))
        _check_default(self)

    def parse(self, value: object, name: str) -> str:
        """Check that it is a string, and a declared one."""
        if value is None and self.default is not None:
            return self.default
        if not isinstance(value, str) or len(value) > self.max_chars:
            hint = _HINT_NONE.format("one", "'none'", "Category") if value is None else "send one"
            raise InvalidInput(
                f"{name!r} is {shown(value)}, not a string of at most {self.max_chars} characters.", hint, name
            )
        if self.values is not None and value not in self.values:
            raise InvalidInput(f"{name!r} is {shown(value)}.", f"send one of {', '.join(self.values)}", name)
        return _unicode(value, name)

    def column(self, values: Sequence[Any]) -> Array:
        """Return an object array (N,) of strings."""
        return np.array([*values, None], dtype=object)[:-1]


@dataclass(frozen=True)
class Number(_Declared):
    """A finite number, between `low` and `high` where given.

    `default` stands for one that is missing, or NaN; it may lie outside the bounds, as -1 does for an age.
    """

    low: float | None = None
    high: float | None = None
    tag: bool = False
    outliers: Outliers = "flag"
    default: float | None = None

    def __post_init__(self) -> None:
        _check_default(self)
        if self.default is not None:
            object.__setattr__(self, "default", float(self.default))

    def parse(self, value: object, name: str) -> float:
        """Check that it is a finite number in range."""
        if value is None and self.default is not None:
            return self.default
        if isinstance(value, bool) or not isinstance(value, int | float):
            hint = _HINT_NONE.format("a number", "-1", "Number") if value is None else "send a JSON number"
            raise InvalidInput(f"{name!r} is {shown(value)}, not a number.", hint, name)
        number = _as_float(value, name)
        if not math.isfinite(number):
            if math.isnan(number) and self.default is not None:  # so tables write what is missing
                return self.default
            hint = _HINT_NONE.format("a finite number", "-1", "Number")
            raise InvalidInput(f"{name!r} is {value}, which is not finite.", hint, name)
        if (self.low is not None and number < self.low) or (self.high is not None and number > self.high):
            if number == self.default:
                return number
            raise InvalidInput(f"{name!r} is {shown(value)}.", f"send a number {self._range()}", name)
        return number

    def _range(self) -> str:
        if self.high is None:
            return f"of at least {self.low}"
        return f"of at most {self.high}" if self.low is None else f"from {self.low} to {self.high}"

    def column(self, values: Sequence[Any]) -> Array:
        """Return a float64 array (N,)."""
        return np.array(values, dtype=np.float64)


def default_of(kind: Input) -> Any:
    """Return the canonical value that stands for a missing one, None where there must be one."""
    return getattr(kind, "default", None)


def _check_default(kind: Text | Category | Number) -> None:
    """Refuse a default that no request could send."""
    if kind.default is None:
        return
    try:
        if kind.default != kind.default:  # NaN, which a default would stand for
            raise InvalidInput("'default' is nan, which is not finite.", "send a finite number, such as -1")
        kind.parse(kind.default, "default")
    except InvalidInput as error:
        raise ProjectError(
            f"{type(kind).__name__}(default={shown(kind.default)}): {error.message}", error.hint.replace("send", "give")
        ) from None


def _as_float(value: int | float, name: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise InvalidInput(f"{name!r} is an integer too large for a float.", "send a smaller number", name) from None


@dataclass(frozen=True)
class Image(_Declared):
    """Pixels of `shape` (H, W) or (H, W, C), 0 to 255."""

    shape: Sequence[int]
    outliers: Outliers = "flag"
    tag: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _shape(self.shape, (2, 3)))

    def parse(self, value: object, name: str) -> bytes:
        """Read nested lists or base64; return the bytes in C order."""
        if isinstance(value, str):
            return _base64(value, name, math.prod(self.shape))
        array = _nested(value, name, self.shape)
        if ((array < 0) | (array > 255) | (array != np.floor(array))).any():
            raise InvalidInput(f"{name!r} holds a pixel that is no integer from 0 to 255.", "scale it to 0..255", name)
        return array.astype(np.uint8).tobytes()

    def column(self, values: Sequence[Any]) -> Array:
        """Return a uint8 array (N, *shape)."""
        return np.frombuffer(b"".join(values), dtype=np.uint8).reshape(len(values), *self.shape)


@dataclass(frozen=True)
class Tensor(_Declared):
    """Finite float32 numbers of a fixed `shape`; an embedding is a Tensor of shape (D,)."""

    shape: Sequence[int]
    outliers: Outliers = "flag"
    tag: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _shape(self.shape, range(1, 9)))

    def parse(self, value: object, name: str) -> bytes:
        """Read nested lists or base64; return little-endian float32 bytes in C order."""
        if isinstance(value, str):
            raw = _base64(value, name, 4 * math.prod(self.shape))
            if not np.isfinite(np.frombuffer(raw, dtype="<f4")).all():
                raise InvalidInput(f"{name!r} holds NaN or infinity.", "send finite numbers", name)
            return raw
        return _nested(value, name, self.shape).astype("<f4").tobytes()

    def column(self, values: Sequence[Any]) -> Array:
        """Return a float32 array (N, *shape)."""
        return np.frombuffer(b"".join(values), dtype="<f4").reshape(len(values), *self.shape)


@dataclass(frozen=True)
class Sensitive(_Declared):
    """A string that is never written in the clear: replaced at the edge by a keyed hash of 32 hex digits.

    The model sees the same hash in training and serving, so it can still tell values apart.
    """

    tag: bool = False
    max_chars: int = 1_000

    def parse(self, value: object, name: str) -> str:
        """Check that it is a string; `Schema.validate` hashes it with the deployment's key."""
        if not isinstance(value, str) or len(value) > self.max_chars:
            # The value itself must not reach a message that may be logged.
            raise InvalidInput(f"{name!r} is not a string of at most {self.max_chars} characters.", "send one", name)
        return _unicode(value, name)

    def column(self, values: Sequence[Any]) -> Array:
        """Return an object array (N,) of hex digits."""
        return np.array([*values, None], dtype=object)[:-1]


def _shape(shape: Sequence[int], ranks: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, Sequence) else ()
    if len(sizes) not in ranks or any(type(n) is not int or n < 1 for n in sizes):
        raise ProjectError(
            f"shape {shape} is not {min(ranks)} to {max(ranks)} positive integers.", "give the fixed shape"
        )
    return sizes


def _base64(text: str, name: str, num_bytes: int) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"{name!r} is a string but not base64.", "send base64 or nested lists", name) from None
    if len(raw) != num_bytes:
        raise InvalidInput(
            f"{name!r} has {len(raw)} bytes, not {num_bytes}.", "send an array of the declared shape", name
        )
    return raw


def _nested(value: object, name: str, shape: Sequence[int]) -> npt.NDArray[np.float64]:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, OverflowError):
        array = np.array(None)
    if array.dtype.kind == "O":
        array = _large_integers(array)
    if array.dtype.kind not in "iuf":  # asking for float64 at once would read the text "1" as a number
        raise InvalidInput(f"{name!r} is {shown(value)}, not a regular array of numbers.", "send nested lists", name)
    array = array.astype(np.float64, copy=False)
    if array.shape != tuple(shape):
        raise InvalidInput(
            f"{name!r} has shape {list(array.shape)}, not {list(shape)}.", "send the declared shape", name
        )
    if _holds_bool(value):  # among numbers NumPy takes true for 1
        raise InvalidInput(f"{name!r} holds true or false, which are no numbers.", "send numbers", name)
    if not np.abs(array).max(initial=0.0) < FLOAT32_END:  # nor is NaN
        raise InvalidInput(f"{name!r} holds NaN, infinity or a number beyond float32.", "send finite numbers", name)
    return array


def _holds_bool(value: object) -> bool:
    if not isinstance(value, list):
        return False
    kinds = {*map(type, value)}
    return bool in kinds or (list in kinds and any(map(_holds_bool, value)))


def _large_integers(array: Array) -> Array:
    """Return numbers of which some are integers beyond 64 bits as float64, anything else as it is."""
    if any(type(value) not in (int, float) for value in array.flat):
        return array
    try:
        return array.astype(np.float64)
    except OverflowError:
        return array


INPUT_TYPES: Mapping[str, type[Any]] = {t.__name__: t for t in (Text, Category, Number, Image, Tensor, Sensitive)}
