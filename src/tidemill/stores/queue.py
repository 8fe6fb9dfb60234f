"""The queue of examples that people are asked to label."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, func, select, update

from tidemill.clock import from_micros, micros
from tidemill.stores.database import Database
from tidemill.stores.rows import insert_once, put
from tidemill.stores.tables import queue


class Task(NamedTuple):
    """An example in the queue: when its label was asked for, and when it was answered or skipped, by whom."""

    asked_at: datetime
    answered_at: datetime | None
    by: str


class Queue:
    """Keeps which examples wait for a label, by project."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def ask(self, conn: Connection, project: str, ids: Iterable[str], *, priority: float, now: datetime) -> None:
        """Put examples into the queue; one that waits, or was answered or skipped, stays as it is."""
        for id_ in ids:
            values = {"asked_at": micros(now), "priority": priority}
            insert_once(conn, queue, {"project": project, "example": id_}, values)

    def ask_again(self, conn: Connection, project: str, ids: Iterable[str], *, priority: float, now: datetime) -> None:
        """Put examples into the queue, whether they waited, were answered or never were in it."""
        for id_ in ids:
            values = {"asked_at": micros(now), "priority": priority, "answered_at": None, "answered_by": None}
            put(conn, queue, {"project": project, "example": id_}, values)

    def asked(self, project: str) -> dict[str, datetime]:
        """Return when each example was asked for last."""
        query = select(queue.c.example, queue.c.asked_at).where(queue.c.project == project)
        with self._db.read() as conn:
            return {id_: from_micros(at) for id_, at in conn.execute(query)}

    def task(self, project: str, id: str) -> Task | None:
        """Return how an example stands in the queue, None where nobody was asked for it."""
        one = select(queue.c.asked_at, queue.c.answered_at, queue.c.answered_by)
        with self._db.read() as conn:
            row = conn.execute(one.where(queue.c.project == project, queue.c.example == id)).first()
        if row is None:
            return None
        answered = None if row.answered_at is None else from_micros(row.answered_at)
        return Task(from_micros(row.asked_at), answered, row.answered_by or "")

    def skip(self, conn: Connection, project: str, id: str, *, by: str, now: datetime) -> None:
        """Take an example off the queue."""
        one = (queue.c.project == project, queue.c.example == id)
        conn.execute(update(queue).where(*one).values(answered_at=micros(now), answered_by=by))

    def is_answered(self, conn: Connection, project: str, id: str) -> bool:
        """Tell whether an example was in the queue and waits no more."""
        one = (queue.c.project == project, queue.c.example == id)
        return conn.execute(select(queue.c.answered_at).where(*one)).scalar() is not None

    def num_waiting(self, project: str) -> int:
        """Return how many examples wait for a label."""
        with self._db.read() as conn:
            return int(conn.execute(select(func.count()).select_from(_waiting(project).subquery())).scalar_one())

    def _next_ids(self, conn: Connection, project: str, limit: int) -> list[str]:
        order = (queue.c.priority.desc(), queue.c.asked_at, queue.c.example)
        return list(conn.execute(_waiting(project).order_by(*order).limit(limit)).scalars())


def _waiting(project: str) -> Select[Any]:
    return select(queue.c.example).where(queue.c.project == project, queue.c.answered_at.is_(None))
