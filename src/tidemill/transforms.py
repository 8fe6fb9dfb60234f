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
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from tidemill.errors import ModelError, ProjectError
from tidemill.ngrams import HashedNgrams
from tidemill.records import Json
from tidemill.schema import Array, Category, Columns, Image, Number, Schema, Sensitive, Tensor, Text
from tidemill.transform import DENSE, Params, Several, Single, Transform

__all__ = [
    "DENSE", "TRANSFORMS", "AsIs", "Flatten", "HashedNgrams", "OneHot", "Params", "Pipeline", "ScaleImage",
    "Standardise", "Transform", "default_transforms", "transform_from_json",
]  # fmt: skip

_LARGEST = np.finfo(np.float32).max
_FAR = 1e4  # standard deviations; keeps a wild number inside float32 and from drowning the rest


@dataclass(frozen=True, init=False)
class Standardise(Several):
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
class OneHot(Several):
    """Give each of the `max_values` most frequent values of a category its own 0/1 column; others get none."""

    max_values: int
    takes: ClassVar = (Category, Sensitive, Text)

    def __init__(self, *names: str, max_values: int = 256) -> None:
        super().__init__(*names)
        object.__setattr__(self, "max_values", max_values)
        self.require(max_values >= 1, f"max_values is {max_values}", "keep at least one value")

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
class ScaleImage(Single):
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
        pixels = columns[self.name]
        if self.flatten:
            return {DENSE: _scaled(_flat(pixels))}
        pictures = pixels[..., None] if pixels.ndim == 3 else pixels
        # Moved while a pixel is one byte: four times as many are slow to gather.
        return {self.name: _scaled(np.moveaxis(pictures, -1, 1) if self.channels_first else pictures)}


@dataclass(frozen=True, init=False)
class Flatten(Several):
    """Put numbers or tensors into `x` as they are."""

    takes: ClassVar = (Number, Tensor, Image)

    def apply(self, columns: Columns, params: Params) -> dict[str, Array]:
        """Return a dense block."""
        blocks = [_flat(columns[name]) for name in self.names]
        if all(block.dtype == np.float32 for block in blocks):  # as they are, then
            return {DENSE: blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)}
        return {DENSE: _float32(_numbers(columns, self.names))}


@dataclass(frozen=True, init=False)
class AsIs(Several):
    """Hand numbers or tensors over as features of their own names, float32 (N, *shape)."""

    takes: ClassVar = (Number, Tensor, Image)

    def apply(self, columns: Columns, params: Params) -> dict[str, Array]:
        """Return each input; a number becomes (N, 1)."""
        return {n: _as_is(columns[n]) for n in self.names}


def _as_is(column: Array) -> Array:
    if column.dtype == np.float32 and column.ndim > 1:  # a tensor's, which are finite
        return column
    return _float32(column[:, None] if column.ndim == 1 else column)


def _flat(column: Array) -> Array:
    """Return (N,) or (N, *shape) as (N, D); spelled out, since -1 is ambiguous for no rows."""
    return column if column.ndim == 2 else column.reshape(len(column), math.prod(column.shape[1:]))


def _scaled(pixels: Array) -> Array:
    """Return pixels as float32 from 0 to 1, in C order."""
    scaled: Array = np.true_divide(np.ascontiguousarray(pixels), np.float32(255), dtype=np.float32)  # in one pass
    return scaled


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
