"""Erasures: persons whose data was asked to be deleted, how far each is, and what it came to.

The subject is kept in clear for as long as it takes to find the data. What stays is a mark, a hash keyed with the
project's secret: it says whether an erasure was of a person, to those who know the person and hold the secret.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from tidemill.clock import from_micros, micros
from tidemill.errors import NotFound
from tidemill.records import Json
from tidemill.stores.database import Database, dumps, loads
from tidemill.stores.tables import erasures

FIRST = "find"


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """One request to forget a person. `subject` is None once it is done; `body` is what its stages wrote down.

    `by_unit` takes the rows of the unit of that name too, `with_datasets` the dataset versions with the person in them.
    """

    id: int
    subject: str | None
    mark: str
    by_unit: bool
    with_datasets: bool
    asked_at: datetime
    by: str
    reason: str
    via: str
    stage: str
    body: Json
    done_at: datetime | None

    @property
    def rest(self) -> Json:
        """Until when it rests (`again_at`, microseconds), `why`, and how many `times`; the `error` where one failed."""
        rest: Json = self.body.get("rest", {})
        return rest


class Erasures:
    """Keeps erasures, by project."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def ask(
        self, conn: Connection, project: str, subject: str, *, mark: str, by_unit: bool, with_datasets: bool, by: str,
        reason: str, via: str, now: datetime,
    ) -> int:  # fmt: skip
        """Ask for a person's data to be deleted, and return the number of the erasure."""
        values: dict[str, Any] = {
            "subject": subject, "mark": mark, "by_unit": int(by_unit), "with_datasets": int(with_datasets),
            "asked_at": micros(now), "asked_by": by, "reason": reason, "via": via, "stage": FIRST, "body": dumps({}),
        }  # fmt: skip
        new = insert(erasures).values(project=project, **values).returning(erasures.c.id)
        return int(conn.execute(new).scalar_one())

    def next(self, project: str, *, now: datetime) -> Erasure | None:
        """Return the oldest erasure that is not done and does not rest, None where there is none."""
        at = micros(now)
        return next((one for one in self._waiting(project) if one.rest.get("again_at", at) <= at), None)

    def trouble(self, project: str) -> dict[str, Json]:
        """Return what keeps erasures from going on, by name, as steps of the loop tell theirs."""
        return {f"forget, erasure {one.id}": one.rest for one in self._waiting(project) if "error" in one.rest}

    def _waiting(self, project: str) -> list[Erasure]:
        waiting = select(erasures).where(erasures.c.project == project, erasures.c.done_at.is_(None))
        with self._db.read() as conn:
            return [_erasure(row) for row in conn.execute(waiting.order_by(erasures.c.id))]

    def one(self, project: str, id: int) -> Erasure:
        """Return an erasure.

        Raises:
            NotFound: there is none of that number.
        """
        with self._db.read() as conn:
            row = conn.execute(select(erasures).where(erasures.c.project == project, erasures.c.id == id)).first()
        if row is None:
            raise NotFound(f"{project!r} has no erasure {id}.", "the audit log tells which there were")
        return _erasure(row)

    def of(self, project: str, mark: str) -> list[Erasure]:
        """Return the erasures of a person that were done, the first one first."""
        wanted = select(erasures).where(erasures.c.project == project, erasures.c.mark == mark)
        with self._db.read() as conn:
            rows = conn.execute(wanted.where(erasures.c.done_at.is_not(None)).order_by(erasures.c.id)).all()
        return [_erasure(row) for row in rows]

    def put(self, conn: Connection, id: int, *, stage: str, body: Json) -> None:
        """Keep how far an erasure is that is not done."""
        one = (erasures.c.id == id, erasures.c.done_at.is_(None))
        conn.execute(update(erasures).where(*one).values(stage=stage, body=dumps(body)))

    def strip(self, conn: Connection, id: int, *, stage: str, body: Json) -> None:
        """Keep how far it is, and forget whom it is about."""
        values = {"subject": None, "stage": stage, "body": dumps(body)}
        conn.execute(update(erasures).where(erasures.c.id == id).values(**values))

    def finish(self, conn: Connection, id: int, *, now: datetime) -> bool:
        """Note that an erasure is done; return False where that was noted already."""
        one = (erasures.c.id == id, erasures.c.done_at.is_(None))
        return bool(conn.execute(update(erasures).where(*one).values(stage="done", done_at=micros(now))).rowcount)


def mark_of(secret: bytes, subject: str) -> str:
    """Return 32 hex digits that stand for a person; nobody makes them without the project's secret."""
    return hashlib.blake2b(subject.encode(), digest_size=16, key=secret, person=b"tidemill subject").hexdigest()


def _erasure(row: Any) -> Erasure:
    return Erasure(
        id=row.id, subject=row.subject, mark=row.mark, by_unit=bool(row.by_unit),
        with_datasets=bool(row.with_datasets), asked_at=from_micros(row.asked_at), by=row.asked_by, reason=row.reason,
        via=row.via, stage=row.stage, body=loads(row.body),
        done_at=None if row.done_at is None else from_micros(row.done_at),
    )  # fmt: skip
