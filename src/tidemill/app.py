"""Wires a Project to stores and loop: the only place that does, used by the command line, notebooks and tests."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from operator import itemgetter
from pathlib import Path
from uuid import uuid4

import msgspec

from tidemill.clock import Clock, SystemClock, micros
from tidemill.errors import ProjectError
from tidemill.loop.controls import Controls
from tidemill.loop.courier import Courier
from tidemill.loop.declared import ProjectFile, checked_project
from tidemill.loop.engine import LEASE_TTL, Engine
from tidemill.loop.webhook import Webhook
from tidemill.loop.world import World
from tidemill.monitor.ledger import EXPECTED
from tidemill.monitor.outcomes import horizon
from tidemill.monitor.status import Status, status
from tidemill.project import Project
from tidemill.records import Example, Feedback, Json, Trust
from tidemill.stats.metrics import events_of
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
from tidemill.strategy.strategy import Strategy


@dataclass(frozen=True, kw_only=True)
class App(Controls):
    """One project in one home folder, opened."""

    world: World

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
        project = checked_project(project_file)
        world = _world(project, project_file, Home(home).make(), database)
        app = cls(
            name=project.name, db=world.db, catalog=world.catalog, journal=world.journal, clock=clock or SystemClock(),
            world=world,
        )  # fmt: skip
        if project.name not in app.world.catalog.projects():
            app.publish()
        return app

    @property
    def project(self) -> Project:
        """The declaration."""
        return self.world.project

    def publish(self) -> int:
        """Write the manifest and the strategy for the gateway and the history; return the strategy's number."""
        manifest, strategy = self.project.compile().to_json(), self.project.strategy.to_json()
        with self.world.db.begin() as conn:
            return self.world.catalog.publish(
                conn, manifest, strategy, file=self.world.project_file, now=self.clock.now()
            )

    def expect(self, strategy: Strategy, prediction: Json) -> None:
        """Keep what is expected of a strategy, for the ledger to put what came true beside it once it is in force."""
        digest = replace(self.project, strategy=strategy).strategy.digest()
        now = self.clock.now()
        with self.world.db.begin() as conn:
            self.world.journal.put_state(conn, self.name, f"{EXPECTED}{digest}", prediction, now)

    def engine(
        self, *, poll_s: float = 0.5, lapse: timedelta = timedelta(seconds=60), lease_ttl: timedelta = LEASE_TTL,
        webhook: Webhook | None = None,
    ) -> Engine:  # fmt: skip
        """Return the loop of this project, ready to run. Alerts are told to the webhook, if there is one."""
        holder = f"{socket.gethostname()}/{os.getpid()}"
        return Engine(
            world=replace(self.world, courier=Courier(webhook, self.clock)),
            clock=self.clock,
            holder=holder,
            poll_s=poll_s,
            lapse=lapse,
            lease_ttl=lease_ttl,
            declared=ProjectFile(self.world.project_file),
        )

    def status(self, *, period: timedelta = timedelta(days=1)) -> Status:
        """Return how the project stands."""
        w = self.world
        return status(
            w.project, catalog=w.catalog, journal=w.journal, log=w.log, reservoir=w.reservoir, alerts=w.alerts, now=self.clock.now(),
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
            events=events_of(self.project.metrics),
            projections=self.project.projections,
            examples=partial(w.reservoir.index, self.name),
        )
        return asked.ask(query, limit=limit, timeout_s=timeout_s, memory=memory)

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
