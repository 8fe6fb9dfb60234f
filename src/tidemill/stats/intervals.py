"""Confidence intervals for means, shares and paired differences.

Tails are one-sided error probabilities and may differ: a gate over many cohorts spends less on the side that blocks.
All intervals but Wilson's are asymptotic; the tests measure their coverage by simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv, ndtri, stdtrit

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


_BOOTSTRAPPED = 2_000  # rows at most; of more, resampling takes long and shows nothing else

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


def clopper_pearson(successes: int, n: int, *, tails: tuple[float, float] = (0.025, 0.025)) -> tuple[float, float]:
    """Return the exact lower and upper bound of a share, wrong with at most the probabilities `tails`.

    Clopper and Pearson, The use of confidence or fiducial limits, Biometrika 26 (1934).
    """
    low = float(betaincinv(successes, n - successes + 1, tails[0])) if successes else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - tails[1])) if successes < n else 1.0
    return low, high


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


def weighted_share(values: Array, weights: Array | None = None, *, alpha: float = 0.05) -> Interval:
    """Return the two-sided interval of the self-normalised, weighted share of ones among the values that are not NaN.

    A normal interval of a weighted share fails where rows of large weight are few and all alike: no spread is seen
    there. So rows are grouped by weight, factor two by factor two, each group has its score interval, and the distances
    to its ends are added as squares (Zou and Donner, Statistics in Medicine 27, 2008; for strata Yan and Su, Stat.
    Biopharm. Res. 2, 2010). To these comes what the groups' own sizes vary by chance. Equal weights give Wilson's.
    """
    values, weights = _known(values, weights)
    return weighted_share_of_sums(weights, np.ones(len(values)), values, alpha=alpha)


def weighted_share_of_sums(weights: Array, nums: Array, ones: Array, *, alpha: float = 0.05) -> Interval:
    """Return the interval of `weighted_share` where `nums` rows of each weight, above 0, hold values that sum up."""
    if not nums.sum():
        return Interval(math.nan, 0.0, 1.0, 0)
    group = np.floor(np.log2(weights / weights.min()) + 1e-9).astype(np.int64)
    total, squares = np.bincount(group, weights * nums), np.bincount(group, weights**2 * nums)
    there = total > 0
    total, squares, ones = total[there], squares[there], np.bincount(group, weights * ones)[there]
    estimate, parts = float(ones.sum() / total.sum()), total / total.sum()
    between = _normal(alpha / 2) ** 2 * float(squares @ (ones / total - estimate) ** 2) / float(total.sum()) ** 2
    ends = [
        wilson(n * one / all_, n, alpha=alpha) for n, one, all_ in zip(total**2 / squares, ones, total, strict=True)
    ]
    below = sum((part * (end.estimate - end.low)) ** 2 for part, end in zip(parts, ends, strict=True))
    above = sum((part * (end.high - end.estimate)) ** 2 for part, end in zip(parts, ends, strict=True))
    low, high = estimate - math.sqrt(below + between), estimate + math.sqrt(above + between)
    return Interval(estimate, max(0.0, low), min(1.0, high), int(nums.sum()))


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
    return _around(estimate, spread, weights, tails, span)


def ratio(top: Array, bottom: Array, weights: Array, rng: np.random.Generator, *, span: float = math.inf) -> Interval:
    """Return the 95 % interval of the ratio (w @ top) / (w @ bottom), such as F1: its gain over nothing."""
    nothing = (np.zeros(len(top)), np.ones(len(top)))
    return paired_ratio((top, bottom), nothing, weights, rng, span=span)


def paired_ratio(
    mine: tuple[Array, Array],
    theirs: tuple[Array, Array],
    weights: Array,
    rng: np.random.Generator,
    *,
    tails: tuple[float, float] = (0.025, 0.025),
    span: float = math.inf,
) -> Interval:
    """Return the interval of the gain of one ratio of sums over another, on the same N rows.

    `mine` and `theirs` are (top, bottom), float64 (N,) each. Up to 2,000 rows it is that of `paired_bootstrap`, of more
    the linearised one, which is the same in the limit (Sarndal et al., Model Assisted Survey Sampling, 1992, sec. 5.6).
    """
    sums = np.stack([*mine, *theirs], axis=1)

    def gain(weights: Array) -> float:
        top, bottom, top2, bottom2 = weights @ sums
        return float(top / bottom - top2 / bottom2) if bottom > 0 and bottom2 > 0 else math.nan

    if len(weights) <= _BOOTSTRAPPED:
        return paired_bootstrap(gain, weights, rng, tails=tails, span=span)
    estimate = gain(weights)
    if math.isnan(estimate):
        return Interval(estimate, -math.inf, math.inf, len(weights))
    spread = float(np.linalg.norm(weights * (_residuals(*mine, weights) - _residuals(*theirs, weights))))
    return _around(estimate, spread, weights, tails, span)


def _around(estimate: float, spread: float, weights: Array, tails: tuple[float, float], span: float) -> Interval:
    """Return the normal interval of a gain of at most `span`, with at least the error of two discordant rows."""
    floor = span * math.sqrt(2.0) / (effective_size(weights) + 2) if math.isfinite(span) else 0.0
    below, above = (_normal(tail) * max(spread, floor) for tail in tails)
    return Interval(estimate, max(-span, estimate - below), min(span, estimate + above), len(weights))


def _residuals(top: Array, bottom: Array, weights: Array) -> Array:
    """What each row adds to a ratio of sums, to first order."""
    whole = float(weights @ bottom)
    return np.asarray((top - float(weights @ top) / whole * bottom) / whole)


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
