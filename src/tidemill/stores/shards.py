"""The rows of a dataset version as typed columns: what a shard holds, which examples fit into one, and their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal, Self

import msgspec
import numpy as np
import pyarrow as pa

from tidemill.errors import InvalidInput
from tidemill.schema import Array, Input, Number, Schema
from tidemill.stores.database import loads
from tidemill.stores.inputs import InputColumns
from tidemill.stores.picked import Picked

Kind = Literal["text", "number", "bytes"]

_MAX_ROWS = 1 << 16
_MAX_BYTES = 32 << 20
_ROW_BYTES = 100  # about what the columns of our own take
_ARROW = {"text": pa.large_string(), "number": pa.float64(), "bytes": pa.large_binary()}
_OWN = {
    "id": pa.large_string(), "split": pa.large_string(), "weight": pa.float64(), "label": None,
    "trust": pa.large_string(), "unit": pa.large_string(), "received_at": pa.int64(), "probability": pa.float64(),
}  # fmt: skip


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """The kinds of the inputs, in order, and of the label."""

    inputs: dict[str, Kind]
    label: Kind

    @classmethod
    def of(cls, schema: Schema) -> Self:
        """Return the form of the datasets for a schema."""
        (decision,) = schema.output.decide(np.zeros((1, schema.output.num_scores)))
        return cls(
            inputs={name: _kind(given) for name, given in schema.inputs.items()},
            label="text" if isinstance(decision, str) else "number",
        )

    def covers(self, schema: Schema) -> bool:
        """Say whether rows of this form have all inputs of a schema, in its types; those with defaults may lack."""
        wanted = Form.of(schema)
        needed = {n: kind for n, kind in wanted.inputs.items() if n in self.inputs or n not in schema.defaults}
        return wanted.label == self.label and needed.items() <= self.inputs.items()

    @property
    def input_types(self) -> dict[str, pa.DataType]:
        """The Arrow types of the inputs."""
        return {name: _ARROW[kind] for name, kind in self.inputs.items()}

    @property
    def types(self) -> dict[str, pa.DataType]:
        """The Arrow types of all columns, in order."""
        return {**_OWN, "label": _ARROW[self.label], **self.input_types}


class FormedRows:
    """The rows of a version before they are stored: those of the picked examples that fit a schema.

    Left out are those that lack an input, have one of another type or shape, or a label that the output refuses.
    """

    def __init__(
        self, picked: Picked, weights: Sequence[float], inputs: InputColumns, schema: Schema, split: str
    ) -> None:
        self._picked, self._weights, self._inputs, self._split = picked, np.asarray(weights, np.float64), inputs, split
        self._form = Form.of(schema)
        parsed = {text: _label(text, schema) for text in set(picked.labels)}
        self._labels = [parsed[text] for text in picked.labels]
        known = np.array([label is not None for label in self._labels], dtype=bool)
        self._index = np.flatnonzero(inputs.fits & known & _right_sizes(inputs, schema, self._form))

    def __len__(self) -> int:
        return len(self._index)

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows, in order, as tables of bounded size."""
        lengths = sum(self._inputs.lengths.values(), np.full(len(self._picked), _ROW_BYTES, dtype=np.int64))
        ends = np.cumsum(lengths[self._index])
        at = 0
        while at < len(self._index):
            full = np.searchsorted(ends, (ends[at - 1] if at else 0) + _MAX_BYTES, side="right")
            until = min(max(int(full), at + 1), at + _MAX_ROWS)
            yield self._table(self._index[at:until])
            at = until

    def _table(self, index: Array) -> pa.Table:
        picked, inputs = self._picked, self._inputs.take(index)
        at = index.tolist()
        own = {
            "id": [picked.ids[i] for i in at], "split": [self._split] * len(at), "weight": self._weights[index],
            "label": [self._labels[i] for i in at], "trust": [picked.trusts[i] for i in at],
            "unit": [picked.units[i] for i in at], "received_at": [picked.received_at[i] for i in at],
            "probability": [picked.probabilities[i] for i in at],
        }  # fmt: skip
        types = self._form.types
        columns = {name: pa.array(values, types[name]) for name, values in own.items()}
        return pa.table({**columns, **{name: inputs[name] for name in self._form.inputs}})


class Digest:
    """The hash of a version's content: its form, and its rows in order, however they are parted into tables."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._columns = {name: (hashlib.sha256(), hashlib.sha256()) for name in form.types}

    def update(self, table: pa.Table) -> None:
        """Add the rows of a table of the form."""
        for name, (values, shape) in self._columns.items():
            column = table[name].combine_chunks()
            column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
            if pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type):
                starts, data = text_buffers(column)
                values.update(data[starts[0] : starts[-1]])
                shape.update(np.diff(starts).astype("<i8").tobytes())
            else:
                values.update(column.fill_null(0).to_numpy().astype(column.type.to_pandas_dtype()).tobytes())
                shape.update(column.is_valid().to_numpy(zero_copy_only=False).tobytes())

    def hexdigest(self) -> str:
        """Return 64 hex digits."""
        whole = hashlib.sha256(msgspec.msgpack.encode(self._form))
        for values, shape in self._columns.values():
            whole.update(values.digest() + shape.digest())
        return whole.hexdigest()


def text_buffers(column: pa.Array) -> tuple[Array, memoryview]:
    """Return where each value of a large string or binary array begins, int64 (N + 1,), and the bytes of all."""
    _, starts, data = column.buffers()
    offsets = np.frombuffer(starts, dtype=np.int64)[column.offset : column.offset + len(column) + 1]
    return offsets, memoryview(data if data is not None else b"")


def _label(text: str, schema: Schema) -> str | float | None:
    try:
        return schema.output.parse_label(loads(text))
    except InvalidInput:
        return None


def _right_sizes(inputs: InputColumns, schema: Schema, form: Form) -> Array:
    """Return which rows hold arrays of the declared shapes, bool (N,)."""
    right = np.ones(len(inputs.fits), dtype=bool)
    for name, kind in form.inputs.items():
        if kind == "bytes":
            sizes, which = np.unique(inputs.lengths[name], return_inverse=True)
            right &= np.array([_has_size(schema.inputs[name], int(size)) for size in sizes], dtype=bool)[which]
    return right


def _has_size(given: Input, num_bytes: int) -> bool:
    try:
        given.column([bytes(num_bytes)])
    except ValueError:
        return False
    return True


def _kind(given: Input) -> Kind:
    if hasattr(given, "shape"):
        return "bytes"
    return "number" if isinstance(given, Number) else "text"
