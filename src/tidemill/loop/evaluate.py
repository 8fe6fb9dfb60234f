"""From a candidate and the test examples to a Report: predictions of both versions on the same rows."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import polars as pl

from tidemill.loop.world import World
from tidemill.monitor.cohorts import cohort_masks
from tidemill.monitor.outcomes import judged
from tidemill.policy import Policy
from tidemill.records import Trust
from tidemill.review.report import Report, build_report
from tidemill.runtime.artefact import read_artefact
from tidemill.runtime.load import Loaded, load
from tidemill.schema import Array, Columns
from tidemill.stats.metrics import Judged
from tidemill.strategy import offline

NEWEST_SHARE = 0.2
_NUM_TIMED = 200
_ONNX_BATCH, _PYTHON_BATCH = 1024, 16


def evaluate(world: World, *, candidate: int, live: int | None, dataset: str | None) -> Report:
    """Return the report of a candidate on all labelled test examples of the dataset version it was trained on.

    Both versions' scores are decided by the policy in force.

    Raises:
        ModelError: an artefact does not load.
    """
    assert dataset is not None, "a candidate has a dataset"
    rows = world.datasets.test_rows(world.name, dataset)
    columns = {n: t.column(rows[n].to_list()) for n, t in world.project.schema.inputs.items()}
    labels = rows["label"].to_list()
    policy = world.catalog.policy_in_force(world.name).policy
    mine, latency = _predict(world, candidate, columns, labels, policy, timed=True)
    theirs = _predict(world, live, columns, labels, policy, timed=False)[0] if live is not None else None
    training = world.datasets.training_data(world.name, dataset, world.project.schema)
    report = build_report(
        candidate=candidate,
        live=live,
        dataset=dataset,
        metrics=world.project.metrics,
        candidate_judged=mine,
        live_judged=theirs,
        train_targets=training.targets,
        cohorts={**cohort_masks(world.project, rows), **_newest(rows)},
        probabilities=rows["probability"].cast(pl.Float64).fill_null(float("nan")).to_numpy(),
        needs=offline.needs(world.project.strategy.offline),
        latency_ms=latency,
        trust=Trust.PEOPLE,
        rng=world.rng("report", candidate),
    )
    return replace(report, notes=(*report.notes, *_notes(world, candidate)))


def _predict(
    world: World, version: int, columns: Columns, labels: list[str | float], policy: Policy, *, timed: bool
) -> tuple[Judged, tuple[float, float] | None]:
    """Return a version's decisions beside the labels, and its p50 and p99 for one row in ms."""
    model = world.catalog.model(world.name, version)
    with closing(load(world.blobs.folder(model.artefact), project_file=world.project_file)) as loaded:
        if not labels:
            empty = np.zeros((0, world.project.output.num_scores), dtype=np.float32)
            return judged(world.project.output, scores=empty, labels=[]), None
        scores = _scores(loaded, columns, len(labels))
        latency = _latency_ms(loaded, columns, len(labels)) if timed else None
        decisions = policy.decide(world.project.output, scores).decisions
        return judged(world.project.output, scores=scores, labels=labels, decisions=decisions), latency


def _scores(loaded: Loaded, columns: Columns, num_rows: int) -> Array:
    """Return the scores of all rows, in batches that bound memory and, for a worker, the time of an answer."""
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


def _newest(rows: pl.DataFrame) -> dict[str, Array]:
    """Return the mask of the newest requests: where the world has moved to, whatever cohorts are declared."""
    if not len(rows):
        return {}
    edge = rows["received_at"].quantile(1 - NEWEST_SHARE)
    mask = (rows["received_at"] > edge).to_numpy()
    return {"newest": mask} if mask.any() else {}


def _notes(world: World, candidate: int) -> tuple[str, ...]:
    """Return what was written with the artefact, such as why it could not be exported."""
    folder = world.blobs.folder(world.catalog.model(world.name, candidate).artefact)
    note = read_artefact(folder).notes
    return (note,) if note else ()
