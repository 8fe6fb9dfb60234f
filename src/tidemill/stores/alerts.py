"""Alerts as they were: opened once, fired again while open, closed, silenced, and told or not yet told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, case, insert, select, update

from tidemill.clock import from_micros, micros
from tidemill.errors import NotFound
from tidemill.records import Verdict
from tidemill.stores.database import Database, dumps, loads
from tidemill.stores.tables import alerts


@dataclass(frozen=True, kw_only=True)
class OpenAlert:
    """One alert from its opening to its closing.

    `told_at` is when the webhook took its opening. `problem` says why the newest letter about it was not taken, and
    `tries` how often that one was sent.
    """

    id: int
    name: str
    cohort: str
    opened_at: datetime
    fired_at: datetime
    closed_at: datetime | None
    silent_until: datetime | None
    verdict: Verdict
    told_at: datetime | None
    tries: int
    problem: str

    @property
    def is_open(self) -> bool:
        """Whether it still stands."""
        return self.closed_at is None

    def is_silent(self, now: datetime) -> bool:
        """Whether nobody wants to hear of it now."""
        return self.silent_until is not None and now < self.silent_until


class Alerts:
    """Keeps alerts, by project."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def open(self, conn: Connection, project: str, name: str, *, cohort: str, verdict: Verdict, now: datetime) -> int:
        """Open an alert, or note that the open one of that name fired again; return its id."""
        fired = {"fired_at": micros(now), "verdict": dumps(verdict.to_json())}
        standing = (alerts.c.project == project, alerts.c.name == name, alerts.c.closed_at.is_(None))
        known = conn.execute(select(alerts.c.id).where(*standing)).scalar()
        if known is not None:
            conn.execute(update(alerts).where(alerts.c.id == known).values(**fired))
            return int(known)
        row = {"project": project, "name": name, "cohort": cohort, "opened_at": micros(now), "tries": 0, "problem": ""}
        silent = conn.execute(
            select(alerts.c.silent_until)
            .where(alerts.c.project == project, alerts.c.name == name)
            .order_by(alerts.c.id.desc())
            .limit(1)
        ).scalar()
        return int(
            conn.execute(insert(alerts).values(**row, **fired, silent_until=silent).returning(alerts.c.id)).scalar_one()
        )

    def close(self, conn: Connection, id: int, now: datetime) -> None:
        """Close an alert; one that is closed stays as it is."""
        one = (alerts.c.id == id, alerts.c.closed_at.is_(None))
        conn.execute(update(alerts).where(*one).values(closed_at=micros(now)))

    def silence(self, conn: Connection, project: str, id: int, until: datetime) -> None:
        """Tell nobody of an alert until then, nor of the next ones of its name.

        Raises:
            NotFound: the project has no such alert.
        """
        one = (alerts.c.id == id, alerts.c.project == project)
        if not conn.execute(update(alerts).where(*one).values(silent_until=micros(until))).rowcount:
            raise NotFound(f"there is no alert {id}.", "see `tidemill alert list`")

    def told(self, conn: Connection, id: int, now: datetime, *, problem: str = "", is_end: bool = False) -> None:
        """Note that an alert, or its end, was told, or what kept it from being told."""
        tries = case((alerts.c.problem == "", 1), else_=alerts.c.tries + 1)
        values: dict[str, Any] = {"tries": tries, "problem": problem[:500]}
        if not problem and not is_end:
            values["told_at"] = micros(now)
        conn.execute(update(alerts).where(alerts.c.id == id).values(**values))

    def owe_nothing(self, conn: Connection, ids: Sequence[int]) -> None:
        """Note that nobody waits to be told of these any more."""
        conn.execute(update(alerts).where(alerts.c.id.in_(list(ids))).values(problem=""))

    def standing(self, project: str) -> list[OpenAlert]:
        """Return the open alerts, the oldest first."""
        wanted = select(alerts).where(alerts.c.project == project, alerts.c.closed_at.is_(None)).order_by(alerts.c.id)
        return self._found(wanted)

    def since(self, project: str, id: int, *, ids: Sequence[int] = ()) -> list[OpenAlert]:
        """Return the alerts after that id, and these ones, the oldest first."""
        which = (alerts.c.id > id) | alerts.c.id.in_(list(ids))
        return self._found(select(alerts).where(alerts.c.project == project, which).order_by(alerts.c.id))

    def untold(self, project: str) -> list[OpenAlert]:
        """Return the alerts of which a letter was not taken, the oldest first."""
        wanted = select(alerts).where(alerts.c.project == project, alerts.c.problem != "")
        return self._found(wanted.order_by(alerts.c.id))

    def history(self, project: str, limit: int = 100) -> list[OpenAlert]:
        """Return the newest alerts, open or closed, newest first."""
        wanted = select(alerts).where(alerts.c.project == project).order_by(alerts.c.id.desc()).limit(limit)
        return self._found(wanted)

    def _found(self, wanted: Select[Any]) -> list[OpenAlert]:
        with self._db.read() as conn:
            return [_alert(row) for row in conn.execute(wanted)]


def _alert(row: Row[tuple[Any, ...]]) -> OpenAlert:
    return OpenAlert(
        id=row.id,
        name=row.name,
        cohort=row.cohort,
        opened_at=from_micros(row.opened_at),
        fired_at=from_micros(row.fired_at),
        closed_at=None if row.closed_at is None else from_micros(row.closed_at),
        silent_until=None if row.silent_until is None else from_micros(row.silent_until),
        verdict=Verdict.from_json(loads(row.verdict)),
        told_at=None if row.told_at is None else from_micros(row.told_at),
        tries=row.tries,
        problem=row.problem,
    )
