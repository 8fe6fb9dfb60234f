"""A column as cells: how many rows of each block of time lie in each cell. All an alarm needs to compare windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tidemill.schema import Array
from tidemill.stats.sketch import NumberSketch, WordSketch

NUM_CELLS = 50
"""Of a column of numbers: equally many rows of both sides together lie in each."""
_DECILE = 5  # cells that make one tenth of the rows
_MOST_WORDS = 2_000


@dataclass(frozen=True)
class Cells:
    """`counts` is float32 (B, K): rows of block b in cell k. `places` (K,) are the cells' positions, None of words."""

    name: str
    counts: Array
    places: Array | None = None

    def values(self, picks: Array) -> Mapping[str, Array]:
        """Return, for each of R picks of blocks (float32 (R, B), 0 or 1), how far they are from all the other blocks.

        By statistic float64 (R,). Roots are taken where a statistic grows with the square of a shift, so that all have
        about the same shape under chance.
        """
        inside = picks @ self.counts
        outside = self.counts.sum(axis=0) - inside
        p, q = _shares(inside), _shares(outside)
        if self.places is None:
            return {"js": _js(p, q), **_residuals(p - q, self.counts.sum(axis=0))}
        gap = np.abs(np.cumsum(p - q, axis=1)[:, :-1])
        moved = gap @ np.diff(self.places)
        tenths = np.arange(0, self.counts.shape[1], _DECILE)
        psi = _psi(np.add.reduceat(inside, tenths, axis=1), np.add.reduceat(outside, tenths, axis=1))
        return {"ks": gap.max(axis=1, initial=0.0), "wasserstein": moved, "psi": psi}

    def excess(self, num_now: int) -> Array:
        """Return by cell the logarithm of how much more frequent it is in the last `num_now` blocks than before."""
        now, before = self.counts[-num_now:].sum(axis=0), self.counts[:-num_now].sum(axis=0)
        p, q = ((side + 0.5) / (side.sum() + 0.5 * len(side)) for side in (now, before))
        return np.asarray(np.log(p / q))


def number_cells(name: str, values: Array, blocks: Array, num_blocks: int) -> tuple[Cells, Array]:
    """Return numbers float64 (N,) as cells, and the cell of each row int64 (N,), -1 where it is missing."""
    known = ~np.isnan(values)
    some = values[known]
    if not len(some):
        return Cells(name, np.zeros((num_blocks, 1), dtype=np.float32), np.zeros(1)), np.full(len(values), -1)
    edges = np.unique(np.quantile(some, np.arange(1, NUM_CELLS) / NUM_CELLS, method="lower"))
    codes = np.full(len(values), -1, dtype=np.int64)
    codes[known] = np.searchsorted(edges, some, side="left")
    spread = float(some.std()) or 1.0
    places = np.bincount(codes[known], weights=some / spread, minlength=len(edges) + 1)
    sizes = np.bincount(codes[known], minlength=len(edges) + 1)
    middles = np.where(sizes > 0, places / np.maximum(sizes, 1), edges[-1] / spread)
    return Cells(name, _counted(codes, blocks, num_blocks, len(edges) + 1), middles), codes


def word_cells(name: str, codes: Array, blocks: Array, num_blocks: int) -> tuple[Cells, Array]:
    """Return words, numbered int64 (N,) from 0 and -1 where missing, as cells, and the cell of each row.

    Beyond 2,000 different words the rarest share a cell.
    """
    num = int(codes.max(initial=-1)) + 1
    if num > _MOST_WORDS:
        by_size = np.argsort(-np.bincount(codes[codes >= 0], minlength=num), kind="stable")
        place = np.full(num + 1, _MOST_WORDS - 1)
        place[by_size[: _MOST_WORDS - 1]] = np.arange(_MOST_WORDS - 1)
        place[-1] = -1
        codes, num = place[codes], _MOST_WORDS
    return Cells(name, _counted(codes, blocks, num_blocks, max(num, 1))), codes


def missing_cells(name: str, missing: Array, blocks: Array, num_blocks: int) -> Cells | None:
    """Return whether values are missing, bool (N,), as cells; None where none is."""
    if not missing.any():
        return None
    return Cells(name, _counted(missing.astype(np.int64), blocks, num_blocks, 2))


def sketched_cells(name: str, sketches: Sequence[NumberSketch | WordSketch]) -> Cells:
    """Return a column that is known from one sketch for each block, all of one kind."""
    words = [sketch for sketch in sketches if isinstance(sketch, WordSketch)]
    if words:
        return _sketched_words(name, words)
    return _sketched_numbers(name, [sketch for sketch in sketches if isinstance(sketch, NumberSketch)])


def _sketched_words(name: str, sketches: Sequence[WordSketch]) -> Cells:
    counts = [sketch.counts() for sketch in sketches]
    words = list(dict.fromkeys(word for block in counts for word in block)) or [""]
    listed = [[block.get(word, 0) for word in words] for block in counts]
    return Cells(name, np.array(listed, dtype=np.float32))


def _sketched_numbers(name: str, sketches: Sequence[NumberSketch]) -> Cells:
    pooled = NumberSketch()
    for sketch in sketches:
        pooled.merge(sketch)
    if not pooled.num:
        return Cells(name, np.zeros((len(sketches), 1), dtype=np.float32), np.zeros(1))
    edges = np.unique(pooled.quantiles(np.arange(1, NUM_CELLS) / NUM_CELLS))
    rows = [_between(sketch, edges) for sketch in sketches]
    ends = pooled.quantiles(np.array([0.0, 1.0]))
    bounds = np.concatenate([ends[:1], edges, ends[1:]]) / (pooled.deviation or 1.0)
    return Cells(name, np.array(rows, dtype=np.float32), (bounds[1:] + bounds[:-1]) / 2)


def _between(sketch: NumberSketch, edges: Array) -> Array:
    if not sketch.num:
        return np.zeros(len(edges) + 1)
    return np.diff(np.concatenate([[0.0], sketch.shares(edges), [1.0]])) * sketch.num


def _counted(codes: Array, blocks: Array, num_blocks: int, num_cells: int) -> Array:
    known = codes >= 0
    counts = np.bincount(blocks[known] * num_cells + codes[known], minlength=num_blocks * num_cells)
    return counts.reshape(num_blocks, num_cells).astype(np.float32)


def _shares(counts: Array) -> Array:
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), dtype=np.float64)


def _psi(inside: Array, outside: Array) -> Array:
    p, q = ((c + 0.5) / (c.sum(axis=1, keepdims=True) + 0.5 * c.shape[1]) for c in (inside, outside))
    return np.asarray(np.sqrt(np.maximum(((p - q) * np.log(p / q)).sum(axis=1), 0.0)), dtype=np.float64)


def _residuals(gap: Array, counts: Array) -> dict[str, Array]:
    """Return Pearson's chi-square of differences of shares (R, K), as a root, and the largest term of it.

    The largest finds one word that few said before; in the sum it is lost among a thousand others.
    """
    expected = np.maximum(counts / max(float(counts.sum()), 1.0), 1e-12)
    terms = np.square(gap) / expected
    return {"chi2": np.sqrt(terms.sum(axis=1)), "share": np.sqrt(terms.max(axis=1, initial=0.0))}


def _js(p: Array, q: Array) -> Array:
    middle = (p + q) / 2
    ratios = (np.divide(s, middle, out=np.ones_like(s), where=s > 0) for s in (p, q))
    nats = sum((s * np.log(ratio)).sum(axis=1) for s, ratio in zip((p, q), ratios, strict=True))
    return np.asarray(np.sqrt(np.maximum(nats / (2 * np.log(2)), 0.0)))
