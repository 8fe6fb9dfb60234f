"""The rows of a dataset version for those who train: read by row from the memory-mapped shards, in any order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
import pyarrow as pa

from tidemill.model import TrainingData
from tidemill.schema import Array, Schema
from tidemill.stores.chunks import Chunks
from tidemill.stores.shards import Form, text_buffers

_FEW_SHARDS = 4

Sample = tuple[dict[str, Any], Any, Any]
"""Inputs by name, the target and the weight: of one row, or each with one more axis of a batch."""


class Rows:
    """Rows of a version, map-style: `torch.utils.data.DataLoader` takes it as it is, and so do samplers.

    Nothing is read before it is asked for, but for the check of each shard's hash when it is first opened. It can be
    sent to other processes, which open the shards by themselves.
    """

    def __init__(self, chunks: Chunks, digests: Sequence[str], form: Form, schema: Schema) -> None:
        self._chunks, self._digests, self._form = chunks, tuple(digests), form
        self.schema = schema

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: Sequence[int] | Array) -> Sample: ...
    def __getitem__(self, index: int | Sequence[int] | Array) -> Sample:
        """Return the inputs, target and weight of a row, or arrays of them for several rows.

        Raises:
            IndexError: there is no such row.
        """
        if isinstance(index, int | np.integer):
            (sample,) = self.__getitems__([int(index)])
            return sample
        data = self.take(np.asarray(index, dtype=np.int64))
        return dict(data.columns), data.targets, data.weights

    def __getitems__(self, index: Sequence[int]) -> list[Sample]:
        """Return the samples of several rows, read together."""
        data = self.take(np.asarray(index, dtype=np.int64))
        return [
            ({name: column[i] for name, column in data.columns.items()}, data.targets[i], data.weights[i])
            for i in range(len(data))
        ]

    def take(self, index: Array) -> TrainingData:
        """Return the rows at `index` int64 (N,), in that order; weights are relative to the mean of all rows.

        Raises:
            IndexError: there is no such row.
        """
        where = np.where(index < 0, index + len(self), index)
        if len(where) and not (where.min() >= 0 and where.max() < len(self)):
            raise IndexError(f"rows are 0 to {len(self) - 1}, not {index.min()} to {index.max()}")
        shards = np.searchsorted(self._ends, where, side="right") - 1
        at = _Places(shards, where - self._ends[shards])
        return TrainingData(
            schema=self.schema,
            columns={name: _writable(kind.column(self._values(name, at))) for name, kind in self.schema.inputs.items()},
            targets=self.schema.output.targets(self._values("label", at)),
            weights=self._weights[where],
            ids=tuple(self._values("id", at)),
        )

    def all(self) -> TrainingData:
        """Return all rows, in order."""
        rows = pa.concat_tables([pa.schema(self._form.types).empty_table(), *(shard.table for shard in self._shards)])
        return TrainingData(
            schema=self.schema,
            columns={n: kind.column(self._listed(rows, n)) for n, kind in self.schema.inputs.items()},
            targets=self.schema.output.targets(rows["label"].to_pylist()),
            weights=self._weights,
            ids=tuple(rows["id"].to_pylist()),
        )

    def batches(self, size: int, *, rng: np.random.Generator | None = None) -> Iterator[TrainingData]:
        """Yield all rows once, `size` at a time (the last batch may be smaller): in order, or shuffled by `rng`."""
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        for at in range(0, len(order), size):
            yield self.take(order[at : at + size])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_shards", "_ends", "_weights")}

    def _listed(self, rows: pa.Table, name: str) -> list[Any]:
        if name not in self._form.types:
            return [self.schema.defaults[name]] * len(rows)
        return list(rows[name].to_pylist())

    @cached_property
    def _shards(self) -> list[_Shard]:
        return [_Shard.of(self._chunks.get(digest)) for digest in self._digests]

    @cached_property
    def _ends(self) -> Array:
        """The number of rows before each shard, and of all, int64."""
        return np.cumsum([0, *(len(shard.table) for shard in self._shards)])

    @cached_property
    def _weights(self) -> Array:
        weights = np.concatenate([np.zeros(0), *(np.asarray(shard.numbers["weight"]) for shard in self._shards)])
        return weights / weights.mean() if weights.any() else weights

    def _values(self, name: str, at: _Places) -> Sequence[Any]:
        """Return canonical values; bytes as views, which live as long as the rows do."""
        if name not in self._form.types:  # an input that is newer than the version
            return [self.schema.defaults[name]] * len(at.pairs)
        kind = self._form.types[name]
        if kind == pa.float64():
            numbers = [shard.numbers[name] for shard in self._shards]
            return [numbers[shard][row] for shard, row in at.pairs]
        if kind == pa.large_string() and at.by_shard is not None:
            return self._texts(name, len(at.pairs), at.by_shard)
        views = [shard.views[name] for shard in self._shards]
        values = []
        for shard, row in at.pairs:
            starts, data = views[shard]
            values.append(data[starts[row] : starts[row + 1]])
        return values if kind == pa.large_binary() else [str(value, "utf-8") for value in values]

    def _texts(self, name: str, num: int, by_shard: Sequence[tuple[int, Array, Array]]) -> list[str]:
        """Return texts from few shards: Arrow makes those of one shard quicker than a loop makes each."""
        texts = np.empty(num, dtype=object)
        for shard, positions, rows in by_shard:
            texts[positions] = self._shards[shard].texts[name].take(pa.array(rows)).to_numpy(zero_copy_only=False)
        found: list[str] = texts.tolist()
        return found


class _Places:
    """Where rows lie: as pairs of a shard and a row in it; in few shards, also by shard, with their positions."""

    def __init__(self, shards: Array, rows: Array) -> None:
        self.pairs = list(zip(shards.tolist(), rows.tolist(), strict=True))
        self.by_shard: list[tuple[int, Array, Array]] | None = None
        which = np.unique(shards).tolist()
        if len(which) <= _FEW_SHARDS:
            positions = [np.flatnonzero(shards == shard) for shard in which]
            self.by_shard = [(shard, at, rows[at]) for shard, at in zip(which, positions, strict=True)]


@dataclass(frozen=True)
class _Shard:
    """A shard's numbers, and its text and bytes as (where each begins, all of them), without a copy.

    They are views because one of their items is a Python value sooner than one of an array.
    """

    table: pa.Table
    numbers: dict[str, memoryview]
    texts: dict[str, pa.Array]
    views: dict[str, tuple[memoryview, memoryview]]

    @classmethod
    def of(cls, table: pa.Table) -> _Shard:
        columns = {name: table[name].combine_chunks() for name in table.schema.names}
        columns = {n: c.chunk(0) if isinstance(c, pa.ChunkedArray) else c for n, c in columns.items()}
        long = [name for name, column in columns.items() if column.type in (pa.large_string(), pa.large_binary())]
        numbers = {n: c.to_numpy(zero_copy_only=False).data for n, c in columns.items() if n not in long}
        buffers = {name: text_buffers(columns[name]) for name in long}
        views = {name: (starts.data, data) for name, (starts, data) in buffers.items()}
        return cls(table, numbers, {name: columns[name] for name in long}, views)


def _writable(column: Array) -> Array:
    return column if column.flags.writeable else column.copy()
