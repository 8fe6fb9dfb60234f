"""What people may do with a deployed project from its stores alone: no project file is read, and no loop is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection

from tidemill.clock import Clock, SystemClock
from tidemill.errors import Conflict, InvalidInput, NotFound
from tidemill.loop.ending import promoted, without_candidate
from tidemill.loop.schema_in_force import SchemaInForce, Waiting, declared
from tidemill.policy import Policy
from tidemill.records import Route
from tidemill.stores.alerts import Alerts
from tidemill.stores.audit import Audit
from tidemill.stores.belonging import open_database
from tidemill.stores.blobs import Blobs
from tidemill.stores.catalog import Catalog, PolicyVersion
from tidemill.stores.database import Database
from tidemill.stores.erasures import Erasure, Erasures, mark_of
from tidemill.stores.home import Home
from tidemill.stores.journal import Journal


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Commands for the loop, and changes of the route. They work while the project file is broken or elsewhere."""

    name: str
    db: Database
    catalog: Catalog
    journal: Journal
    clock: Clock
    blobs: Blobs
    via: str = "cli"  # how people reach it, for the audit log

    @classmethod
    def of_home(cls, home: str | Path, project: str, *, database: str | None = None) -> Controls:
        """Open a home's controls; `project` is the file that the project was published from, or its name.

        Where one project is published, it is the one that is meant.

        Raises:
            NotFound: several are published, and `project` is none of them; or none is.
            StoreError: the home or the database cannot be opened.
        """
        place = Home(home)
        if not place.folder.is_dir():
            raise NotFound(f"there is no home folder {str(home)!r}.", "give it with --home")
        db = open_database(place, database)
        catalog = Catalog(db)
        try:
            name = _named(catalog, project)
        except BaseException:
            db.close()
            raise
        blobs = Blobs(place.blobs)
        return cls(name=name, db=db, catalog=catalog, journal=Journal(db), clock=SystemClock(), blobs=blobs)

    def close(self) -> None:
        """Close the database."""
        self.db.close()

    def ask(self, verb: str, *, by: str, version: int | None = None, reason: str = "") -> int:
        """Leave a command (retrain, approve, reject, promote) for the loop; return its number.

        Raises:
            Conflict: a version is to be promoted that reads other inputs than are in force.
        """
        if verb == "promote" and version is not None and self.schemas.brought_by(version) is not None:
            raise Conflict(
                f"version {version} reads other inputs than are in force: it cannot share traffic with the live one.",
                f"`tidemill promote {version} --now` puts it and its inputs in force at once",
            )
        args = {"reason": reason} if version is None else {"reason": reason, "version": version}
        thing = "" if version is None else f"version {version}"
        with self.db.begin() as conn:
            number = self.journal.send(conn, self.name, verb, args, by=by, now=self.clock.now())
            self.note(conn, verb, thing, by=by, reason=reason, result=f"asked: command {number}")
        return number

    @property
    def schemas(self) -> SchemaInForce:
        """Which inputs are in force."""
        return SchemaInForce(self.catalog, self.blobs, self.name)

    @property
    def waiting(self) -> Waiting | None:
        """What of the project file waits for a version that was trained on it, as the file was read last."""
        schema = declared(self.journal, self.name)
        return None if schema is None else self.schemas.waiting(schema)

    def turning(self) -> str | None:
        """Return the process that turns the loop (host/pid), None where none does."""
        return self.journal.holder(f"loop/{self.name}", now=self.clock.now())

    def candidate_in_making(self) -> int | None:
        """Return the candidate of the open cycle, None while it is still formed or trained.

        Raises:
            NotFound: no cycle is open.
        """
        cycle = self.journal.cycle(self.name)
        if cycle is None:
            raise NotFound("no cycle is open.", "see `tidemill status`")
        return cycle.candidate

    def waiting_candidate(self) -> int:
        """Return the version that waits for a person.

        Raises:
            NotFound: none does.
        """
        cycle = self.journal.cycle(self.name)
        if cycle is None or cycle.candidate is None:
            raise NotFound("no candidate is under way.", "see `tidemill status`")
        return cycle.candidate

    def pause(self, *, paused: bool, by: str = "", reason: str = "") -> None:
        """Stop opening cycles and moving candidates on, or go on. Guards still roll back while paused."""
        with self.db.begin() as conn:
            self.catalog.pause(conn, self.name, self.clock.now() if paused else None)
            self.note(conn, "pause" if paused else "resume", by=by, reason=reason, result="done")

    def silence(self, alert: int, until: datetime, *, by: str = "", reason: str = "") -> None:
        """Tell nobody of an alert until then, nor of the next ones of its name; it is still shown.

        Raises:
            NotFound: there is no such alert.
        """
        with self.db.begin() as conn:
            Alerts(self.db).silence(conn, self.name, alert, until)
            said = f"silent until {until:%Y-%m-%d %H:%M:%S}"
            self.note(conn, "silence", f"alert {alert}", by=by, reason=reason, result=said)

    def forget(
        self, subject: str, *, by_unit: bool = False, datasets: bool = False, by: str = "", reason: str = ""
    ) -> int:
        """Ask for a person's data to be deleted, by the loop or by whoever turns it; return the erasure's number.

        Raises:
            InvalidInput: the subject is empty.
        """
        if not subject:
            raise InvalidInput("the subject is empty.", "give the `subject` that requests were sent with")
        mark = mark_of(self.catalog.secret(self.name), subject)
        with self.db.begin() as conn:
            number = Erasures(self.db).ask(
                conn, self.name, subject, mark=mark, by_unit=by_unit, with_datasets=datasets, by=by or "nobody named",
                reason=reason, via=self.via, now=self.clock.now(),
            )  # fmt: skip
            self.note(conn, "forget", f"subject {mark}", by=by, reason=reason, result=f"asked: erasure {number}")
        return number

    def erasure(self, number: int) -> Erasure:
        """Return how far an erasure is.

        Raises:
            NotFound: there is none of that number.
        """
        return Erasures(self.db).one(self.name, number)

    def rollback(self, *, by: str, reason: str) -> Route:
        """Take the candidate out of traffic, or return to the version before; needs no loop.

        Raises:
            NotFound: there is nothing to roll back to.
            Conflict: the route changed at the same moment.
        """
        route = self.route()
        if route.rollout is not None:
            new = without_candidate(route)
        elif self._was_just_withdrawn(route):
            raise Conflict(
                f"the candidate was taken out of traffic already; version {route.stable} answers.",
                "to leave that version too, wait until `tidemill status` shows no cycle",
            )
        elif route.fallback is not None:
            new = Route(revision=route.revision, stable=route.fallback, policy_version=route.policy_version)
        else:
            raise NotFound(
                f"version {route.stable} has no version before it.", "promote another with `tidemill promote`"
            )
        return self._set_route(route, new, "roll back", by=by, reason=reason, retired="rolled back")

    def _was_just_withdrawn(self, route: Route) -> bool:
        """Tell whether the loop has yet to see that its candidate left traffic: a second call means the same thing."""
        cycle = self.journal.cycle(self.name)
        history = self.catalog.history(self.name)
        before = history[-2].route if len(history) > 1 else None
        return cycle is not None and before is not None and before.rollout is not None and before.stable == route.stable

    def promote_now(self, version: int, *, by: str, reason: str) -> Route:
        """Route all traffic to a version at once, past gate and rollout; inputs that it was trained on come with it.

        Raises:
            NotFound: there is no such version.
            Conflict: the route changed at the same moment; or a candidate for the inputs in force is not tested yet.
        """
        route = self.route()
        self.catalog.artefact(self.name, version)
        new = promoted(route, version)
        return self._set_route(
            route, new, "promote now", by=by, reason=reason, retired="retired", check=self._check_nothing_in_making
        )

    def _check_nothing_in_making(self, conn: Connection, version: int) -> None:
        """Refuse other inputs with a version, while a cycle makes one for those in force.

        Args:
            conn: a write transaction, in which the project is locked: no cycle begins or goes on before its end.
            version: which brings the inputs.

        Raises:
            Conflict: a cycle does.
        """
        cycle = self.journal.cycle_within(conn, self.name)
        if cycle is not None and cycle.step in ("train", "test"):
            raise Conflict(
                f"cycle {cycle.number} makes a version for the inputs in force, which version {version} changes.",
                "wait for its end, or end it with `tidemill reject`",
            )

    def set_policy(self, policy: Policy, *, by: str, reason: str) -> PolicyVersion:
        """Keep a policy as a new version and put it in force; one that is in force already changes nothing.

        Raises:
            ProjectError: it does not fit the project's output.
            Conflict: the route changed at the same moment.
        """
        before = self.catalog.policy_in_force(self.name)
        if policy == before.policy:
            return before
        policy.check(self.schemas.now().output)
        route, now = self.catalog.route(self.name), self.clock.now()
        with self.db.begin() as conn:
            new = self.catalog.add_policy(conn, self.name, policy, now=now, by=by, reason=reason)
            if route is not None:
                changed = replace(route, policy_version=new.number)
                why = f"policy {new.number}: {reason}"
                self.catalog.set_route(conn, self.name, changed, now=now, by=by, reason=why)
            self.note(conn, "set policy", f"policy {new.number}", by=by, reason=reason, result="in force")
        return new

    def use_policy(self, number: int, *, by: str, reason: str) -> Route:
        """Put a policy in force that there is already.

        Raises:
            NotFound: there is no version that it could decide for.
            StoreError: there is no such policy.
            Conflict: the route changed at the same moment.
        """
        changed = replace(self.route(), policy_version=number)
        with self.db.begin() as conn:
            self.note(conn, "use policy", f"policy {number}", by=by, reason=reason, result="in force")
            return self.catalog.set_route(
                conn, self.name, changed, now=self.clock.now(), by=by, reason=f"policy {number}: {reason}"
            )

    def route(self) -> Route:
        """Return the route in force.

        Raises:
            NotFound: there is none yet.
        """
        route = self.catalog.route(self.name)
        if route is None:
            raise NotFound(f"{self.name!r} has no version yet.", "make one with `tidemill train DATA`")
        return route

    def note(self, conn: Connection, verb: str, thing: str = "", *, by: str, reason: str, result: str) -> None:
        """Write into the audit log what a transaction does."""
        Audit(self.db).add(
            conn, self.name, by=by or "nobody named", verb=verb, thing=thing, reason=reason, result=result,
            via=self.via, now=self.clock.now(),
        )  # fmt: skip

    def record(self, verb: str, thing: str = "", *, by: str, reason: str = "", result: str) -> None:
        """Write into the audit log what was done already, where no one transaction did it."""
        with self.db.begin() as conn:
            self.note(conn, verb, thing, by=by, reason=reason, result=result)

    def _set_route(
        self, old: Route, new: Route, verb: str, *, by: str, reason: str, retired: str,
        check: Callable[[Connection, int], None] | None = None,
    ) -> Route:  # fmt: skip
        """Move the route; `check` may refuse that other inputs come with it."""
        waiting, now = declared(self.journal, self.name), self.clock.now()
        with self.db.begin() as conn:
            schema = self.schemas.within(conn).brought_by(new.stable, waiting)
            if check is not None and schema is not None:
                check(conn, new.stable)
            said = f"version {new.stable} answers"
            said += "" if schema is None else f" requests with {', '.join(schema.inputs)}"
            self.note(conn, verb, f"version {old.stable}", by=by, reason=reason, result=said)
            if new.stable != old.stable:
                self.catalog.set_status(conn, self.name, old.stable, retired)
                self.catalog.set_status(conn, self.name, new.stable, "live")
            if schema is not None:
                new = self.schemas.put(conn, schema, new, now=now, by=by)
            return self.catalog.set_route(conn, self.name, new, now=now, by=by, reason=reason)


def _named(catalog: Catalog, project: str) -> str:
    names = catalog.projects()
    file, colon, attribute = project.partition(":")
    absolute = f"{Path(file).absolute()}{colon}{attribute}"
    meant = [name for name in names if name == project or catalog.file(name) == absolute]
    if meant or len(names) == 1:
        return (meant or names)[0]
    known = ", ".join(map(repr, names)) or "none"
    raise NotFound(
        f"{project!r} is no project of this home: there is {known}.",
        "name one with --project" if names else "publish it with `tidemill check`",
    )
