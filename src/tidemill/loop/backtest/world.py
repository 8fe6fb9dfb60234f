"""The stores that a strategy is tried on: in memory, of one run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar

import numpy as np
import polars as pl
from sqlalchemy import Connection

from tidemill.loop.backtest.alerts import MemoryAlerts
from tidemill.loop.backtest.catalog import MemoryCatalog
from tidemill.loop.backtest.datasets import MemoryDatasets
from tidemill.loop.backtest.journal import MemoryJournal
from tidemill.loop.backtest.log import MemoryLog
from tidemill.loop.backtest.memo import Memo
from tidemill.loop.backtest.reservoir import MemoryReservoir, rows_of
from tidemill.loop.backtest.trainings import Trainings
from tidemill.loop.backtest.values import Values
from tidemill.loop.world import World
from tidemill.model import Artefact
from tidemill.project import Project
from tidemill.runtime.load import Loaded
from tidemill.schema import Columns
from tidemill.stores.blobs import Blobs
from tidemill.stores.compactor import Compacted, Compactor
from tidemill.stores.home import Home
from tidemill.stores.journal import Lease
from tidemill.stores.memory import MemoryDatabase
from tidemill.strategy.dataset import ExampleIndex
from tidemill.strategy.offline import Size
from tidemill.training.known import KnownRows

_SPLITS = np.array(["train", "test"])


@dataclass(frozen=True, kw_only=True)
class RehearsalWorld(World):
    """A world without a home: `log`, `reservoir` and `datasets` know rows of a stream, models are those of a memo.

    `number` is the number of the seed; None draws as the live loop does. With a number, strategies draw alike: two that
    differ in one stage see the same chance, so their difference is the stage's, and what they share is trained once.
    """

    times_models: ClassVar[bool] = False
    explains: ClassVar[bool] = False

    memo: Memo
    number: int | None
    kept_alerts: MemoryAlerts = field(default_factory=MemoryAlerts)

    @property
    def alerts(self) -> MemoryAlerts:
        """The alerts that were opened, in memory."""
        return self.kept_alerts

    def seed(self, step: str, slot: object) -> int:
        """Return a seed of 63 bits from (number, step, slot); all trainings of a number have the same."""
        if self.number is None:
            return super().seed(step, slot)
        text = f"{self.number}/{self.name}/{step}/{'' if step == 'train' else slot}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1

    def load(self, artefact: str) -> Loaded:
        """Return a trained model as it came from the trainer: nothing is exported."""
        about = Artefact(format="python", schema={})
        schema = self.project.schema
        return Loaded(about, schema, _Native(self.memo, artefact), tuple(schema.inputs))

    def note(self, artefact: str) -> str:
        """Return nothing: no artefact is written."""
        return ""

    def size_mb(self, artefact: str) -> float:
        """Return what a version would take on disk if a stage asks, else 0: writing one takes longer than the rest."""
        asked = any(isinstance(stage, Size) for stage in self.project.strategy.offline)
        return self.memo.size_mb(artefact) if asked else 0.0

    def labelled(self) -> ExampleIndex:
        """Return the labelled examples, oldest request first."""
        examples, stream = self.reservoir, self.memo.stream
        assert isinstance(examples, MemoryReservoir)
        rows, values = examples.labelled(), Values(self.project.output)
        return ExampleIndex(
            ids=stream.ids[rows],
            received_at=stream.received_at[rows],
            labelled_at=examples.labelled_at[rows],
            split=_SPLITS[examples.is_test[rows].astype(np.int64)],
            label=values.objects(examples.label_codes[rows]),
            trust=examples.rank[rows],
            decision=values.objects(examples.decision_codes[rows]),
            cohorts={name: mask[rows] for name, mask in self.memo.masks.items()} if len(rows) else {},
        )

    def columns(self, rows: pl.DataFrame) -> Columns:
        """Return the inputs of rows of a dataset, known by their numbers."""
        return self.memo.columns(rows_of(rows["id"]))


class _Native:
    """A model of this process."""

    is_python = False
    copies = 1
    device = "cpu"

    def __init__(self, memo: Memo, artefact: str) -> None:
        self._memo, self._artefact = memo, artefact

    def scores(self, columns: Columns, *, batch_rows: int | None = None) -> Any:
        """Predict, or remember it; `batch_rows` is the memo's own."""
        if isinstance(columns, KnownRows):
            return self._memo.scores(self._artefact, columns.rows)
        return self._memo.predict(self._memo.model(self._artefact), columns, len(next(iter(columns.values()))))

    def close(self) -> None:
        """Keep it: the memo lets go."""


class _NoCompactor(Compactor):
    """There are no segments: traffic is written into the log itself."""

    def __init__(self) -> None:
        """Need nothing."""

    def compact(self, lease: Lease, *, now: datetime) -> Compacted:
        """Move nothing."""
        return Compacted()

    def merge_small(self, lease: Lease, *, now: datetime) -> int:
        """Merge nothing."""
        return 0

    def forget(
        self, project: str, *, now: datetime, age: timedelta, write: Callable[[], AbstractContextManager[Connection]]
    ) -> int:
        """Delete nothing: it is in memory, and gone after the run."""
        return 0


def rehearsal(project: Project, memo: Memo, *, number: int | None, now: datetime) -> RehearsalWorld:
    """Return an empty world in which `project` is published."""
    db, home, values = MemoryDatabase(), Home("backtest"), Values(project.output)
    reservoir = MemoryReservoir(memo.stream, values)
    datasets = MemoryDatasets(memo.stream, reservoir, values, memo)
    world = RehearsalWorld(
        project=project, project_file="", home=home, db_url=None, db=db, catalog=MemoryCatalog(db),
        journal=MemoryJournal(db), log=MemoryLog(), compactor=_NoCompactor(), reservoir=reservoir, datasets=datasets,
        blobs=Blobs(home.blobs), runner=Trainings(project, datasets, memo), memo=memo, number=number,
    )  # fmt: skip
    with db.begin() as conn:
        world.catalog.publish(conn, project.compile().to_json(), project.strategy.to_json(), file="", now=now)
    return world
