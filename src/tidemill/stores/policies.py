"""Policies by version: how scores become decisions. Which one is in force is said by the route."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, Select, insert, select

from tidemill.clock import from_micros, micros
from tidemill.errors import StoreError
from tidemill.policy import Policy
from tidemill.stores.database import Database, dumps, loads
from tidemill.stores.projects import lock_project
from tidemill.stores.rows import next_number
from tidemill.stores.tables import policies


@dataclass(frozen=True, kw_only=True)
class PolicyVersion:
    """A policy, who made it, when and why. `number` counts from 1 within a project; 1 is what the project declared."""

    number: int
    policy: Policy
    at: datetime
    by: str
    reason: str


class Policies:
    """Keeps the policies, by project. They are only ever added."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def policies(self, project: str) -> list[PolicyVersion]:
        """Return every version, oldest first."""
        with self._db.read() as conn:
            return [_version(row) for row in conn.execute(_of(project).order_by(policies.c.number))]

    def policy(self, project: str, number: int) -> Policy:
        """Return a version's policy.

        Raises:
            StoreError: the project has no such version.
        """
        with self._db.read() as conn:
            row = conn.execute(_of(project).where(policies.c.number == number)).first()
        if row is None:
            raise no_policy(project, number)
        return _version(row).policy

    def add_policy(
        self, conn: Connection, project: str, policy: Policy, *, now: datetime, by: str, reason: str
    ) -> PolicyVersion:
        """Keep a policy under the next number. It comes into force by a route that names it (`Routes.set_route`).

        Raises:
            StoreError: no such project is published.
        """
        lock_project(conn, project)
        number = next_number(conn, policies.c.number, project)
        values = {"body": dumps(policy.to_json()), "created_at": micros(now), "created_by": by, "reason": reason}
        conn.execute(insert(policies).values(project=project, number=number, **values))
        return PolicyVersion(number=number, policy=policy, at=now, by=by, reason=reason)


def check_policy(conn: Connection, project: str, number: int) -> None:
    """Refuse the number of a policy that the project has not.

    Raises:
        StoreError: it has not.
    """
    if conn.execute(_of(project).where(policies.c.number == number)).first() is None:
        raise no_policy(project, number)


def no_policy(project: str, number: int) -> StoreError:
    """Return what to say of a version that is not there."""
    return StoreError(f"project {project!r} has no policy {number}.", "see `tidemill policy list`")


def _of(project: str) -> Select[tuple[object, ...]]:
    return select(policies).where(policies.c.project == project)


def _version(row: Row[tuple[object, ...]]) -> PolicyVersion:
    return PolicyVersion(
        number=row.number,
        policy=Policy.from_json(loads(row.body)),
        at=from_micros(row.created_at),
        by=row.created_by,
        reason=row.reason,
    )
