"""One metric, cohort by cohort: the candidate beside the live version and a constant answer, with intervals.

How sure the ends of an interval are. `low` is a 97.5 % bound within its cell, and so is `high` unless the gate looks at
every cohort. Then `high` is what blocks a candidate, and the cohorts share one error probability, `alpha`: if the
candidate is as good as the live version everywhere, `high` is below 0 on any of them with at most that chance. The
split is Bonferroni's over the cells that could show anything at all: a cohort on which the versions differ three times
cannot reach any strict level, and costs the others nothing (Tarone, A modified Bonferroni method for discrete data,
Biometrics 46, 1990).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tidemill.errors import ProjectError
from tidemill.review.population import Rows
from tidemill.schema import Array
from tidemill.stats.intervals import Interval, paired_bootstrap, paired_mean
from tidemill.stats.metrics import Judged, Metric, weighted_mean
from tidemill.strategy.offline import Cell

LOW_TAIL = 0.025


@dataclass(frozen=True, kw_only=True)
class Versions:
    """The decisions of the versions on the same N test rows."""

    candidate: Judged
    live: Judged | None = None
    baseline: Judged | None = None

    def by_name(self) -> dict[str, Judged]:
        """Return those that there are."""
        named = {"candidate": self.candidate, "live": self.live, "baseline": self.baseline}
        return {name: judged for name, judged in named.items() if judged is not None}


def compare(
    metric: Metric,
    versions: Versions,
    cohorts: Sequence[Rows],
    *,
    alpha: float,
    shared: bool,
    rng: np.random.Generator,
) -> list[Cell]:
    """Return one cell per cohort; `rng` draws the resamples of a metric that is no mean over rows.

    `alpha` is for all cohorts together if `shared`, else for the first one, and the others are there to be looked at.
    A metric that no row has, such as the rate of an event that only an answer can cause, gets its first cell only.
    """
    if metric.rows(versions.candidate) is None:
        cells = _whole_cells(metric, versions, cohorts, alpha / len(cohorts) if shared else alpha, rng)
    else:
        cells = _row_cells(metric, versions, cohorts, alpha, shared)
    return cells if any(cell.n for cell in cells) else cells[:1]


def _row_cells(metric: Metric, versions: Versions, cohorts: Sequence[Rows], alpha: float, shared: bool) -> list[Cell]:
    values = {name: _rows(metric, judged) for name, judged in versions.by_name().items()}
    known = np.all([~np.isnan(v) for v in values.values()], axis=0)
    cohorts = [rows.where(known) for rows in cohorts]
    means = [{name: weighted_mean(v[rows.index], rows.weights) for name, v in values.items()} for rows in cohorts]
    if "live" not in values:
        return [_cell(metric, rows, mean) for rows, mean in zip(cohorts, means, strict=True)]
    gains = _sign(metric) * (values["candidate"] - values["live"])
    num = num_testable([gains[rows.index] for rows in cohorts], alpha) if shared else 1
    tails = (LOW_TAIL, min(LOW_TAIL, alpha / num))
    return [
        _cell(metric, rows, mean, paired_mean(gains[rows.index], rows.weights, tails=tails))
        for rows, mean in zip(cohorts, means, strict=True)
    ]


def _rows(metric: Metric, judged: Judged) -> Array:
    rows = metric.rows(judged)
    assert rows is not None, "a metric has a row form for all versions or for none"
    return rows


def _whole_cells(
    metric: Metric, versions: Versions, cohorts: Sequence[Rows], tail: float, rng: np.random.Generator
) -> list[Cell]:
    named = versions.by_name()
    known = np.all([judged.known for judged in named.values()], axis=0)
    cohorts = [rows.where(known) for rows in cohorts]
    tails = (LOW_TAIL, min(LOW_TAIL, tail))
    cells = []
    for rows in cohorts:
        there = {name: judged.take(rows.index) for name, judged in named.items()}
        values = {name: metric.value(judged, rows.weights) for name, judged in there.items()}
        interval = _bootstrap(metric, there, rows.weights, tails, rng) if "live" in there else None
        cells.append(_cell(metric, rows, values, interval))
    return cells


def _bootstrap(
    metric: Metric, there: Mapping[str, Judged], weights: Array, tails: tuple[float, float], rng: np.random.Generator
) -> Interval:
    candidate, live, sign = there["candidate"], there["live"], _sign(metric)

    def gain(weights: Array) -> float:
        return sign * (metric.value(candidate, weights) - metric.value(live, weights))

    low, high = metric.bounds
    span = math.inf if low is None or high is None else high - low
    return paired_bootstrap(gain, weights, rng, tails=tails, span=span)


def num_testable(gains: Sequence[Array], alpha: float) -> int:
    """Return among how many cells `alpha` has to be shared out, given the row differences of each.

    When these are -1, 0 and 1 and k of them are not 0, no sign test of the cell gives less than 2 to the power -k. The
    cells that cannot reach the level they would get do not count.
    """
    least = [_least_p(differences) for differences in gains]
    return next((k for k in range(1, len(least) + 1) if sum(p <= alpha / k for p in least) <= k), 1)


def _least_p(differences: Array) -> float:
    num = int(np.count_nonzero(differences))
    return 0.5**num if np.isin(differences, (-1.0, 0.0, 1.0)).all() else 0.0


def _sign(metric: Metric) -> float:
    return 1.0 if metric.higher_is_better else -1.0


def _cell(metric: Metric, rows: Rows, values: Mapping[str, float], interval: Interval | None = None) -> Cell:
    return Cell(
        metric=metric.name,
        cohort=rows.cohort,
        n=len(rows.index),
        candidate=_finite(values["candidate"]),
        live=_finite(values.get("live")),
        baseline=_finite(values.get("baseline")),
        gain=_finite(interval.estimate if interval else None),
        low=_finite(interval.low if interval else None),
        high=_finite(interval.high if interval else None),
        higher_is_better=metric.higher_is_better,
    )


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def majority(judged: Judged, train_targets: Array) -> Judged:
    """Return, on the rows of `judged`, the constant answer that training labels suggest.

    For classes it is the commonest one, with the frequencies as scores; for numbers it is the median.
    """
    if not len(train_targets):
        raise ProjectError("there are no training labels to take a majority of.", "label some examples")
    if judged.classes:
        scores = np.bincount(train_targets, minlength=len(judged.classes)) / len(train_targets)
        answer: str | float = judged.classes[int(scores.argmax())]
    else:
        answer = float(np.median(train_targets))
        scores = np.array([answer])
    decisions = np.full(len(judged), answer, dtype=judged.decisions.dtype)
    return replace(judged, decisions=decisions, scores=np.tile(scores, (len(judged), 1)), events={})
