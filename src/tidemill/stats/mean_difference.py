"""The difference of two arms' means, with what was known of each unit beforehand taken out (CUPED); asymptotic.

Where a covariate x of a row is known, such as the mean of its unit before the rollout, the part of y that x explains
says nothing about the arms and is subtracted: y - theta (x - mean x). Rows with and without x, and rows under different
shares of traffic, are strata of their own; their differences are combined by inverse variance.

Sources: Deng, Xu, Kohavi & Walker, "Improving the sensitivity of online controlled experiments by utilizing
pre-experiment data", WSDM 2013 (CUPED); the interval that holds at every look is `stats.normal_mixture`'s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.stats.normal_mixture import half_width, log_one_sided

Array = npt.NDArray[Any]

FEWEST = 30  # rows of each arm in a stratum before it counts
_PRIOR_SD = 0.1  # of the difference, in standard deviations of y
_AHEAD = np.geomspace(1, 1e9, 240)

Sums = tuple[float, float, float, float, float, float]  # n, sum y, sum y^2, sum x, sum x^2, sum xy
_NONE: Sums = (0.0,) * 6


@dataclass(frozen=True)
class Stratum:
    """Moments of the rows under one share, with a known covariate or without."""

    share: float
    known: bool
    candidate: Sums = _NONE
    stable: Sums = _NONE

    @property
    def counts(self) -> bool:
        """Whether there are enough rows for a mean to be about normal."""
        return min(self.candidate[0], self.stable[0]) >= FEWEST


@dataclass(frozen=True)
class MeanDifference:
    """Moments by stratum: all that any margin needs, in any order and any batches."""

    strata: tuple[Stratum, ...] = ()

    def add(self, *, share: Array, candidate: Array, value: Array, before: Array | None = None) -> MeanDifference:
        """Take in N rows.

        Args:
            share: (N,) the candidate's share when the row was routed; rows under 0 or 1 are left out.
            candidate: (N,) bool, whether the candidate was assigned.
            value: (N,) y, NaN where it is not known (left out).
            before: (N,) x, NaN where it is not known; None when there is no covariate.
        """
        x = np.full(len(value), np.nan) if before is None else before
        told = (share > 0) & (share < 1) & ~np.isnan(value)
        merged = {(s.share, s.known): s for s in self.strata}
        for at in np.unique(share[told]).tolist():
            for known in (False, True):
                here = told & (share == at) & (np.isnan(x) != known)
                if here.any():
                    old = merged.get((at, known), Stratum(at, known))
                    arms = [_sums(value[here & arm], x[here & arm], known) for arm in (candidate, ~candidate)]
                    merged[at, known] = Stratum(at, known, _plus(old.candidate, arms[0]), _plus(old.stable, arms[1]))
        return MeanDifference(tuple(merged[key] for key in sorted(merged)))

    def to_json(self) -> list[list[float]]:
        """Return a row of fourteen numbers per stratum."""
        return [[s.share, float(s.known), *s.candidate, *s.stable] for s in self.strata]

    @classmethod
    def from_json(cls, data: Sequence[Sequence[float]]) -> MeanDifference:
        """Read what `to_json` wrote."""
        return cls(tuple(Stratum(r[0], bool(r[1]), tuple(r[2:8]), tuple(r[8:14])) for r in data))  # type: ignore[arg-type]

    @property
    def num_candidate(self) -> int:
        """Rows of the candidate."""
        return int(sum(s.candidate[0] for s in self.strata))

    @property
    def num_stable(self) -> int:
        """Rows of the live model."""
        return int(sum(s.stable[0] for s in self.strata))

    @property
    def sum_candidate(self) -> float:
        """The candidate's values, added up."""
        return sum(s.candidate[1] for s in self.strata)

    @property
    def sum_stable(self) -> float:
        """The live model's values, added up."""
        return sum(s.stable[1] for s in self.strata)

    @property
    def estimate(self) -> float:
        """The candidate's mean less the live model's, NaN before there are enough rows."""
        score, information, _ = self._score()
        return score / information if information else math.nan

    @property
    def variance_left(self) -> float:
        """The share of the variance that the covariate leaves; 1 without one."""
        strata, theta = [s for s in self.strata if s.counts], self._theta()
        whole = sum(s.stable[0] * _left(s.stable, 0.0) for s in strata)
        return sum(s.stable[0] * _left(s.stable, theta) for s in strata) / whole if whole > 0 else 1.0

    def interval(self, alpha: float) -> tuple[float, float]:
        """Return the differences that are not excluded; it holds at every look with 1 - alpha, asymptotically."""
        score, information, prior = self._score()
        half = half_width(information, prior, alpha)
        middle = score / information if information else 0.0
        return middle - half, middle + half

    def log_above(self, margin: float) -> float:
        """Log evidence that the difference is more than `margin`."""
        score, information, prior = self._score()
        return log_one_sided(score - margin * information, information, prior)

    def log_below(self, margin: float) -> float:
        """Log evidence that the difference is less than `margin`."""
        score, information, prior = self._score()
        return log_one_sided(margin * information - score, information, prior)

    def more_outcomes(self, *, share: float, margin: float, alpha: float, above: bool) -> float | None:
        """Tell about how many more rows would be evidence at `alpha`, should the means stay what they are.

        Returns:
            The number, 0 when the evidence is there, None when no number will do or too little is known to tell.
        """
        score, information, prior = self._score()
        drift = (score / information - margin if information else 0.0) * (1 if above else -1)
        wanted = -math.log(alpha)
        if log_one_sided(drift * information, information, prior) >= wanted:
            return 0.0
        if drift <= 0:
            return None
        strata = [s for s in self.strata if s.counts]
        spread = max(max(_residual(s, self._theta())) for s in strata)
        ahead = information + _AHEAD * share * (1 - share) / max(spread, 1e-300)
        enough = np.array([log_one_sided(drift * i, i, prior) for i in ahead.tolist()]) >= wanted
        return float(_AHEAD[enough.argmax()]) if enough.any() else None

    def _score(self) -> tuple[float, float, float]:
        """Return the score, its information, and the prior's standard deviation of the difference."""
        theta, score, information, spread = self._theta(), 0.0, 0.0, 0.0
        for s in self.strata:
            if not s.counts:
                continue
            own, other = _residual(s, theta if s.known else 0.0)
            variance = own / s.candidate[0] + other / s.stable[0]
            if variance > 0:
                score += _gap(s, theta if s.known else 0.0) / variance
                information += 1 / variance
                spread = max(spread, _variance(s.stable))
        return score, information, _PRIOR_SD * math.sqrt(spread)

    def _theta(self) -> float:
        """The slope of y on x within arms and strata."""
        cov = var = 0.0
        for s in self.strata:
            for n, y, _, x, xx, xy in (s.candidate, s.stable) if s.known else ():
                if n > 1:
                    cov, var = cov + xy - x * y / n, var + xx - x * x / n
        return cov / var if var > 0 else 0.0


def _sums(y: Array, x: Array, known: bool) -> Sums:
    x = x if known else np.zeros(len(y))
    return len(y), float(y.sum()), float(y @ y), float(x.sum()), float(x @ x), float(x @ y)


def _plus(one: Sums, other: Sums) -> Sums:
    a, b, c, d, e, f = (left + right for left, right in zip(one, other, strict=True))
    return a, b, c, d, e, f


def _gap(s: Stratum, theta: float) -> float:
    """Return the difference of the arms' adjusted means."""
    mine, live = ((y - theta * x) / n for n, y, _, x, _, _ in (s.candidate, s.stable))
    return mine - live


def _residual(s: Stratum, theta: float) -> tuple[float, float]:
    """Return the variances of y - theta x in both arms.

    The candidate's few rows may look steadier than they are, so its variance is never below that of both together.
    """
    own, other = (_left(sums, theta) for sums in (s.candidate, s.stable))
    pooled = (own * s.candidate[0] + other * s.stable[0]) / (s.candidate[0] + s.stable[0])
    return max(own, pooled), other


def _left(sums: Sums, theta: float) -> float:
    n, y, yy, x, xx, xy = sums
    whole = yy - y * y / n - 2 * theta * (xy - x * y / n) + theta**2 * (xx - x * x / n)
    return max(whole / max(n - 1, 1.0), 0.0)


def _variance(sums: Sums) -> float:
    return _left(sums, 0.0)
