"""Transforms: from a batch of inputs to the features a model sees, the same array code in training and in serving.

A transform is a frozen value. `fit` returns what it learnt as plain arrays, `apply` is a pure function of the batch and
those arrays, so a model is stored as JSON (which transforms) and an `.npz` (what they learnt), never as code. Nothing
but NumPy is needed to serve.

Dense blocks are joined to one feature `x` float32 (N, D), in the order of the transforms. Sparse text stays sparse: the
ids and weights of the terms that occur, padded to the longest row of the batch. Anything that has no form here belongs
in a model of your own, which is served in a worker process.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar, Protocol
from zlib import crc32

import numpy as np

from tidemill.errors import ModelError, ProjectError
from tidemill.records import Json
from tidemill.schema import Array, Category, Columns, Image, Number, Schema, Sensitive, Tensor, Text

Params = Mapping[str, Array]

_LARGEST = np.finfo(np.float32).max
DENSE = "x"
"""Name of the feature that all dense blocks are joined to."""

_WORDS = re.compile(r"\w+|[^\w\s]")  # punctuation and emoji are words of their own
_SPREAD, _MASK = 2654435761, 0xFFFFFFFF
_FAR = 1e4  # standard deviations; keeps a wild number inside float32 and from drowning the rest


class Transform(Protocol):
    """One step from inputs to features."""

    @property
    def takes(self) -> tuple[type[Any], ...]:
        """The input types it can read."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs it reads."""
        ...

    def fit(self, columns: Columns) -> dict[str, Array]:
        """Learn from training rows; return arrays by name, of plain numeric types."""
        ...

    def apply(self, columns: Columns, params: Params) -> dict[str, Array]:
        """Return features by name, each with N rows; those named `x` are joined."""
        ...

    def to_json(self) -> Json:
        """Return type and parameters."""
        ...


class _Declared:
    """Shared by the transforms: JSON from the dataclass fields; and learning nothing, which is what most learn."""

    def fit(self, columns: Columns) -> dict[str, Array]:
        """Learn nothing."""
        return {}

    def to_json(self) -> Json:
        params = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return {"type": type(self).__name__, **{k: list(v) if isinstance(v, tuple) else v for k, v in params.items()}}

    def _require(self, ok: bool, problem: str, hint: str) -> None:
        if not ok:
            raise ProjectError(f"transforms.{type(self).__name__}: {problem}.", hint)


@dataclass(frozen=True, init=False)
class _Several(_Declared):
    """Shared by the transforms that read several inputs alike."""

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)
        self._require(bool(names), "no input is named", f"name one, such as {type(self).__name__}('age')")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs it reads."""
        return self.names


class _Single(_Declared):
    """Shared by the transforms that read one input."""

    name: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """The input it reads."""
        return (self.name,)


@dataclass(frozen=True, init=False)
class Standardise(_Several):
    """Centre numbers or tensors on their training mean, in training standard deviations.

    A constant column becomes 0. Values further than 10,000 deviations out are clipped there.
    """

    takes: ClassVar = (Number, Tensor, Image)

    def fit(self, columns: Columns) -> dict[str, Array]:
        """Learn `mean` and `scale`, float64 (D,)."""
        block = _numbers(columns, self.names)
        if not len(block):
            return {"mean": np.zeros(block.shape[1]), "scale": np.ones(block.shape[1])}
        largest = np.maximum(np.abs(block).max(axis=0), np.finfo(np.float64).tiny)
        unit = block / largest  # so that no square overflows
        mean, spread = unit.mean(axis=0), unit.std(axis=0)
        scale = np.where(spread > 1e-12, largest * spread, 1.0)
        return {"mean": largest * mean, "scale": np.where(scale > 0, scale, 1.0)}

    def apply(self, columns: Columns, params: Params) -> dict[str, Array]:
        """Return a dense block."""
        with np.errstate(over="ignore"):  # a difference beyond float64 is clipped below
            block = (_numbers(columns, self.names) - params["mean"]) / params["scale"]
        return {DENSE: np.clip(block, -_FAR, _FAR).astype(np.float32)}


@dataclass(frozen=True, init=False)
class OneHot(_Several):
    """Give each of the `max_values` most frequent values of a category its own 0/1 column; others get none."""

    max_values: int
    takes: ClassVar = (Category, Sensitive, Text)

    def __init__(self, *names: str, max_values: int = 256) -> None:
        super().__init__(*names)
        object.__setattr__(self, "max_values", max_values)
        self._require(max_values >= 1, f"max_values is {max_values}", "keep at least one value")

    def fit(self, columns: Columns) -> dict[str, Array]:
        """Learn the values of each input, as the UTF-8 bytes of a JSON list."""
        return {name: self._values(columns[name]) for name in self.names}

    def _values(self, column: Array) -> Array:
        counts = Counter(column.tolist())
        kept = sorted(sorted(counts), key=lambda value: -counts[value])[: self.max_values]
        return np.frombuffer(json.dumps(sorted(kept)).encode(), dtype=np.uint8)

    def apply(self, columns: Columns, params: Params) -> dict[str, Array]:
        """Return a dense block, one column a known value."""
        return {DENSE: np.concatenate([_one_hot(columns[n], params[n].tobytes()) for n in self.names], axis=1)}


@dataclass(frozen=True)
class HashedNgrams(_Single):
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
        self._require(1 <= self.bits <= 24, f"bits is {self.bits}", "give 1 to 24; 18 is usual")
        self._require(ordered, f"words is {self.words}", "give the shortest and longest n-gram, such as (1, 2)")
        self._require(self.max_terms >= 1, f"max_terms is {self.max_terms}", "keep at least one term")
        known = self.weights in ("l2", "counts", "binary")
        self._require(known, f"weights is {self.weights!r}", "give 'l2', 'counts' or 'binary'")

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


@dataclass(frozen=True)
class ScaleImage(_Single):
    """Scale pixels from 0..255 to 0..1.

    With `flatten` they join `x`; else they are a feature of the input's name, float32 (N, C, H, W), or (N, H, W, C)
    without `channels_first`. A picture without channels counts as one channel.
    """

    name: str
    flatten: bool = True
    channels_first: bool = True
    takes: ClassVar = (Image,)

    def apply(self, columns: Columns, params: Params) -> dict[str, Array]:
        """Return a dense block, or the picture."""
        pixels = columns[self.name].astype(np.float32) / np.float32(255)
        if self.flatten:
            return {DENSE: _flat(pixels)}
        pictures = pixels[..., None] if pixels.ndim == 3 else pixels
        return {self.name: np.ascontiguousarray(np.moveaxis(pictures, -1, 1)) if self.channels_first else pictures}


@dataclass(frozen=True, init=False)
class Flatten(_Several):
    """Put numbers or tensors into `x` as they are."""

    takes: ClassVar = (Number, Tensor, Image)

    def apply(self, columns: Columns, params: Params) -> dict[str, Array]:
        """Return a dense block."""
        blocks = [_flat(columns[name]) for name in self.names]
        if all(block.dtype == np.float32 for block in blocks):  # as they are, then
            return {DENSE: blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)}
        return {DENSE: _float32(_numbers(columns, self.names))}


@dataclass(frozen=True, init=False)
class AsIs(_Several):
    """Hand numbers or tensors over as features of their own names, float32 (N, *shape)."""

    takes: ClassVar = (Number, Tensor, Image)

    def apply(self, columns: Columns, params: Params) -> dict[str, Array]:
        """Return each input; a number becomes (N, 1)."""
        return {n: _float32(c[:, None] if c.ndim == 1 else c) for n, c in ((n, columns[n]) for n in self.names)}


def _flat(column: Array) -> Array:
    """Return (N,) or (N, *shape) as (N, D); spelled out, since -1 is ambiguous for no rows."""
    return column if column.ndim == 2 else column.reshape(len(column), math.prod(column.shape[1:]))


def _numbers(columns: Columns, names: Sequence[str]) -> Array:
    return np.concatenate([_flat(columns[n]).astype(np.float64) for n in names], axis=1)


def _float32(block: Array) -> Array:
    """Return float32; a number beyond it is clipped, for infinity would be no score."""
    return np.clip(block, -_LARGEST, _LARGEST).astype(np.float32)


def _one_hot(column: Array, values: bytes) -> Array:
    known = _index(values)
    out = np.zeros((len(column), len(known) + 1), dtype=np.float32)
    at = np.array([known.get(value, len(known)) for value in column], dtype=np.int64)
    out[np.arange(len(column)), at] = 1.0
    return out[:, :-1]  # the last column takes the unknown ones


@lru_cache(maxsize=1024)
def _index(values: bytes) -> dict[str, int]:
    return {value: i for i, value in enumerate(json.loads(values))}


_OTHER = "load it with the program that wrote it, or a newer one"
TRANSFORMS: Mapping[str, type[Any]] = {
    t.__name__: t for t in (Standardise, OneHot, HashedNgrams, ScaleImage, Flatten, AsIs)
}


def transform_from_json(data: Json) -> Transform:
    """Read what a transform's `to_json` wrote.

    Raises:
        ModelError: its type or a parameter is unknown to this program.
    """
    kind = TRANSFORMS.get(data.get("type"))
    if kind is None:
        raise ModelError(f"unknown transform {data.get('type')!r}.", _OTHER)
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k != "type"}
    names = given.pop("names", ())
    try:
        transform: Transform = kind(*names, **given)
    except (TypeError, ProjectError) as error:
        raise ModelError(f"transform {data!r} cannot be read: {error}", _OTHER) from error
    return transform


@dataclass(frozen=True)
class Pipeline:
    """All transforms of a model, side by side."""

    transforms: tuple[Transform, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "transforms", tuple(self.transforms))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs that any of them reads, once each."""
        return tuple(dict.fromkeys(name for t in self.transforms for name in t.inputs))

    def check(self, schema: Schema) -> None:
        """Refuse transforms that do not fit `schema`.

        Raises:
            ProjectError: an input is not declared or of a type the transform cannot read, two features have one name,
                or there is no transform at all.
        """
        for transform in self.transforms:
            for name in transform.inputs:
                _check_input(transform, name, schema)
        nothing = schema.columns([], self.inputs)
        made = [feature for t in self.transforms for feature in t.apply(nothing, t.fit(nothing)).items()]
        names = [n for n, array in made if n != DENSE or array.ndim != 2]
        twice = [n for n in names if names.count(n) > 1 or (n == DENSE and len(made) > 1)]
        if twice or not made:
            problem = f"two transforms make the feature {twice[0]!r}" if twice else "there are no transforms"
            raise ProjectError(f"{problem}.", "give one transform per input that the model should see")

    def fit(self, columns: Columns) -> dict[str, Array]:
        """Fit every transform; the arrays are named `"<index>.<name>"`."""
        return {f"{i}.{name}": array for i, t in enumerate(self.transforms) for name, array in t.fit(columns).items()}

    def apply(self, columns: Columns, params: Params) -> dict[str, Array]:
        """Return all features by name; dense blocks are joined to `x`."""
        dense: list[Array] = []
        out: dict[str, Array] = {}
        for transform, own in zip(self.transforms, _split(params, len(self.transforms)), strict=True):
            features = transform.apply(columns, own)
            if DENSE in features:
                dense.append(features.pop(DENSE))
            out.update(features)
        if dense:
            out[DENSE] = dense[0] if len(dense) == 1 else np.concatenate(dense, axis=1)
        return out

    def to_json(self) -> list[Json]:
        """Return every transform's JSON, in order."""
        return [transform.to_json() for transform in self.transforms]

    @classmethod
    def from_json(cls, data: Sequence[Json]) -> Pipeline:
        """Read what `to_json` wrote."""
        return cls(tuple(transform_from_json(item) for item in data))


def _split(params: Params, num: int) -> list[dict[str, Array]]:
    parts: list[dict[str, Array]] = [{} for _ in range(num)]
    for key, array in params.items():
        index, name = key.split(".", 1)
        parts[int(index)][name] = array
    return parts


def _check_input(transform: Transform, name: str, schema: Schema) -> None:
    what, kind = type(transform).__name__, schema.inputs.get(name)
    if kind is None:
        raise ProjectError(f"transforms.{what} reads {name!r}, no input.", f"name one of {', '.join(schema.inputs)}")
    if not isinstance(kind, transform.takes):
        fitting = ", ".join(t.__name__ for t in transform.takes)
        raise ProjectError(f"transforms.{what} cannot read {name!r}, a {type(kind).__name__}.", f"it reads {fitting}")


_USUAL: Mapping[type[Any], type[Any]] = {Number: Standardise, Category: OneHot, Sensitive: OneHot}
_USUAL = {**_USUAL, Image: ScaleImage, Tensor: Flatten, Text: HashedNgrams}


def default_transforms(schema: Schema) -> tuple[Transform, ...]:
    """Return the usual transform of each input that is no tag: what a trainer uses unless told otherwise.

    Raises:
        ProjectError: every input is a tag, or one is of a type that has no usual transform.
    """
    kinds = {name: type(schema.inputs[name]) for name in schema.features}
    strange = [f"{name!r} is a {kind.__name__}" for name, kind in kinds.items() if kind not in _USUAL]
    if strange or not kinds:
        problem = f"input {strange[0]}, which has no usual transform" if strange else "every input is a tag"
        raise ProjectError(f"{problem}.", "give the trainer transforms=[...] of what the model shall see")
    return tuple(_USUAL[kind](name) for name, kind in kinds.items())
