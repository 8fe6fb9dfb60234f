"""Fingerprints by which near-duplicates are found: of text, of images and of tensors.

A fingerprint has **bands**, of which two alike values share at least one with high probability and unlike ones hardly
ever, and **data**, small, from which the distance of two values is computed. Bands are looked up in an index; what
shares one is compared by its data. Everything is deterministic and the same on every machine but for rounding.

| kind | alike means |
|---|---|
| `Words` | Jaccard similarity ≥ .8 of the sets of neighbouring words, whatever the case and common punctuation |
| `Pixels` | correlation ≥ .998 of 16 × 16 thumbnails, and brightness and contrast about the same |
| `Floats` | distance ≤ .003 of the length: what rounding to half precision does, and no more |

Words: MinHash (Broder 1997), banded. The others: p-stable locality-sensitive hashing (Datar et al. 2004).
Longer vectors are first reduced to 128 numbers that keep distances (count sketch, Charikar et al. 2002).
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from tidemill.schema import Array, Image, Input, Tensor, Text

NUM_BANDS = 6
_Hashes = npt.NDArray[np.uint64]


class Fingerprint(NamedTuple):
    """What stands for a value: its bands, 8 bytes each, and its data."""

    bands: tuple[bytes, ...]
    data: bytes


class Likeness(Protocol):
    """Finds near-duplicates among values of one kind."""

    def fits(self, value: object) -> bool:
        """Say whether it is a canonical value of this kind."""
        ...

    def fingerprints(self, values: Sequence[Any]) -> list[Fingerprint | None]:
        """Return the fingerprint of each fitting value; None of one that is like nothing but itself."""
        ...

    def distances(self, data: bytes, others: Sequence[bytes]) -> Array:
        """Return how far others are, float (N,): 0 for no difference, up to 1 for alike, infinite for unlike."""
        ...


def likeness_of(kind: Input) -> Likeness | None:
    """Return how near-duplicates of a declared input are found; None for those where only equal values are alike."""
    if type(kind) is Text:
        return Words()
    if type(kind) is Image:
        return Pixels(tuple(kind.shape))
    return Floats(math.prod(kind.shape)) if type(kind) is Tensor else None


# --- text

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # written without spaces: a character is a word
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+|[^\w\s.,;:!?'\"()\[\]{{}}\-‐-―‘’“”…]")
_MAX_WORDS = 5_000
_NUM_HASHES = 64
_ROWS_A_BAND = 4
_LEAST_JACCARD = 0.8
_WORST_ESTIMATE = 1 - _LEAST_JACCARD


class Words:
    """Text as the set of its pairs of neighbouring words. Symbols that are no common punctuation are words too."""

    def fits(self, value: object) -> bool:
        """Say whether it is text."""
        return isinstance(value, str)

    def fingerprints(self, values: Sequence[Any]) -> list[Fingerprint | None]:
        """Return the fingerprints of texts; a text without words has none."""
        return [self._fingerprint(value) for value in values]

    def distances(self, data: bytes, others: Sequence[bytes]) -> Array:
        """Return 1 - the estimated Jaccard similarity, in units of the largest that is alike."""
        mine = np.frombuffer(data, dtype="<u4")
        theirs = np.frombuffer(b"".join(others), dtype="<u4").reshape(len(others), -1)
        return _within((theirs != mine).mean(axis=1) / _WORST_ESTIMATE)

    def _fingerprint(self, text: str) -> Fingerprint | None:
        words = words_of(text)
        if not words:
            return None
        hashes = np.array([_hash(word) for word in words], dtype=np.uint64)
        pairs = hashes[:-1] * np.uint64(0x9E3779B97F4A7C15) + hashes[1:] if len(words) > 1 else hashes
        factors, offsets = _permutations()
        mins = ((factors * pairs + offsets) >> np.uint64(32)).min(axis=1).astype("<u4")
        return _banded(mins[: NUM_BANDS * _ROWS_A_BAND].reshape(NUM_BANDS, _ROWS_A_BAND), mins.tobytes())


def words_of(text: str) -> list[str]:
    """Return the words of a text, the first 5,000 of them, in the form they are compared in."""
    found = _WORD.finditer(unicodedata.normalize("NFKC", text[: 20 * _MAX_WORDS]).casefold())
    return [match.group() for match, _ in zip(found, range(_MAX_WORDS), strict=False)]


@lru_cache(maxsize=1 << 16)
def _hash(word: str) -> int:
    return int.from_bytes(_digest(word.encode(errors="surrogatepass")), "little")


@lru_cache(maxsize=1)
def _permutations() -> tuple[_Hashes, _Hashes]:
    """Return the factors (odd) and offsets of the 64 hash functions x -> (a x + b) >> 32, each uint64 (64, 1)."""
    drawn = np.frombuffer(_stream("permutations", 16 * _NUM_HASHES), dtype="<u8").reshape(2, _NUM_HASHES, 1)
    return drawn[0] | np.uint64(1), drawn[1]


# --- vectors

_SKETCH = 128
_ROWS_A_PROJECTION = 6  # projections that a band joins
_WIDTH = 8.0  # of a bucket, in units of the largest distance that is alike


class _Vectors:
    """Directions sketched to 128 numbers; `radius` is the largest distance of two unit vectors that are alike."""

    _item: np.dtype[Any]  # of the numbers in a value

    def __init__(self, num_items: int, num: int, radius: float) -> None:
        self._num_items, self._num, self._radius = num_items, num, radius

    def fits(self, value: object) -> bool:
        """Say whether it is an array of this size, as bytes."""
        return isinstance(value, bytes) and len(value) == self._num_items * self._item.itemsize

    def fingerprints(self, values: Sequence[Any]) -> list[Fingerprint | None]:
        """Return the fingerprints of arrays as bytes."""
        prints: list[Fingerprint | None] = []
        step = max(1, _BLOCK_BYTES // (8 * self._num_items))
        for at in range(0, len(values), step):
            some = np.frombuffer(b"".join(values[at : at + step]), dtype=self._item)
            prints += self._of(some.reshape(-1, self._num_items).astype(np.float64))
        return prints

    def _of(self, arrays: Array) -> list[Fingerprint | None]:
        raise NotImplementedError

    def _prints(self, vectors: Array, lengths: Array, keys: Array) -> list[Fingerprint | None]:
        """Return fingerprints of vectors float (N, num) of these lengths; `keys` float (N, 2) go along in the data."""
        known = lengths > 0
        units = vectors / np.where(known, lengths, 1.0)[:, None]
        sketches = _sketched(units, self._num)
        signs, offsets = _projections()
        places = sketches @ signs[: sketches.shape[1]] / (_WIDTH * self._radius) + offsets
        buckets = np.floor(places).astype("<i4").reshape(len(vectors), NUM_BANDS, -1)
        kept = zip(buckets, keys.astype("<f4"), sketches.astype("<f2"), known, strict=True)
        return [_banded(bands, key.tobytes() + sketch.tobytes()) if ok else None for bands, key, sketch, ok in kept]

    def _compare(self, data: bytes, others: Sequence[bytes]) -> tuple[Array, Array]:
        """Return the distances of the directions in units of the radius (N,), and the keys (1 + N, 2), mine first."""
        rows = np.frombuffer(b"".join([data, *others]), dtype=np.uint8).reshape(1 + len(others), -1)
        sketches = rows[:, 8:].copy().view("<f2").astype(np.float64)
        keys = rows[:, :8].copy().view("<f4").astype(np.float64)
        return np.linalg.norm(sketches[1:] - sketches[0], axis=1) / self._radius, keys


_THUMBNAIL = 16
_LEAST_CORRELATION = 0.998
_MAX_BRIGHTER = 8.0  # grey levels of 255
_MAX_CONTRAST = 0.1  # of the logarithm
_FLAT = 1.0  # grey levels: with less contrast there is nothing but noise to compare
_BLOCK_BYTES = 16 << 20


class Pixels(_Vectors):
    """Images of one shape, by their thumbnails; colour counts. An image without contrast is like nothing else."""

    _item = np.dtype(np.uint8)

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        sizes = (min(shape[0], _THUMBNAIL), min(shape[1], _THUMBNAIL), *shape[2:])
        super().__init__(math.prod(shape), math.prod(sizes), math.sqrt(2 - 2 * _LEAST_CORRELATION))

    def distances(self, data: bytes, others: Sequence[bytes]) -> Array:
        """Return the distances of the thumbnails, infinite where brightness or contrast differs."""
        distances, keys = self._compare(data, others)
        (brightness, contrast), *_ = keys
        brighter = np.abs(keys[1:, 0] - brightness)
        contrasts = np.abs(np.log(keys[1:, 1] / contrast))
        return _within(np.where((brighter <= _MAX_BRIGHTER) & (contrasts <= _MAX_CONTRAST), distances, np.inf))

    def _of(self, arrays: Array) -> list[Fingerprint | None]:
        thumbs = thumbnails(arrays.reshape(-1, *self._shape))
        means = thumbs.mean(axis=1, keepdims=True)
        lengths = np.linalg.norm(thumbs - means, axis=1)
        contrast = lengths / math.sqrt(self._num)
        keys = np.stack([means[:, 0], contrast], axis=1)
        return self._prints(thumbs - means, np.where(contrast >= _FLAT, lengths, 0.0), keys)


def thumbnails(images: Array) -> Array:
    """Return images float (N, H, W[, C]) averaged over boxes to at most 16 x 16, as (N, pixels)."""
    for axis in (1, 2):
        size = images.shape[axis]
        if size > _THUMBNAIL:
            edges = np.arange(_THUMBNAIL) * size // _THUMBNAIL
            counts = np.diff(np.append(edges, size)).reshape([-1 if a == axis else 1 for a in range(images.ndim)])
            images = np.add.reduceat(images, edges, axis=axis) / counts
    return images.reshape(len(images), math.prod(images.shape[1:]))


_HALF_PRECISION = 0.003


class Floats(_Vectors):
    """Tensors of `num` numbers, by distance relative to their length: what a small change is, is not known of them."""

    _item = np.dtype("<f4")

    def __init__(self, num: int) -> None:
        super().__init__(num, num, _HALF_PRECISION)

    def distances(self, data: bytes, others: Sequence[bytes]) -> Array:
        """Return the distances of the directions, infinite where the lengths differ by more than the radius."""
        distances, keys = self._compare(data, others)
        return _within(np.where(np.abs(keys[1:, 0] - keys[0, 0]) <= self._radius, distances, np.inf))

    def _of(self, arrays: Array) -> list[Fingerprint | None]:
        lengths = np.linalg.norm(arrays, axis=1)
        logs = np.log(np.where(lengths > 0, lengths, 1.0))
        return self._prints(arrays, lengths, np.stack([logs, logs], axis=1))


def _sketched(vectors: Array, num: int) -> Array:
    """Return vectors (N, num) as (N, 128) with about the same distances; shorter ones as they are."""
    if num <= _SKETCH:
        return vectors
    order, signs, starts = _bins(num)
    return np.add.reduceat(vectors[:, order] * signs, starts, axis=1)


@lru_cache(maxsize=16)
def _bins(num: int) -> tuple[Array, Array, Array]:
    """Return an order of `num` coordinates, their signs, and where each of the 128 bins of the order starts."""
    drawn = np.frombuffer(_stream(f"bins {num}", 8 * num), dtype="<u8")
    order = np.argsort(drawn >> np.uint64(1), kind="stable")  # a random order, in 128 bins of equal size
    signs = np.where(drawn & np.uint64(1), 1.0, -1.0)[order]
    return order, signs, np.arange(_SKETCH) * num // _SKETCH


@lru_cache(maxsize=1)
def _projections() -> tuple[Array, Array]:
    """Return the signs (128, 36) of the projections of a sketch, and the offsets (36,) of their buckets."""
    rows = NUM_BANDS * _ROWS_A_PROJECTION
    signs = np.frombuffer(_stream("projections", rows * _SKETCH), dtype=np.uint8) & 1
    offsets = np.frombuffer(_stream("offsets", 4 * rows), dtype="<u4") / 2**32
    return signs.reshape(_SKETCH, rows).astype(np.float64) * 2 - 1, offsets


def _banded(bands: Array, data: bytes) -> Fingerprint:
    return Fingerprint(tuple(_digest(band.tobytes()) for band in bands), data)


def _within(distances: Array) -> Array:
    return np.where(distances <= 1.0, distances, np.inf)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=8).digest()


def _stream(name: str, num_bytes: int) -> bytes:
    """Return constants that look random and are the same in every version of every library."""
    return hashlib.shake_256(f"tidemill likeness: {name}".encode()).digest(num_bytes)
