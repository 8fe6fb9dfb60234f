"""Which of many vectors nearly repeat an earlier one.

Each vector gets 64 bits, the signs of its products with 64 random directions; of two that are alike few bits differ
(Charikar, STOC 2002). Sorted by their bits from several starting points, alike ones lie side by side (Manku, Jain and
Das Sarma, WWW 2007). What lies side by side is then compared itself.
"""

from __future__ import annotations

import hashlib

import numpy as np

from tidemill.schema import Array
from tidemill.stats.vectors import Vectors

_BITS = 64
_ROTATIONS = (0, 16, 32, 48)
_NEIGHBOURS = 2
_MAX_DIFFERENT = 6
_RADIUS = 0.05  # of the distance to the mean
_NARROW, _NARROW_RADIUS = 16, 0.003  # in few dimensions unlike things lie close, and only rounding is alike
_SAMPLE = 10_000
_PAIRS_AT_ONCE = 1 << 15


def near_duplicates(vectors: Vectors) -> Array:
    """Return which vectors are nearly an earlier one, bool (N,).

    That is nearer than a twentieth of their distance to the mean, or 0.003 of it where they are shorter than 16.
    Equal vectors are always found; of others, those whose bits differ late enough in one of the four orders.
    """
    found = np.zeros(len(vectors), dtype=bool)
    if len(vectors) < 2:
        return found
    mean = vectors.sample(_SAMPLE).mean(axis=0)
    codes = _codes(vectors, mean)
    for turn in _ROTATIONS:
        turned = (codes << np.uint64(turn)) | (codes >> np.uint64((_BITS - turn) % _BITS)) if turn else codes
        order = np.argsort(turned, kind="stable")
        for step in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
            one, other = order[:-step], order[step:]
            near = _different(codes[one], codes[other]) <= _MAX_DIFFERENT
            _mark(found, vectors, mean, one[near], other[near])
    return found


def _codes(vectors: Vectors, mean: Array) -> Array:
    """Return the 64 bits of each vector, uint64 (N,)."""
    drawn = hashlib.shake_256(f"tidemill near duplicates {vectors.width}".encode()).digest(8 * vectors.width)
    signs = np.unpackbits(np.frombuffer(drawn, dtype=np.uint8)).reshape(vectors.width, _BITS)
    directions = (signs * np.float32(2) - np.float32(1)).astype(np.float32)
    offsets, codes = mean @ directions, np.zeros(len(vectors), dtype=np.uint64)
    for first, block in vectors.blocks():
        bits = np.packbits(block @ directions > offsets, axis=1, bitorder="little")
        codes[first : first + len(block)] = bits.view(np.uint64)[:, 0]
    return codes


def _different(one: Array, other: Array) -> Array:
    """Return how many bits differ, pair by pair."""
    bytes_ = (one ^ other).view(np.uint8).reshape(-1, 8)
    return np.asarray(_ONES[bytes_].sum(axis=1, dtype=np.uint8))


def _mark(found: Array, vectors: Vectors, mean: Array, one: Array, other: Array) -> None:
    """Mark the later of each pair that is alike."""
    later, earlier = np.maximum(one, other), np.minimum(one, other)
    for at in range(0, len(later), _PAIRS_AT_ONCE):
        some = slice(at, at + _PAIRS_AT_ONCE)
        mine, theirs = vectors.rows(later[some]), vectors.rows(earlier[some])
        apart, length = np.linalg.norm(mine - theirs, axis=1), np.linalg.norm(mine - mean, axis=1)
        radius = _RADIUS if vectors.width >= _NARROW else _NARROW_RADIUS
        found[later[some][apart <= radius * length]] = True


_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1).astype(np.uint8)
