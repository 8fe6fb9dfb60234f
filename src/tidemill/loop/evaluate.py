"""From a candidate and the test examples to a Report: predictions of both versions on the same rows."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from tidemill.loop.baselines import baselines_judged
from tidemill.loop.data_checks import checked_data
from tidemill.loop.since import data_changes, evaluation_set, live_dataset
from tidemill.loop.suites import run_suites
from tidemill.loop.world import World
from tidemill.monitor.cohorts import cohort_masks
from tidemill.monitor.outcomes import judged
from tidemill.policy import Policy
from tidemill.records import Trust
from tidemill.review.build import HeldOut, build_report
from tidemill.review.periods import newest
from tidemill.review.report import Report
from tidemill.runtime.load import Loaded
from tidemill.schema import Array, Columns
from tidemill.stats.metrics import Judged
from tidemill.stores.declared import with_defaults
from tidemill.strategy import gate
from tidemill.training.known import KnownRows

_NUM_TIMED = 200
_ONNX_BATCH, _PYTHON_BATCH = 1024, 16


def evaluate(world: World, *, candidate: int, live: int | None, dataset: str | None) -> Report:
    """Return the report of a candidate on all labelled test examples of the dataset version it was trained on.

    Both versions' scores are decided by the policy in force.

    Raises:
        ModelError: an artefact does not load.
    """
    assert dataset is not None, "a candidate has a dataset"
    if not world.explains and not world.project.strategy.offline:
        return Report(candidate=candidate, live=live, dataset=dataset, cells=())  # nobody reads it
    rows = _Rows.of(world, dataset)
    policy = world.catalog.policy_in_force(world.name).policy
    mine, latency = _predict(world, candidate, rows, policy, timed=True)
    theirs = _predict(world, live, rows, policy, timed=False)[0] if live is not None else None
    training = world.datasets.training_data(world.name, dataset, world.project.schema)
    before, rng = live_dataset(world, live), world.rng("report", candidate)
    tested, old = evaluation_set(world, dataset, rows.ids, before)
    needs = gate.needs(world.project.strategy.offline)
    beside, notes = baselines_judged({str(b): b for b, _ in needs.baselines}, training, mine, rows.columns, rng)
    report = build_report(
        candidate=candidate,
        live=live,
        dataset=dataset,
        metrics=world.project.metrics,
        candidate_judged=mine,
        live_judged=theirs,
        rows=rows.held_out(world, old),
        train_targets=training.targets,
        baselines=beside,
        needs=needs,
        trust=Trust(world.project.strategy.test_trust),
        rng=rng,
    )
    p50, p99 = latency or (None, None)
    return replace(
        report,
        evaluation=tested,
        latency_ms_p50=p50,
        latency_ms_p99=p99,
        size_mb=world.size_mb(world.catalog.model(world.name, candidate).artefact),
        changes=data_changes(world, training, before, rng) if world.explains else (),
        data=checked_data(training, needs.data),
        suites=run_suites(world, world.project.suites, candidate=candidate, live=live, dataset=dataset),
        notes=(*report.notes, *notes, *_notes(world, candidate)),
        asked=gate.asked(world.project.strategy.offline),
    )


@dataclass(frozen=True)
class _Rows:
    """The test rows of a dataset version, and their inputs as a model takes them."""

    frame: pl.DataFrame
    columns: Columns
    labels: list[str | float]

    @classmethod
    def of(cls, world: World, dataset: str) -> _Rows:
        frame = with_defaults(world.datasets.test_rows(world.name, dataset), world.project.schema)
        trust = Trust(world.project.strategy.test_trust)
        frame = frame.filter(pl.col("trust").is_in([str(t) for t in Trust if t.rank >= trust.rank]))
        return cls(frame, world.columns(frame), frame["label"].to_list())

    @property
    def ids(self) -> Array:
        return np.array([*self.frame["id"].to_list(), None], dtype=object)[:-1]

    def held_out(self, world: World, old: Array) -> HeldOut:
        received_at = self.frame["received_at"].to_numpy().astype(np.int64)
        return HeldOut(
            cohorts={**cohort_masks(world.project, self.frame), **newest(received_at)},
            probabilities=self.frame["probability"].cast(pl.Float64).fill_null(float("nan")).to_numpy(),
            received_at=received_at if world.explains else None,
            old=old,
            schema=world.project.schema if world.explains else None,
            columns=self.columns,
            ids=self.ids,
        )


def _predict(
    world: World, version: int, rows: _Rows, policy: Policy, *, timed: bool
) -> tuple[Judged, tuple[float, float] | None]:
    """Return a version's decisions beside the labels, and its p50 and p99 for one row in ms."""
    artefact, num = world.catalog.artefact(world.name, version), len(rows.labels)
    with closing(world.load(artefact)) as loaded:
        if not num:
            empty = np.zeros((0, world.project.output.num_scores), dtype=np.float32)
            return judged(world.project.output, scores=empty, labels=[]), None
        scores = _scores(loaded, rows.columns, num)
        latency = _latency_ms(loaded, rows.columns, num) if timed and world.times_models else None
        decisions = policy.decide(world.project.output, scores).decisions
        return judged(world.project.output, scores=scores, labels=rows.labels, decisions=decisions), latency


def _scores(loaded: Loaded, columns: Columns, num_rows: int) -> Array:
    """Return the scores of all rows, in batches that bound memory and, for a worker, the time of an answer."""
    if isinstance(columns, KnownRows):
        return loaded.predict(columns)
    size = _PYTHON_BATCH if loaded.is_python else _ONNX_BATCH
    batches = ({n: c[at : at + size] for n, c in columns.items()} for at in range(0, num_rows, size))
    return np.concatenate([loaded.predict(batch) for batch in batches])


def _latency_ms(loaded: Loaded, columns: Columns, num_rows: int) -> tuple[float, float]:
    loaded.warm()
    times = []
    for i in range(_NUM_TIMED):
        row = {name: column[i % num_rows : i % num_rows + 1] for name, column in columns.items()}
        start = time.perf_counter()
        loaded.predict(row)
        times.append(1000 * (time.perf_counter() - start))
    p50, p99 = np.percentile(times, [50, 99])
    return float(p50), float(p99)


def _notes(world: World, candidate: int) -> tuple[str, ...]:
    """Return what was written with the artefact, such as why it could not be exported."""
    note = world.note(world.catalog.model(world.name, candidate).artefact)
    return (note,) if note else ()
