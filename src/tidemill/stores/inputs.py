"""The inputs of examples, in chunks: each row is given back with the very names and values it was stored with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.schema import Array
from tidemill.stores.chunks import Chunks, portions
from tidemill.stores.columns import value_array
from tidemill.stores.folders import folder_name

Inputs = Mapping[str, Any]
"""Canonical values by name."""


class Place(NamedTuple):
    """Where the inputs of an example lie: the digest of a chunk, and the row in it."""

    chunk: str
    row: int


class InputStore:
    """Keeps inputs in a folder per project."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._of: dict[str, Chunks] = {}

    def put(self, project: str, inputs: Mapping[str, Inputs]) -> dict[str, Place]:
        """Store inputs by id and return where each lies. Rows of different names or types go into different chunks."""
        alike: dict[tuple[tuple[str, type], ...], list[str]] = defaultdict(list)
        for id_, row in inputs.items():
            alike[tuple((name, type(value)) for name, value in row.items())].append(id_)
        places = {}
        for signature, ids in alike.items():
            waiting = iter(ids)
            for portion in portions(inputs[id_] for id_ in ids):
                table = pa.table({name: value_array(row[name] for row in portion) for name, _ in signature})
                chunk = self.chunks(project).put(table)
                places.update({id_: Place(chunk, at) for at, id_ in enumerate(islice(waiting, len(portion)))})
        return places

    def get(self, project: str, places: Sequence[Place]) -> list[dict[str, Any]]:
        """Return the inputs at these places, in order; no other chunk is opened."""
        wanted: dict[str, set[int]] = defaultdict(set)
        for place in places:
            wanted[place.chunk].add(place.row)
        found: dict[Place, dict[str, Any]] = {}
        for chunk, rows in wanted.items():
            ordered = sorted(rows)
            taken = self.chunks(project).get(chunk).take(pa.array(ordered, pa.int64())).to_pylist()
            found.update((Place(chunk, row), inputs) for row, inputs in zip(ordered, taken, strict=True))
        return [dict(found[place]) for place in places]

    def columns(
        self, project: str, places: Sequence[Place], types: Mapping[str, pa.DataType], defaults: Inputs
    ) -> InputColumns:
        """Return inputs at these places to be read as columns of these names and types (see `InputColumns`)."""
        return InputColumns(self.chunks(project), places, types, defaults)

    def vectors(self, project: str, digests: Sequence[str], name: str, length: int) -> list[tuple[str, Array, Array]]:
        """Return, of each chunk that has any, the rows int64 (N,) and the tensors of `length` numbers, float32 (N, D).

        They are not copied: the disk is read when they are looked at.
        """
        found = []
        for digest in digests:
            table = self.chunks(project).get(digest)
            if name in table.schema.names and table.schema.field(name).type == pa.binary():
                for rows, block in _vectors(table[name], length):
                    found.append((digest, rows, block))
        return found

    def chunks(self, project: str) -> Chunks:
        """Return the chunks of a project."""
        return self._of.setdefault(project, Chunks(self._folder / folder_name(project)))


class InputColumns:
    """Inputs of many examples, by column, so that no Python value is made of each.

    `fits` bool (N,) says which rows have all the columns in their types; `lengths` int64 (N,) by column how many bytes
    a text or an array takes, 0 where the row does not fit and for numbers. A row that is older than a column has what
    `defaults` says of it.
    """

    def __init__(
        self, chunks: Chunks, places: Sequence[Place], types: Mapping[str, pa.DataType], defaults: Inputs
    ) -> None:
        self._chunks, self._types, self._defaults = chunks, dict(types), defaults
        self._digests = list(dict.fromkeys(place.chunk for place in places))
        codes = {digest: code for code, digest in enumerate(self._digests)}
        self._codes = np.array([codes[place.chunk] for place in places], dtype=np.int64)
        self._rows = np.array([place.row for place in places], dtype=np.int64)
        self.fits = np.zeros(len(places), dtype=bool)
        self.lengths = {name: np.zeros(len(places), dtype=np.int64) for name in types}
        self._measure()

    def take(self, index: Array) -> pa.Table:
        """Return the rows at `index` int64 (M,), which all fit, in that order and in one piece."""
        pieces, order = [], []
        for code, at in _grouped(self._codes[index]):
            table = self._table(code)
            assert table is not None, "only rows that fit are taken"
            # In types that hold more than 2 GiB together.
            pieces.append(table.take(pa.array(self._rows[index[at]])).cast(pa.schema(self._types)))
            order.append(at)
        if not pieces:
            return pa.schema(self._types).empty_table()
        together = pa.concat_tables(pieces).combine_chunks()
        return together if len(pieces) == 1 else together.take(pa.array(np.argsort(np.concatenate(order))))

    def _measure(self) -> None:
        long = [name for name, kind in self._types.items() if kind != pa.float64()]
        for code, at in _grouped(self._codes):
            table = self._table(code)
            if table is not None:
                self.fits[at] = True
                for name in long:
                    self.lengths[name][at] = pc.binary_length(table[name]).to_numpy()[self._rows[at]]

    def _table(self, code: int) -> pa.Table | None:
        """Return the wanted columns of a chunk, None where it has one of them not, or in another type.

        It is opened anew each time: a process may map some ten thousand files at once, and no more.
        """
        table = self._chunks.get(self._digests[code])
        for name, kind in self._types.items():
            if name not in table.schema.names and name in self._defaults:
                table = table.append_column(name, pa.repeat(self._defaults[name], len(table)))
            elif name not in table.schema.names or table.schema.field(name).type not in _SMALL[kind]:
                return None
        return table.select(list(self._types))


_SMALL = {
    pa.float64(): {pa.float64()},
    pa.large_string(): {pa.string(), pa.large_string()},
    pa.large_binary(): {pa.binary(), pa.large_binary()},
}


def _vectors(column: pa.ChunkedArray, length: int) -> Iterator[tuple[Array, Array]]:
    first = 0
    for part in column.chunks:
        _, starts, data = part.buffers()
        offsets = np.frombuffer(starts, dtype=np.int32)[part.offset : part.offset + len(part) + 1].astype(np.int64)
        rows = np.flatnonzero(np.diff(offsets) == 4 * length)
        if len(rows) == len(part):
            numbers = np.frombuffer(data, dtype="<f4", count=len(part) * length, offset=int(offsets[0]))
            yield first + rows, numbers.reshape(len(part), length)
        elif len(rows):  # arrays of another shape among them
            taken = b"".join(part.take(pa.array(rows)).to_pylist())
            yield first + rows, np.frombuffer(taken, dtype="<f4").reshape(len(rows), length)
        first += len(part)


def _grouped(codes: Array) -> Iterator[tuple[int, Array]]:
    """Yield each code with the positions it is at."""
    order = np.argsort(codes, kind="stable")
    edges = np.flatnonzero(np.diff(codes[order])) + 1
    for at in np.split(order, edges) if len(order) else ():
        yield int(codes[at[0]]), at
