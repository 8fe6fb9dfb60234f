"""How many times one model's metric is another's, on the same rows: the quotient of two values that go together.

The bounds invert a test of `mine - quotient * theirs` against 0, which is a paired difference like any other: no
quotient is ever estimated from resampled denominators near 0, and where `theirs` is not told from 0 the quotient is
bounded on neither side. Fieller, Some problems in interval estimation, J. Roy. Statist. Soc. B 16 (1954). Asymptotic,
with Student's quantiles; the tests measure coverage by simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import stdtrit

from tidemill.schema import Array
from tidemill.stats.intervals import Interval, effective_size

Parts = tuple[Array, Array]


def quotient_of_means(
    mine: Array, theirs: Array, weights: Array, *, tails: tuple[float, float] = (0.025, 0.025)
) -> Interval:
    """Return the interval of how many times the weighted mean of `theirs` that of `mine` is; float64 (N,), none NaN.

    `tails` are the error probabilities of its lower and upper end. Of ones and zeros the rows that only one model gets
    right are few, and one such row is added on either side, as in `paired_mean` (Bonett and Price, J. Educ. Behav.
    Stat. 37, 2012); their variance is not taken for less than that of Kish's effective number of rows.
    """
    if not len(weights) or not np.isin(np.stack([mine, theirs]), (0.0, 1.0)).all():
        ones = np.ones(len(weights))
        return quotient_of_ratios((mine, ones), (theirs, ones), weights, tails=tails)
    size = effective_size(weights)
    values = (float(mine @ weights), float(theirs @ weights))
    weights = np.append(weights, [weights.sum() / size] * 2)
    both = np.stack([np.append(mine, [1.0, 0.0]), np.append(theirs, [0.0, 1.0])])
    shares = both @ weights / weights.sum()
    away = both - shares[:, None]
    linearised = weights * away / weights.sum()
    spreads = [linearised @ linearised.T, (weights * away) @ away.T / weights.sum() / (size + 2)]
    return _fieller(values, (shares[0], shares[1]), spreads, size + 2, tails, len(mine))


def quotient_of_ratios(
    mine: Parts,
    theirs: Parts,
    weights: Array,
    *,
    tails: tuple[float, float] = (0.025, 0.025),
    span: float = math.inf,
) -> Interval:
    """Return the interval of the quotient of two ratios of sums, such as F1: each (top, bottom), float64 (N,).

    The variance is the linearised one (Sarndal et al., Model Assisted Survey Sampling, 1992, sec. 5.6). `span` is the
    largest value of a ratio; where it is finite, the error is not taken for less than that of two discordant rows.
    """
    size, n = effective_size(weights), len(weights)
    wholes = [float(weights @ bottom) for _, bottom in (mine, theirs)]
    if size <= 1.0 + 1e-9 or min(wholes) <= 0:
        return _unknown(n)
    values = [float(weights @ top) / whole for (top, _), whole in zip((mine, theirs), wholes, strict=True)]
    adds = np.stack([
        weights * (top - value * bottom) / whole
        for (top, bottom), value, whole in zip((mine, theirs), values, wholes, strict=True)
    ])  # fmt: skip
    spreads = [adds @ adds.T * size / (size - 1), *_least(span, size)]
    pair = values[0], values[1]
    return _fieller(pair, pair, spreads, size, tails, n)


def resampled_quotient(
    values: Callable[[Array], tuple[float, float]],
    weights: Array,
    rng: np.random.Generator,
    *,
    tails: tuple[float, float] = (0.025, 0.025),
    span: float = math.inf,
    num_resamples: int = 400,
) -> Interval:
    """Return the interval of the quotient of a metric that is no sum over rows, such as a root of a mean.

    `values(weights)` is the metric of both models with the N rows weighted so. Their covariance is that of multinomial
    resamples: Efron and Tibshirani, An Introduction to the Bootstrap (1993), ch. 6.
    """
    n, size = len(weights), effective_size(weights)
    if size <= 1.0 + 1e-9:
        return _unknown(n)
    pair = values(weights)
    counts = rng.multinomial(n, np.full(n, 1.0 / n), size=num_resamples)
    drawn = np.array([values(weights * count) for count in counts])
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    if len(drawn) < 2:
        return _unknown(n)
    return _fieller(pair, pair, [np.cov(drawn.T), *_least(span, size)], size, tails, n)


def _least(span: float, size: float) -> list[Array]:
    """Return the covariance of one discordant row on either side, none where a row may weigh anything."""
    return [np.eye(2) * (span / (size + 2)) ** 2] if math.isfinite(span) else []


def _fieller(
    values: tuple[float, float], centre: tuple[float, float], spreads: Sequence[Array], size: float,
    tails: tuple[float, float], n: int,
) -> Interval:  # fmt: skip
    """Return the quotient of `values`, and the outermost of the ends that the `spreads` around `centre` give."""
    if not (math.isfinite(values[0]) and values[1] > 0):  # NaN is neither
        return _unknown(n)
    estimate = values[0] / values[1]
    below, above = (-float(stdtrit(size - 1, tail)) for tail in tails)
    low = min(_end(*centre, spread, below, -1) for spread in spreads)
    high = max(_end(*centre, spread, above, 1) for spread in spreads)
    return Interval(estimate, min(estimate, low), max(estimate, high), n)


def _end(mine: float, theirs: float, spread: Array, reach: float, side: int) -> float:
    """Return the last quotient at which `mine - quotient * theirs` is within `reach` errors of 0, on one side."""
    square = theirs**2 - reach**2 * spread[1, 1]
    if theirs <= 0 or square <= 0:
        return side * math.inf
    middle = mine * theirs - reach**2 * spread[0, 1]
    inside = middle**2 - square * (mine**2 - reach**2 * spread[0, 0])
    return float((middle + side * math.sqrt(max(inside, 0.0))) / square)


def _unknown(n: int) -> Interval:
    return Interval(math.nan, -math.inf, math.inf, n)
