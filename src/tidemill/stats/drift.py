"""How far one column has moved between two samples: effect sizes, from the values themselves or from sketches of them.

| of | effect | |
|---|---|---|
| numbers | `ks` | the largest difference of the distribution functions (Kolmogorov and Smirnov), 0 to 1 |
| | `wasserstein` | how far the mass has to be moved on average, in standard deviations of the first sample |
| | `psi` | population stability index over the first sample's deciles: Jeffreys' divergence of the shares |
| words | `js` | Jensen and Shannon's distance of the shares, 0 to 1 (Lin 1991, base 2) |
| | `psi` | the same index over the words |
| | `share` | the largest change of one word's share, -1 to 1 |
| both | `missing` | by how much the share of missing values has changed, -1 to 1 |

An effect says how far, not whether by chance: see `stats.alarm`. A share of 0 would make the index infinite, so half a
row is added to each share's count (Jeffreys' prior).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tidemill.schema import Array
from tidemill.stats.sketch import NumberSketch, WordSketch

_DECILES = np.linspace(0.1, 0.9, 9)
_NUM_POINTS = 2_000  # at which two sketches are compared: finer than they are


@dataclass(frozen=True, kw_only=True)
class Effect:
    """How far a column has moved, None where an effect is not defined. `nums` are the rows that have a value."""

    nums: tuple[int, int]
    missing: float = 0.0
    psi: float | None = None
    ks: float | None = None
    wasserstein: float | None = None
    js: float | None = None
    share: float | None = None


def number_effect(before: Array, after: Array) -> Effect:
    """Return how far numbers float (n,) and (m,) have moved; NaN is a missing value.

    `ks` is that of `scipy.stats.ks_2samp`, `wasserstein` times the standard deviation that of
    `scipy.stats.wasserstein_distance`.
    """
    first, second = _known(before), _known(after)
    nums = (len(first), len(second))
    gone = _missing(nums, (len(before), len(after)))
    if not min(nums):
        return Effect(nums=nums, missing=gone)
    edges = np.unique(first[(_DECILES * (nums[0] - 1)).astype(np.int64)])
    counts = [np.searchsorted(side, edges, side="right") for side in (first, second)]
    psi = _psi(_between(counts[0], nums[0]), _between(counts[1], nums[1]))
    scale = float(first.std())
    ks, area = _apart(first, second)
    return Effect(nums=nums, missing=gone, psi=psi, ks=ks, wasserstein=_in_units(area, scale))


def word_effect(before: Mapping[str, int], after: Mapping[str, int], missing: tuple[int, int] = (0, 0)) -> Effect:
    """Return how far the counts of words have moved; `missing` are the rows without one.

    `js` is that of `scipy.spatial.distance.jensenshannon` with base 2.
    """
    words = list({**before, **after})
    counts = [np.array([side.get(word, 0) for word in words], dtype=np.float64) for side in (before, after)]
    nums = (int(counts[0].sum()), int(counts[1].sum()))
    gone = _missing(nums, (nums[0] + missing[0], nums[1] + missing[1]))
    if not min(nums):
        return Effect(nums=nums, missing=gone)
    p, q = (side / num for side, num in zip(counts, nums, strict=True))
    share = float((q - p)[np.abs(q - p).argmax()])
    return Effect(nums=nums, missing=gone, psi=_psi(*counts), js=_js(p, q), share=share)


def sketched_effect(before: NumberSketch | WordSketch, after: NumberSketch | WordSketch) -> Effect:
    """Return how far a column has moved that is known from sketches of one kind.

    Raises:
        TypeError: one is of numbers and one of words: the column was retyped.
    """
    if isinstance(before, WordSketch) and isinstance(after, WordSketch):
        return word_effect(before.counts(), after.counts(), (before.num_missing, after.num_missing))
    if isinstance(before, NumberSketch) and isinstance(after, NumberSketch):
        return _sketched_numbers(before, after)
    raise TypeError("one sketch is of numbers and one of words")


def _sketched_numbers(before: NumberSketch, after: NumberSketch) -> Effect:
    nums = (before.num, after.num)
    gone = _missing(nums, (nums[0] + before.num_missing, nums[1] + after.num_missing))
    if not min(nums):
        return Effect(nums=nums, missing=gone)
    edges = np.unique(before.quantiles(_DECILES))
    psi = _psi(*(_between(side.shares(edges) * side.num, side.num) for side in (before, after)))
    levels = np.linspace(0, 1, _NUM_POINTS)
    points = np.unique(np.concatenate([before.quantiles(levels), after.quantiles(levels)]))
    gap = np.abs(before.shares(points) - after.shares(points))
    area = float((gap[:-1] * np.diff(points)).sum())
    scale = before.deviation
    return Effect(nums=nums, missing=gone, psi=psi, ks=float(gap.max()), wasserstein=_in_units(area, scale))


def _known(values: Array) -> Array:
    known = values[~np.isnan(values)]
    known.sort()
    return known


def _missing(known: tuple[int, int], rows: tuple[int, int]) -> float:
    shares = [1 - num / total if total else 0.0 for num, total in zip(known, rows, strict=True)]
    return float(shares[1] - shares[0])


def _apart(first: Array, second: Array) -> tuple[float, float]:
    """Return the largest difference of the distribution functions of sorted samples, and the area between them.

    Two sorted runs are merged in linear time, and whole numbers are summed: exact whatever the number of rows.
    """
    n, m = len(first), len(second)
    values = np.concatenate([first, second])
    order = np.argsort(values, kind="stable")
    values = values[order]  # each array is as long as both samples: none is kept for longer than it is needed
    steps = np.diff(values)
    del values
    gap = np.where(order < n, m, -n)
    del order
    np.abs(np.cumsum(gap, out=gap), out=gap)
    largest = int(gap[:-1].max(initial=0, where=steps > 0))
    return largest / (n * m), float(gap[:-1] @ steps) / (n * m)


def _in_units(area: float, scale: float) -> float:
    """Of a first sample without spread any move is infinitely far, and none is 0."""
    return area / scale if scale > 0 else (float("inf") if area > 0 else 0.0)


def _between(at_most: Array, num: float) -> Array:
    """Return the counts between edges from those at most as large as each edge."""
    return np.diff(np.concatenate([[0.0], at_most, [num]]))


def _psi(before: Array, after: Array) -> float:
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (before, after))
    return float(((p - q) * np.log(p / q)).sum())


def _js(p: Array, q: Array) -> float:
    middle = (p + q) / 2
    bits = sum(float((s[s > 0] * np.log2(s[s > 0] / middle[s > 0])).sum()) for s in (p, q)) / 2
    return float(np.sqrt(max(bits, 0.0)))
