"""How well a classifier tells two sets of vectors apart: 0.5 for not at all, 1 for always (area under the ROC curve).

The classifier is Fisher's linear discriminant on the vectors and their squares, so that it sees a change of place and
of spread; each half of the rows is judged by the one fitted on the other half. It is fitted anew for each of a thousand
ways to cut the rows in two, which costs two matrix products: the total covariance is that of all cuts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tidemill.schema import Array

_RIDGE = 0.05  # of the mean variance, added to each: few rows, many directions
_MAX_DIRECTIONS = 32
_CHUNK = 128


@dataclass(frozen=True)
class Separation:
    """`rows` are float64 (N, D), standardised; `blocks` int64 (N,) says in which of `num_blocks` blocks each lies."""

    name: str
    rows: Array
    blocks: Array
    num_blocks: int

    def values(self, picks: Array) -> Mapping[str, Array]:
        """Return `auc` (R,): how well the rows of each pick of blocks (R, B) are told from all the others."""
        half = np.arange(len(self.rows)) % 2 == 0
        found = [self._judged(picks, ~side, side) for side in (half, ~half)]
        return {"auc": (found[0] + found[1]) / 2}

    def _judged(self, picks: Array, fitted: Array, judged: Array) -> Array:
        directions = self._directions(picks, fitted)
        rows, chosen = self.rows[judged], picks[:, self.blocks[judged]] > 0
        parts = range(0, len(picks), _CHUNK)
        return np.concatenate([_auc(rows @ directions[at : at + _CHUNK].T, chosen[at : at + _CHUNK].T) for at in parts])

    def _directions(self, picks: Array, fitted: Array) -> Array:
        rows, blocks = self.rows[fitted], self.blocks[fitted]
        sizes = np.bincount(blocks, minlength=self.num_blocks).astype(np.float64)
        sums = np.stack([np.bincount(blocks, column, minlength=self.num_blocks) for column in rows.T], axis=1)
        nums = picks @ sizes
        inside, outside = picks @ sums, sums.sum(axis=0) - picks @ sums
        apart = inside / np.maximum(nums, 1)[:, None] - outside / np.maximum(len(rows) - nums, 1)[:, None]
        spread = np.cov(rows, rowvar=False).reshape(rows.shape[1], -1)
        spread += _RIDGE * max(float(np.trace(spread)) / len(spread), 1e-12) * np.eye(len(spread))
        return np.asarray(np.linalg.solve(spread, apart.T).T)


def separation(name: str, vectors: Array, blocks: Array, num_blocks: int) -> Separation:
    """Return vectors float (N, D) ready to be told apart, in at most 32 directions in which they vary most."""
    rows = vectors.astype(np.float64)
    rows -= rows.mean(axis=0)
    if rows.shape[1] > _MAX_DIRECTIONS:
        _, axes = np.linalg.eigh(rows.T @ rows)
        rows = rows @ axes[:, -_MAX_DIRECTIONS:]
    scale = rows.std(axis=0)
    rows = rows[:, scale > 1e-9] / scale[scale > 1e-9]
    if not rows.shape[1]:
        rows = np.zeros((len(rows), 1))
    return Separation(name, np.concatenate([rows, np.square(rows)], axis=1), blocks, num_blocks)


def _auc(scores: Array, chosen: Array) -> Array:
    """Return Mann and Whitney's share of pairs in which the chosen row scores higher, for columns of (n, R)."""
    ranks = _ranks(scores)
    num = chosen.sum(axis=0)
    pairs = num * (len(scores) - num)
    above = (ranks * chosen).sum(axis=0) - num * (num + 1) / 2
    return np.where(pairs > 0, above / np.maximum(pairs, 1), 0.5)


def _ranks(scores: Array) -> Array:
    """Return the ranks from 1 of each column of (n, R); rows that are alike share the mean of theirs.

    `scipy.stats.rankdata` says the same; but importing it takes half a second, of every command.
    """
    order = np.argsort(scores, axis=0)
    ordered, places = np.take_along_axis(scores, order, axis=0), np.arange(len(scores))[:, None]
    begins = np.ones(scores.shape, dtype=bool)  # of rows that are alike
    begins[1:] = ordered[1:] != ordered[:-1]
    ends = np.ones(scores.shape, dtype=bool)
    ends[:-1] = begins[1:]
    first = np.maximum.accumulate(np.where(begins, places, 0), axis=0)
    last = np.minimum.accumulate(np.where(ends, places, len(scores))[::-1], axis=0)[::-1]
    ranks = np.empty(scores.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=0)
    return ranks
