"""A few clusters of many vectors: k-means on a sample, then every vector to its nearest centre."""

from __future__ import annotations

import numpy as np

from tidemill.schema import Array
from tidemill.stats.vectors import Vectors

_SAMPLE = 20_000
_ROUNDS = 8


def clusters(vectors: Vectors, k: int, rng: np.random.Generator) -> Array:
    """Return the cluster of each vector, int64 (N,), of at most `k`.

    Begins at `k` rows drawn at random, and takes eight rounds (Lloyd, IEEE Trans. Information Theory 28, 1982).
    """
    seen = vectors.sample(_SAMPLE)
    k = min(k, len(seen))
    if k < 2:
        return np.zeros(len(vectors), dtype=np.int64)
    centres = seen[np.sort(rng.choice(len(seen), size=k, replace=False))]
    for _ in range(_ROUNDS):
        centres = _moved(centres, seen, _nearest(seen, centres))
    found = np.zeros(len(vectors), dtype=np.int64)
    for first, block in vectors.blocks():
        found[first : first + len(block)] = _nearest(block, centres)
    return found


def _nearest(rows: Array, centres: Array) -> Array:
    squares = np.einsum("ij,ij->i", centres, centres)
    return np.asarray((squares - 2.0 * (rows @ centres.T)).argmin(axis=1))


def _moved(centres: Array, rows: Array, nearest: Array) -> Array:
    """Return the means of the clusters; an empty one stays where it was."""
    order = np.argsort(nearest, kind="stable")
    there, firsts, counts = np.unique(nearest[order], return_index=True, return_counts=True)
    moved = centres.copy()
    moved[there] = np.add.reduceat(rows[order], firsts, axis=0) / counts[:, None]
    return moved
