"""Which slices of some rows are the worst, corrected for having looked at all of them.

A slice is a cell of one column, or of two columns at once. Its score is how many standard errors its mean loss lies
above that of all rows, the error being that of as many rows drawn from all without regard to the columns. The p-value
of a slice is the share of shuffles of the losses in which the worst slice of all scores as high: Westfall and Young's
max-T (Resampling-Based Multiple Testing, 1993). So, where losses have nothing to do with the columns, any slice at all
is found with at most the chance that was asked for. Rows are taken as exchangeable: hand over one of each unit.

Of a column that is known of some rows only, drawn with a probability, rows count by its inverse, and means and errors
are those of the rows drawn: the error is exact for shuffles whatever the weights.
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

    `alone` keeps it out of pairs. `weights` float64 (N,), above 0 where the column was drawn to be known; None is all.
    Columns that have weights have the same.
    """

    name: str
    cells: tuple[str, ...]
    codes: Array
    alone: bool = False
    weights: Array | None = None


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Rows that are in all of `parts` (column and cell): their mean loss, that of `others`, and p."""

    parts: tuple[tuple[str, str], ...]
    rows: Array  # positions of its rows
    others: Array  # and of those outside that are known
    weights: Array | None  # of all rows
    inside: float
    outside: float
    score: float
    p: float

    def __len__(self) -> int:
        return len(self.rows)

    def means(self, values: Array) -> tuple[float, float]:
        """Return the mean of values float64 (N,) inside, and outside."""
        inside, outside = (_mean(values, rows, self.weights) for rows in (self.rows, self.others))
        return inside, outside


@dataclass(frozen=True, kw_only=True)
class _Group:
    """All cells of a column or of a pair: their codes by row, and those with enough rows, `kept`.

    `sizes` are their sums of weights, `errors` the standard errors of their means for a loss of spread 1.
    """

    columns: tuple[Column, ...]
    codes: Array
    weights: Array | None
    sizes: Array
    errors: Array
    kept: Array


def worst_slices(
    loss: Array, columns: Sequence[Column], rng: np.random.Generator, *, least: int, least_share: float = 0.0,
    num_shuffles: int = NUM_SHUFFLES,
) -> list[Slice]:  # fmt: skip
    """Return the slices with at least `least` rows, and that share of those known (and as many outside), worst first.

    Left out is what one before it tells: nearly the same rows, or a part of it that is no worse than the whole.

    `loss` is float64 (N,), without NaN, higher is worse.
    """
    groups = list(_groups(columns, len(loss), least, least_share))
    spread = float(loss.std()) if groups else 0.0
    if spread == 0:
        return []
    highest = np.sort([_highest(groups, rng.permutation(loss), spread) for _ in range(num_shuffles)])
    found = []
    for score, group, cell, inside in _distinct(groups, loss, spread):
        p = (1 + num_shuffles - int(np.searchsorted(highest, score - _ROUNDING))) / (1 + num_shuffles)
        others = np.flatnonzero(~inside if group.weights is None else ~inside & (group.weights > 0))
        rows = np.flatnonzero(inside)
        inner, outer = (_mean(loss, some, group.weights) for some in (rows, others))
        found.append(
            Slice(
                parts=_parts(group, cell),
                rows=rows,
                others=others,
                weights=group.weights,
                inside=inner,
                outside=outer,
                score=score,
                p=p,
            )
        )
    return found


def _mean(values: Array, rows: Array, weights: Array | None) -> float:
    return float(values[rows].mean() if weights is None else np.average(values[rows], weights=weights[rows]))


def _distinct(groups: Sequence[_Group], loss: Array, spread: float) -> Iterator[tuple[float, _Group, int, Array]]:
    """Yield the slices that are worse than all rows, the worst first, but for those that tell what one before told."""
    scored = [
        (float(score), number, int(cell))
        for number, group in enumerate(groups)
        for score, cell in zip(_scores(group, loss, spread), group.kept, strict=True)
        if score > 0
    ]
    seen: list[tuple[Array, float]] = []
    for score, number, cell in sorted(scored, key=lambda one: (-one[0], len(groups[one[1]].columns), one[1:])):
        inside, weights = groups[number].codes == cell, groups[number].weights
        mean = _mean(loss, inside, weights)
        if any(_is_told(inside, mean, other, spread, weights) for other in seen):
            continue
        seen.append((inside, mean))
        yield score, groups[number], cell, inside
        if len(seen) == _MOST:
            return


def _is_told(inside: Array, mean: float, other: tuple[Array, float], spread: float, weights: Array | None) -> bool:
    """Tell whether a slice says no more than a worse one: nearly the same rows, or a part of it that is as bad."""
    there, worse = other
    both, size, either = (_size(rows, weights) for rows in (inside & there, inside, inside | there))
    if both >= _SAME * either:
        return True
    return bool(both >= _SAME * size and mean <= worse + 2 * spread / np.sqrt(inside.sum()))


def _size(rows: Array, weights: Array | None) -> float:
    return float(rows.sum() if weights is None else weights[rows].sum())


def _groups(columns: Sequence[Column], size: int, least: int, share: float) -> Iterator[_Group]:
    for column in columns:
        yield from _group((column,), column.codes, len(column.cells), size, (least, share))
    for one, other in combinations([c for c in columns if not c.alone], 2):
        both = (one.codes >= 0) & (other.codes >= 0)
        codes = np.where(both, one.codes * len(other.cells) + other.codes, -1)
        yield from _group((one, other), codes, len(one.cells) * len(other.cells), size, (least, share))


def _group(
    columns: tuple[Column, ...], codes: Array, num_cells: int, size: int, least: tuple[int, float]
) -> Iterator[_Group]:
    weights = next((column.weights for column in columns if column.weights is not None), None)
    if weights is not None:
        codes = np.where(weights > 0, codes, -1)
    whole = size if weights is None else int((weights > 0).sum())
    nums, enough = _by_cell(codes, None, num_cells), max(least[0], int(np.ceil(least[1] * whole)))
    kept = np.flatnonzero((nums >= enough) & (whole - nums >= enough))
    if len(kept):
        sizes, errors = _errors(codes, weights, kept, size)
        yield _Group(columns=columns, codes=codes, weights=weights, sizes=sizes, errors=errors, kept=kept)


def _errors(codes: Array, weights: Array | None, kept: Array, size: int) -> tuple[Array, Array]:
    """Return the sums of weights of cells, and the standard deviation of what their means are above that of all.

    That is a sum of a[i] loss[i] with a sum of 0 over a: shuffled, it varies by size / (size - 1) times the sum of a².
    """
    sizes = _by_cell(codes, weights, int(kept.max()) + 1)[kept]
    squares = sizes if weights is None else _by_cell(codes, weights**2, int(kept.max()) + 1)[kept]
    whole = (size, size) if weights is None else (weights.sum(), (weights**2).sum())
    variance = squares / sizes**2 - 2 * squares / (sizes * whole[0]) + whole[1] / whole[0] ** 2
    return sizes, np.sqrt(variance * size / (size - 1))


def _by_cell(codes: Array, values: Array | None, num_cells: int) -> Array:
    return np.bincount(codes + 1, weights=values, minlength=num_cells + 1)[1:]


def _scores(group: _Group, loss: Array, spread: float) -> Array:
    heavy = loss if group.weights is None else loss * group.weights
    sums = _by_cell(group.codes, heavy, int(group.kept.max()) + 1)[group.kept]
    centre = loss.mean() if group.weights is None else heavy.sum() / group.weights.sum()
    return np.asarray((sums / group.sizes - centre) / (group.errors * spread))


def _highest(groups: Sequence[_Group], loss: Array, spread: float) -> float:
    return max(float(_scores(group, loss, spread).max()) for group in groups)


def _parts(group: _Group, cell: int) -> tuple[tuple[str, str], ...]:
    if len(group.columns) == 1:
        return ((group.columns[0].name, group.columns[0].cells[cell]),)
    one, other = group.columns
    first, second = divmod(cell, len(other.cells))
    return (one.name, one.cells[first]), (other.name, other.cells[second])
