"""The ratio of two arms' mean losses, for losses that are not just 0 and 1; asymptotic.

Within each share, the candidate's mean loss less `margin` times the live model's has a variance estimated from both
arms; the shares are combined by inverse variance. Mixed over a half-normal prior on the difference this gives evidence
that may be looked at as often as one likes once the means are about normal, so nothing counts before `FEWEST` losses in
each arm.

Source: Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences", Annals of Statistics 2024, arXiv 2103.06476 (the one-sided normal mixture). Unlike `event_ratio` it is not
exact: a loss with very heavy tails needs more rows than it asks for. A ratio needs losses whose mean is above zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.stats.normal_mixture import log_one_sided

Array = npt.NDArray[Any]

FEWEST = 30  # losses of each arm under one share before that share counts
_PRIOR_SD = 0.25  # of the difference, in standard deviations of the live model's loss
_AHEAD = np.geomspace(1, 1e8, 240)  # how far `more_outcomes` looks


@dataclass(frozen=True)
class ArmLosses:
    """What was seen while the candidate had one share: losses, their sum and the sum of their squares, by arm."""

    share: float
    candidate: tuple[float, float, float] = (0.0, 0.0, 0.0)
    stable: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class LossRatio:
    """Moments by share: all that any margin, in either direction, needs to know."""

    losses: tuple[ArmLosses, ...] = ()

    def add(self, *, share: Array, candidate: Array, event: Array) -> LossRatio:
        """Take in N rows; see `EventRatio.add`, with a loss (higher is worse) in place of the event."""
        told = (share > 0) & (share < 1) & ~np.isnan(event)
        merged = {row.share: row for row in self.losses}
        for value in np.unique(share[told]).tolist():
            old, here = merged.get(value, ArmLosses(value)), told & (share == value)
            merged[value] = ArmLosses(
                value, _plus(old.candidate, event[here & candidate]), _plus(old.stable, event[here & ~candidate])
            )
        return LossRatio(tuple(merged[value] for value in sorted(merged)))

    def to_json(self) -> list[list[float]]:
        """Return a row of seven numbers per share."""
        return [[row.share, *row.candidate, *row.stable] for row in self.losses]

    @classmethod
    def from_json(cls, data: Sequence[Sequence[float]]) -> LossRatio:
        """Read what `to_json` wrote."""
        return cls(tuple(ArmLosses(row[0], tuple(row[1:4]), tuple(row[4:7])) for row in data))  # type: ignore[arg-type]

    @property
    def num_candidate(self) -> int:
        """Rows of the candidate."""
        return int(sum(row.candidate[0] for row in self.losses))

    @property
    def num_stable(self) -> int:
        """Rows of the live model."""
        return int(sum(row.stable[0] for row in self.losses))

    @property
    def sum_candidate(self) -> float:
        """The candidate's losses, added up."""
        return sum(row.candidate[1] for row in self.losses)

    @property
    def sum_stable(self) -> float:
        """The live model's losses, added up."""
        return sum(row.stable[1] for row in self.losses)

    @property
    def ratio(self) -> float:
        """The estimated ratio of the two means, over the shares that count; 1 when none does yet."""
        rows = [(row, _moments(row.candidate), _moments(row.stable)) for row in self.losses if _counts(row)]
        stable = sum(row.stable[1] * row.share for row, _, _ in rows)
        candidate = sum(mine[0] * row.stable[0] * row.share for row, mine, _ in rows)
        return candidate / stable if stable > 0 else 1.0

    def log_worse(self, margin: float) -> float:
        """Log evidence that the candidate's mean loss is more than `margin` times the live model's; asymptotic."""
        score, information, prior = self._score(margin)
        return log_one_sided(score, information, prior)

    def log_no_worse(self, margin: float) -> float:
        """Log evidence that the candidate's mean loss is less than `margin` times the live model's; asymptotic."""
        score, information, prior = self._score(margin)
        return log_one_sided(-score, information, prior)

    def more_outcomes(self, *, share: float, margin: float, alpha: float, worse: bool) -> float | None:
        """Tell about how many more rows would be evidence at `alpha`, should the means stay what they are.

        Returns:
            The number, 0 when the evidence is there, None when no number will do or too little is known to tell.
        """
        score, information, prior = self._score(margin)
        side = 1.0 if worse else -1.0
        wanted = -np.log(alpha)
        if log_one_sided(side * score, information, prior) >= wanted:
            return 0.0
        if information == 0 or side * score <= 0:
            return None
        each = self._information_per_row(share, margin)
        grown = information + _AHEAD * each
        ahead = np.array([log_one_sided(side * score * i / information, i, prior) for i in grown.tolist()])
        enough = ahead >= wanted
        return float(_AHEAD[enough.argmax()]) if enough.any() else None

    def _score(self, margin: float) -> tuple[float, float, float]:
        """Return the score, its information, and the prior's standard deviation of the difference."""
        score = information = 0.0
        spread = [0.0]
        for row in self.losses:
            if not _counts(row):
                continue
            (mine, own), (live, other) = _moments(row.candidate), _moments(row.stable)
            variance = _variance(own, other, row.candidate[0], row.stable[0], margin)
            if variance > 0:
                score += (mine - margin * live) / variance
                information += 1 / variance
                spread.append(other)
        return score, information, _PRIOR_SD * float(np.sqrt(max(spread)))

    def _information_per_row(self, share: float, margin: float) -> float:
        row = max((row for row in self.losses if _counts(row)), key=lambda row: row.candidate[0])
        own, other = _moments(row.candidate)[1], _moments(row.stable)[1]
        return 1 / max(_variance(own, other, share, 1 - share, margin), 1e-300)


def _plus(sums: tuple[float, float, float], losses: Array) -> tuple[float, float, float]:
    return sums[0] + len(losses), sums[1] + float(losses.sum()), sums[2] + float(np.square(losses).sum())


def _counts(row: ArmLosses) -> bool:
    return min(row.candidate[0], row.stable[0]) >= FEWEST


def _moments(sums: tuple[float, float, float]) -> tuple[float, float]:
    """Return mean and variance."""
    num, total, squares = sums
    return total / num, max(squares / num - (total / num) ** 2, 0.0)


def _variance(own: float, other: float, num_candidate: float, num_stable: float, margin: float) -> float:
    """Return the variance of the difference of means.

    The candidate's few rows may look steadier than they are just when their mean is low, so its variance is never taken
    to be less than that of both arms together.
    """
    pooled = (own * num_candidate + other * num_stable) / (num_candidate + num_stable)
    return max(own, pooled) / num_candidate + margin**2 * other / num_stable
