"""Whether a window differs from its reference, over many columns at once, with one chance of a false alarm for all.

Time is cut into blocks. The last blocks are the window, the others its reference. If nothing has changed, blocks may be
exchanged, and the window is one among all sets of as many blocks: so each statistic of each column is computed for the
window and for 999 sets drawn at random, each against all blocks outside it; is put in one unit, how rare it is among
them; and the largest over columns and statistics is compared. The window's **rank** among all 1,000 is at most alpha
with a chance of at most alpha, whatever the columns and their number of values: a permutation test with max-T (Westfall
and Young 1993; Phipson and Smyth 2010 for the rank). A column with a thousand rare values is as noisy in every set as
in the window.

Which columns moved is read from the same draws, step by step down: the chance to name any that did not is alpha too.
Blocks keep the dependence of neighbouring rows inside them; a change from one day to the next that is usual in the
reference is usual among sets only as far as blocks of several days meet in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import gammaincc

from tidemill.schema import Array

NUM_SETS = 999
_LEAST = 1e-9  # of a spread; below it values differ by rounding
_LEAST_SKEW = 1e-3
_RAREST = 1e-300


class Compared(Protocol):
    """A column, or several columns as vectors, that can be compared between sets of blocks."""

    @property
    def name(self) -> str:
        """The column's name."""
        ...

    def values(self, picks: Array) -> Mapping[str, Array]:
        """Return by statistic how far each pick of blocks (R, B) is from the other blocks, float (R,)."""
        ...


@dataclass(frozen=True)
class Raised:
    """`rank` of the window, and by column its most unusual statistic and, as minus a logarithm to base 10, how rare.

    `moved` names the columns that moved, the most unusual first; `sizes` are the window's statistics themselves.
    """

    rank: float
    unusual: Mapping[str, tuple[str, float]]
    moved: tuple[str, ...]
    sizes: Mapping[str, Mapping[str, float]]


def raised(
    columns: Sequence[Compared], *, num_blocks: int, num_now: int, alpha: float, rng: np.random.Generator,
    num_sets: int = NUM_SETS,
) -> Raised:  # fmt: skip
    """Compare the last `num_now` of `num_blocks` blocks with the others, over all columns.

    Raises:
        ValueError: there are no blocks on one side.
    """
    if not 0 < num_now < num_blocks:
        raise ValueError(f"{num_now} of {num_blocks} blocks are no window beside a reference")
    picks = _sets(num_blocks, num_now, num_sets, rng)
    values = {column.name: column.values(picks) for column in columns}
    sizes = {name: {one: float(v[0]) for one, v in of.items()} for name, of in values.items()}
    found = {name: _units(of) for name, of in values.items()}
    largest = {name: np.max(list(of.values()), axis=0) for name, of in found.items() if of}
    if not largest:
        return Raised(1.0, {}, (), sizes)
    unusual = {name: _most(found[name]) for name in largest}
    rank = _rank(np.max(list(largest.values()), axis=0))
    return Raised(rank, unusual, _moved(largest, alpha), sizes)


def _sets(num_blocks: int, num_now: int, num: int, rng: np.random.Generator) -> Array:
    """Return the window and `num` sets of as many blocks drawn without replacement, float32 (1 + num, B)."""
    picks = np.zeros((1 + num, num_blocks), dtype=np.float32)
    picks[0, -num_now:] = 1
    drawn = np.argpartition(rng.random((num, num_blocks)), num_now - 1, axis=1)[:, :num_now]
    np.put_along_axis(picks[1:], drawn, 1, axis=1)
    return picks


def _units(values: Mapping[str, Array]) -> dict[str, Array]:
    """Put each statistic in one unit: minus the logarithm of how rare it is; one that never differs says nothing.

    How rare is told by the shifted gamma distribution (Pearson's type III) of the mean, spread and skewness of all
    other sets: in standard deviations, or by a distribution of a lighter tail, skewed statistics would set the bar for
    all others. It need not be right, since only ranks count.
    """
    found = {}
    for name, one in values.items():
        mean, spread = float(one.mean()), float(one.std())
        if mean > 0 and spread > _LEAST * max(mean, 1.0):
            away, skew = _standing((one - mean) / spread)
            shape = 4 / np.square(np.maximum(skew, _LEAST_SKEW))
            rare = gammaincc(shape, np.maximum(shape + away * np.sqrt(shape), 0.0))
            found[name] = away * _LEAST - np.log10(np.maximum(rare, _RAREST))
    return found


def _standing(values: Array) -> tuple[Array, Array]:
    """Return how many spreads of all others each of standardised values is above their mean, and their skewness."""
    num = len(values) - 1
    first, second, third = ((np.sum(values**power) - values**power) / num for power in (1, 2, 3))
    variance = np.maximum(second - first**2, _LEAST)
    skew = (third - 3 * first * second + 2 * first**3) / variance**1.5
    return (values - first) / np.sqrt(variance), skew


def _most(values: Mapping[str, Array]) -> tuple[str, float]:
    name = max(values, key=lambda n: values[n][0])
    return name, float(values[name][0])


def _rank(largest: Array, at: float | None = None) -> float:
    """Return the share of all sets, the window among them, that are as unusual as the window, or as `at`."""
    bar = largest[0] if at is None else at
    return float((1 + (largest[1:] >= bar).sum()) / len(largest))


def _moved(largest: Mapping[str, Array], alpha: float) -> tuple[str, ...]:
    left, moved = dict(largest), []
    while left:
        most = np.max(list(left.values()), axis=0)
        out = sorted((n for n in left if _rank(most, left[n][0]) <= alpha), key=lambda n: -float(largest[n][0]))
        if not out:
            break
        moved += out
        left = {name: values for name, values in left.items() if name not in out}
    return tuple(moved)
