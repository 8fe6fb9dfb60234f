"""Metrics: how good decisions are, as one number and, where there is such a form, row by row.

The row form is what paired and sequential tests work on. F1 has none: it is judged as a whole, by bootstrap offline.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from tidemill.errors import ProjectError
from tidemill.records import Json
from tidemill.schema import Array

SMALLEST_PROBABILITY = 1e-7  # float32 knows no finer one near 1; it also bounds the log loss of a single row


@dataclass(frozen=True, kw_only=True)
class Judged:
    """N decisions beside what turned out to be true.

    `decisions` and `labels` are object arrays (N,) with None where there is none, or float64 with NaN; `scores` is
    (N, K); `targets` holds class indices int64 (-1 unknown) or values float64 (NaN unknown). `events` holds, by event
    name, float64 (N,): 1 or the event's value where it happened, 0 where it did not, NaN where it is not known.
    """

    decisions: Array
    labels: Array
    scores: Array
    targets: Array
    classes: tuple[str, ...] = ()
    events: Mapping[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def known(self) -> Array:
        """Mask (N,) of the rows that have both a decision and a label."""
        return _given(self.decisions) & _given(self.labels)

    def take(self, index: Array) -> Judged:
        """Return the rows at `index` (positions or a mask)."""
        return Judged(
            decisions=self.decisions[index],
            labels=self.labels[index],
            scores=self.scores[index],
            targets=self.targets[index],
            classes=self.classes,
            events={name: values[index] for name, values in self.events.items()},
        )


class Metric(Protocol):
    """One number for N judged rows."""

    @property
    def name(self) -> str:
        """How stages, reports and the log call it, such as `f1_toxic`."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value is a better one."""
        ...

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """Lowest and highest value a row can have, None where there is no bound."""
        ...

    def rows(self, judged: Judged) -> Array | None:
        """Return float64 (N,), NaN where unknown; None when the metric has no row form."""
        ...

    def value(self, judged: Judged, weights: Array | None = None) -> float:
        """Return the metric over the known rows, NaN when there is none. `weights` (N,) need no scale."""
        ...

    def to_json(self) -> Json:
        """Return the metric and its parameters as JSON."""
        ...


class _Rows:
    """Shared by the metrics that are a mean over rows."""

    def rows(self, judged: Judged) -> Array:
        raise NotImplementedError

    def value(self, judged: Judged, weights: Array | None = None) -> float:
        """Return the weighted mean of the known rows, NaN when there is none."""
        return weighted_mean(self.rows(judged), weights)

    def to_json(self) -> Json:
        """Return the metric and its parameters as JSON."""
        return _as_json(self)


@dataclass(frozen=True)
class Accuracy(_Rows):
    """Share of decisions equal to the label."""

    name = "accuracy"
    higher_is_better = True
    bounds = (0.0, 1.0)

    def rows(self, judged: Judged) -> Array:
        """Return 1 where right, 0 where wrong."""
        return _where(judged.known, judged.decisions == judged.labels)


@dataclass(frozen=True)
class F1:
    """Harmonic mean of precision and recall for one class: 2 tp / (2 tp + fp + fn).

    NaN when the class is neither decided nor true in any row. van Rijsbergen, Information Retrieval (1979), ch. 7.
    """

    label: str
    higher_is_better = True
    bounds = (0.0, 1.0)

    @property
    def name(self) -> str:
        """`f1_` and the label."""
        return f"f1_{_plain(self.label)}"

    def rows(self, judged: Judged) -> None:
        """F1 has no row form."""

    def value(self, judged: Judged, weights: Array | None = None) -> float:
        """Return F1 over the known rows."""
        hits, whole = self.parts(judged)
        if weights is not None:
            hits, whole = hits * weights, whole * weights
        return float(hits.sum() / whole.sum()) if whole.sum() > 0 else math.nan

    def parts(self, judged: Judged) -> tuple[Array, Array]:
        """Return what each row adds above and below the line, float64 (N,) each: F1 is a ratio of sums."""
        known = judged.known
        decided, true = judged.decisions == self.label, judged.labels == self.label
        hits = 2.0 * (known & decided & true)
        return hits, hits + (known & (decided ^ true))

    def to_json(self) -> Json:
        """Return the metric and its parameters as JSON."""
        return _as_json(self)


@dataclass(frozen=True)
class LogLoss(_Rows):
    """Mean of -ln p, p the score of the true class, cut at 1e-7 so that one row cannot outweigh all others."""

    name = "log_loss"
    higher_is_better = False
    bounds = (0.0, -math.log(SMALLEST_PROBABILITY))

    def rows(self, judged: Judged) -> Array:
        """Return -ln of the true class's score."""
        if not np.issubdtype(judged.targets.dtype, np.integer):
            raise ProjectError(
                "log_loss needs an output with classes.", "use tm.metrics.MeanAbsoluteError() for numbers"
            )
        known = (judged.targets >= 0) & np.isfinite(judged.scores).all(axis=1)
        rows = np.flatnonzero(known)
        chance = judged.scores[rows, judged.targets[rows]].astype(np.float64)
        out = np.full(len(judged), np.nan)
        out[rows] = -np.log(np.clip(chance, SMALLEST_PROBABILITY, 1.0))
        return out


@dataclass(frozen=True)
class MeanAbsoluteError(_Rows):
    """Mean distance between the decided and the true number."""

    name = "mean_absolute_error"
    higher_is_better = False
    bounds = (0.0, None)

    def rows(self, judged: Judged) -> Array:
        """Return the absolute differences."""
        known = judged.known
        out = np.full(len(judged), np.nan)
        out[known] = np.abs(judged.decisions[known].astype(np.float64) - judged.labels[known].astype(np.float64))
        return out


@dataclass(frozen=True)
class EventRate(_Rows):
    """Share of requests followed by an event, such as `appeal` or `click`. A value other than 0 counts as one event.

    It says what users did with the answer they got, so it exists online and not for a candidate that never answered.
    """

    event: str
    higher_is_better: bool = True
    bounds = (0.0, 1.0)

    @property
    def name(self) -> str:
        """`event_rate_` and the event."""
        return f"event_rate_{_plain(self.event)}"

    def rows(self, judged: Judged) -> Array:
        """Return 1 where the event came, 0 where it did not."""
        values = judged.events.get(self.event)
        if values is None:
            return np.full(len(judged), np.nan)
        return _where(~np.isnan(values), values != 0)


@dataclass(frozen=True)
class EventValue(_Rows):
    """Mean value of an event over all requests, 0 where it did not come, such as the value of `purchase`.

    Like `EventRate` it exists online, and not for a candidate that never answered.
    """

    event: str
    higher_is_better: bool = True
    bounds = (None, None)

    @property
    def name(self) -> str:
        """`event_value_` and the event."""
        return f"event_value_{_plain(self.event)}"

    def rows(self, judged: Judged) -> Array:
        """Return the event's value, 0 where it did not come."""
        values = judged.events.get(self.event)
        return np.full(len(judged), np.nan) if values is None else np.asarray(values, dtype=np.float64)


@dataclass(frozen=True)
class Thumbs(_Rows):
    """Share of thumbs up among the requests that got thumbs: it speaks of those who said something.

    Like `EventRate` it exists online, and not for a candidate that never answered.
    """

    event = "thumbs"
    name = "thumbs"
    higher_is_better = True
    bounds = (0.0, 1.0)

    def rows(self, judged: Judged) -> Array:
        """Return 1 for up, 0 for down, NaN where nobody said anything."""
        values = judged.events.get(self.event)
        return np.full(len(judged), np.nan) if values is None else _where(~np.isnan(values), values != 0)


@dataclass(frozen=True)
class Rating(_Rows):
    """Mean rating of the requests that were rated, on a scale from `low` to `high`; beyond it the end counts.

    Like `EventRate` it exists online, and not for a candidate that never answered. It speaks of those who rate.
    """

    low: float = 1.0
    high: float = 5.0
    event = "rating"
    name = "rating"
    higher_is_better = True

    def __post_init__(self) -> None:
        """Refuse a scale without length."""
        if not self.low < self.high:
            raise ProjectError(f"a rating from {self.low:g} to {self.high:g} says nothing.", "give low below high")

    @property
    def bounds(self) -> tuple[float, float]:
        """The ends of the scale."""
        return self.low, self.high

    def rows(self, judged: Judged) -> Array:
        """Return the ratings, NaN where there is none."""
        values = judged.events.get(self.event)
        if values is None:
            return np.full(len(judged), np.nan)
        return np.clip(np.asarray(values, dtype=np.float64), self.low, self.high)


def events_of(metrics: Iterable[Metric]) -> tuple[str, ...]:
    """Return the names of the events that metrics count, each once; ratings and thumbs are among them."""
    return tuple(dict.fromkeys(m.event for m in metrics if isinstance(m, EventRate | EventValue | Rating | Thumbs)))


def match(names: Sequence[str], name: str | None) -> int:
    """Return the position in `names` of the metric that `name` means: its whole name, or the first part of just one.

    `f1` means `f1_toxic` when there is no other F1; None means the first metric, the one to optimise.

    Raises:
        ProjectError: no metric, or several, are meant.
    """
    if name is None and names:
        return 0
    if name in names:
        return names.index(name)
    near = [i for i, known in enumerate(names) if known.startswith(f"{name}_")]
    if len(near) == 1:
        return near[0]
    problem = "means several metrics" if near else "is no metric of this project"
    raise ProjectError(f"{name!r} {problem}.", f"name one of {', '.join(names) or 'the metrics you declare'}")


def weighted_mean(values: Array, weights: Array | None = None) -> float:
    """Return the mean of the values that are not NaN, NaN when there is none."""
    known = ~np.isnan(values)
    weight = known.astype(np.float64) if weights is None else np.where(known, weights, 0.0)
    total = weight.sum()
    return float(np.where(known, values, 0.0) @ weight / total) if total > 0 else math.nan


def _as_json(metric: Any) -> Json:
    return {"metric": type(metric).__name__, "params": asdict(metric)}


def _plain(text: str) -> str:
    return re.sub(r"\W+", "_", str(text)).strip("_")


def _given(values: Array) -> Array:
    """Mask of what is neither None nor NaN (the only value that differs from itself)."""
    if values.dtype != object:
        return ~np.isnan(values) if np.issubdtype(values.dtype, np.floating) else np.ones(len(values), dtype=bool)
    there = np.not_equal(values, np.array(None, dtype=object)).astype(bool)
    return np.asarray(there & np.equal(values, values).astype(bool))


def _where(known: Array, values: Array) -> Array:
    return np.where(known, np.asarray(values, dtype=bool).astype(np.float64), np.nan)
