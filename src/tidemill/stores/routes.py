"""Who answers: the route of each project, changed by compare-and-set, every revision kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, Row, Select, insert, select, update

from tidemill.clock import from_micros, micros
from tidemill.errors import Conflict
from tidemill.records import Json, Route
from tidemill.stores.database import Database, dumps, loads
from tidemill.stores.listener import announce
from tidemill.stores.models import no_version, retired
from tidemill.stores.policies import check_policy
from tidemill.stores.projects import lock_project
from tidemill.stores.tables import models, routes


@dataclass(frozen=True, kw_only=True)
class RouteChange:
    """A revision of the route: what it says, since when, who set it and why."""

    route: Route
    at: datetime
    by: str
    reason: str


class Routes:
    """Keeps the routes, by project."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def route(self, project: str) -> Route | None:
        """Return the route in force, None before the first."""
        with self._db.read() as conn:
            return self.route_within(conn, project)

    def route_within(self, conn: Connection, project: str) -> Route | None:
        """Return the route as a transaction sees it, None before the first."""
        row = conn.execute(_newest(project)).first()
        return None if row is None else _route(row)

    def history(self, project: str) -> list[RouteChange]:
        """Return every revision, oldest first."""
        with self._db.read() as conn:
            rows = conn.execute(select(routes).where(routes.c.project == project).order_by(routes.c.revision)).all()
        return [
            RouteChange(route=_route(row), at=from_micros(row.changed_at), by=row.changed_by, reason=row.reason)
            for row in rows
        ]

    def set_route(self, conn: Connection, project: str, route: Route, *, now: datetime, by: str, reason: str) -> Route:
        """Replace the revision that `route.revision` names (0: there is none yet) and return the new one.

        Raises:
            Conflict: the route is at another revision: somebody was first, and what was decided may no longer hold.
            StoreError: the route names a version or a policy that the project has not, or a version without artefact.
        """
        lock_project(conn, project)
        row = conn.execute(_newest(project)).first()
        current = 0 if row is None else row.revision
        if current != route.revision:
            raise moved_on(project, current, route.revision)
        _check_versions(conn, project, route)
        new = replace(route, revision=current + 1)
        conn.execute(
            insert(routes).values(
                project=project,
                revision=new.revision,
                body=dumps(_body(new)),
                lapses_at=None if new.lapses_at is None else micros(new.lapses_at),
                changed_at=micros(now),
                changed_by=by,
                reason=reason,
            )
        )
        announce(conn, project)
        return new

    def renew(self, conn: Connection, project: str, rollout: str, lapses_at: datetime) -> bool:
        """Let the candidate's share of this rollout last until `lapses_at`; no new revision.

        Return False, and change nothing, when the route in force is no longer of this rollout.
        """
        lock_project(conn, project)
        row = conn.execute(_newest(project)).first()
        if row is None or _route(row).rollout != rollout:
            return False
        one = (routes.c.project == project, routes.c.revision == row.revision)
        conn.execute(update(routes).where(*one).values(lapses_at=micros(lapses_at)))
        announce(conn, project)
        return True


def moved_on(project: str, current: int, named: int) -> Conflict:
    """Return the error for a route that is at another revision than the one that was read."""
    return Conflict(
        f"route of project {project!r} is at revision {current}, not {named}.", "read it again and decide anew"
    )


def _newest(project: str) -> Select[tuple[object, ...]]:
    return select(routes).where(routes.c.project == project).order_by(routes.c.revision.desc()).limit(1)


def _check_versions(conn: Connection, project: str, route: Route) -> None:
    """Refuse a route that no gateway could serve."""
    named = route.versions()
    there = select(models.c.version, models.c.retired_at)
    there = there.where(models.c.project == project, models.c.version.in_(named))
    found = {row.version: row.retired_at for row in conn.execute(there)}
    for version in sorted(named):
        if version not in found:
            raise no_version(project, version)
        if found[version] is not None:
            raise retired(project, version, from_micros(found[version]))
    check_policy(conn, project, route.policy_version)


def _body(route: Route) -> Json:
    return {
        "stable": route.stable,
        "fallback": route.fallback,
        "candidate": route.candidate,
        "share": route.share,
        "salt": route.salt,
        "rollout": route.rollout,
        "shadows": list(route.shadows),
        "policy_version": route.policy_version,
    }


def _route(row: Row[tuple[object, ...]]) -> Route:
    body = loads(row.body)
    return Route(
        revision=row.revision,
        stable=body["stable"],
        fallback=body["fallback"],
        candidate=body["candidate"],
        share=body["share"],
        salt=body["salt"],
        rollout=body["rollout"],
        shadows=tuple(body["shadows"]),
        lapses_at=None if row.lapses_at is None else from_micros(row.lapses_at),
        policy_version=body["policy_version"],
    )
