"""What a version's training rows looked like, input by input, and which inputs of a request lie outside.

| input | what is measured | inside |
|---|---|---|
| Number | the number | between the 1 % and 99 % quantiles, widened on each side by half of what lies between them |
| Text | its length in characters | the same of the lengths |
| Image | its brightness: the mean of up to 256 pixels that lie all over it | the same of the brightnesses |
| Tensor | its size: the root mean square of up to 256 of its numbers | the same of the sizes |
| Category | the value | a value that was seen |

A Category is not checked where new values are nothing unusual: where more than a twentieth of the training rows have a
value of their own, which estimates the chance that the next one is new (Good 1953, "The population frequencies of
species and the estimation of population parameters"). A Sensitive input never is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tidemill.errors import InvalidInput
from tidemill.records import Json
from tidemill.schema import Array, Category, Columns, Image, Input, Number, Schema, Tensor, Text

_LOW, _HIGH = 0.01, 0.99
_WIDENED = 0.5
_MOST_NEW = 0.05
_MAX_SEEN = 10_000
_MAX_ROWS = 20_000
_SAMPLED = 256
_MAX = float(np.finfo(np.float64).max)
_GOLDEN = 0.6180339887498949


def learn_ranges(schema: Schema, columns: Columns) -> Json:
    """Return the ranges of training rows, by input, as JSON; of very many rows some 20,000 are looked at."""
    num_rows = len(next(iter(columns.values())))
    if not num_rows:
        return {}
    index = np.unique(np.linspace(0, num_rows - 1, min(num_rows, _MAX_ROWS)).astype(np.int64))
    found: dict[str, Json] = {}
    for name, kind in schema.inputs.items():
        measure, column = _measure_of(kind), columns[name][index]
        if measure is not None:
            found[name] = _interval(measure(column))
        elif isinstance(kind, Category):
            seen = _seen(column)
            if seen is not None:
                found[name] = {"seen": seen}
    return found


def _interval(values: Array) -> Json:
    low, high = np.quantile(values.astype(np.float64), [_LOW, _HIGH], method="nearest")
    if low == high:  # nearly all are the same: what else there was is no outlier either
        low, high = values.min(), values.max()
    margin = _WIDENED * high - _WIDENED * low
    with np.errstate(over="ignore"):
        widened = np.clip([low - margin, high + margin], -_MAX, _MAX)
    return {"low": float(widened[0]), "high": float(widened[1])}


def _seen(column: Array) -> list[str] | None:
    counts = Counter(column.tolist())
    num_once = sum(n == 1 for n in counts.values())
    return sorted(counts) if num_once <= _MOST_NEW * len(column) and len(counts) <= _MAX_SEEN else None


class Ranges:
    """Finds, in a batch, the inputs outside the range that a version learnt from.

    Args:
        schema: as the version was trained.
        learnt: what `learn_ranges` returned; {} for a version that knows of none.
        inputs: which to look at: those that the version reads.
    """

    def __init__(self, schema: Schema, learnt: Json, inputs: Sequence[str]) -> None:
        self._schema = schema
        known = {name: learnt[name] for name in inputs if name in learnt}
        self._seen = {name: frozenset(about["seen"]) for name, about in known.items() if "seen" in about}
        self._measures: dict[str, Callable[[Array], Array]] = {}
        for name in known:
            measure = _measure_of(schema.inputs[name])
            if measure is not None:
                self._measures[name] = measure
        bounds = np.array([[known[name]["low"], known[name]["high"]] for name in self._measures], dtype=np.float64)
        self._low, self._high = bounds.reshape(-1, 2, 1).transpose(1, 0, 2)

    def outliers(self, columns: Columns) -> dict[int, list[str]]:
        """Return the inputs outside, by position of the row; rows that have none are left out."""
        found: dict[int, list[str]] = {}
        if self._measures:
            values = np.array([measure(columns[name]) for name, measure in self._measures.items()], dtype=np.float64)
            outside = (values < self._low) | (values > self._high)
            if outside.any():
                names = list(self._measures)
                for at, row in np.argwhere(outside).tolist():
                    found.setdefault(row, []).append(names[at])
        for name, seen in self._seen.items():
            values = columns[name].tolist()
            if not seen.issuperset(values):
                for row, value in enumerate(values):
                    if value not in seen:
                        found.setdefault(row, []).append(name)
        return found

    def refuse(self, inputs: Mapping[str, Any], names: Collection[str]) -> None:
        """Refuse a request of which one of the inputs `names` lies outside.

        Raises:
            InvalidInput: it does; the message says what was learnt.
        """
        columns = self._schema.columns([inputs], [*self._measures, *self._seen])
        for name in self.outliers(columns).get(0, []):
            if name in names:
                raise InvalidInput(
                    f"input {name!r} lies outside what the model learnt from.", f"send {self._words(name)}", name
                )

    def _words(self, name: str) -> str:
        if name in self._seen:
            return f"one of {', '.join(sorted(self._seen[name])[:20])}"
        at = list(self._measures).index(name)
        what = _WORDS[type(self._schema.inputs[name])]
        return f"{what} from {self._low[at, 0]:.6g} to {self._high[at, 0]:.6g}"


def _measure_of(kind: Input) -> Callable[[Array], Array] | None:
    return _MEASURES.get(type(kind))


def _number(column: Array) -> Array:
    return column


def _length(column: Array) -> Array:
    return np.fromiter(map(len, column), dtype=np.float64, count=len(column))


def _brightness(column: Array) -> Array:
    some = _some(column)
    brightness: Array = np.add.reduce(some, axis=1, dtype=np.uint32) / some.shape[1]
    return brightness


def _size(column: Array) -> Array:
    some = _some(column).astype(np.float64)  # the square of a float32 may be none
    size: Array = np.sqrt(np.einsum("ij,ij->i", some, some) / some.shape[1])
    return size


def _some(column: Array) -> Array:
    """Return up to 256 elements of each row, (N, M)."""
    flat = column.reshape(len(column), -1)
    return flat if flat.shape[1] <= _SAMPLED else flat.take(_places(flat.shape[1]), axis=1)


@lru_cache(maxsize=256)
def _places(size: int) -> Array:
    """Return 256 positions below `size`, spread evenly and in step with no row of pixels (a golden-ratio sequence)."""
    return np.sort((np.arange(_SAMPLED) * _GOLDEN % 1.0 * size).astype(np.int64))


_MEASURES: Mapping[type[Any], Callable[[Array], Array]] = {
    Number: _number, Text: _length, Image: _brightness, Tensor: _size,
}  # fmt: skip
_WORDS: Mapping[type[Any], str] = {
    Number: "a number", Text: "a length in characters", Image: "a mean brightness", Tensor: "a root mean square",
}  # fmt: skip
