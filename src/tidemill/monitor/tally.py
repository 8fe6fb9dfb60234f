"""Metrics as sums that add up over parts of a log: no more than one part of it is ever held."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tidemill.schema import Array
from tidemill.stats.intervals import Interval, weighted_share_of_sums
from tidemill.stats.metrics import F1, Judged, Metric

_Part = tuple[Judged, Array | None]


class Cell(NamedTuple):
    """A metric in a cohort: how many rows count, its value (NaN where none does), and the interval of a share."""

    num: int
    value: float
    span: Interval | None


class Tally:
    """Adds up metrics in cohorts.

    Rows that were kept with a probability count by its inverse. There are few different ones, so sums are kept for
    each: the rows of one weight are a stratum of the interval.
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics
        self._sums: dict[tuple[str, float], Array] = defaultdict(lambda: np.zeros((len(metrics), 3)))
        self._parts: dict[str, list[_Part]] = defaultdict(list)

    def add(self, known: Judged, cohorts: Mapping[str, Array], weights: Mapping[str, Array]) -> None:
        """Take judged rows in: which are in each cohort, bool (N,), and their weights where they differ."""
        terms = [_terms(metric, known) for metric in self._metrics]
        table = np.concatenate([np.zeros((len(known), 3)) if t is None else t for t in terms], axis=1)
        for name, mask in cohorts.items():
            for weight, some in _alike(mask, weights.get(name)):
                self._sums[name, weight] += table[some].sum(axis=0).reshape(-1, 3)
            if any(t is None for t in terms):
                mine = weights[name][mask] if name in weights else None
                self._parts[name].append((known.take(mask), mine))

    def cell(self, at: int, cohort: str) -> Cell:
        """Return the metric at a position in a cohort."""
        metric, parts = self._metrics[at], self._parts.get(cohort)
        if parts and _terms(metric, parts[0][0]) is None:
            return _as_whole(metric, parts)
        found = [(weight, sums[at]) for (name, weight), sums in self._sums.items() if name == cohort]
        weight = np.array([weight for weight, _ in found])
        num, top, bottom = np.array([sums for _, sums in found]).reshape(-1, 3).T
        below = float(weight @ bottom)
        value = float(weight @ top) / below if below > 0 else math.nan
        is_share = metric.bounds == (0.0, 1.0) and not isinstance(metric, F1) and num.sum() > 0
        return Cell(int(num.sum()), value, weighted_share_of_sums(weight, num, top) if is_share else None)


def _terms(metric: Metric, known: Judged) -> Array | None:
    """Return what each row adds to the number of rows, and above and below the line, float64 (N, 3).

    None for a metric that is neither a mean over rows nor known to be a ratio of sums.
    """
    rows = metric.rows(known)
    if rows is not None:
        there = ~np.isnan(rows)
        return np.stack([there, np.where(there, rows, 0.0), there], axis=1).astype(np.float64)
    if isinstance(metric, F1):
        return np.stack([known.known, *metric.parts(known)], axis=1).astype(np.float64)
    return None


def _alike(mask: Array, weights: Array | None) -> list[tuple[float, Array]]:
    """Return the rows of a cohort that have one weight, for each weight above 0."""
    if weights is None or not mask.any():
        return [(1.0, mask)]
    mine = np.where(mask, weights, 0.0)
    return [(float(weight), mine == weight) for weight in np.unique(mine) if weight > 0]


def _as_whole(metric: Metric, parts: Sequence[_Part]) -> Cell:
    """Return a metric that must see all rows at once."""
    known = _joined([judged for judged, _ in parts])
    weights = None if parts[0][1] is None else np.concatenate([weight for _, weight in parts if weight is not None])
    num = int(known.known.sum())
    return Cell(num, metric.value(known, weights) if num else math.nan, None)


def _joined(parts: Sequence[Judged]) -> Judged:
    return Judged(
        decisions=np.concatenate([part.decisions for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        targets=np.concatenate([part.targets for part in parts]),
        classes=parts[0].classes,
        events={name: np.concatenate([part.events[name] for part in parts]) for name in parts[0].events},
    )
