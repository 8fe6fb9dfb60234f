"""What a dataset version takes from the reservoir, as columns: labelled examples, by name or all that judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import ColumnElement, Connection, Row, func, select

from tidemill.errors import NotFound, StoreError
from tidemill.records import Trust
from tidemill.stores.inputs import Place
from tidemill.stores.rows import parts
from tidemill.stores.tables import examples

_WORTH_READING_ALL = 0.25  # of the project's examples
_COLUMNS = ("id", "split", "label", "trust", "unit", "received_at", "probability", "chunk", "chunk_row")


@dataclass(frozen=True, kw_only=True)
class Picked:
    """The metadata of N examples; `labels` are JSON texts, times microseconds."""

    ids: Sequence[str]
    labels: Sequence[str]
    trusts: Sequence[str]
    units: Sequence[str]
    received_at: Sequence[int]
    probabilities: Sequence[float | None]
    places: Sequence[Place]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def named(cls, conn: Connection, project: str, ids: Sequence[str]) -> Self:
        """Return the train examples of these ids, in their order.

        Raises:
            NotFound: an id is not in the reservoir.
            StoreError: one is for tests, or has no label.
        """
        found = {row[0]: row for row in _rows(conn, project, ids)}
        missing = [id_ for id_ in ids if id_ not in found]
        if missing:
            raise unknown(project, missing)
        rows = [found[id_] for id_ in ids]
        for row in rows:
            if row.split != "train":
                raise StoreError(f"example {row.id!r} is a {row.split} row.", "test rows never train: leave it out")
            if row.label is None:
                raise StoreError(f"example {row.id!r} has no label.", "select labelled examples only")
        return cls._of(rows)

    @classmethod
    def judging(cls, conn: Connection, project: str, trust: Trust) -> Self:
        """Return all test examples with a label of at least `trust`, oldest first."""
        judges = [str(known) for known in Trust if known.rank >= trust.rank]
        labelled = (examples.c.label.is_not(None), examples.c.trust.in_(judges))
        return cls._of(_read(conn, project, examples.c.split == "test", *labelled))

    @classmethod
    def _of(cls, rows: Sequence[Row[Any]]) -> Self:
        columns = list(zip(*rows, strict=True)) or [()] * len(_COLUMNS)
        ids, _, labels, trusts, units, received_at, probabilities, chunks, at = columns
        return cls(
            ids=ids, labels=labels, trusts=trusts, units=units, received_at=received_at, probabilities=probabilities,
            places=[Place(*place) for place in zip(chunks, at, strict=True)],
        )  # fmt: skip


def unknown(project: str, ids: Sequence[str]) -> NotFound:
    """Return the error that says which examples there are not."""
    shown = ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
    return NotFound(f"the reservoir of {project!r} has no example {shown}.", "`tidemill label` shows the ids that wait")


def _rows(conn: Connection, project: str, ids: Sequence[str]) -> Sequence[Row[Any]]:
    """Return the rows of these ids, in any order, and maybe others: of many, it is quicker to read all."""
    query = select(func.count()).select_from(examples).where(examples.c.project == project)
    if len(ids) > _WORTH_READING_ALL * int(conn.execute(query).scalar_one()):
        return _read(conn, project)
    return [row for some in parts(ids) for row in _read(conn, project, examples.c.id.in_(some))]


def _read(conn: Connection, project: str, *conditions: ColumnElement[bool]) -> Sequence[Row[Any]]:
    query = select(*(examples.c[name] for name in _COLUMNS)).where(examples.c.project == project, *conditions)
    return conn.execute(query.order_by(examples.c.received_at, examples.c.id)).all()
