"""Commands: what people asked for, as rows that the loop handles once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, Select, insert, select, update

from tidemill.clock import from_micros, micros
from tidemill.records import Json
from tidemill.stores.database import Database, dumps, loads
from tidemill.stores.tables import commands


@dataclass(frozen=True, kw_only=True)
class Command:
    """A verb such as `promote` with its arguments; `handled_at` and `result` come when the loop has dealt with it."""

    id: int
    verb: str
    args: Json
    by: str
    at: datetime
    handled_at: datetime | None = None
    result: Json | None = None


class Commands:
    """Keeps commands, by project."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def send(self, conn: Connection, project: str, verb: str, args: Json, *, by: str, now: datetime) -> int:
        """Add a command and return its id."""
        values = {"verb": verb, "args": dumps(args), "sent_by": by, "sent_at": micros(now)}
        new = insert(commands).values(project=project, **values).returning(commands.c.id)
        return int(conn.execute(new).scalar_one())

    def waiting(self, project: str) -> list[Command]:
        """Return the commands not yet handled, in the order they were sent."""
        return self._list(_of(project).where(commands.c.handled_at.is_(None)).order_by(commands.c.id))

    def handle(self, conn: Connection, id: int, result: Json, now: datetime) -> bool:
        """Note that a command was dealt with; return False, and keep the first result, when it was already."""
        unhandled = (commands.c.id == id, commands.c.handled_at.is_(None))
        values = {"handled_at": micros(now), "result": dumps(result)}
        return bool(conn.execute(update(commands).where(*unhandled).values(**values)).rowcount)

    def commands(self, project: str, limit: int = 100) -> list[Command]:
        """Return the newest commands, newest first."""
        return self._list(_of(project).order_by(commands.c.id.desc()).limit(limit))

    def _list(self, wanted: Select[tuple[object, ...]]) -> list[Command]:
        with self._db.read() as conn:
            return [_command(row) for row in conn.execute(wanted)]


def _of(project: str) -> Select[tuple[object, ...]]:
    return select(commands).where(commands.c.project == project)


def _command(row: Row[tuple[object, ...]]) -> Command:
    return Command(
        id=row.id,
        verb=row.verb,
        args=loads(row.args),
        by=row.sent_by,
        at=from_micros(row.sent_at),
        handled_at=None if row.handled_at is None else from_micros(row.handled_at),
        result=None if row.result is None else loads(row.result),
    )
