"""Vectors of examples from their declared inputs, for distances where there is no better embedding.

A tensor is its own embedding. Images are thumbnails, text is its words hashed to 128 numbers, categories are hashed to
16, numbers are standardised. Each input counts as much as any other: it is scaled to a mean length of 1 in the rows
that the embedding was fitted on.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np

from tidemill.schema import Array, Image, Number, Schema, Tensor, Text
from tidemill.stats.likeness import thumbnails, words_of

_WORDS = 128
_LEVELS = 16
_MAX_WIDTH = 256
_ROWS_AT_ONCE = 4_096


@dataclass(frozen=True)
class Embedding:
    """Turns examples of `schema` into vectors; by input, what is taken off them and what they are multiplied by."""

    schema: Schema
    shift: Mapping[str, float]
    scale: Mapping[str, float]

    @classmethod
    def fit(cls, schema: Schema, rows: Sequence[Mapping[str, Any]]) -> Self:
        """Learn the scales from canonical rows."""
        shift, scale = {}, {}
        for name in schema.features:
            raw = _raw(schema, name, rows).astype(np.float64)
            shift[name] = float(raw.mean()) if isinstance(schema.inputs[name], Number) and len(rows) else 0.0
            length = math.sqrt(float(((raw - shift[name]) ** 2).sum(axis=1).mean())) if len(rows) else 0.0
            scale[name] = 1.0 / length if length > 0 else 0.0
        return cls(schema, shift, scale)

    def of(self, rows: Sequence[Mapping[str, Any]]) -> Array:
        """Return the vectors of canonical rows, float32 (N, D)."""
        parts = [self._of(rows[at : at + _ROWS_AT_ONCE]) for at in range(0, len(rows), _ROWS_AT_ONCE)]
        return np.concatenate([self._of([]), *parts])

    def _of(self, rows: Sequence[Mapping[str, Any]]) -> Array:
        names = self.schema.features
        parts = [(_raw(self.schema, n, rows) - self.shift[n]) * self.scale[n] for n in names]
        return np.concatenate([np.zeros((len(rows), 0)), *parts], axis=1).astype(np.float32)


def _raw(schema: Schema, name: str, rows: Sequence[Mapping[str, Any]]) -> Array:
    """Return one input as numbers, float (N, d)."""
    kind, values = schema.inputs[name], [row[name] for row in rows]
    if isinstance(kind, Number):
        return np.asarray(kind.column(values), dtype=np.float64).reshape(len(rows), 1)
    if isinstance(kind, Tensor):
        return _narrowed(kind.column(values).reshape(len(rows), math.prod(kind.shape)))
    if isinstance(kind, Image):
        shape = (len(rows), *kind.shape)
        return _narrowed(thumbnails(np.asarray(kind.column(values), dtype=np.float64).reshape(shape)))
    if isinstance(kind, Text):
        return _hashed([words_of(str(value)) for value in values], _WORDS)
    return _hashed([[str(value)] for value in values], _LEVELS)


def _narrowed(rows: Array) -> Array:
    """Return rows of at most 256 numbers; longer ones by a projection that keeps distances (Achlioptas, 2003)."""
    width = rows.shape[1]
    return rows if width <= _MAX_WIDTH else rows @ _signs(width)


@lru_cache(maxsize=8)
def _signs(width: int) -> Array:
    drawn = hashlib.shake_256(f"tidemill embedding {width}".encode()).digest(width * _MAX_WIDTH // 8)
    bits = np.unpackbits(np.frombuffer(drawn, dtype=np.uint8)).reshape(width, _MAX_WIDTH)
    return np.asarray((bits * 2.0 - 1.0) / math.sqrt(_MAX_WIDTH), dtype=np.float32)


def _hashed(rows: Sequence[Sequence[str]], width: int) -> Array:
    """Return the words of each row as a vector of length 1 (Weinberger et al., ICML 2009); of none, zeros."""
    found = np.zeros((len(rows), width))
    for at, words in enumerate(rows):
        for word in set(words):
            hashed = _hash(word)
            found[at, hashed % width] += 1.0 if hashed >> 63 else -1.0
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found / np.where(lengths > 0, lengths, 1.0))


@lru_cache(maxsize=1 << 16)
def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(errors="surrogatepass"), digest_size=8).digest(), "big")
