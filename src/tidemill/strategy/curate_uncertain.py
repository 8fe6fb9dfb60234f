"""The member of curation that looks for doubt in the scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tidemill.schema import Array
from tidemill.strategy.candidates import Candidates, CurateContext, CurateNeeds, Draw
from tidemill.strategy.curating import Curate

_BLOCK = 1 << 20  # scores at a time


@dataclass(frozen=True)
class Uncertain(Curate):
    """Choose where the model is least sure: pi = 1 in their stratum.

    `by` is `margin` (between the two likeliest classes), `entropy` or `least_confidence`. Ties go to the first in the
    list. Chooses nothing when there is a single score. Settles, Active Learning Literature Survey (2009), section 3.1.
    """

    share: float | None = None
    by: str = "margin"

    def check(self) -> None:
        """Refuse an unknown measure."""
        super().check()
        self.require(self.by in _UNCERTAINTY, f"by is {self.by!r}", f"give one of {', '.join(_UNCERTAINTY)}")

    @property
    def reason(self) -> str:
        """Name the measure."""
        return f"uncertain: {self.by}"

    def needs(self) -> CurateNeeds:
        """Ask which candidates repeat others: doubt about one is doubt about all of them."""
        return CurateNeeds(distinct=True)

    def draw(self, candidates: Candidates, context: CurateContext, budget: int, rng: np.random.Generator) -> Draw:
        """Take the most uncertain ones that were answered."""
        if candidates.scores.shape[1] < 2:
            return Draw.chosen(np.zeros(0, dtype=np.int64), len(candidates))
        return Draw.of_highest(doubt(candidates.scores, self.by), budget, np.arange(len(candidates)))


def doubt(scores: Array, by: str) -> Array:
    """Return how unsure scores (N, K >= 2) are by a measure, float64 (N,), NaN where one is missing."""
    step = max(1, _BLOCK // scores.shape[1])
    parts = [scores[at : at + step] for at in range(0, len(scores), step)]
    found = [_UNCERTAINTY[by](np.asarray(part, dtype=np.float64)) for part in parts]
    return np.concatenate([np.zeros(0), *found])


def _margin(scores: Array) -> Array:
    top = np.partition(scores, scores.shape[1] - 2, axis=1)[:, -2:]  # NaN comes last, and so spoils its row
    return np.asarray(top[:, 0] - top[:, 1])


def _entropy(scores: Array) -> Array:
    positive = np.where(scores > 0, scores, 1.0)
    return np.where(np.isnan(scores).any(axis=1), np.nan, -(scores * np.log(positive)).sum(axis=1))


def _least_confidence(scores: Array) -> Array:
    return np.asarray(1.0 - scores.max(axis=1))


_UNCERTAINTY = {"margin": _margin, "entropy": _entropy, "least_confidence": _least_confidence}
