"""Whole columns of a table, checked by the schema at once: what a batch of rows needs instead of `parse` row by row.

For each row the answer is that of `tidemill.stores.cells.canonical`, the row-wise check: the same rows fit, with the
same values, and a refused row is given the row-wise reason. What has no quick way here goes through it row by row.

| input | quick for |
|---|---|
| Number | integers, floats; text of a file without types |
| Text, Category, Sensitive | strings, dictionaries of them |
| Image, Tensor | bytes of fixed or any size; lists of numbers, nested as declared or, of a fixed size, flat |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.errors import InvalidInput
from tidemill.inputs import default_of
from tidemill.schema import Array, Category, Image, Input, Number, Schema, Sensitive, Tensor, Text, keyed_hash
from tidemill.stores.cells import canonical

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"


class Refused(NamedTuple):
    """A row that does not fit: its place in the table, the input that it fails at, and why."""

    at: int
    field: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The rows of a table that fit. `good` says which of all N they are, bool (N,)."""

    columns: dict[str, Array]
    good: Array
    refused: list[Refused]


def check_table(
    schema: Schema, table: pa.Table, *, wanted: Sequence[str], key: bytes = b"", typed: bool = True
) -> Checked:
    """Check every declared input of `table`, and return the `wanted` ones of the rows that fit as a batch.

    Without `typed`, numbers are text, as in CSV, and what is missing is empty. `key` hashes sensitive inputs.
    """
    good = np.ones(len(table), dtype=bool)
    arrays = {name: _given(table, name, kind, typed=typed) for name, kind in schema.inputs.items()}
    columns: dict[str, Array] = {}
    for name, kind in schema.inputs.items():
        array = arrays[name]
        if isinstance(kind, Number) and not typed:
            array = numbers_of_text(array)
            array = array if kind.default is None else array.fill_null(math.inf)  # which no default stands for
        values, fits = check_column(kind, array, name, key=key, wanted=name in wanted)
        good &= fits
        if values is not None:
            columns[name] = values
    if good.all():
        return Checked(columns=columns, good=good, refused=[])
    refused = [_reason(schema, arrays, int(at), typed=typed) for at in np.flatnonzero(~good)]
    return Checked(columns={n: c[good] for n, c in columns.items()}, good=good, refused=refused)


def check_column(
    kind: Input, array: pa.Array, name: str, *, key: bytes = b"", wanted: bool = True
) -> tuple[Array | None, Array]:
    """Return a column of N rows as a batch, and which rows fit, bool (N,).

    The values of rows that do not fit mean nothing; those of a column that is not `wanted` may be None.
    """
    found: tuple[Array | None, Array] | None = None
    array = _filled(kind, array)
    if isinstance(kind, Number):
        found = _numbers(kind, array)
    elif isinstance(kind, Text | Category | Sensitive):
        found = _texts(kind, array, key, wanted=wanted)
    elif isinstance(kind, Image | Tensor):
        found = _arrays(kind, array)
    return _row_by_row(kind, array, name, key) if found is None else found


def _given(table: pa.Table, name: str, kind: Input, *, typed: bool) -> pa.Array:
    """Return a column; of one that is not there, and of empty cells of a file without types, what stands for them."""
    default = default_of(kind)
    if default is None:
        return plain(table.column(name))
    stands = default if typed or isinstance(default, str) else repr(default)
    if name not in table.column_names:
        return pa.repeat(stands, len(table))
    array = plain(table.column(name))
    return array if typed else pc.if_else(pc.equal(array, ""), stands, array)


def _filled(kind: Input, array: pa.Array) -> pa.Array:
    """Return a column with the default of its input, if it has one, where there is null or NaN."""
    default = default_of(kind)
    if isinstance(default, str) and _is_text(array.type):
        return array.fill_null(default)
    if isinstance(default, float) and _is_numeric(array.type):
        numbers = array.cast(pa.float64(), safe=False)
        return pc.if_else(pc.is_nan(numbers), default, numbers).fill_null(default)
    return array


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _is_numeric(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))


def plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column as one array without dictionaries, run lengths, extensions or decimals."""
    if isinstance(column, pa.ChunkedArray):
        chunks = column.chunks  # `combine_chunks` copies even a single one
        array = chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks or [pa.array([], column.type)])
    else:
        array = column
    if isinstance(array, pa.ExtensionArray):
        return plain(array.storage)
    if pa.types.is_dictionary(array.type):
        return plain(array.dictionary_decode())
    if pa.types.is_run_end_encoded(array.type):
        return plain(pc.run_end_decode(array))
    if pa.types.is_decimal(array.type):
        return array.cast(pa.float64())
    wide = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    return array.cast(wide[array.type]) if array.type in wide else array


def numbers_of_text(array: pa.Array) -> pa.Array:
    """Return texts as float64; what is no number is null."""
    return pc.if_else(pc.match_substring_regex(array, _NUMBER), pc.utf8_trim_whitespace(array), None).cast(pa.float64())


def value_at(kind: Input, array: pa.Array, at: int) -> Any:
    """Return one value as the row-wise check takes it."""
    try:
        value = array[at].as_py()
    except UnicodeDecodeError:  # a file may call bytes text that are none
        return array.view(pa.large_binary() if pa.types.is_large_string(array.type) else pa.binary())[at].as_py()
    if value is not None and _is_flat(kind, array.type):
        return np.array(value, dtype=object).reshape(kind.shape).tolist()  # type: ignore[attr-defined]
    return value


def _reason(schema: Schema, arrays: dict[str, pa.Array], at: int, *, typed: bool) -> Refused:
    """Say why a row is refused: the first input that does not fit, as `Schema.validate` would."""
    for name, kind in schema.inputs.items():
        array, text = arrays[name], None
        if isinstance(kind, Number) and not typed:
            number = numbers_of_text(array.slice(at, 1))
            array, text = (array, at) if number[0].as_py() is None else (number, 0)
        try:
            canonical(value_at(kind, array, at if text is None else text), kind, name)
        except InvalidInput as error:
            return Refused(at, name, error.message)
    raise AssertionError(f"row {at} fits, and was taken for one that does not")


def _row_by_row(kind: Input, array: pa.Array, name: str, key: bytes) -> tuple[Array, Array]:
    values, fits = [], np.zeros(len(array), dtype=bool)
    for at in range(len(array)):
        try:
            values.append(canonical(value_at(kind, array, at), kind, name, key))
            fits[at] = True
        except InvalidInput:
            pass
    column = kind.column(values)
    whole = np.zeros((len(array), *column.shape[1:]), dtype=column.dtype)
    whole[fits] = column
    return whole, fits


# ---- numbers


def _numbers(kind: Number, array: pa.Array) -> tuple[Array, Array] | None:
    if not _is_numeric(array.type):
        return None
    values = array.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)  # a null becomes NaN
    fits: Array = np.isfinite(values)
    if kind.low is not None:
        fits &= ~(values < _above(kind.low))
    if kind.high is not None:
        fits &= ~(values > -_above(-kind.high))
    if kind.default is not None:
        fits |= values == kind.default
    return values, fits


def _above(bound: float) -> float:
    """Return the least float that is not below `bound`, which may be an integer that no float equals."""
    try:
        near = float(bound)
    except OverflowError:
        return math.inf if bound > 0 else -math.inf
    return math.nextafter(near, math.inf) if near < bound else near


# ---- text


def _texts(
    kind: Text | Category | Sensitive, array: pa.Array, key: bytes, *, wanted: bool
) -> tuple[Array | None, Array] | None:
    if not _is_text(array.type):
        return None
    try:
        array.validate(full=True)  # that it is UTF-8
    except pa.ArrowInvalid:
        return None
    fits = _mask(pc.less_equal(pc.utf8_length(array), kind.max_chars))
    if isinstance(kind, Category) and kind.values is not None:
        known = [value for value in kind.values if _is_unicode(value)]
        fits &= _mask(pc.is_in(array, pa.array(known, array.type)))
    if not wanted:
        return None, fits
    return _hashed(array, key) if isinstance(kind, Sensitive) else array.to_numpy(zero_copy_only=False), fits


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _hashed(array: pa.Array, key: bytes) -> Array:
    """Hash each different value once."""
    encoded = array.dictionary_encode()
    hashes = [keyed_hash(value, key) for value in encoded.dictionary.to_pylist()]
    known: Array = np.array([*hashes, None], dtype=object)
    found: Array = known[encoded.indices.fill_null(len(hashes)).to_numpy(zero_copy_only=False)]
    return found


def _mask(array: pa.Array) -> Array:
    return np.array(array.fill_null(False).to_numpy(zero_copy_only=False), dtype=bool)


# ---- pictures and tensors


def _arrays(kind: Image | Tensor, array: pa.Array) -> tuple[Array, Array] | None:
    if _is_bytes(array.type):
        return _of_bytes(kind, array)
    sizes = (math.prod(kind.shape),) if _is_flat(kind, array.type) else tuple(kind.shape)
    found = _blocks(array, sizes)
    if found is None:
        return None
    values, fits = found
    made, good = _pixels(values) if isinstance(kind, Image) else _floats(values)
    return made.reshape(len(array), *kind.shape), fits & good


def _is_bytes(type_: pa.DataType) -> bool:
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_fixed_size_binary(type_))


def _is_flat(kind: Input, type_: pa.DataType) -> bool:
    """Tell whether a column holds the numbers of a picture or matrix one after the other, all rows as many."""
    shape = getattr(kind, "shape", ())
    if len(shape) < 2 or not pa.types.is_fixed_size_list(type_) or type_.list_size != math.prod(shape):
        return False
    return not pa.types.is_nested(type_.value_type)


def _of_bytes(kind: Image | Tensor, array: pa.Array) -> tuple[Array, Array]:
    dtype = np.dtype(np.uint8 if isinstance(kind, Image) else "<f4")
    size = dtype.itemsize * math.prod(kind.shape)
    fits = _mask(pc.equal(pc.binary_length(array), size))
    whole = bool(fits.all())
    values = _joined(array if whole else array.filter(pa.array(fits)), size).view(dtype).reshape(-1, *kind.shape)
    if not whole:
        values = _scattered(values, fits)
    if isinstance(kind, Tensor):
        fits &= _all(np.isfinite(values).reshape(len(values), math.prod(kind.shape)))
    return values, fits


def _joined(array: pa.Array, size: int) -> Array:
    """Return the bytes of rows that have `size` each and lie one after the other, without copying them."""
    data = array.buffers()[-1]
    if data is None or not len(array):
        return np.zeros(0, dtype=np.uint8)
    if pa.types.is_fixed_size_binary(array.type):
        begins = array.offset * size
    else:
        offsets = np.int64 if pa.types.is_large_binary(array.type) else np.int32
        begins = int(np.frombuffer(array.buffers()[1], dtype=offsets)[array.offset])
    return np.frombuffer(data, dtype=np.uint8)[begins : begins + len(array) * size]


def _blocks(array: pa.Array, sizes: tuple[int, ...]) -> tuple[Array, Array] | None:
    """Return nested lists of `sizes` as numbers (N, D), and which rows are whole; None where they hold no numbers."""
    if not sizes:
        return _leaves(array)
    if pa.types.is_fixed_size_list(array.type):
        fits = _mask(array.is_valid()) & (array.type.list_size == sizes[0])
    elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        fits = _mask(pc.equal(pc.list_value_length(array), sizes[0]))
    else:
        return None
    whole = bool(fits.all())
    inner = _blocks((array if whole else array.filter(pa.array(fits))).flatten(), sizes[1:])
    if inner is None:
        return None
    values = inner[0].reshape(-1, math.prod(sizes))
    good = _all(inner[1].reshape(-1, sizes[0]))
    if whole:
        return values, good
    values, known = _scattered(values, fits), fits.copy()
    known[fits] = good
    return values, known


def _leaves(array: pa.Array) -> tuple[Array, Array] | None:
    if not _is_numeric(array.type):
        return None
    if array.null_count == 0:
        return array.to_numpy(zero_copy_only=False), np.ones(len(array), dtype=bool)
    fits = _mask(array.is_valid())
    return _scattered(array.drop_null().to_numpy(zero_copy_only=False), fits), fits


def _all(table: Array) -> Array:
    """Tell of each row of a table, bool (N, D), whether all of it is true."""
    return np.asarray(table.all(axis=1))


def _scattered(values: Array, fits: Array) -> Array:
    """Return the values of the rows that fit in their places among all."""
    whole = np.zeros((len(fits), *values.shape[1:]), dtype=values.dtype)
    whole[fits] = values
    return whole


def _pixels(values: Array) -> tuple[Array, Array]:
    if values.dtype == np.uint8:
        return values, np.ones(len(values), dtype=bool)
    good = _all((values >= 0) & (values <= 255) & (values == np.floor(values)))
    return np.where(good[:, None], values, 0).astype(np.uint8), good


def _floats(values: Array) -> tuple[Array, Array]:
    if values.dtype != np.float32:
        values = values.astype(np.float64)  # first, as the row-wise check does: no other rounding
    good = _all(np.abs(values) <= _FLOAT32_MAX)
    if values.dtype == np.float32:
        return values, good
    return np.where(good[:, None], values, 0.0).astype(np.float32), good
