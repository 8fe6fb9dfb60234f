"""What a step may touch: the project and its stores. Wired in `app.py`, handed to every step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import polars as pl
from sqlalchemy import Connection

from tidemill.clock import from_micros
from tidemill.loop.courier import Courier
from tidemill.loop.schema_in_force import SchemaInForce
from tidemill.monitor.cohorts import cohort_masks
from tidemill.monitor.outcomes import Window, past_losses
from tidemill.project import Project
from tidemill.records import Example, Json, Trust
from tidemill.runtime.artefact import read_artefact
from tidemill.runtime.load import Loaded, load
from tidemill.schema import Array, Columns
from tidemill.stores.alerts import Alerts
from tidemill.stores.blobs import Blobs
from tidemill.stores.catalog import Catalog
from tidemill.stores.compactor import Compactor
from tidemill.stores.database import Database
from tidemill.stores.datasets import Datasets
from tidemill.stores.declared import of_today
from tidemill.stores.duplicates import Sameness
from tidemill.stores.home import Home
from tidemill.stores.journal import Journal, Lease
from tidemill.stores.log import Log
from tidemill.stores.reservoir import Reservoir
from tidemill.strategy.dataset import ExampleIndex
from tidemill.strategy.strategy import Strategy
from tidemill.training import runner as trainings

MOST_ROWS = 200_000
"""How many rows of the log a step takes at a time, about: after a long outage it goes on turn by turn."""
_RANKS = {str(trust): trust.rank for trust in Trust}


class Runner(Protocol):
    """Trains: `tidemill.training.runner` in processes of their own, a backtest in its own process."""

    def launch(self, job: trainings.Job) -> trainings.Status:
        """Start a job and return how it stands; one that runs or is done is left alone."""
        ...

    def poll(self, workdir: Path) -> trainings.Status:
        """Return how the job of a work folder stands."""
        ...

    def kill(self, workdir: Path, reason: str = "it was stopped") -> None:
        """End a job, and leave `reason` as its error."""
        ...


@dataclass(frozen=True, kw_only=True)
class World:
    """One project's stores, as a step sees them."""

    times_models: ClassVar[bool] = True  # reports tell how long an answer takes
    explains: ClassVar[bool] = True  # reports tell where a candidate fails, when, and how the data has changed

    project: Project
    project_file: str
    home: Home
    db_url: str | None  # of the database, if it is not the home's own
    db: Database
    catalog: Catalog
    journal: Journal
    log: Log
    compactor: Compactor
    reservoir: Reservoir
    datasets: Datasets
    blobs: Blobs
    runner: Runner = trainings
    courier: Courier | None = None  # tells people of alerts; a backtest has none
    _past: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The project's name."""
        return self.project.name

    @cached_property
    def trainer_json(self) -> Json:
        """The trainer, as versions and runs note it."""
        return self.project.trainer.to_json()

    @property
    def alerts(self) -> Alerts:
        """The alerts that were opened."""
        return Alerts(self.db)

    @property
    def schemas(self) -> SchemaInForce:
        """Which inputs are in force."""
        return SchemaInForce(self.catalog, self.blobs, self.name)

    @property
    def sameness(self) -> Sameness:
        """What makes two examples of the project duplicates, so that they share a split."""
        return Sameness.of(self.project.schema, near_duplicates=self.project.near_duplicates)

    def past(
        self, rollout: str, window: Window, *, metrics: Sequence[str], trust: Trust
    ) -> dict[str, dict[str, float]]:
        """Return by metric the mean loss of each unit in the window before a rollout, read once for each."""
        if rollout not in self._past:
            self._past.clear()
            self._past[rollout] = past_losses(self.log, self.project, window, metrics=metrics, trust=trust)
        return self._past[rollout]

    def load(self, artefact: str) -> Loaded:
        """Load a version so that it answers.

        Raises:
            ModelError: the artefact does not load.
        """
        return load(self.blobs.folder(artefact), project_file=self.project_file)

    def note(self, artefact: str) -> str:
        """Return what was written with an artefact, such as why it could not be exported."""
        return read_artefact(self.blobs.folder(artefact)).notes

    def size_mb(self, artefact: str) -> float:
        """Return how many megabytes (of 1,000,000 bytes) an artefact takes."""
        return sum(file.stat().st_size for file in self.blobs.folder(artefact).rglob("*") if file.is_file()) / 1e6

    def columns(self, rows: pl.DataFrame) -> Columns:
        """Return the inputs of rows of a dataset as a model takes them."""
        return {name: kind.column(rows[name].to_list()) for name, kind in self.project.schema.inputs.items()}

    def inputs(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return the canonical inputs of examples, with the defaults of those that an older example lacks.

        Raises:
            NotFound: an id is not in the reservoir.
        """
        return [self.project.schema.filled(row) for row in self.reservoir.inputs(self.name, ids)]

    def examples(self, ids: Sequence[str], *, conn: Connection | None = None) -> list[Example]:
        """Return whole examples for people to see, in the order of `ids`, with their inputs as they are declared now.

        Raises:
            NotFound: an id is not in the reservoir.
        """
        return [self.of_today(example) for example in self.reservoir.examples(self.name, ids, conn=conn)]

    def of_today(self, example: Example) -> Example:
        """Return an example with its inputs as they are declared now."""
        return replace(example, inputs=of_today(example.inputs, self.project.schema))

    def labelled(self) -> ExampleIndex:
        """Return the labelled examples as the dataset stages see them, oldest request first."""
        frame = self.reservoir.index(self.name).filter(pl.col("label").is_not_null()).sort("received_at", "id")
        return ExampleIndex(
            ids=np.array(frame["id"].to_list(), dtype=object),
            received_at=frame["received_at"].to_numpy().astype(np.int64),
            labelled_at=frame["labelled_at"].to_numpy().astype(np.int64),
            split=np.array(frame["split"].to_list(), dtype=np.str_),
            label=np.array(frame["label"].to_list(), dtype=object),
            trust=frame["trust"].replace_strict(_RANKS, return_dtype=pl.Int64).to_numpy(),
            decision=np.array(frame["decision"].to_list(), dtype=object),
            cohorts=self._cohorts(frame),
        )

    def _cohorts(self, frame: pl.DataFrame) -> dict[str, Array]:
        """Return the cohort masks of examples; cohorts need their inputs, so they are read only when declared."""
        if not self.project.cohorts or not len(frame):
            return {}
        rows = self.inputs(frame["id"].to_list())
        return cohort_masks(self.project, pl.DataFrame(rows, infer_schema_length=None))

    def workdir(self, run: str) -> Path:
        """Return where a training run keeps its files."""
        return self.home.runs / self.name / run

    def rng(self, step: str, slot: object) -> np.random.Generator:
        """Return the generator of a step: the same strategy, step and slot draw the same numbers."""
        return np.random.default_rng(self.seed(step, slot))

    def seed(self, step: str, slot: object) -> int:
        """Return a seed of 63 bits from (strategy, step, slot)."""
        text = f"{self.project.strategy.digest()}/{self.name}/{step}/{slot}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn of the loop: the world, the time, and the lease under which everything is written.

    `waits` says what the project file declares otherwise than is in force: no version is made by the loop meanwhile,
    for a training would read the file. With `is_foreign` the world's own project is that of the file.
    """

    world: World
    lease: Lease
    now: datetime
    known_until: datetime  # every fact received at or before it is in the log
    lapse: timedelta = timedelta(seconds=60)  # how long a candidate keeps its share when this loop is gone
    pace: timedelta = timedelta(0)  # how far turns lie apart where time is made to jump, as in a backtest
    most_rows: int = MOST_ROWS  # of the log that a step reads in this turn, about
    waits: str = ""
    is_foreign: bool = False

    def reach(self, after: datetime | None, until: datetime, *, kind: str = "predictions") -> datetime:
        """Return how far a step reads in this turn, at most `until`: what is left waits for the next turn."""
        return self.world.log.reach(self.name, after=after, until=until, at_most=self.most_rows, kind=kind)

    def parts(self, after: datetime | None, until: datetime) -> list[tuple[datetime | None, datetime]]:
        """Return `(after, until]` in parts that a step can take at a time."""
        return self.world.log.spans(self.name, after=after, until=until, at_most=self.most_rows)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open the one transaction of a step, fenced by the lease."""
        with self.world.journal.write(self.lease, now=self.now) as conn:
            yield conn

    @property
    def name(self) -> str:
        """The project's name."""
        return self.world.name

    @property
    def strategy(self) -> Strategy:
        """The strategy in force."""
        return self.world.project.strategy

    def state(self, name: str) -> Json:
        """Return what a standing step remembers, {} at first."""
        return self.world.journal.state(self.world.name, name) or {}


def time_of(value: int | None) -> datetime | None:
    """Return the time that a step remembers as microseconds, None where it remembers none."""
    return None if value is None else from_micros(value)
