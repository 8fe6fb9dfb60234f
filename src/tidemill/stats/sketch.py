"""Sketches of a column: a few kilobytes that stand for any number of its values, and add up.

Numbers: Karnin, Lang and Liberty's quantile sketch (2016), k = 1600, at the precision of float32, which is what models
see; up to 1,600 values it is exact, beyond a rank is wrong by about .001. Words: the frequent ones with their counts
(Anderson et al. 2017), exact up to about 1,500 different words, and how many different ones there are (HyperLogLog,
Flajolet et al. 2007). Both are Apache DataSketches'. Counts of rows and missing values, mean and spread are exact.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from datasketches import (
    frequent_items_error_type,
    frequent_strings_sketch,
    hll_sketch,
    hll_union,
    kll_floats_sketch,
    tgt_hll_type,
)

from tidemill.errors import InvalidInput
from tidemill.schema import Array

_K = 1600
_LOG_SLOTS = 11
_LOG_REGISTERS = 11
_MAX_CHARS = 24  # of a word that is kept as it is: bounds the size of a sketch
_LARGEST = 3.4028234663852886e38


class NumberSketch:
    """Numbers, missing ones counted apart."""

    kind = "number"

    def __init__(self) -> None:
        self.num = 0
        self.num_missing = 0
        self._mean = 0.0
        self._squares = 0.0  # of the differences from the mean
        self._ranks = kll_floats_sketch(_K)

    def add(self, values: Array) -> NumberSketch:
        """Take numbers float (n,) in, NaN for missing, and return itself."""
        known = values[~np.isnan(values)]
        self.num_missing += len(values) - len(known)
        if len(known):
            mean = float(known.mean())
            self._pool(len(known), mean, float(np.square(known - mean).sum()))
            self._ranks.update(np.clip(known, -_LARGEST, _LARGEST).astype(np.float32))
        return self

    def merge(self, other: NumberSketch) -> NumberSketch:
        """Take in what another one has seen, and return itself."""
        self.num_missing += other.num_missing
        if other.num:
            self._pool(other.num, other._mean, other._squares)
            self._ranks.merge(other._ranks)
        return self

    @property
    def mean(self) -> float:
        """The mean of the numbers, 0 of none."""
        return self._mean

    @property
    def deviation(self) -> float:
        """The standard deviation of the numbers."""
        return math.sqrt(self._squares / self.num) if self.num else 0.0

    def quantiles(self, levels: Array) -> Array:
        """Return the quantiles at levels of 0 to 1, float64; some number must have come."""
        return np.array(self._ranks.get_quantiles(levels, True), dtype=np.float64)

    def shares(self, points: Array) -> Array:
        """Return the share of the numbers that are at most each of ascending points, float64."""
        return np.array(self._ranks.get_cdf(points.astype(np.float32), True)[:-1], dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        """Return it as values that msgpack can write."""
        return {"kind": self.kind, "num": self.num, "missing": self.num_missing, "mean": self._mean,
                "squares": self._squares, "ranks": self._ranks.serialize()}  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> NumberSketch:
        """Read what `to_json` returned.

        Raises:
            InvalidInput: it is no such sketch, or one that does not hold what it says.
        """
        sketch = cls()
        try:
            sketch._ranks = kll_floats_sketch.deserialize(data["ranks"])
            sketch.num, sketch.num_missing = _count(data["num"]), _count(data["missing"])
            sketch._mean, sketch._squares = float(data["mean"]), float(data["squares"])
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise _unreadable(error) from error
        fine = math.isfinite(sketch._mean) and math.isfinite(sketch._squares) and sketch._squares >= 0
        if not fine or sketch._ranks.n != sketch.num or sketch._ranks.k != _K:
            raise _unreadable("its parts disagree")
        return sketch

    def _pool(self, num: int, mean: float, squares: float) -> None:
        """Add the mean and squares of `num` more (Chan, Golub and LeVeque 1979)."""
        total, apart = self.num + num, mean - self._mean
        self._squares += squares + apart * apart * self.num * num / total
        self._mean += apart * num / total
        self.num = total


class WordSketch:
    """Words of a category, missing ones counted apart. Long words are known by their beginning and a hash."""

    kind = "word"

    def __init__(self) -> None:
        self.num = 0
        self.num_missing = 0
        self._frequent = frequent_strings_sketch(_LOG_SLOTS)
        self._different = hll_sketch(_LOG_REGISTERS, tgt_hll_type.HLL_4)

    def add(self, counts: Mapping[str, int], num_missing: int = 0) -> WordSketch:
        """Take words in with how often each came, and return itself."""
        self.num_missing += num_missing
        for word, count in counts.items():
            if count:
                short = _short(word)
                self._frequent.update(short, count)
                self._different.update(short)
                self.num += count
        return self

    def merge(self, other: WordSketch) -> WordSketch:
        """Take in what another one has seen, and return itself."""
        both = hll_union(_LOG_REGISTERS)
        both.update(self._different)
        both.update(other._different)
        self._different = both.get_result(tgt_hll_type.HLL_4)
        self._frequent.merge(other._frequent)
        self.num += other.num
        self.num_missing += other.num_missing
        return self

    @property
    def num_different(self) -> float:
        """About how many different words came."""
        return float(self._different.get_estimate())

    def counts(self) -> dict[str, int]:
        """Return the frequent words with their counts; what all others have together stands under the empty word."""
        found = self._frequent.get_frequent_items(frequent_items_error_type.NO_FALSE_POSITIVES)
        counts = {word: int(estimate) for word, estimate, _, _ in found}
        rest = self.num - sum(counts.values())
        return {**counts, "": counts.get("", 0) + rest} if rest > 0 else counts

    def to_json(self) -> dict[str, Any]:
        """Return it as values that msgpack can write."""
        return {"kind": self.kind, "num": self.num, "missing": self.num_missing,
                "frequent": self._frequent.serialize(), "different": self._different.serialize_compact()}  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WordSketch:
        """Read what `to_json` returned.

        Raises:
            InvalidInput: it is no such sketch, or one that does not hold what it says.
        """
        sketch = cls()
        try:
            sketch._frequent = frequent_strings_sketch.deserialize(data["frequent"])
            sketch._different = hll_sketch.deserialize(data["different"])
            sketch.num, sketch.num_missing = _count(data["num"]), _count(data["missing"])
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise _unreadable(error) from error
        if sketch._frequent.total_weight != sketch.num or sketch._different.lg_config_k != _LOG_REGISTERS:
            raise _unreadable("its parts disagree")
        return sketch


def sketch_from_json(data: Any) -> NumberSketch | WordSketch:
    """Read a sketch of either kind.

    Raises:
        InvalidInput: it is none.
    """
    kind = data.get("kind") if isinstance(data, Mapping) else None
    if kind == NumberSketch.kind:
        return NumberSketch.from_json(data)
    if kind == WordSketch.kind:
        return WordSketch.from_json(data)
    raise _unreadable(f"its kind is {str(kind)[:20]!r}")


def _short(word: str) -> str:
    if len(word) <= _MAX_CHARS:
        return word
    hashed = hashlib.blake2b(word.encode(errors="surrogatepass"), digest_size=6).hexdigest()
    return f"{word[: _MAX_CHARS - 13]}~{hashed}"


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{value!r} is no count")
    return value


def _unreadable(why: object) -> InvalidInput:
    return InvalidInput(f"a sketch does not read: {str(why)[:100]}.", "send what tm.log.Profile made")
