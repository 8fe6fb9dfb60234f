"""Which inputs are in force, and what waits: a version answers requests with the inputs it was trained on.

Requests that were fine before the project file was edited stay fine. Other inputs, or another output, in the file take
effect with the first version that was trained on them. What only the edge minds (bounds, values, lengths, tags) does
not wait.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection

from tidemill.errors import ModelError, ProjectError, StoreError
from tidemill.manifest import Manifest
from tidemill.model import Artefact
from tidemill.policy import Policy
from tidemill.records import Json, Route
from tidemill.runtime.artefact import read_artefact
from tidemill.runtime.fits import check_fits, difference, reads, taken_over
from tidemill.schema import Schema
from tidemill.stores.blobs import Blobs
from tidemill.stores.catalog import Catalog
from tidemill.stores.journal import Journal
from tidemill.stores.projects import lock_project

_DECLARED = "declared"


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """What the project file declares otherwise than is in force.

    `change` says what; `inputs` are those in force, which version `live` goes on answering. `ready` is the newest
    version that was trained on what waits, None where there is none; with `is_readable` the live version could answer
    under it as it is, once callers send it.
    """

    change: str
    inputs: tuple[str, ...]
    live: int
    ready: int | None
    is_readable: bool

    def __str__(self) -> str:
        """Return it as a sentence, with the next move."""
        said = f"the project file's schema waits: {self.change}; version {self.live} goes on answering requests with"
        return f"{said} {', '.join(self.inputs)}. Next: {self.next_move}"

    @property
    def next_move(self) -> str:
        """What puts it in force."""
        if self.ready is not None:
            return f"`tidemill promote {self.ready} --now` puts it in force with version {self.ready}"
        made = "`tidemill train DATA` makes a version of it, for `tidemill promote` to put both in force"
        if not self.is_readable:
            return made
        return f"{made}; or, where callers go by it already, `tidemill promote {self.live} --now`"


@dataclass(frozen=True)
class SchemaInForce:
    """The inputs and the output that requests of a project are checked against.

    What is decided from them is decided `within` the transaction that writes it: a person may move the route, or
    publish, between a look and a write.
    """

    catalog: Catalog
    blobs: Blobs
    name: str
    conn: Connection | None = None

    def within(self, conn: Connection) -> SchemaInForce:
        """Return the same as a transaction sees it, which keeps manifest and route from others until it ends.

        Raises:
            StoreError: no such project is published.
        """
        lock_project(conn, self.name)
        return replace(self, conn=conn)

    def in_force(self) -> tuple[Json, Route | None]:
        """Return the manifest and the route of one moment.

        Raises:
            StoreError: no such project is published.
        """
        if self.conn is None:
            return self.catalog.in_force(self.name)
        return self.catalog.in_force_within(self.conn, self.name)

    def now(self) -> Schema:
        """Return them.

        Raises:
            StoreError: no such project is published.
        """
        return Manifest.from_json(self.in_force()[0]).schema

    def change(self, declared: Schema) -> str:
        """Return in words what of a declared schema waits for a version, "" when nothing does."""
        manifest, route = self.in_force()
        if route is None:
            return ""
        change = difference(Schema.from_json(manifest["schema"]), declared)
        return change if change and self._is_other(route.stable, declared) else ""

    def waiting(self, declared: Schema) -> Waiting | None:
        """Return what of a declared schema waits for a version, and what to do about it; None when nothing waits."""
        change, (_, route) = self.change(declared), self.in_force()
        if not change or route is None:
            return None
        others = [m.version for m in self.catalog.models(self.name) if m.version != route.stable and not m.retired_at]
        return Waiting(
            change=change,
            inputs=tuple(self.now().inputs),
            live=route.stable,
            ready=next((v for v in reversed(others) if not self._is_other(v, declared)), None),
            is_readable=self._can_read(route.stable, declared),
        )

    def brought_by(self, version: int, waiting: Schema | None = None) -> Schema | None:
        """Return what has to be in force when a version answers, None where what is may stay.

        It is what the version was trained on where it reads that, or where that is `waiting`. An earlier version that
        does not read what is new leaves it in force: callers send it by now.
        """
        if waiting is not None and not self._is_other(version, waiting):
            return waiting if difference(self.now(), waiting) else None
        artefact, now = self._artefact(version), self.now()
        if artefact is None or self._can_read(version, now):
            return None
        return taken_over(Schema.from_json(artefact.schema), now)

    def unread_by(self, version: int) -> tuple[str, ...]:
        """Return the inputs in force that a version was not trained on."""
        artefact = self._artefact(version)
        own = () if artefact is None else artefact.schema["inputs"]
        return tuple(name for name in self.now().inputs if artefact is not None and name not in own)

    def of(self, version: int) -> Schema | None:
        """Return what a version was trained on, None where its artefact is not there."""
        artefact = self._artefact(version)
        return None if artefact is None else Schema.from_json(artefact.schema)

    def of_versions(self) -> list[Schema]:
        """Return what each version was trained on whose artefact is there, the newest first."""
        known = (self.of(m.version) for m in reversed(self.catalog.models(self.name)) if m.retired_at is None)
        return [schema for schema in known if schema is not None]

    def put(self, conn: Connection, schema: Schema, route: Route, *, now: datetime, by: str) -> Route:
        """Put a schema in force within a transaction; return the route with a policy that fits its output."""
        manifest = Manifest.from_json(self.within(conn).in_force()[0]).under(schema)
        self.catalog.declare(conn, manifest.to_json(), now=now)
        try:
            self.catalog.policy(self.name, route.policy_version).check(schema.output)
        except ProjectError as error:
            new = self.catalog.add_policy(conn, self.name, Policy(), now=now, by=by, reason=error.message)
            return replace(route, policy_version=new.number)
        return route

    def mend(self, conn: Connection, *, now: datetime, by: str) -> bool:
        """Put back in force what the live version reads, where it cannot read what is; tell whether that was so.

        An earlier program published another schema over it, or a program that knew of no other live version did.
        """
        held = self.within(conn)
        _, route = held.in_force()
        schema = None if route is None else held.brought_by(route.stable)
        if route is None or schema is None:
            return False
        mended = held.put(conn, schema, route, now=now, by=by)
        if mended != route:
            why = "the policy does not fit the output"
            self.catalog.set_route(conn, self.name, mended, now=now, by=by, reason=why)
        return True

    def _artefact(self, version: int) -> Artefact | None:
        """Return what a version was trained on, None where it cannot be read: it answers only where it is loaded."""
        try:
            return read_artefact(self.blobs.unchecked_folder(self.catalog.artefact(self.name, version)))
        except (ModelError, StoreError):
            return None

    def _can_read(self, version: int, schema: Schema) -> bool:
        """Tell whether a version could answer under a schema."""
        artefact = self._artefact(version)
        if artefact is None:
            return False
        try:
            check_fits(Schema.from_json(artefact.schema), reads(artefact), schema)
        except ModelError:
            return False
        return True

    def _is_other(self, version: int, schema: Schema) -> bool:
        """Tell whether a version was trained on another schema."""
        artefact = self._artefact(version)
        return artefact is None or difference(Schema.from_json(artefact.schema), schema) != ""


def keep_declared(journal: Journal, conn: Connection, name: str, schema: Schema | None, now: datetime) -> None:
    """Remember the schema that waits, None where none does, for those who do not read the project file."""
    body = {} if schema is None else schema.to_json()
    if (journal.state(name, _DECLARED) or {}) != body:
        journal.put_state(conn, name, _DECLARED, body, now)


def declared(journal: Journal, name: str) -> Schema | None:
    """Return the schema that waited when the project file was read last, None where none did."""
    body = journal.state(name, _DECLARED)
    return Schema.from_json(body) if body else None
