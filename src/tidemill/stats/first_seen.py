"""Which rows are the first of their unit, remembered in a few kilobytes.

A person who sends a thousand requests is one draw of the arm, not a thousand: counting every request of sticky users
breaks the guarantees of sequential tests. The memory is a bitmap of hashed units. Two units may share a bit; then the
later one is not counted, which drops rows without regard to their arm and so biases nothing.
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def first_seen(memory: str, units: Iterable[object], *, bits: int) -> tuple[Array, str]:
    """Mark the rows whose unit was not there before.

    Args:
        memory: what the last call returned; `""` at first.
        units: the N units, in order.
        bits: the bitmap has `2 ** bits` places, about as many units as it tells apart. The same in every call.

    Returns:
        (N,) bool, and the memory with these units in it. Batches of any size give the same answer.
    """
    places = hashed(units) & ((1 << bits) - 1)
    first = np.zeros(len(places), dtype=bool)
    if not len(places):
        return first, memory
    taken = _read(memory, bits)
    distinct, at = np.unique(places, return_index=True)
    first[at] = ~taken[distinct]
    taken[distinct] = True
    return first, b64encode(zlib.compress(np.packbits(taken).tobytes(), 1)).decode()


def hashed(units: Iterable[object]) -> Array:
    """Return a 32-bit hash of each unit, int64 (N,): states keep these, so that they name nobody."""
    return np.array([zlib.crc32(str(unit).encode()) for unit in units], dtype=np.int64)


def _read(memory: str, bits: int) -> Array:
    if not memory:
        return np.zeros(1 << bits, dtype=bool)
    return np.unpackbits(np.frombuffer(zlib.decompress(b64decode(memory)), dtype=np.uint8)).astype(bool)
