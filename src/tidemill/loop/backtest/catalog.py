"""The catalog of a backtest, in memory: versions, runs, reports, policies and routes of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection

from tidemill.policy import Policy
from tidemill.records import Json, ModelVersion, Route
from tidemill.stores.catalog import Catalog, PolicyVersion, RouteChange, Run
from tidemill.stores.database import Database, dumps, loads
from tidemill.stores.models import no_run, no_version
from tidemill.stores.policies import no_policy
from tidemill.stores.routes import moved_on


class MemoryCatalog(Catalog):
    """Answers what `Catalog` answers, of one project; what was published is in the database. A write cannot be undone.

    Reports and what is said of runs are kept as text, so that each is read as the tables give it.
    """

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self._models: list[ModelVersion] = []
        self._runs: dict[str, tuple[Run, str]] = {}
        self._reports: dict[int, tuple[datetime, str]] = {}
        self._policies: list[PolicyVersion] = []
        self._routes: list[RouteChange] = []

    # --- models

    def add_model(self, conn: Connection, project: str, model: ModelVersion) -> int:
        """Register a model and return its version; one of the same run has the version it had."""
        known = next((one.version for one in self._models if one.run == model.run), None)
        if known is not None:
            return known
        self._models.append(replace(model, version=len(self._models) + 1, retired_at=None))
        return len(self._models)

    def model(self, project: str, version: int) -> ModelVersion:
        """Return one version."""
        return self._models[self._place(project, version)]

    def models(self, project: str) -> list[ModelVersion]:
        """Return every version, oldest first."""
        return list(self._models)

    def set_status(self, conn: Connection, project: str, version: int, status: str) -> None:
        """Say what became of a version."""
        place = self._place(project, version)
        self._models[place] = replace(self._models[place], status=status)

    def retire(self, conn: Connection, project: str, versions: Sequence[int], *, now: datetime) -> None:
        """Say that the artefacts of versions are gone; the records stay."""
        self._models = [replace(one, retired_at=now) if one.version in versions else one for one in self._models]

    def artefacts(self, conn: Connection) -> tuple[set[str], set[str]]:
        """Return the artefacts that versions have, and those that only retired ones had."""
        kept = {one.artefact for one in self._models if one.retired_at is None}
        return kept, {one.artefact for one in self._models} - kept

    def _place(self, project: str, version: int) -> int:
        if not 1 <= version <= len(self._models):
            raise no_version(project, version)
        return version - 1

    def replace_artefact(self, conn: Connection, project: str, old: str, new: str) -> None:
        """Let the versions that an artefact is of have another in its place."""
        self._models = [replace(one, artefact=new) if one.artefact == old else one for one in self._models]

    def is_named(self, artefact: str) -> bool:
        """Tell whether a version has this artefact."""
        return any(one.artefact == artefact for one in self._models)

    # --- runs and reports

    def start_run(self, conn: Connection, project: str, run: str, cycle: int | None, body: Json, now: datetime) -> None:
        """Note that a training began, or begins again after it failed; one that runs or is done is left as it is."""
        if run not in self._runs or self._runs[run][0].status == "failed":
            begun = Run(run=run, cycle=cycle, started_at=now, ended_at=None, status="running", body=None)
            self._runs[run] = (begun, dumps(body))

    def end_run(self, conn: Connection, project: str, run: str, status: str, body: Json, now: datetime) -> None:
        """Note how a training ended; the first end of a start counts."""
        if run not in self._runs:
            raise no_run(project, run)
        known, text = self._runs[run]
        if known.ended_at is None:
            whole = dumps({**loads(text), **body})
            self._runs[run] = (replace(known, status=status, ended_at=now), whole)

    def runs(self, project: str) -> list[Run]:
        """Return every run, oldest first."""
        ordered = sorted(self._runs.values(), key=lambda one: (one[0].started_at, one[0].run))
        return [replace(run, body=loads(text)) for run, text in ordered]

    def run(self, project: str, run: str) -> Run | None:
        """Return one run, None where there is none of that name."""
        return next((one for one in self.runs(project) if one.run == run), None)

    def add_report(self, conn: Connection, project: str, version: int, body: Json, now: datetime) -> None:
        """Keep the report about a version; a newer one replaces it."""
        self._reports[version] = (now, dumps(body))

    def report(self, project: str, version: int) -> Json | None:
        """Return the report about a version, None when there is none."""
        return loads(self._reports[version][1]) if version in self._reports else None

    def reported(self, project: str) -> dict[int, datetime]:
        """Return when the report about each version was made, by version."""
        return {version: self._reports[version][0] for version in sorted(self._reports)}

    # --- policies

    def policies(self, project: str) -> list[PolicyVersion]:
        """Return every version, oldest first."""
        return list(self._policies)

    def policy(self, project: str, number: int) -> Policy:
        """Return a version's policy."""
        self._check_policy(project, number)
        return self._policies[number - 1].policy

    def add_policy(
        self, conn: Connection, project: str, policy: Policy, *, now: datetime, by: str, reason: str
    ) -> PolicyVersion:
        """Keep a policy under the next number."""
        new = PolicyVersion(number=len(self._policies) + 1, policy=policy, at=now, by=by, reason=reason)
        self._policies.append(new)
        return new

    def _check_policy(self, project: str, number: int) -> None:
        if not 1 <= number <= len(self._policies):
            raise no_policy(project, number)

    # --- routes

    def route(self, project: str) -> Route | None:
        """Return the route in force, None before the first."""
        return self._routes[-1].route if self._routes else None

    def route_within(self, conn: Connection, project: str) -> Route | None:
        """Return the route as a transaction sees it, None before the first."""
        return self.route(project)

    def history(self, project: str) -> list[RouteChange]:
        """Return every revision, oldest first."""
        return list(self._routes)

    def set_route(self, conn: Connection, project: str, route: Route, *, now: datetime, by: str, reason: str) -> Route:
        """Replace the revision that `route.revision` names (0: there is none yet) and return the new one."""
        if len(self._routes) != route.revision:
            raise moved_on(project, len(self._routes), route.revision)
        for version in sorted(route.versions()):
            self.artefact(project, version)  # that there is one
        self._check_policy(project, route.policy_version)
        new = replace(route, revision=route.revision + 1)
        self._routes.append(RouteChange(route=new, at=now, by=by, reason=reason))
        return new

    def renew(self, conn: Connection, project: str, rollout: str, lapses_at: datetime) -> bool:
        """Do nothing: a share does not lapse, for the loop is always there."""
        return True

    def paused_at(self, project: str) -> datetime | None:
        """Return None: nobody pauses a backtest."""
        return None
