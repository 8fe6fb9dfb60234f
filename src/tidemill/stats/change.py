"""How far apart two samples of one thing are, and how far chance alone puts them: simple effect sizes, 0 to 1.

Numbers: the largest difference of the distribution functions (Kolmogorov and Smirnov). Words and other categories: half
the sum of the differences of the shares (total variation). Both say which share of the sample is, at least, different.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from tidemill.schema import Array

_RESAMPLES = 100
_KS_95 = 1.358  # the 95th percentile of the Kolmogorov distribution


@dataclass(frozen=True)
class Distance:
    """`value` is the effect size, from `nums` rows; of two samples of the same it is below `chance` 95 times in 100."""

    value: float
    chance: float
    nums: tuple[int, int]


def number_distance(before: Array, after: Array) -> Distance | None:
    """Return the Kolmogorov-Smirnov distance of two samples of numbers; NaN are left out. None if one has no number."""
    before, after = (np.sort(values[~np.isnan(values)]) for values in (before, after))
    n, m = len(before), len(after)
    if not n or not m:
        return None
    at = np.concatenate([before, after])
    gap = np.searchsorted(before, at, side="right") / n - np.searchsorted(after, at, side="right") / m
    return Distance(float(np.abs(gap).max()), min(1.0, _KS_95 * float(np.sqrt(1 / n + 1 / m))), (n, m))


def category_distance(
    before: Sequence[Hashable], after: Sequence[Hashable], rng: np.random.Generator
) -> Distance | None:
    """Return the total variation distance of two samples of categories; `rng` draws what chance does. None if empty."""
    n, m = len(before), len(after)
    if not n or not m:
        return None
    place = {value: at for at, value in enumerate(dict.fromkeys([*before, *after]))}
    counts = np.stack([np.bincount([place[v] for v in values], minlength=len(place)) for values in (before, after)])
    pooled = counts.sum(axis=0) / (n + m)
    drawn = rng.multinomial(n, pooled, _RESAMPLES) / n - rng.multinomial(m, pooled, _RESAMPLES) / m
    chance = float(np.quantile(np.abs(drawn).sum(axis=1) / 2, 0.95))
    return Distance(float(np.abs(counts[0] / n - counts[1] / m).sum() / 2), chance, (n, m))
