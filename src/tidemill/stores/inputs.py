"""The inputs of examples, in chunks: each row is given back with the very names and values it was stored with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

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
                chunk = self._chunks(project).put(table)
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
            taken = self._chunks(project).get(chunk).take(pa.array(ordered, pa.int64())).to_pylist()
            found.update((Place(chunk, row), inputs) for row, inputs in zip(ordered, taken, strict=True))
        return [dict(found[place]) for place in places]

    def _chunks(self, project: str) -> Chunks:
        return self._of.setdefault(project, Chunks(self._folder / folder_name(project)))
