"""Exact similarity search: the rows of a memory-mapped column of vectors that point the way of a query.

Every row is looked at, block by block, so that there is nothing to build, to tune or to keep up to date, and nothing is
missed. A million vectors of 256 numbers take about a sixth of a second on one core.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from tidemill.errors import StoreError
from tidemill.schema import Array

_BLOCK_BYTES = 1 << 20  # stays in the cache between the product and the lengths, and is too small for threads to start
_BLOCKS_OF_MANY = 32  # times that for several queries, where threads are worth it


def nearest(query: Array, column: Array | Iterable[Array], k: int) -> tuple[Array, Array]:
    """Return the rows of highest cosine similarity, best first; of two as similar, the earlier one.

    Args:
        query: float (D,), or (Q, D) for several at once.
        column: float32 (N, D), such as a `numpy.memmap`, or such arrays one after another, whose rows count on.
        k: how many; all rows where there are fewer.

    Returns:
        Rows int64 and similarities float32, each (k,), or (Q, k). A vector of zeros has the similarity 0.

    Raises:
        StoreError: a query is zero or not finite, or the column has vectors of another length.
    """
    queries = _directions(np.atleast_2d(np.asarray(query, dtype=np.float32)))
    rows = np.zeros((len(queries), 0), dtype=np.int64)
    best = np.zeros((len(queries), 0), dtype=np.float32)
    size = _BLOCK_BYTES if len(queries) == 1 else _BLOCK_BYTES * _BLOCKS_OF_MANY
    for first, block in _blocks([column] if isinstance(column, np.ndarray) else column, queries.shape[1], size):
        rows, best = _merged(rows, best, first, _similarities(block, queries), k)
    return (rows, best) if np.ndim(query) == 2 else (rows[0], best[0])


def _directions(queries: Array) -> Array:
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise StoreError("a vector to search for is zero or not finite, and has no direction.", "give another vector")
    directions: Array = (queries / lengths).astype(np.float32)
    return directions


def _blocks(column: Iterable[Array], length: int, num_bytes: int) -> Iterator[tuple[int, Array]]:
    """Yield blocks of rows, each with the number of its first row."""
    first = 0
    for part in column:
        if part.ndim != 2 or part.shape[1] != length:
            raise StoreError(
                f"the column has the shape {part.shape}, and the vector {length} numbers.", "give as many as it has"
            )
        step = max(1, num_bytes // max(1, part.itemsize * length))
        for at in range(0, len(part), step):
            block = np.asarray(part[at : at + step], dtype=np.float32)
            yield first + at, block
        first += len(part)


def _similarities(block: Array, queries: Array) -> Array:
    """Return float32 (Q, rows of the block)."""
    squares = np.einsum("ij,ij->i", block, block)
    with np.errstate(divide="ignore"):
        scale = np.where(squares > 0, 1 / np.sqrt(squares), 0)
    # One query at a time is a matrix-vector product, which needs no copy of the block.
    products = (block @ queries[0])[None] if len(queries) == 1 else queries @ block.T
    similarities: Array = products * scale.astype(np.float32)
    return similarities


def _merged(rows: Array, best: Array, first: int, found: Array, k: int) -> tuple[Array, Array]:
    """Return the best of what was best and of a block."""
    some = np.flatnonzero((found > best[:, -1:]).any(axis=0)) if best.shape[1] == k else np.arange(found.shape[1])
    if not len(some):
        return rows, best
    together = np.concatenate([best, found[:, some]], axis=1)
    numbered = np.concatenate([rows, np.broadcast_to(first + some, (len(found), len(some)))], axis=1)
    order = np.argsort(-together, axis=1, kind="stable")[:, :k]  # stable: earlier rows come first
    return np.take_along_axis(numbered, order, axis=1), np.take_along_axis(together, order, axis=1)
