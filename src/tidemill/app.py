"""Wires a Project to stores and loop: the only place that does, used by the command line, notebooks and tests."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from sqlalchemy import Connection

from tidemill.clock import Clock, SystemClock, micros
from tidemill.fingerprint import digest
from tidemill.loop.controls import Controls
from tidemill.loop.courier import Courier
from tidemill.loop.declared import ProjectFile, checked_project
from tidemill.loop.drift import training_rows
from tidemill.loop.engine import LEASE_TTL, Engine
from tidemill.loop.labelling import Labelling
from tidemill.loop.past import curate_past, curate_requests
from tidemill.loop.person import KnownOf, Person
from tidemill.loop.schema_in_force import keep_declared
from tidemill.loop.webhook import Webhook
from tidemill.loop.world import World
from tidemill.monitor.cohort_status import CohortStatus, cohort_status
from tidemill.monitor.drift import MOST_ROWS, Training, look
from tidemill.monitor.ledger import EXPECTED
from tidemill.monitor.outcomes import Window, horizon, matured_frame
from tidemill.monitor.skew import Skew, served_skew
from tidemill.monitor.slices import WorstSlice, judged_frame, slice_metric, worst
from tidemill.monitor.status import Status, status
from tidemill.project import Project
from tidemill.records import Example, Json, Route, Trust
from tidemill.stats.drift_report import DriftReport
from tidemill.stats.metrics import events_of
from tidemill.stores.belonging import open_database
from tidemill.stores.blobs import Blobs
from tidemill.stores.catalog import Catalog
from tidemill.stores.compactor import Compactor
from tidemill.stores.conditions import Answer, evaluate
from tidemill.stores.datasets import Datasets
from tidemill.stores.home import Home
from tidemill.stores.journal import Journal
from tidemill.stores.log import Log
from tidemill.stores.logfiles import LogFiles
from tidemill.stores.reservoir import Reservoir
from tidemill.stores.segments import Segments
from tidemill.stores.sql import Rows, Sql
from tidemill.strategy.drift_needs import DriftNeeds
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
            blobs=world.blobs, world=world,
        )  # fmt: skip
        if project.name not in app.world.catalog.projects():
            with app.db.begin() as conn:
                app._publish(conn, "", is_first=True)
        return app

    @property
    def project(self) -> Project:
        """The declaration."""
        return self.world.project

    def publish(self, *, by: str = "") -> int:
        """Write the manifest and the strategy for the gateway and the history; return the strategy's number.

        One whose schema waits for a version (see `waiting`) is not written: what is in force stays. Another declaration
        than before is a row of the audit log, in the name of `by` where it has one.
        """
        schema, now = self.project.schema, self.clock.now()
        with self.db.begin() as conn:
            self.schemas.mend(conn, now=now, by=by)
            is_waiting = bool(self.schemas.within(conn).change(schema))
            keep_declared(self.journal, conn, self.name, schema if is_waiting else None, now)
            if not is_waiting:
                return self._publish(conn, by)
        return self.catalog.strategies(self.name)[-1].number

    def promote_now(self, version: int, *, by: str, reason: str) -> Route:
        """Route all traffic to a version at once; of the live one, put the file's schema in force if it can read it.

        Raises:
            NotFound: there is no such version.
            Conflict: the route changed at the same moment; or a candidate for the inputs in force is not tested yet.
        """
        if not self._put_before(version, by=by, reason=reason):
            return super().promote_now(version, by=by, reason=reason)
        return self.route()

    def _put_before(self, version: int, *, by: str, reason: str) -> bool:
        """Put the file's schema in force where it waits, and `version` is live and can read it; tell whether it was."""
        with self.db.begin() as conn:
            waiting = self.schemas.within(conn).waiting(self.project.schema)
            if waiting is None or waiting.live != version or not waiting.is_readable:
                return False
            self._check_nothing_in_making(conn, version)
            self._publish(conn, by)
            said = f"it answers requests with {', '.join(self.project.inputs)}"
            self.note(conn, "promote now", f"version {version}", by=by, reason=reason, result=said)
        return True

    def _publish(self, conn: Connection, by: str, *, is_first: bool = False) -> int:
        manifest, strategy = self.project.compile().to_json(), self.project.strategy.to_json()
        before = self.schemas.within(conn).in_force()[0] if by and not is_first else None
        number = self.catalog.publish(conn, manifest, strategy, file=self.world.project_file, now=self.clock.now())
        if is_first or (by and digest(before) != digest(manifest)):
            self.note(conn, "publish", f"strategy {number}", by=by, reason="", result="in force")
        return number

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

    def with_webhook(self, webhook: Webhook | None) -> App:
        """Return the same project with a webhook to send a test of alerts to."""
        return replace(self, world=replace(self.world, courier=Courier(webhook, self.clock)))

    def status(self, *, period: timedelta = timedelta(days=1)) -> Status:
        """Return how the project stands."""
        w = self.world
        waiting = self.schemas.waiting(self.project.schema) or self.waiting
        return status(
            w.project, catalog=w.catalog, journal=w.journal, log=w.log, reservoir=w.reservoir, alerts=w.alerts,
            now=self.clock.now(), period=period, waits="" if waiting is None else str(waiting),
        )  # fmt: skip

    def cohort_status(
        self, name: str, *, metric: str | None = None, period: timedelta = timedelta(days=1)
    ) -> CohortStatus:
        """Return how a cohort (or a condition, or "all") fares over the requests that matured in the last `period`.

        Raises:
            ProjectError: `name` is no cohort and no condition over the project's columns, or there is no such metric.
        """
        return cohort_status(self.project, self._frame(period), name, self._window(period), metric=metric)

    def worst(self, *, metric: str | None = None, period: timedelta = timedelta(days=1)) -> list[WorstSlice]:
        """Return the slices in which a metric (by default the first) is worst, the worst first, declared and found.

        Raises:
            ProjectError: there is no such metric, or no single request has it.
        """
        one = slice_metric(self.project, metric)
        rng = np.random.default_rng(self.world.seed("worst", one.name))
        frame = judged_frame(self.world.log, self.project, self._window(period), one, trust=Trust.CROWD)
        return worst(self.project, frame, one, rng)

    def drift(
        self, *, period: timedelta = timedelta(days=1), past: timedelta | None = None, until: datetime | None = None,
        alpha: float = 0.01, min_rows: int = 200, training: Training | None = None,
    ) -> DriftReport:  # fmt: skip
        """Compare the requests of the `period` up to `until` (now) with the training data, or `past` before them.

        `training` reads the rows that the live version was trained on, by default from its dataset.

        Raises:
            NotFound: no version answers yet.
        """
        needs = DriftNeeds(columns=None, window=period, past=past, alpha=alpha, min_rows=min_rows)
        until = self.world.log.complete_until(self.clock.now()) if until is None else until
        training = training or partial(training_rows, self.world, self.route().stable)
        rng = np.random.default_rng(self.world.seed("drift", micros(until)))
        return look(self.project, self.world.log, training, needs, until, rng)

    def skew(self, *, version: int | None = None, period: timedelta = timedelta(days=1)) -> Skew | None:
        """Ask a version (by default the live one) again what it answered in the last `period`, and compare.

        Of many requests about 20,000 are asked, drawn by a hash. None where none has its scores and all its inputs.

        Raises:
            NotFound: no version answers yet.
            StoreError: there is no such version.
        """
        version = self.route().stable if version is None else version
        now = self.clock.now()
        columns = ["request_id", "received_at", "scores", "answered_version", "error", *self.project.inputs]
        frame = self.world.log.sample(
            self.name, after=now - period, until=now, at_most=MOST_ROWS, columns=columns, schema=self.project.schema
        )
        with closing(self.world.load(self.catalog.artefact(self.name, version))) as loaded:
            return served_skew(self.project, version, loaded, frame)

    def curate_past(
        self, condition: str, *, num: int, period: timedelta, wrong: bool = False, answer: Answer = evaluate
    ) -> tuple[int, int]:
        """Put `num` requests of the last `period` that meet a condition into the label queue, first in it.

        Returns how many became examples, and how many there were. `wrong` takes those that feedback contradicts;
        `answer` answers the condition.

        Raises:
            ProjectError: the condition is none, or the strategy has no label queue.
        """
        now = self.clock.now()
        window, seed = Window(after=now - period, until=now), self.world.seed("past", micros(now))
        return curate_past(self.world, condition, window, num=num, wrong=wrong, seed=seed, now=now, answer=answer)

    def send_to_label(self, request_ids: Sequence[str], *, why: str) -> tuple[int, int]:
        """Put these requests into the label queue, first in it; return how many are new examples, how many were before.

        Raises:
            ProjectError: the strategy has no label queue, or the log kept none of their inputs.
        """
        return curate_requests(self.world, request_ids, why=why, now=self.clock.now())

    def _window(self, period: timedelta) -> Window:
        until = self.clock.now() - horizon(self.project)
        return Window(after=until - period, until=until)

    def _frame(self, period: timedelta) -> pl.DataFrame:
        return matured_frame(self.world.log, self.project, self._window(period), trust=Trust.CROWD, inputs=True)

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

    def known_of(self, subject: str, *, by_unit: bool = False) -> KnownOf:
        """Return what is kept about a person now: what `forget` would delete, and who learnt from it.

        `by_unit` also takes what bears the unit of that name.
        """
        person = Person(self.world, subject, self.clock.now(), by_unit=by_unit)
        datasets = person.find_datasets(person.find_examples())
        return KnownOf.of(person.counts(), datasets, person.find_models(datasets), unread=person.unread)

    # --- labels

    @property
    def labelling(self) -> Labelling:
        """The label queue, as labellers and those who look after them use it."""
        return Labelling(world=self.world, clock=self.clock)

    def queue(self, limit: int = 20) -> list[Example]:
        """Return the examples that wait for a label, the most urgent first."""
        return self.labelling.waiting(limit)

    def answer(self, answers: Sequence[tuple[str, object]], *, by: str) -> None:
        """Label examples as `(id, label)`.

        Raises:
            InvalidInput: a label does not fit the output; none of them is written.
            NotFound: an id is not in the reservoir.
            ProjectError: the strategy has no queue.
        """
        self.labelling.answer(answers, by=by)


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
