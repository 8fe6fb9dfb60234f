"""The audit log: who did what to which thing, when, why, by which way, and what came of it. Rows are only added."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, or_, select

from tidemill.clock import from_micros, micros
from tidemill.stores.database import Database
from tidemill.stores.tables import audit

MOST_WORDS = 2000
"""How many characters of a reason and of a result are kept."""
_MOST = {"by": 200, "verb": 60, "thing": 300, "reason": MOST_WORDS, "result": MOST_WORDS}


@dataclass(frozen=True, kw_only=True)
class Act:
    """One row. `project` None is of every project, as for tokens; `via` is cli, page or loop."""

    id: int
    project: str | None
    at: datetime
    by: str
    verb: str
    thing: str
    reason: str
    result: str
    via: str


class Audit:
    """Keeps who did what."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(
        self, conn: Connection, project: str | None, *, by: str, verb: str, thing: str = "", reason: str = "",
        result: str = "", via: str = "cli", now: datetime,
    ) -> None:  # fmt: skip
        """Add a row, in the transaction of what was done; words that are too long are cut."""
        words = {"by": by, "verb": verb, "thing": thing, "reason": reason, "result": result}
        cut = {name: text[: _MOST[name]] for name, text in words.items()}
        conn.execute(insert(audit).values(project=project, at=micros(now), via=via, **cut))

    def acts(
        self, project: str, *, limit: int = 100, before: int | None = None, by: str = "", verb: str = ""
    ) -> list[Act]:
        """Return the newest rows of a project and of all projects, newest first; those older than the row `before`."""
        wanted = select(audit).where(or_(audit.c.project == project, audit.c.project.is_(None)))
        wanted = wanted if before is None else wanted.where(audit.c.id < before)
        wanted = wanted.where(audit.c.by == by) if by else wanted
        wanted = wanted.where(audit.c.verb == verb) if verb else wanted
        with self._db.read() as conn:
            return [_act(row) for row in conn.execute(wanted.order_by(audit.c.id.desc()).limit(limit))]

    def words(self, project: str) -> tuple[list[str], list[str]]:
        """Return who did something and which verbs there are, in order."""
        mine = or_(audit.c.project == project, audit.c.project.is_(None))
        with self._db.read() as conn:
            by, verbs = (
                list(conn.execute(select(column).where(mine).distinct().order_by(column).limit(200)).scalars())
                for column in (audit.c.by, audit.c.verb)
            )
        return by, verbs


def _act(row: Any) -> Act:
    return Act(
        id=row.id, project=row.project, at=from_micros(row.at), by=row.by, verb=row.verb, thing=row.thing,
        reason=row.reason, result=row.result, via=row.via,
    )  # fmt: skip
