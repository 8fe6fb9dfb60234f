"""The reservoir: curated examples, their metadata in SQL and their inputs in Arrow chunks of their own.

Inputs are copied, so that the retention of the log does not touch them. The split of an example is fixed when it is
inserted: that of its duplicates and near-duplicates if there are any, else by a hash of its unit, else of its inputs.
What is written on `conn` is read by others once it is committed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from sqlalchemy import Connection, RowMapping, func, insert, select, tuple_, update

from tidemill.clock import from_micros, micros
from tidemill.errors import StoreError
from tidemill.records import Example, Trust
from tidemill.schema import Array
from tidemill.stores.consolidate import consolidate
from tidemill.stores.database import Database, dumps
from tidemill.stores.duplicates import Groups, Sameness
from tidemill.stores.examples import INDEX, canonical, from_row, index_frame, split_of, to_row
from tidemill.stores.folders import clear
from tidemill.stores.inputs import InputColumns, InputStore, Place
from tidemill.stores.picked import unknown
from tidemill.stores.queue import Queue
from tidemill.stores.removal import Removed, num_about, remove
from tidemill.stores.rows import parts
from tidemill.stores.similar import nearest
from tidemill.stores.tables import examples, labellings, projects, queue

_EQUAL = Sameness()
_METADATA = [examples.c[name] for name in INDEX]


class Neighbour(NamedTuple):
    """An example that is similar to what was asked for: its id, and the cosine similarity."""

    id: str
    similarity: float


class Reservoir(Queue):
    """Keeps the examples of all projects, and the queue of those that people are asked to label.

    Args:
        db: the catalog.
        folder: where the inputs lie, in a folder per project.
    """

    def __init__(self, db: Database, folder: Path) -> None:
        super().__init__(db)
        self._store = InputStore(folder)

    def add(self, conn: Connection, project: str, new: Sequence[Example], *, sameness: Sameness = _EQUAL) -> int:
        """Insert examples and return how many were new; one whose id is known stays as it is.

        Args:
            conn: a write transaction.
            project: whose they are.
            new: the examples; their `split` is not looked at, it is fixed here.
            sameness: what makes two examples duplicates of each other; all inputs, and equal ones, by default.

        Raises:
            StoreError: an input is neither text, number nor bytes, or a label has no source, trust or time.
        """
        self._lock(conn, project)
        known = self._known(conn, project, [example.id for example in new])
        first = {example.id: example for example in reversed(new) if example.id not in known}
        inputs = {example.id: canonical(example) for example in reversed(first.values())}
        groups = Groups(conn, project, sameness).assign(inputs)
        splits = self._splits(conn, project, {group.duplicates for group in groups.values()})
        places = self._store.put(project, inputs)
        rows = []
        for id_, group in groups.items():
            split = splits.setdefault(group.duplicates, split_of(first[id_], group.duplicates))
            at = {"chunk": places[id_].chunk, "chunk_row": places[id_].row}
            rows.append(to_row(first[id_], project=project, split=split, **group._asdict(), **at))
        if rows:
            conn.execute(insert(examples), rows)
        return len(rows)

    def index(self, project: str) -> pl.DataFrame:
        """Return the metadata of all examples in order of `received_at` and `id`, times in microseconds.

        Columns: id, request_id, unit, received_at, picked_at, reason, probability, split, duplicates, decision,
        version, label, trust, source, labelled_at.
        """
        query = select(*_METADATA).where(examples.c.project == project)
        with self._db.read() as conn:
            return index_frame(conn.execute(query.order_by(examples.c.received_at, examples.c.id)).all())

    def inputs(self, project: str, ids: Sequence[str], *, conn: Connection | None = None) -> list[dict[str, Any]]:
        """Return the canonical inputs of examples, in the order of `ids`; only the chunks they lie in are read.

        Raises:
            NotFound: an id is not in the reservoir.
        """
        return self._store.get(project, [_place(row) for row in self._rows(conn, project, ids)])

    def examples(self, project: str, ids: Sequence[str], *, conn: Connection | None = None) -> list[Example]:
        """Return whole examples, in the order of `ids`.

        Raises:
            NotFound: an id is not in the reservoir.
        """
        rows = self._rows(conn, project, ids)
        inputs = self._store.get(project, [_place(row) for row in rows])
        return [from_row(row, of_row) for row, of_row in zip(rows, inputs, strict=True)]

    def columns(
        self, project: str, places: Sequence[Place], types: Mapping[str, pa.DataType], defaults: Mapping[str, Any]
    ) -> InputColumns:
        """Return the inputs at these places, to be read as columns of these names and types, with their defaults."""
        return self._store.columns(project, places, types, defaults)

    def similar(self, project: str, field: str, vector: Array, k: int) -> list[Neighbour]:
        """Return the `k` examples whose tensor `field` points most in the direction of `vector` float (D,), best first.

        Exact: all examples are looked at.

        Raises:
            StoreError: no example has such a tensor of that length, or the vector is zero or not finite.
        """
        with self._db.read() as conn:
            of_project = select(examples.c.chunk).distinct().where(examples.c.project == project)
            chunks = conn.execute(of_project.order_by(examples.c.chunk)).scalars().all()
            blocks = self._store.vectors(project, chunks, field, len(vector))
            if not blocks:
                raise StoreError(
                    f"no example of {project!r} has a tensor {field!r} of {len(vector)} numbers.",
                    "name a Tensor of the project, and give a vector of its length",
                )
            rows, similarities = nearest(vector, [block for _, _, block in blocks], k)
            firsts = np.cumsum([0, *(len(block) for _, _, block in blocks)])
            which = np.searchsorted(firsts, rows, side="right") - 1
            places = [
                Place(blocks[b][0], int(blocks[b][1][row - firsts[b]])) for b, row in zip(which, rows, strict=True)
            ]
            ids = self._ids(conn, project, places)
        found = zip(places, similarities.tolist(), strict=True)
        return [Neighbour(id_, alike) for place, alike in found for id_ in ids.get(place, ())][:k]

    def consolidate(self, conn: Connection, project: str, *, now: datetime) -> int:
        """Merge the small chunks that inputs lie in, where there are many; return how many were merged."""
        self._lock(conn, project)
        return consolidate(conn, project, self._store.chunks(project), now=now)

    def remove(self, conn: Connection, project: str, ids: Sequence[str], *, sameness: Sameness = _EQUAL) -> Removed:
        """Delete examples, what was asked and said of them, and their inputs; return how many rows that were.

        Their bytes are on the disk until the transaction has ended and `sweep` was called in another one.
        """
        self._lock(conn, project)
        return remove(
            conn, project, ids, self._store.chunks(project), sameness,
            inputs_of=lambda id_: self.inputs(project, [id_], conn=conn)[0],
        )  # fmt: skip

    def sweep(self, conn: Connection, project: str) -> int:
        """Delete the chunks that no example's inputs lie in, at once; return how many bytes that were."""
        self._lock(conn, project)  # so that nothing is being added
        wanted = conn.execute(select(examples.c.chunk).distinct().where(examples.c.project == project)).scalars()
        chunks = self._store.chunks(project)
        return clear(chunks.folder, {chunks.path(digest).name for digest in wanted})

    def about(
        self, project: str, subject: str, request_ids: Collection[str], *, by_unit: bool, until: datetime
    ) -> list[str]:
        """Return the ids of the examples about a person that were received until a time, and of those requests.

        `by_unit` takes those of the unit of that name too.
        """
        mine = examples.c.subject == subject
        mine = mine | (examples.c.unit == subject) if by_unit else mine
        query = select(examples.c.id).where(examples.c.project == project)
        with self._db.read() as conn:
            found = set(conn.execute(query.where(mine, examples.c.received_at <= micros(until))).scalars())
            for some in parts(sorted(request_ids)):
                found |= set(conn.execute(query.where(examples.c.request_id.in_(some))).scalars())
        return sorted(found)

    def tasks_of(self, project: str, ids: Sequence[str]) -> tuple[int, int]:
        """Return how many tasks of the label queue there are about examples, and how many labellings."""
        with self._db.read() as conn:
            counts = [num_about(conn, table, project, ids) for table in (queue, labellings)]
        return counts[0], counts[1]

    def present(self, project: str, ids: Sequence[str]) -> set[str]:
        """Return those of `ids` that are in the reservoir."""
        with self._db.read() as conn:
            return self._known(conn, project, ids)

    def are_present(self, project: str, ids: pl.Series) -> pl.Series:
        """Return for each id whether it is in the reservoir."""
        known = self.present(project, ids.unique().to_list())
        return ids.is_in(pl.Series(list(known), dtype=pl.String).implode())

    def num_labelled(self, project: str) -> int:
        """Return the number of labelled examples that are not for tests."""
        mine = (examples.c.project == project, examples.c.split == "train", examples.c.label.is_not(None))
        with self._db.read() as conn:
            return int(conn.execute(select(func.count()).select_from(examples).where(*mine)).scalar_one())

    def label(
        self, conn: Connection, project: str, id: str, *, value: str | float, trust: Trust, source: str, at: datetime
    ) -> bool:
        """Give an example a label; return whether it counts now.

        The label of the highest trust counts, then the newest, in whatever order they come.

        Raises:
            NotFound: the id is not in the reservoir.
        """
        given = (trust.rank, micros(at), source, dumps(value))
        one = (examples.c.project == project, examples.c.id == id)
        known = select(examples.c.trust, examples.c.labelled_at, examples.c.source, examples.c.label)
        row = conn.execute(known.where(*one).with_for_update()).first()
        if row is None:
            raise unknown(project, [id])
        if row.trust is not None and given <= (Trust(row.trust).rank, row.labelled_at, row.source, row.label):
            return False
        values = {"trust": str(trust), "labelled_at": given[1], "source": source, "label": given[3]}
        conn.execute(update(examples).where(*one).values(**values))
        return True

    def label_all(self, conn: Connection, project: str, labels: pl.DataFrame) -> None:
        """Give examples the labels that came as feedback (`Log.feedback`), each as `label` does.

        Raises:
            NotFound: an id is not in the reservoir.
        """
        # In the order of those who answer the queue, so that neither waits for the other.
        for row in labels.sort("request_id", maintain_order=True).iter_rows(named=True):
            at, trust = from_micros(row["received_at"]), Trust(row["trust"])
            self.label(conn, project, row["request_id"], value=row["value"], trust=trust, source=row["source"], at=at)

    def next_in_queue(self, project: str, limit: int) -> list[Example]:
        """Return examples that wait for a label: the highest priority first, then the longest waiting."""
        with self._db.read() as conn:
            return self.examples(project, self._next_ids(conn, project, limit), conn=conn)

    def answer(
        self, conn: Connection, project: str, id: str, *, value: str | float, by: str, now: datetime, trust: Trust
    ) -> bool:
        """Label an example as somebody answered, and take it off the queue; return whether the label counts.

        Raises:
            NotFound: the id is not in the reservoir.
        """
        counts = self.label(conn, project, id, value=value, trust=trust, source="queue", at=now)
        self.skip(conn, project, id, by=by, now=now)
        return counts

    def _lock(self, conn: Connection, project: str) -> None:
        conn.execute(select(projects.c.project).where(projects.c.project == project).with_for_update())

    @contextmanager
    def _reading(self, conn: Connection | None) -> Iterator[Connection]:
        if conn is not None:
            yield conn
        else:
            with self._db.read() as reading:
                yield reading

    def _rows(self, conn: Connection | None, project: str, ids: Sequence[str]) -> list[RowMapping]:
        found: dict[str, RowMapping] = {}
        query = select(*_METADATA, examples.c.subject, examples.c.chunk, examples.c.chunk_row).where(
            examples.c.project == project
        )
        with self._reading(conn) as reading:
            for some in parts(ids):
                rows = reading.execute(query.where(examples.c.id.in_(some))).mappings()
                found.update((row["id"], row) for row in rows)
        missing = [id_ for id_ in ids if id_ not in found]
        if missing:
            raise unknown(project, missing)
        return [found[id_] for id_ in ids]

    def _known(self, conn: Connection, project: str, ids: Sequence[str]) -> set[str]:
        query = select(examples.c.id).where(examples.c.project == project)
        return {id_ for some in parts(ids) for id_ in conn.execute(query.where(examples.c.id.in_(some))).scalars()}

    def _ids(self, conn: Connection, project: str, places: Sequence[Place]) -> dict[Place, list[str]]:
        """Return the examples whose inputs lie at these places; equal inputs may lie at one."""
        query = select(examples.c.id, examples.c.chunk, examples.c.chunk_row).where(examples.c.project == project)
        ids: dict[Place, list[str]] = {}
        for some in parts(places):
            at = tuple_(examples.c.chunk, examples.c.chunk_row).in_([tuple(place) for place in some])
            for id_, chunk, row in conn.execute(query.where(at).order_by(examples.c.id)):
                ids.setdefault(Place(chunk, row), []).append(id_)
        return ids

    def _splits(self, conn: Connection, project: str, groups: Collection[str]) -> dict[str, str]:
        """Return the splits of those duplicate groups that have one."""
        query = select(examples.c.duplicates, examples.c.split).distinct().where(examples.c.project == project)
        rows = (conn.execute(query.where(examples.c.duplicates.in_(some))) for some in parts(sorted(groups)))
        return {row.duplicates: row.split for part in rows for row in part}


def _place(row: RowMapping) -> Place:
    return Place(row["chunk"], row["chunk_row"])
