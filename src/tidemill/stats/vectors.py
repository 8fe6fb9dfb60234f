"""Rows of vectors that are too many to copy: read in blocks, and taken by their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tidemill.schema import Array

_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class Vectors:
    """N rows of `base`, float (M, D): those at `index`, or all. Taking some of them copies no vector."""

    base: Array
    index: Array | None = None

    def __len__(self) -> int:
        return len(self.base) if self.index is None else len(self.index)

    @property
    def width(self) -> int:
        """The length D of a vector."""
        return int(self.base.shape[1])

    def take(self, at: Array) -> Vectors:
        """Return the rows at these positions."""
        return Vectors(self.base, np.asarray(at) if self.index is None else self.index[at])

    def rows(self, at: Array) -> Array:
        """Return the rows at these positions as float32 (len(at), D)."""
        return np.asarray(self.base[at if self.index is None else self.index[at]], dtype=np.float32)

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """Yield float32 blocks of some 16 MB, each with the position of its first row."""
        step = max(1, _BLOCK_BYTES // (4 * max(1, self.width)))
        for first in range(0, len(self), step):
            of = slice(first, first + step)
            block = self.base[of] if self.index is None else self.base[self.index[of]]
            yield first, np.asarray(block, dtype=np.float32)

    def sample(self, num: int) -> Array:
        """Return at most `num` rows, evenly spread over all, as float32."""
        return self.rows(np.unique(np.linspace(0, len(self) - 1, num=min(num, len(self))).astype(np.int64)))
