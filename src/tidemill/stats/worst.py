"""Which slices of some rows are the worst, corrected for having looked at all of them.

A slice is a cell of one column, or of two columns at once. Its score is how many standard errors its mean loss lies
above that of all rows, the error being that of as many rows drawn from all without regard to the columns. The p-value
of a slice is the share of shuffles of the losses in which the worst slice of all scores as high: Westfall and Young's
max-T (Resampling-Based Multiple Testing, 1993). So, where losses have nothing to do with the columns, any slice at all
is found with at most the chance that was asked for. Rows are taken as exchangeable: hand over one of each unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tidemill.schema import Array

NUM_SHUFFLES = 399
_ROUNDING = 1e-12
_MOST = 50  # slices that are told
_SAME = 0.8  # overlap from which on a slice tells the same as another, or lies in it


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of N rows in cells: `codes` int64 (N,) are positions in `cells`, -1 where the row is in none.

    `alone` keeps it out of pairs.
    """

    name: str
    cells: tuple[str, ...]
    codes: Array
    alone: bool = False


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Rows that are in all of `parts` (column and cell): their number, mean loss, that of the others, and p."""

    parts: tuple[tuple[str, str], ...]
    rows: Array  # positions of its rows
    inside: float
    outside: float
    score: float
    p: float

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, kw_only=True)
class _Group:
    """All cells of a column or of a pair: their codes by row, and those with enough rows."""

    columns: tuple[Column, ...]
    codes: Array
    sizes: Array
    kept: Array


def worst_slices(
    loss: Array, columns: Sequence[Column], rng: np.random.Generator, *, least: int, num_shuffles: int = NUM_SHUFFLES
) -> list[Slice]:
    """Return the slices with at least `least` rows (and as many outside), the worst first.

    Left out is what one before it tells: nearly the same rows, or a part of it that is no worse than the whole.

    `loss` is float64 (N,), without NaN, higher is worse.
    """
    groups = list(_groups(columns, len(loss), least))
    spread = float(loss.std()) if groups else 0.0
    if spread == 0:
        return []
    highest = np.sort([_highest(groups, rng.permutation(loss), spread) for _ in range(num_shuffles)])
    return [
        Slice(
            parts=_parts(group, cell),
            rows=np.flatnonzero(inside),
            inside=float(loss[inside].mean()),
            outside=float(loss[~inside].mean()),
            score=score,
            p=(1 + num_shuffles - int(np.searchsorted(highest, score - _ROUNDING))) / (1 + num_shuffles),
        )
        for score, group, cell, inside in _distinct(groups, loss, spread)
    ]


def _distinct(groups: Sequence[_Group], loss: Array, spread: float) -> Iterator[tuple[float, _Group, int, Array]]:
    """Yield the slices that are worse than all rows, the worst first, but for those that tell what one before told."""
    scored = [
        (float(score), number, int(cell))
        for number, group in enumerate(groups)
        for score, cell in zip(_scores(group, loss, spread), group.kept, strict=True)
        if score > 0
    ]
    seen: list[Array] = []
    for score, number, cell in sorted(scored, key=lambda one: (-one[0], len(groups[one[1]].columns), one[1:])):
        inside = groups[number].codes == cell
        if any(_is_told(inside, other, loss, spread) for other in seen):
            continue
        seen.append(inside)
        yield score, groups[number], cell, inside
        if len(seen) == _MOST:
            return


def _is_told(inside: Array, other: Array, loss: Array, spread: float) -> bool:
    """Tell whether a slice says no more than a worse one: nearly the same rows, or a part of it that is as bad."""
    both, size = int((inside & other).sum()), int(inside.sum())
    if both >= _SAME * int((inside | other).sum()):
        return True
    margin = 2 * spread / np.sqrt(size)
    return bool(both >= _SAME * size and loss[inside].mean() <= loss[other].mean() + margin)


def _groups(columns: Sequence[Column], size: int, least: int) -> Iterator[_Group]:
    for column in columns:
        yield from _group((column,), column.codes, len(column.cells), size, least)
    for one, other in combinations([c for c in columns if not c.alone], 2):
        both = (one.codes >= 0) & (other.codes >= 0)
        codes = np.where(both, one.codes * len(other.cells) + other.codes, -1)
        yield from _group((one, other), codes, len(one.cells) * len(other.cells), size, least)


def _group(columns: tuple[Column, ...], codes: Array, num_cells: int, size: int, least: int) -> Iterator[_Group]:
    sizes = np.bincount(codes + 1, minlength=num_cells + 1)[1:]
    kept = np.flatnonzero((sizes >= least) & (size - sizes >= least))
    if len(kept):
        yield _Group(columns=columns, codes=codes, sizes=sizes[kept], kept=kept)


def _scores(group: _Group, loss: Array, spread: float) -> Array:
    sums = np.bincount(group.codes + 1, weights=loss, minlength=int(group.kept.max()) + 2)[1:][group.kept]
    size = len(loss)
    error = spread * np.sqrt((size - group.sizes) / (group.sizes * (size - 1)))
    return np.asarray((sums / group.sizes - loss.mean()) / error)


def _highest(groups: Sequence[_Group], loss: Array, spread: float) -> float:
    return max(float(_scores(group, loss, spread).max()) for group in groups)


def _parts(group: _Group, cell: int) -> tuple[tuple[str, str], ...]:
    if len(group.columns) == 1:
        return ((group.columns[0].name, group.columns[0].cells[cell]),)
    one, other = group.columns
    first, second = divmod(cell, len(other.cells))
    return (one.name, one.cells[first]), (other.name, other.cells[second])
