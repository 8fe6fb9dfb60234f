"""The journal: what the loop does, once each, whoever does it and however often it is killed.

Writes take a connection first: the loop's from `write`, which checks its lease in the same transaction; other
processes' (a command sent) from `Database.begin`. Reads open their own.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, select

from tidemill.clock import micros
from tidemill.records import Json
from tidemill.stores.commands import Command, Commands
from tidemill.stores.cycles import Cycles, GivenVerdict
from tidemill.stores.database import dumps, loads
from tidemill.stores.erasures import Erasures
from tidemill.stores.leases import Lease, Leases
from tidemill.stores.rows import put
from tidemill.stores.tables import states

__all__ = ["Command", "GivenVerdict", "Journal", "Lease"]


class Journal(Leases, Cycles, Commands):
    """Keeps leases, cycles with their steps and verdicts, commands, and the states of sequential stages."""

    def state(self, project: str, name: str) -> Json | None:
        """Return a stage's state, None before the first."""
        with self._db.read() as conn:
            one = (states.c.project == project, states.c.name == name)
            body = conn.execute(select(states.c.body).where(*one)).scalar()
        return None if body is None else loads(body)

    def trouble(self, project: str) -> dict[str, Json]:
        """Return what fails and is tried again, by the name of the step; erasures that rest have names of their own."""
        return {**(self.state(project, "trouble") or {}), **Erasures(self._db).trouble(project)}

    def put_state(self, conn: Connection, project: str, name: str, body: Json, now: datetime) -> None:
        """Keep a stage's state instead of the one before."""
        put(conn, states, {"project": project, "name": name}, {"body": dumps(body), "updated_at": micros(now)})
