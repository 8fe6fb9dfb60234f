"""The reservoir: curated examples, their metadata in SQL and their inputs in Arrow chunks of their own.

Inputs are copied, so that the log's retention does not touch them. An example's split is fixed when it is inserted: that
of its duplicates if there are any, else by a hash of its unit, else of its inputs. What is written on `conn` is read by
others once it is committed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from sqlalchemy import Connection, RowMapping, func, insert, select, update

from tidemill.clock import micros
from tidemill.errors import NotFound
from tidemill.records import Example, Trust
from tidemill.stores.chunks import Chunks, portions
from tidemill.stores.columns import value_array
from tidemill.stores.database import Database, dumps
from tidemill.stores.examples import INDEX, canonical, duplicate_group, from_row, index_frame, split_of, to_row
from tidemill.stores.rows import insert_once
from tidemill.stores.tables import examples, projects, queue

_MAX_NAMES = 500  # in one SQL statement
_METADATA = [examples.c[name] for name in INDEX]


class Reservoir:
    """Keeps the examples of all projects, and the queue of those that people are asked to label.

    Args:
        db: the catalog.
        folder: where the chunks lie, in a folder per project.
    """

    def __init__(self, db: Database, folder: Path) -> None:
        self._db = db
        self._folder = folder
        self._chunks: dict[str, Chunks] = {}

    def add(
        self, conn: Connection, project: str, new: Sequence[Example], *, group_by: Collection[str] = ()
    ) -> int:
        """Insert examples and return how many were new; one whose id is known stays as it is. `split` is set here.

        Args:
            conn: a write transaction.
            project: whose they are.
            new: the examples; inputs of one name may have different types in different examples.
            group_by: the inputs that make two examples duplicates of each other; all by default.

        Raises:
            StoreError: an input is neither text, number nor bytes, or a label has no source, trust or time.
        """
        conn.execute(select(projects.c.project).where(projects.c.project == project).with_for_update())
        known = self._known(conn, project, [example.id for example in new])
        added = {example.id: example for example in reversed(new) if example.id not in known}
        inputs = {id_: canonical(example) for id_, example in reversed(added.items())}
        groups = {id_: duplicate_group(row, group_by) for id_, row in inputs.items()}
        splits = self._splits(conn, project, groups.values())
        rows = []
        for id_, place in self._store(project, inputs):
            split = splits.setdefault(groups[id_], split_of(added[id_], groups[id_]))
            rows.append(to_row(added[id_], project=project, split=split, duplicates=groups[id_], **place))
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
            rows = conn.execute(query.order_by(examples.c.received_at, examples.c.id)).mappings().all()
        return index_frame(rows)

    def inputs(self, project: str, ids: Sequence[str], *, conn: Connection | None = None) -> list[dict[str, Any]]:
        """Return the canonical inputs of examples, in the order of `ids`; only the chunks they lie in are read.

        Raises:
            NotFound: an id is not in the reservoir.
        """
        with self._reading(conn) as reading:
            rows = self._rows(reading, project, ids)
        return self._inputs(project, [rows[id_] for id_ in ids])

    def examples(self, project: str, ids: Sequence[str], *, conn: Connection | None = None) -> list[Example]:
        """Return whole examples, in the order of `ids`.

        Raises:
            NotFound: an id is not in the reservoir.
        """
        with self._reading(conn) as reading:
            rows = self._rows(reading, project, ids)
        ordered = [rows[id_] for id_ in ids]
        return [from_row(row, inputs) for row, inputs in zip(ordered, self._inputs(project, ordered), strict=True)]

    def present(self, project: str, ids: Sequence[str]) -> set[str]:
        """Return those of `ids` that are in the reservoir."""
        with self._db.read() as conn:
            return self._known(conn, project, ids)

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
        label = (examples.c.trust, examples.c.labelled_at, examples.c.source, examples.c.label)
        row = conn.execute(select(*label).where(*one).with_for_update()).first()
        if row is None:
            raise _missing([id])
        if row.trust is not None and given <= (Trust(row.trust).rank, row.labelled_at, row.source, row.label):
            return False
        values = {"trust": str(trust), "labelled_at": given[1], "source": source, "label": given[3]}
        conn.execute(update(examples).where(*one).values(**values))
        return True

    def ask(self, conn: Connection, project: str, ids: Iterable[str], *, priority: float, now: datetime) -> None:
        """Put examples into the queue of those to be labelled; one that is or was there stays as it is."""
        for id_ in ids:
            values = {"asked_at": micros(now), "priority": priority}
            insert_once(conn, queue, {"project": project, "example": id_}, values)

    def next_in_queue(self, project: str, limit: int) -> list[Example]:
        """Return examples that wait for a label, highest priority first, then the longest waiting."""
        order = (queue.c.priority.desc(), queue.c.asked_at, queue.c.example)
        with self._db.read() as conn:
            ids = conn.execute(_waiting(project, examples.c.id).order_by(*order).limit(limit)).scalars().all()
            return self.examples(project, ids, conn=conn)

    def num_waiting(self, project: str) -> int:
        """Return how many examples wait for a label."""
        with self._db.read() as conn:
            return int(conn.execute(_waiting(project, func.count())).scalar_one())

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

    def skip(self, conn: Connection, project: str, id: str, *, by: str, now: datetime) -> None:
        """Take an example off the queue without a label."""
        one = (queue.c.project == project, queue.c.example == id)
        conn.execute(update(queue).where(*one).values(answered_at=micros(now), answered_by=by))

    @contextmanager
    def _reading(self, conn: Connection | None) -> Iterator[Connection]:
        if conn is not None:
            yield conn
        else:
            with self._db.read() as reading:
                yield reading

    def _known(self, conn: Connection, project: str, ids: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for some in _parts(ids):
            query = select(examples.c.id).where(examples.c.project == project, examples.c.id.in_(some))
            found.update(conn.execute(query).scalars())
        return found

    def _splits(self, conn: Connection, project: str, groups: Iterable[str]) -> dict[str, str]:
        """Return the splits of those duplicate groups that have one."""
        found: dict[str, str] = {}
        for some in _parts(sorted(set(groups))):
            query = select(examples.c.duplicates, examples.c.split).distinct()
            query = query.where(examples.c.project == project, examples.c.duplicates.in_(some))
            found.update((row.duplicates, row.split) for row in conn.execute(query))
        return found

    def _rows(self, conn: Connection, project: str, ids: Sequence[str]) -> dict[str, RowMapping]:
        found: dict[str, RowMapping] = {}
        for some in _parts(ids):
            query = select(*_METADATA, examples.c.chunk, examples.c.chunk_row)
            query = query.where(examples.c.project == project, examples.c.id.in_(some))
            found.update((row["id"], row) for row in conn.execute(query).mappings())
        missing = [id_ for id_ in ids if id_ not in found]
        if missing:
            raise _missing(missing)
        return found

    def _store(self, project: str, inputs: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Write inputs into chunks, each of rows with the same names and types; yield ids and where they lie."""
        alike: dict[tuple[tuple[str, type], ...], list[str]] = defaultdict(list)
        for id_, row in inputs.items():
            alike[tuple((name, type(value)) for name, value in row.items())].append(id_)
        for signature, ids in alike.items():
            waiting = iter(ids)
            for portion in portions(inputs[id_] for id_ in ids):
                table = pa.table({name: value_array(row[name] for row in portion) for name, _ in signature})
                chunk = self._of(project).put(table)
                for at, id_ in zip(range(len(portion)), waiting, strict=False):
                    yield id_, {"chunk": chunk, "chunk_row": at}

    def _inputs(self, project: str, rows: Sequence[RowMapping]) -> list[dict[str, Any]]:
        places: dict[str, set[int]] = defaultdict(set)
        for row in rows:
            places[row["chunk"]].add(row["chunk_row"])
        found: dict[tuple[str, int], dict[str, Any]] = {}
        for chunk, positions in places.items():
            ordered = sorted(positions)
            taken = self._of(project).get(chunk).take(pa.array(ordered, pa.int64())).to_pylist()
            found.update(((chunk, at), inputs) for at, inputs in zip(ordered, taken, strict=True))
        return [dict(found[row["chunk"], row["chunk_row"]]) for row in rows]

    def _of(self, project: str) -> Chunks:
        return self._chunks.setdefault(project, Chunks(self._folder / folder_name(project)))
