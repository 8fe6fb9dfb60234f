"""The catalog: what is declared, what was trained, how scores are decided and who answers.

Writes take a connection from `Database.begin` or `Journal.write` first, so that all that one step writes is one
transaction; reads open their own.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection

from tidemill.manifest import declared_policy
from tidemill.records import Json, Route
from tidemill.stores.models import Models, Run
from tidemill.stores.policies import Policies, PolicyVersion
from tidemill.stores.projects import Projects, StrategySpell, StrategyVersion
from tidemill.stores.routes import RouteChange, Routes

__all__ = ["Catalog", "PolicyVersion", "RouteChange", "Run", "StrategySpell", "StrategyVersion"]

_BY = "project file"


class Catalog(Projects, Models, Policies, Routes):
    """Keeps projects with their strategies, model versions with their runs and reports, policies, and routes."""

    def publish(self, conn: Connection, manifest: Json, strategy: Json, *, file: str, now: datetime) -> int:
        """Make this declaration the one in force, and return the number of its strategy: see `Projects.publish`.

        A policy that is declared otherwise than before is a new version, and in force from now on; one that is declared
        as before leaves in force what people have set since.
        """
        project = manifest["project"]
        before = self._declared(conn, project)
        number = super().publish(conn, manifest, strategy, file=file, now=now)
        if before is None or declared_policy(before) != declared_policy(manifest):
            reason = "first policy" if before is None else "declared otherwise"
            new = self.add_policy(conn, project, declared_policy(manifest), now=now, by=_BY, reason=reason)
            route = self.route_within(conn, project)
            if route is not None:
                changed = replace(route, policy_version=new.number)
                self.set_route(conn, project, changed, now=now, by=_BY, reason=f"policy {new.number}: {reason}")
        return number

    def in_force(self, project: str) -> tuple[Json, Route | None]:
        """Return the manifest and the route of one moment: a version may come with inputs of its own.

        Raises:
            StoreError: no such project is published.
        """
        with self._db.read() as conn:
            return self.in_force_within(conn, project)

    def in_force_within(self, conn: Connection, project: str) -> tuple[Json, Route | None]:
        """Return the manifest and the route as a transaction sees them.

        Raises:
            StoreError: no such project is published.
        """
        manifest, route = self._declared(conn, project), self.route_within(conn, project)
        return (self.manifest(project) if manifest is None else manifest), route  # that says there is none

    def policy_in_force(self, project: str) -> PolicyVersion:
        """Return the policy that the route names, before there is a route the newest.

        Raises:
            StoreError: no such project is published.
        """
        route, known = self.route(project), self.policies(project)
        if not known:
            self.manifest(project)  # says that there is no such project
        return known[-1] if route is None else known[route.policy_version - 1]
