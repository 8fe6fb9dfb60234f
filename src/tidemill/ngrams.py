"""Text as the hashed n-grams of its words."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar
from zlib import crc32

import numpy as np

from tidemill.inputs import Array, Category, Columns, Sensitive, Text
from tidemill.transform import Params, Single

_WORDS = re.compile(r"\w+|[^\w\s]")  # punctuation and emoji are words of their own
_SPREAD, _MASK = 2654435761, 0xFFFFFFFF


@dataclass(frozen=True)
class HashedNgrams(Single):
    """Hash the n-grams of words of a text into `2**bits` ids (the hashing trick; Weinberger et al. 2009).

    Features: `<name>_ids` int64 (N, L), padded with `2**bits`, and `<name>_weights` float32 (N, L), padded with 0,
    where L >= 1 is the largest number of distinct terms in the batch. Words are runs of letters and digits, lower
    case; each punctuation mark and emoji is a word. `words` is the shortest and longest n-gram. Beyond `max_terms`
    terms of a text the rarest in it are dropped, later ones first. `weights` is "l2" (counts, scaled to length 1),
    "counts" or "binary". Nothing is learnt, so the ids mean the same in every version.
    """

    name: str
    bits: int = 18
    words: tuple[int, int] = (1, 2)
    max_terms: int = 256
    weights: str = "l2"
    takes: ClassVar = (Text, Category, Sensitive)

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(self.words))
        ordered = len(self.words) == 2 and 1 <= self.words[0] <= self.words[1] <= 8
        self.require(1 <= self.bits <= 24, f"bits is {self.bits}", "give 1 to 24; 18 is usual")
        self.require(ordered, f"words is {self.words}", "give the shortest and longest n-gram, such as (1, 2)")
        self.require(self.max_terms >= 1, f"max_terms is {self.max_terms}", "keep at least one term")
        known = self.weights in ("l2", "counts", "binary")
        self.require(known, f"weights is {self.weights!r}", "give 'l2', 'counts' or 'binary'")

    @property
    def size(self) -> int:
        """Number of ids, which is also the id that pads."""
        return 1 << self.bits

    def apply(self, columns: Columns, params: Params) -> dict[str, Array]:
        """Return the padded ids and weights."""
        rows = [self._terms(text) for text in columns[self.name]]
        width = max((len(row) for row in rows), default=0) or 1
        ids = np.full((len(rows), width), self.size, dtype=np.int64)
        counts = np.zeros((len(rows), width), dtype=np.float32)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = [term for term, _ in row]
            counts[i, : len(row)] = [count for _, count in row]
        return {f"{self.name}_ids": ids, f"{self.name}_weights": self._weigh(counts)}

    def _terms(self, text: str) -> list[tuple[int, int]]:
        """Return (id, count) of the distinct terms, most frequent first, then in order of appearance."""
        words = _WORDS.findall(text.lower())
        shift = 32 - self.bits
        counts = Counter(
            # CRC-32 is the same in every process and runs in C; the multiplication spreads it over the high bits.
            (crc32(gram.encode("utf-8", "surrogatepass")) * _SPREAD & _MASK) >> shift
            for n in range(self.words[0], self.words[1] + 1)
            for gram in (words if n == 1 else map(" ".join, zip(*(words[i:] for i in range(n)), strict=False)))
        )
        return counts.most_common(self.max_terms)

    def _weigh(self, counts: Array) -> Array:
        if self.weights == "binary":
            return (counts > 0).astype(np.float32)
        if self.weights == "counts":
            return counts
        length = np.sqrt((counts * counts).sum(axis=1, keepdims=True))
        np.divide(counts, length, out=counts, where=length > 0)
        return counts
