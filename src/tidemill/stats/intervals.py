"""Confidence intervals for means, shares and paired differences.

Tails are one-sided error probabilities and may differ: a gate over many cohorts spends less on the side that blocks.
All intervals but Wilson's are asymptotic; the tests measure their coverage by simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

from tidemill.schema import Array


@dataclass(frozen=True)
class Interval:
    """An estimate from `n` rows, and the values it is compatible with."""

    estimate: float
    low: float
    high: float
    n: int

    def __neg__(self) -> Interval:
        return Interval(-self.estimate, -self.high, -self.low, self.n)


UNKNOWN = Interval(math.nan, -math.inf, math.inf, 0)


def wilson(successes: float, n: float, *, alpha: float = 0.05) -> Interval:
    """Return the two-sided score interval of a share.

    Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    if n <= 0:
        return Interval(math.nan, 0.0, 1.0, 0)
    z = _normal(alpha / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and n successes the bound is the share itself; rounding may miss it by an ulp.
    return Interval(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)), int(n))


def effective_size(weights: Array) -> float:
    """Return how many equally weighted rows tell as much: (sum w)^2 / sum w^2. Kish, Survey Sampling (1965)."""
    squares = float(weights @ weights)
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def mean(
    values: Array, weights: Array | None = None, *, alpha: float = 0.05, tails: tuple[float, float] | None = None
) -> Interval:
    """Return the Student interval of the (self-normalised, weighted) mean of the values that are not NaN.

    The variance of the weighted mean is Hajek's linearisation. `tails` are the error probabilities below and above,
    alpha / 2 each by default. Fewer than two rows are compatible with every value.
    """
    values, weights = _known(values, weights)
    if len(values) < 2:
        return Interval(float(values[0]) if len(values) else math.nan, -math.inf, math.inf, len(values))
    estimate = float(values @ weights / weights.sum())
    size = effective_size(weights)
    if size <= 1.0 + 1e-9:  # one row has all the weight
        return Interval(estimate, -math.inf, math.inf, len(values))
    error = _linearised(values, weights, estimate) * math.sqrt(size / (size - 1))
    below, above = tails or (alpha / 2, alpha / 2)
    low, high = estimate - _student(below, size - 1) * error, estimate + _student(above, size - 1) * error
    return Interval(estimate, low, high, len(values))


def paired_mean(
    gains: Array,
    weights: Array | None = None,
    *,
    alpha: float = 0.05,
    tails: tuple[float, float] | None = None,
) -> Interval:
    """Return the interval of the mean gain of one model over another on the same rows, positive is better.

    Gains of right over wrong are -1, 0 or 1, mostly 0, and a Student interval of them is far too short: with no
    discordant row it has no width. For these a discordant row is added on either side: a whole one for `low`, which
    must not promise too much (Bonett and Price, J. Educ. Behav. Stat. 37, 2012), half a one for `high`, which then
    excludes 0 about as often as an exact sign test with mid-p (Agresti and Min, Statistics in Medicine 24, 2005).
    Weighted rows count as Kish's effective number of rows, and never for more than the linearised variance says. All
    other gains get the Student interval.
    """
    gains, weights = _known(gains, weights)
    if len(gains) and np.isin(gains, (-1.0, 0.0, 1.0)).all():
        return _paired_shares(gains, weights, tails or (alpha / 2, alpha / 2))
    return mean(gains, weights, alpha=alpha, tails=tails)


def _paired_shares(gains: Array, weights: Array, tails: tuple[float, float]) -> Interval:
    total, size = float(weights.sum()), effective_size(weights)
    estimate, discordant = float(gains @ weights) / total, float(np.abs(gains) @ weights) / total
    centre = estimate * size / (size + 2)  # both sides get a like number of rows more: it is drawn towards 0
    least = _linearised(gains, weights, estimate)

    def reach(added: float, tail: float) -> float:
        spread = (discordant * size + 2 * added) / (size + 2) - centre**2
        return _normal(tail) * max(math.sqrt(spread / (size + 2)), least)

    low = min(estimate, centre - reach(1.0, tails[0]))
    high = max(estimate, centre + reach(0.5, tails[1]))
    return Interval(estimate, max(-1.0, low), min(1.0, high), len(weights))


def paired_bootstrap(
    gain: Callable[[Array], float],
    weights: Array,
    rng: np.random.Generator,
    *,
    tails: tuple[float, float] = (0.025, 0.025),
    span: float = math.inf,
    num_resamples: int = 400,
) -> Interval:
    """Return the interval of a metric's gain that is no mean over rows, such as that of F1.

    `gain(weights)` is the gain with the N rows weighted so; a resample is a multinomial draw of how often each row
    occurs. The interval is the estimate and normal quantiles of the resamples' standard deviation, whose far tails are
    steadier than the resamples' own quantiles. `span` is the largest gain there can be; where it is finite, the error
    is not taken for less than that of two discordant rows, as resamples of rows that all agree have no spread at all.
    Efron and Tibshirani, An Introduction to the Bootstrap (1993), ch. 6 and 13.
    """
    n = len(weights)
    estimate = gain(weights) if n else math.nan
    if math.isnan(estimate):
        return Interval(estimate, -math.inf, math.inf, n)
    counts = rng.multinomial(n, np.full(n, 1.0 / n), size=num_resamples)
    gains = np.array([gain(weights * count) for count in counts])
    gains = gains[~np.isnan(gains)]
    spread = float(gains.std(ddof=1)) if len(gains) > 1 else math.inf
    floor = span * math.sqrt(2.0) / (effective_size(weights) + 2) if math.isfinite(span) else 0.0
    error = max(spread, floor)
    below, above = (_normal(tail) * error for tail in tails)
    return Interval(estimate, max(-span, estimate - below), min(span, estimate + above), n)


def _known(values: Array, weights: Array | None) -> tuple[Array, Array]:
    values = np.asarray(values, dtype=np.float64)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    known = ~np.isnan(values) & (weights > 0)
    return values[known], weights[known]


def _linearised(values: Array, weights: Array, estimate: float) -> float:
    """Standard error of a self-normalised weighted mean. Sarndal et al. (1992), section 5.7."""
    return float(np.linalg.norm(weights * (values - estimate)) / weights.sum())


def _normal(tail: float) -> float:
    return -float(ndtri(tail))


def _student(tail: float, freedom: float) -> float:
    return -float(stdtrit(freedom, tail))
