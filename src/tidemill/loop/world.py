"""What a step may touch: the project and its stores. Wired in `app.py`, handed to every step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from sqlalchemy import Connection

from tidemill.clock import from_micros
from tidemill.project import Project
from tidemill.records import Json
from tidemill.stores.blobs import Blobs
from tidemill.stores.catalog import Catalog
from tidemill.stores.compactor import Compactor
from tidemill.stores.database import Database
from tidemill.stores.datasets import Datasets
from tidemill.stores.duplicates import Sameness
from tidemill.stores.home import Home
from tidemill.stores.journal import Journal, Lease
from tidemill.stores.log import Log
from tidemill.stores.reservoir import Reservoir
from tidemill.strategy.strategy import Strategy


@dataclass(frozen=True, kw_only=True)
class World:
    """One project's stores, as a step sees them."""

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

    @property
    def name(self) -> str:
        """The project's name."""
        return self.project.name

    @property
    def sameness(self) -> Sameness:
        """What makes two examples of the project duplicates, so that they share a split."""
        return Sameness.of(self.project.schema, near_duplicates=self.project.near_duplicates)

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
    """One turn of the loop: the world, the time, and the lease under which everything is written."""

    world: World
    lease: Lease
    now: datetime
    known_until: datetime  # every fact received at or before it is in the log
    lapse: timedelta = timedelta(seconds=60)  # how long a candidate keeps its share when this loop is gone

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
