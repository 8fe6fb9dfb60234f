"""Distances of many vectors to a few, block by block: nothing of size N x N is ever made."""

from __future__ import annotations

import numpy as np

from tidemill.schema import Array
from tidemill.stats.vectors import Vectors

_MANY = 256  # targets at a time
_ACTIVE = 16_384  # rows that are looked at for each pick
_TINY = np.float32(1e-30)


def nearest_squares(vectors: Vectors, targets: Array) -> Array:
    """Return each vector's squared distance to the nearest of `targets` (T, D): float32 (N,), infinite for none."""
    found = np.full(len(vectors), np.inf, dtype=np.float32)
    parts = [np.asarray(targets[at : at + _MANY], dtype=np.float32) for at in range(0, len(targets), _MANY)]
    squares = [_squares(part) for part in parts]
    for first, block in vectors.blocks():
        mine, best = _squares(block), found[first : first + len(block)]
        for part, theirs in zip(parts, squares, strict=True):
            products = block @ part.T
            products *= -2.0
            products += theirs
            np.minimum(best, products.min(axis=1) + mine, out=best)
    return np.maximum(found, 0.0, out=found)


def best_cosines(vectors: Vectors, targets: Array) -> Array:
    """Return the cosine of each vector with the likest of `targets` (T, D): float32 (N,), -1 for none, 0 for zeros."""
    found = np.full(len(vectors), -1.0, dtype=np.float32)
    wanted = np.asarray(targets, dtype=np.float32)
    directions: Array = wanted / np.sqrt(np.maximum(_squares(wanted), _TINY))[:, None]
    for first, block in vectors.blocks():
        lengths, best = np.sqrt(np.maximum(_squares(block), _TINY)), found[first : first + len(block)]
        for at in range(0, len(directions), _MANY):
            np.maximum(best, (block @ directions[at : at + _MANY].T).max(axis=1) / lengths, out=best)
    return found


def k_center(vectors: Vectors, k: int, centres: Array) -> Array:
    """Return the positions of `k` vectors, each the farthest from `centres` (C, D) and those before it: int64 (k,).

    Greedy k-center, at most twice the best radius (Gonzalez, Theoretical Computer Science 38, 1985), and the core set
    of Sener and Savarese (ICLR 2018) where `centres` are what is known already. Without any, the mean is one.

    Distances only shrink as picks are added. So picks are made among the farthest rows for as long as one of them is
    farther than all others were at the last look, and only then are all rows looked at again: the picks are those of
    the plain algorithm, which reads every vector for every pick.
    """
    num = min(k, len(vectors))
    if not num:
        return np.zeros(0, dtype=np.int64)
    known = centres if len(centres) else _mean(vectors)[None]
    squares, picked = nearest_squares(vectors, known), np.zeros(0, dtype=np.int64)
    while True:
        new = _farthest(vectors, squares, num - len(picked))
        picked = np.concatenate([picked, new])
        if len(picked) == num:
            return picked
        np.minimum(squares, nearest_squares(vectors, vectors.rows(new)), out=squares)
        squares[picked] = -1.0


def _farthest(vectors: Vectors, squares: Array, num: int) -> Array:
    """Return the next picks, at most `num` and at least one, that are certain from a part of the rows."""
    size = min(_ACTIVE, len(squares))
    active = np.sort(np.argpartition(-squares, size - 1)[:size])
    others = np.delete(squares, active).max(initial=-1.0)
    rows, left = vectors.rows(active), squares[active]
    lengths, picked = _squares(rows), list[int]()
    while len(picked) < num:
        at = int(left.argmax())
        if left[at] < 0 or (picked and left[at] <= others):
            break
        picked.append(int(active[at]))
        np.minimum(left, np.maximum(lengths + lengths[at] - 2.0 * (rows @ rows[at]), 0.0), out=left)
        left[[np.searchsorted(active, one) for one in picked]] = -1.0
    return np.array(picked, dtype=np.int64)


def _mean(vectors: Vectors) -> Array:
    total = np.zeros(vectors.width)
    for _, block in vectors.blocks():
        total += block.sum(axis=0, dtype=np.float64)
    return np.asarray(total / len(vectors), dtype=np.float32)


def _squares(rows: Array) -> Array:
    return np.asarray(np.einsum("ij,ij->i", rows, rows))
