"""Wires a Project to stores and loop: the only place that does, used by the command line, notebooks and tests."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from operator import itemgetter
from pathlib import Path
from uuid import uuid4

import msgspec

from tidemill.clock import Clock, SystemClock, micros
from tidemill.errors import Conflict, NotFound, ProjectError
from tidemill.loop.ending import promoted, without_candidate
from tidemill.loop.engine import LEASE_TTL, Engine
from tidemill.loop.world import World
from tidemill.monitor.cohorts import check_cohorts
from tidemill.monitor.outcomes import horizon
from tidemill.monitor.status import Status, status
from tidemill.project import Project, load_project
from tidemill.records import Example, Feedback, Route, Trust
from tidemill.stats.metrics import EventRate
from tidemill.stores.belonging import open_database
from tidemill.stores.blobs import Blobs
from tidemill.stores.catalog import Catalog
from tidemill.stores.compactor import Compactor
from tidemill.stores.datasets import Datasets
from tidemill.stores.home import Home
from tidemill.stores.journal import Journal
from tidemill.stores.log import Log
from tidemill.stores.logfiles import LogFiles
from tidemill.stores.reservoir import Reservoir
from tidemill.stores.segments import Batch, Segments, SegmentWriter
from tidemill.stores.sql import Rows, Sql


@dataclass(frozen=True, kw_only=True)
class App:
    """One project in one home folder, opened."""

    world: World
    clock: Clock

    @classmethod
    def open(
        cls, project_file: str, home: str | Path, *, database: str | None = None, clock: Clock | None = None
    ) -> App:
        """Load the project file and open (or make) the home folder, with its catalog in `database` if that is given.

        A project that the home does not know is published there; what changed since is left to `publish`, so that
        looking never changes what runs.

        Raises:
            ProjectError: the project file is wrong.
            StoreError: the home or the database cannot be opened.
            MissingExtra: the database is PostgreSQL, and the extra `postgres` is not installed.
        """
        project = load_project(project_file)
        check_cohorts(project)
        world = _world(project, project_file, Home(home).make(), database)
        app = cls(world=world, clock=clock or SystemClock())
        if project.name not in app.world.catalog.projects():
            app.publish()
        return app

    @property
    def project(self) -> Project:
        """The declaration."""
        return self.world.project

    @property
    def name(self) -> str:
        """The project's name."""
        return self.world.name

    def close(self) -> None:
        """Close the database."""
        self.world.db.close()

    def publish(self) -> int:
        """Write the manifest and the strategy for the gateway and the history; return the strategy's number."""
        manifest, strategy = self.project.compile().to_json(), self.project.strategy.to_json()
        with self.world.db.begin() as conn:
            return self.world.catalog.publish(
                conn, manifest, strategy, file=self.world.project_file, now=self.clock.now()
            )

    def engine(
        self, *, poll_s: float = 0.5, lapse: timedelta = timedelta(seconds=60), lease_ttl: timedelta = LEASE_TTL
    ) -> Engine:
        """Return the loop of this project, ready to run."""
        holder = f"{socket.gethostname()}/{os.getpid()}"
        return Engine(
            world=self.world, clock=self.clock, holder=holder, poll_s=poll_s, lapse=lapse, lease_ttl=lease_ttl
        )

    def status(self, *, period: timedelta = timedelta(days=1)) -> Status:
        """Return how the project stands."""
        w = self.world
        return status(
            w.project, catalog=w.catalog, journal=w.journal, log=w.log, reservoir=w.reservoir, now=self.clock.now(),
            period=period,
        )  # fmt: skip

    def sql(self, query: str, *, limit: int = 1000, timeout_s: float = 60.0, memory: str = "1GB") -> Rows:
        """Run one SELECT over the log and the reservoir, and return its first `limit` rows.

        Raises:
            StoreError: it is no plain SELECT, it fails, or it takes too long or too much memory.
        """
        w = self.world
        asked = Sql(
            files=LogFiles(w.db, w.home.log),
            project=self.name,
            schema=self.project.schema,
            horizon=horizon(self.project),
            events=[m.event for m in self.project.metrics if isinstance(m, EventRate)],
            projections=self.project.projections,
            examples=partial(w.reservoir.index, self.name),
        )
        return asked.ask(query, limit=limit, timeout_s=timeout_s, memory=memory)

    # --- what people ask for

    def ask(self, verb: str, *, by: str, version: int | None = None, reason: str = "") -> int:
        """Leave a command (retrain, approve, reject, promote) for the loop; return its number."""
        args = {"reason": reason} if version is None else {"reason": reason, "version": version}
        with self.world.db.begin() as conn:
            return self.world.journal.send(conn, self.name, verb, args, by=by, now=self.clock.now())

    def waiting_candidate(self) -> int:
        """Return the version that waits for a person.

        Raises:
            NotFound: none does.
        """
        cycle = self.world.journal.cycle(self.name)
        if cycle is None or cycle.candidate is None:
            raise NotFound("no candidate is under way.", "see `tidemill status`")
        return cycle.candidate

    def pause(self, *, paused: bool) -> None:
        """Stop opening cycles and moving candidates on, or go on. Guards still roll back while paused."""
        with self.world.db.begin() as conn:
            self.world.catalog.pause(conn, self.name, self.clock.now() if paused else None)

    def rollback(self, *, by: str, reason: str) -> Route:
        """Take the candidate out of traffic, or return to the version before; needs no loop.

        Raises:
            NotFound: there is nothing to roll back to.
            Conflict: the route changed at the same moment.
        """
        route = self._route()
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
        return self._set_route(route, new, by=by, reason=reason, retired="rolled back")

    def _was_just_withdrawn(self, route: Route) -> bool:
        """Tell whether the loop has yet to see that its candidate left traffic: a second call means the same thing."""
        cycle = self.world.journal.cycle(self.name)
        history = self.world.catalog.history(self.name)
        before = history[-2].route if len(history) > 1 else None
        return cycle is not None and before is not None and before.rollout is not None and before.stable == route.stable

    def promote_now(self, version: int, *, by: str, reason: str) -> Route:
        """Route all traffic to a version at once, past gate and rollout.

        Raises:
            NotFound: there is no such version.
            Conflict: the route changed at the same moment.
        """
        route = self._route()
        self.world.catalog.model(self.name, version)
        return self._set_route(route, promoted(route, version), by=by, reason=reason, retired="retired")

    def _route(self) -> Route:
        route = self.world.catalog.route(self.name)
        if route is None:
            raise NotFound(f"{self.name!r} has no version yet.", "make one with `tidemill train DATA`")
        return route

    def _set_route(self, old: Route, new: Route, *, by: str, reason: str, retired: str) -> Route:
        with self.world.db.begin() as conn:
            if new.stable != old.stable:
                self.world.catalog.set_status(conn, self.name, old.stable, retired)
                self.world.catalog.set_status(conn, self.name, new.stable, "live")
            return self.world.catalog.set_route(conn, self.name, new, now=self.clock.now(), by=by, reason=reason)

    # --- labels

    def queue(self, limit: int = 20) -> list[Example]:
        """Return the examples that wait for a label, the most urgent first."""
        return self.world.reservoir.next_in_queue(self.name, limit)

    def answer(self, answers: Sequence[tuple[str, object]], *, by: str) -> None:
        """Label examples as `(id, label)`.

        Raises:
            InvalidInput: a label does not fit the output; none of them is written.
            NotFound: an id is not in the reservoir.
        """
        parsed = [(id_, self.project.output.parse_label(value)) for id_, value in answers]
        parsed.sort(key=itemgetter(0))  # the loop's order too, so that neither waits for the other
        self._log_labels(parsed, by)
        with self.world.db.begin() as conn:
            for id_, value in parsed:
                self.world.reservoir.answer(
                    conn, self.name, id_, value=value, by=by, now=self.clock.now(), trust=self._queue_trust()
                )

    def _log_labels(self, answers: Sequence[tuple[str, str | float]], by: str) -> None:
        """Write the labels as feedback too, so that triggers, guards and quality see what people said."""
        found = self.world.reservoir.examples(self.name, [id_ for id_, _ in answers])
        values, trust = dict(answers), str(self._queue_trust())
        # The segment is there before the time is taken: nothing may be received behind the log's low-water mark.
        writer = SegmentWriter(self.world.home.segments, f"labels-{uuid4().hex}", low_at=micros(self.clock.now()))
        at = micros(self.clock.now())
        rows = [
            Feedback(request_id=e.request_id, received_at=at, kind="label", value=values[e.id], source=by, trust=trust)
            for e in found
            if e.request_id is not None
        ]
        if rows:
            writer.append(msgspec.msgpack.encode(Batch(project=self.name, feedback=rows)))
        writer.close()

    def _queue_trust(self) -> Trust:
        queue = self.project.strategy.label.queue
        if queue is None:
            raise ProjectError("the strategy has no label queue.", "add tm.label.Queue() to its label stage")
        return Trust(queue.trust)


def _world(project: Project, project_file: str, home: Home, database: str | None) -> World:
    db = open_database(home, database)
    journal, catalog = Journal(db), Catalog(db)
    reservoir = Reservoir(db, home.reservoir)
    segments = Segments(home.segments)
    return World(
        project=project,
        project_file=_absolute(project_file),
        home=home,
        db_url=database,
        db=db,
        catalog=catalog,
        journal=journal,
        log=Log(db, segments, home.log),
        compactor=Compactor(db, journal, segments, home.log),
        reservoir=reservoir,
        datasets=Datasets(db, home.datasets, reservoir),
        blobs=Blobs(home.blobs),
    )


def _absolute(project_file: str) -> str:
    file, colon, name = project_file.partition(":")
    return f"{Path(file).absolute()}{colon}{name}"
