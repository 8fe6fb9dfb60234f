"""One metric, cohort by cohort: the candidate beside the live version and the baselines, with intervals.

How sure the ends of a gain's interval are. `low` is a 97.5 % bound within its cell, and so is `high` unless the gate
looks at every cohort. Then `high` is what blocks a candidate, and the cells share one error probability, `alpha`: if
the candidate is as good as the live version everywhere, `high` is below 0 on any of them with at most that chance.

Half of it is for all rows together, so that what the gate sees of the whole does not depend on how many cohorts are
declared. The cohorts share the other half, by Bonferroni over those that could show anything at all: a cohort on which
the versions differ three times cannot reach any strict level, and costs the others nothing (Tarone, A modified
Bonferroni method for discrete data, Biometrics 46, 1990). The gate asks whether any cell is worse, which is the first
step of Holm's procedure (Scand. J. Statist. 6, 1979): its later steps would change no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np

from tidemill.records import Outcome
from tidemill.review.population import Rows
from tidemill.schema import Array
from tidemill.stats.intervals import (
    UNKNOWN,
    Interval,
    mean,
    paired_bootstrap,
    paired_mean,
    paired_ratio,
    ratio,
    weighted_share,
)
from tidemill.stats.metrics import Judged, Metric, weighted_mean
from tidemill.stats.quotient import quotient_of_means, quotient_of_ratios, resampled_quotient
from tidemill.strategy.evidence import MIN_ROWS, Cell, Tolerated, ratio_text

LOW_TAIL = 0.025
_SHOWS = {
    Outcome.PASS: "a loss beyond {most} is excluded",
    Outcome.FAIL: "worse than the live version, beyond {most}",
    Outcome.INCONCLUSIVE: "these rows neither show nor exclude a loss beyond {most}",
}
_MANY = 10_000  # rows, of which fewer resamples do
_TOLERATED = Tolerated()


@dataclass(frozen=True, kw_only=True)
class Versions:
    """The decisions of the versions and of the baselines, by name, on the same N test rows."""

    candidate: Judged
    live: Judged | None = None
    baselines: Mapping[str, Judged] = field(default_factory=dict)

    def all(self) -> list[Judged]:
        """Return those that there are, the candidate's first and the live version's second."""
        return [self.candidate, *([self.live] if self.live is not None else []), *self.baselines.values()]


@runtime_checkable
class _Ratio(Protocol):
    """A metric that is a ratio of sums over rows."""

    def parts(self, judged: Judged) -> tuple[Array, Array]: ...


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What a metric says of each set of rows: intervals of candidate, gain and ratio, live and baseline values.

    `gain` takes the error probabilities of its lower and upper end, `ratio` those of its own.
    """

    known: Array
    own: Callable[[Rows], Interval]
    live: Callable[[Rows], float] | None
    baselines: Mapping[str, Callable[[Rows], float]]
    gain: Callable[[Rows, tuple[float, float]], Interval] | None
    ratio: Callable[[Rows, tuple[float, float]], Interval] | None


def compare(
    metric: Metric,
    versions: Versions,
    cohorts: Sequence[Rows],
    *,
    alpha: float,
    shared: bool,
    rng: np.random.Generator,
    periods: Sequence[Rows] = (),
    tolerated: Tolerated = _TOLERATED,
) -> list[Cell]:
    """Return one cell per cohort, of which the first is of all rows, and one per period.

    `rng` draws the resamples of a metric that is no mean over rows. `alpha` is for all cohorts together if `shared`,
    else for the first one, and the others are there to be looked at, as the periods always are. A metric that no row
    has, such as the rate of an event that only an answer can cause, gets its first cell only. `tolerated` is the loss
    that the cells' outcomes speak of; their ratios are known where it is a share of the live version's value.
    """
    measured, differences = _measured(metric, versions, rng)
    cohorts = [rows.where(measured.known) for rows in cohorts]
    tails = _tails([differences[rows.index] for rows in cohorts] if shared else [], len(cohorts), alpha)
    cells = [_cell(metric, rows, measured, tail, tolerated) for rows, tail in zip(cohorts, tails, strict=True)]
    if not any(cell.n for cell in cells):
        return cells[:1]
    later = [rows.where(measured.known) for rows in periods]
    return cells + [_cell(metric, rows, measured, LOW_TAIL, tolerated) for rows in later]


def _tails(differences: Sequence[Array], num: int, alpha: float) -> list[float]:
    """Return the error probability of each cell's `high`; without `differences` the cells do not share it."""
    if not differences:
        return [min(LOW_TAIL, alpha)] * num
    whole = alpha / 2 if num > 1 else alpha
    each = alpha / 2 / num_testable(differences[1:], alpha / 2)
    return [min(LOW_TAIL, whole), *[min(LOW_TAIL, each)] * (num - 1)]


def num_testable(differences: Sequence[Array], alpha: float) -> int:
    """Return among how many cells `alpha` has to be shared out, given the row differences of each.

    When these are -1, 0 and 1 and k of them are not 0, no sign test of the cell gives less than 2 to the power -k. The
    cells that cannot reach the level they would get do not count.
    """
    least = [_least_p(differences) for differences in differences]
    return next((k for k in range(1, len(least) + 1) if sum(p <= alpha / k for p in least) <= k), 1)


def _least_p(differences: Array) -> float:
    num = int(np.count_nonzero(differences))
    return 0.5**num if np.isin(differences, (-1.0, 0.0, 1.0)).all() else 0.0


# --- how a metric is measured -----------------------------------------------------------------------------------------


def _measured(metric: Metric, versions: Versions, rng: np.random.Generator) -> tuple[_Measured, Array]:
    """Return what measures sets of rows, and the gain of each row: what `num_testable` looks at, never 0 if unknown."""
    if metric.rows(versions.candidate) is not None:
        return _by_rows(metric, versions)
    known = np.all([judged.known for judged in versions.all()], axis=0)
    differ = np.full(len(known), 0.5)  # not -1, 0 or 1: a cohort of few rows can show a loss
    return (_by_parts if isinstance(metric, _Ratio) else _by_resampling)(metric, versions, known, rng), differ


def _by_rows(metric: Metric, versions: Versions) -> tuple[_Measured, Array]:
    mine, *others = [_rows(metric, judged) for judged in versions.all()]
    theirs = others[: versions.live is not None]
    gains = _sign(metric) * (mine - theirs[0]) if theirs else np.full(len(mine), np.nan)
    binary = metric.bounds == (0.0, 1.0) and bool(np.isin(mine[~np.isnan(mine)], (0.0, 1.0)).all())

    def value(of: Array, rows: Rows) -> float:
        return weighted_mean(of[rows.index], rows.weights)

    def gain(rows: Rows, tails: tuple[float, float]) -> Interval:
        return paired_mean(gains[rows.index], rows.weights, tails=tails)

    def ratio_(rows: Rows, tails: tuple[float, float]) -> Interval:
        return quotient_of_means(mine[rows.index], theirs[0][rows.index], rows.weights, tails=tails)

    def own(rows: Rows) -> Interval:
        return (weighted_share if binary else mean)(mine[rows.index], rows.weights)

    measured = _Measured(
        known=np.all([~np.isnan(rows) for rows in (mine, *others)], axis=0),
        own=own,
        live=partial(value, theirs[0]) if theirs else None,
        baselines={n: partial(value, of) for n, of in zip(versions.baselines, others[len(theirs) :], strict=True)},
        gain=gain if theirs else None,
        ratio=ratio_ if theirs else None,
    )
    return measured, gains


def _by_parts(metric: Metric, versions: Versions, known: Array, rng: np.random.Generator) -> _Measured:
    assert isinstance(metric, _Ratio), "the caller has looked"
    mine, *others = [metric.parts(judged) for judged in versions.all()]
    theirs, span = others[: versions.live is not None], _span(metric)

    def at(parts: tuple[Array, Array], rows: Rows) -> tuple[Array, Array]:
        return parts[0][rows.index], parts[1][rows.index]

    def value(of: tuple[Array, Array], rows: Rows) -> float:
        top, bottom = (float(rows.weights @ part) for part in at(of, rows))
        return top / bottom if bottom > 0 else math.nan

    def gain(rows: Rows, tails: tuple[float, float]) -> Interval:
        pair = (
            (at(mine, rows), at(theirs[0], rows)) if metric.higher_is_better else (at(theirs[0], rows), at(mine, rows))
        )
        return paired_ratio(*pair, rows.weights, rng, tails=tails, span=span)

    def ratio_(rows: Rows, tails: tuple[float, float]) -> Interval:
        return quotient_of_ratios(at(mine, rows), at(theirs[0], rows), rows.weights, tails=tails, span=span)

    return _Measured(
        known=known,
        own=lambda rows: ratio(*at(mine, rows), rows.weights, rng, span=span),
        live=partial(value, theirs[0]) if theirs else None,
        baselines={n: partial(value, of) for n, of in zip(versions.baselines, others[len(theirs) :], strict=True)},
        gain=gain if theirs else None,
        ratio=ratio_ if theirs else None,
    )


def _by_resampling(metric: Metric, versions: Versions, known: Array, rng: np.random.Generator) -> _Measured:
    live, span, sign = versions.live, _span(metric), _sign(metric)

    def value(of: Judged, rows: Rows) -> float:
        return metric.value(of.take(rows.index), rows.weights)

    def num(rows: Rows) -> int:
        return 400 if len(rows.index) <= _MANY else 100

    def resampled(rows: Rows, measure: Callable[[Array], float], tails: tuple[float, float]) -> Interval:
        return paired_bootstrap(measure, rows.weights, rng, tails=tails, span=span, num_resamples=num(rows))

    def own(rows: Rows) -> Interval:
        return resampled(rows, partial(metric.value, versions.candidate.take(rows.index)), (LOW_TAIL, LOW_TAIL))

    def gain(rows: Rows, tails: tuple[float, float]) -> Interval:
        assert live is not None, "a gain is over the live version"
        mine, theirs = versions.candidate.take(rows.index), live.take(rows.index)
        return resampled(
            rows, lambda weights: sign * (metric.value(mine, weights) - metric.value(theirs, weights)), tails
        )

    def ratio_(rows: Rows, tails: tuple[float, float]) -> Interval:
        assert live is not None, "a ratio is to the live version"
        mine, theirs = versions.candidate.take(rows.index), live.take(rows.index)
        return resampled_quotient(
            lambda weights: (metric.value(mine, weights), metric.value(theirs, weights)),
            rows.weights, rng, tails=tails, span=span, num_resamples=num(rows),
        )  # fmt: skip

    return _Measured(
        known=known,
        own=own,
        live=partial(value, live) if live is not None else None,
        baselines={name: partial(value, judged) for name, judged in versions.baselines.items()},
        gain=gain if live is not None else None,
        ratio=ratio_ if live is not None else None,
    )


def _rows(metric: Metric, judged: Judged) -> Array:
    rows = metric.rows(judged)
    assert rows is not None, "a metric has a row form for all versions or for none"
    return rows


def _sign(metric: Metric) -> float:
    return 1.0 if metric.higher_is_better else -1.0


def _span(metric: Metric) -> float:
    low, high = metric.bounds
    return math.inf if low is None or high is None else high - low


# --- the cell ---------------------------------------------------------------------------------------------------------


def _cell(metric: Metric, rows: Rows, measured: _Measured, tail: float, tolerated: Tolerated) -> Cell:
    own, tails = measured.own(rows), (LOW_TAIL, tail)
    gain = measured.gain(rows, tails) if measured.gain else UNKNOWN
    asked = measured.ratio if tolerated.relative is not None else None
    ratio_ = asked(rows, tails if metric.higher_is_better else tails[::-1]) if asked else UNKNOWN
    low, high = metric.bounds
    cell = Cell(
        metric=metric.name,
        cohort=rows.cohort,
        period=rows.period,
        n=len(rows.index),
        candidate=_finite(own.estimate),
        candidate_low=_finite(own.low if low is None else max(low, own.low)),
        candidate_high=_finite(own.high if high is None else min(high, own.high)),
        live=_finite(measured.live(rows)) if measured.live else None,
        baselines={name: _finite(value(rows)) for name, value in measured.baselines.items()},
        gain=_finite(gain.estimate),
        low=_finite(gain.low),
        high=_finite(gain.high),
        ratio=_finite(ratio_.estimate),
        ratio_low=_finite(ratio_.low),
        ratio_high=_finite(ratio_.high),
        higher_is_better=metric.higher_is_better,
    )
    return _judged(cell, tolerated)


def _judged(cell: Cell, tolerated: Tolerated) -> Cell:
    """Return the cell with what its gain shows, and why."""
    if cell.live is None or cell.gain is None:
        reason = "there is no live version to compare with" if cell.n else "no row could be judged"
        return replace(cell, outcome=Outcome.UNKNOWN, reason=reason)
    if cell.n < MIN_ROWS:
        return replace(cell, outcome=Outcome.INCONCLUSIVE, reason=f"{cell.n} rows are too few to judge")
    outcome = tolerated.against_live(cell)
    if outcome is Outcome.PASS and cell.low is not None and cell.low > 0:
        return replace(cell, outcome=outcome, reason="better than the live version")
    shown = "" if tolerated.relative is None else f" ({ratio_text(cell)})"
    return replace(cell, outcome=outcome, reason=f"{_SHOWS[outcome].format(most=tolerated)}{shown}")


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
