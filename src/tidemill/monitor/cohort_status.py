"""One cohort close up: its metrics, how they went, and the requests with the worst outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from tidemill.clock import from_micros, micros
from tidemill.errors import ProjectError
from tidemill.monitor.cohorts import cohort_masks, inputs_kept, needs_inputs, only_known, with_projections
from tidemill.monitor.outcomes import Window, judge, loss
from tidemill.monitor.quality import ALL, Quality, quality_inside
from tidemill.monitor.slices import slice_metric
from tidemill.project import Project
from tidemill.records import Json
from tidemill.schema import Array, Number, Text
from tidemill.stats.metrics import Judged, Metric
from tidemill.stores.conditions import Answer, check_condition, evaluate

_NUM_PARTS, _NUM_EXAMPLES = 6, 10


@dataclass(frozen=True, kw_only=True)
class TrendPoint:
    """The metric over a part of the window, which ends at `until`."""

    until: datetime
    quality: Quality

    def to_json(self) -> Json:
        """Return it as JSON."""
        return {"until": self.until.isoformat(), **self.quality.to_json()}


@dataclass(frozen=True, kw_only=True)
class WorstRequest:
    """A request with its outcome; `shown` holds the inputs that people can read, `score` that of the decision."""

    request_id: str
    received_at: datetime
    decision: str | float
    label: str | float | None
    score: float | None
    shown: dict[str, Any]

    def to_json(self) -> Json:
        """Return it as JSON."""
        return {**vars(self), "received_at": self.received_at.isoformat()}


@dataclass(frozen=True, kw_only=True)
class CohortStatus:
    """A cohort over a window: `quality` inside, `elsewhere` outside, one metric's `trend`, the `worst` requests."""

    cohort: str
    condition: str
    num: int
    quality: list[Quality]
    elsewhere: list[Quality]
    trend: list[TrendPoint]
    worst: list[WorstRequest]

    def to_json(self) -> Json:
        """Return it as JSON."""
        lists = {
            name: [one.to_json() for one in getattr(self, name)] for name in ("quality", "elsewhere", "trend", "worst")
        }
        return {"cohort": self.cohort, "condition": self.condition, "requests": self.num, **lists}


def cohort_status(
    project: Project, frame: pl.DataFrame, name: str, window: Window, *, metric: str | None = None,
    answer: Answer = evaluate,
) -> CohortStatus:  # fmt: skip
    """Return how a cohort fares in a matured frame of the window, with all inputs; `answer` answers a condition.

    Raises:
        ProjectError: it is no cohort and no condition, or there is no such metric.
    """
    condition = project.cohorts.get(name, "" if name == ALL else name)
    frame = frame.filter(pl.col("decision").is_not_null())
    inside, one = cohort_mask(project, frame, name, answer), slice_metric(project, metric)
    sampled = bool(condition) and needs_inputs(project, condition)
    outside = ~inside & inputs_kept(project, frame) if sampled else ~inside
    mine = frame.filter(pl.Series(inside, dtype=pl.Boolean))
    return CohortStatus(
        cohort=name,
        condition=condition,
        num=int(inside.sum()),
        quality=quality_inside(project, mine, sampled=sampled),
        elsewhere=quality_inside(project, frame.filter(pl.Series(outside, dtype=pl.Boolean)), sampled=sampled),
        trend=_trend(project, mine, window, one, sampled=sampled),
        worst=_worst(project, mine, one),
    )


def cohort_mask(project: Project, frame: pl.DataFrame, name: str, answer: Answer = evaluate) -> Array:
    """Return which rows (with all inputs) are in a cohort, meet a condition, or are in "all", bool (N,).

    Raises:
        ProjectError: it is no cohort and no condition over the project's columns.
    """
    if name == ALL:
        return np.ones(len(frame), dtype=bool)
    if name in project.cohorts:
        return cohort_masks(project, frame)[name]
    try:
        check_condition(name, [*project.inputs, *project.projections])
    except ProjectError as error:
        known = ", ".join([ALL, *project.cohorts])
        raise ProjectError(
            f"{name!r} is no cohort and no condition: {error.message}", f"cohorts are {known}"
        ) from error
    return only_known(project, frame, name, answer({name: name}, with_projections(project, frame))[name])


def _trend(project: Project, frame: pl.DataFrame, window: Window, metric: Metric, *, sampled: bool) -> list[TrendPoint]:
    """Return the metric over six equal parts of the window, or of what there is where it has no beginning."""
    times, until = frame["received_at"].to_numpy(), micros(window.until)
    after = micros(window.after) if window.after is not None else int(times.min(initial=until)) - 1
    edges = np.linspace(after, until, _NUM_PARTS + 1).astype(np.int64)
    points = []
    for low, high in pairwise(edges):
        part = frame.filter(pl.Series((times > low) & (times <= high)))
        (found,) = [one for one in quality_inside(project, part, sampled=sampled) if one.metric == metric.name]
        points.append(TrendPoint(until=from_micros(int(high)), quality=found))
    return points


def _worst(project: Project, frame: pl.DataFrame, metric: Metric) -> list[WorstRequest]:
    """Return the requests of the highest loss; of equal ones the most confidently wrong, then the newest."""
    known = judge(project, frame)
    losses = loss(metric, known)
    bad = np.flatnonzero(~np.isnan(losses) & (losses > np.nanmin(losses, initial=np.inf)))
    keys = (-frame["received_at"].to_numpy()[bad], -_confidence(known)[bad], -losses[bad])
    some = bad[np.lexsort(keys)][:_NUM_EXAMPLES]
    score = _confidence(known)
    seen = with_projections(project, frame[some])
    readable = [n for n, kind in project.inputs.items() if isinstance(kind, Number | Text) or _is_words(seen[n])]
    rows = seen.select([*readable, *project.projections]).to_dicts()
    return [
        WorstRequest(
            request_id=frame["request_id"][int(at)],
            received_at=from_micros(int(frame["received_at"][int(at)])),
            decision=frame["decision"][int(at)],
            label=frame["label"][int(at)],
            score=None if np.isnan(score[at]) else round(float(score[at]), 4),
            shown=row,
        )
        for at, row in zip(some, rows, strict=True)
    ]


def _confidence(known: Judged) -> Array:
    """Return the score of each decision, float64 (N,); of numbers, how far off it is."""
    if not known.classes:
        return np.abs(known.decisions.astype(np.float64) - known.targets)
    place = {name: at for at, name in enumerate(known.classes)}
    at = np.array([place.get(decision, 0) for decision in known.decisions], dtype=np.int64)
    return np.asarray(known.scores[np.arange(len(at)), at], dtype=np.float64)


def _is_words(column: pl.Series) -> bool:
    return bool(column.dtype == pl.String)
