"""Augmentation: training rows changed a little, so that a model learns what does not matter. Only while it trains.

A transform takes a batch of inputs and a generator, and returns the batch with one of its inputs changed; labels stay.
`Trainer(augment=[...])` applies them in turn: Torch to every batch anew, Sklearn to `copies` of all rows. Serving and
test rows never meet them. Which one is harmless, you have to know: a mirrored 2 is no 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np

from tidemill.errors import ProjectError
from tidemill.model import TrainingData
from tidemill.records import Json
from tidemill.schema import Array, Category, Columns, Image, Number, Schema, Text


@dataclass(frozen=True)
class Augment:
    """Base of the augmentations: `change` one input of a batch, with a generator that is given."""

    input: str
    takes: ClassVar[tuple[type[Any], ...]] = ()

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            if spec.name == "chance":
                self._require(0 <= value <= 1, f"chance is {value!r}", "give a chance from 0 to 1")
            elif spec.name != "input":
                self._require(value > 0, f"{spec.name} is {value!r}", "give a positive number")

    def change(self, column: Array, rng: np.random.Generator) -> Array:
        """Return the column (N, ...) of its input changed, of the same shape and type; the old one stays as it is."""
        raise NotImplementedError

    def check(self, schema: Schema) -> None:
        """Refuse an input that is not declared, or of another kind."""
        kind = schema.inputs.get(self.input)
        self._require(kind is not None, f"{self.input!r} is no input", f"name one of {', '.join(schema.inputs)}")
        names = " or ".join(one.__name__ for one in self.takes)
        self._require(isinstance(kind, self.takes), f"{self.input!r} is {type(kind).__name__}", f"it takes {names}")

    def to_json(self) -> Json:
        """Return type and parameters."""
        return {"type": type(self).__name__, **{spec.name: getattr(self, spec.name) for spec in fields(self)}}

    def _require(self, ok: bool, problem: str, hint: str) -> None:
        if not ok:
            raise ProjectError(f"augment.{type(self).__name__}: {problem}.", hint)


@dataclass(frozen=True)
class Flip(Augment):
    """Mirror an image left to right."""

    chance: float = 0.5
    takes = (Image,)

    def change(self, column: Array, rng: np.random.Generator) -> Array:
        """Mirror some rows."""
        some = rng.random(len(column)) < self.chance
        changed = column.copy()
        changed[some] = column[some][:, :, ::-1]
        return changed


@dataclass(frozen=True)
class Shift(Augment):
    """Move an image by up to `pixels` to any side; what moves in is black."""

    pixels: int = 2
    takes = (Image,)

    def change(self, column: Array, rng: np.random.Generator) -> Array:
        """Move each row by a whole number of pixels."""
        reach = int(self.pixels)
        down, right = rng.integers(-reach, reach + 1, size=(2, len(column)))
        height, width = column.shape[1:3]
        sides = [(0, 0), (reach, reach), (reach, reach), *[(0, 0)] * (column.ndim - 3)]
        rows, lines, places = np.arange(len(column)), np.arange(height), np.arange(width)
        at = reach - down[:, None] + lines, reach - right[:, None] + places
        return np.asarray(np.pad(column, sides)[rows[:, None, None], at[0][:, :, None], at[1][:, None, :]])


@dataclass(frozen=True)
class Brighten(Augment):
    """Make an image brighter or darker by a factor of up to 1 + `by`."""

    by: float = 0.2
    takes = (Image,)

    def change(self, column: Array, rng: np.random.Generator) -> Array:
        """Multiply each row by a factor of its own."""
        factors = np.exp(rng.uniform(-1, 1, size=(len(column), *[1] * (column.ndim - 1))) * np.log1p(self.by))
        return np.asarray(np.clip(np.rint(column * factors), 0, 255), dtype=np.uint8)


@dataclass(frozen=True)
class Typos(Augment):
    """Swap a letter with the next one, each with a chance of `chance`."""

    chance: float = 0.02
    takes = (Text,)

    def change(self, column: Array, rng: np.random.Generator) -> Array:
        """Misspell the rows."""
        return _texts(self._misspelt(text, rng) for text in column)

    def _misspelt(self, text: str, rng: np.random.Generator) -> str:
        letters, swaps = list(text), np.flatnonzero(rng.random(max(0, len(text) - 1)) < self.chance)
        for at in swaps.tolist():
            if letters[at].isalpha() and letters[at + 1].isalpha():
                letters[at], letters[at + 1] = letters[at + 1], letters[at]
        return "".join(letters)


@dataclass(frozen=True)
class DropWords(Augment):
    """Leave words out, each with a chance of `chance`; one word always stays. Wei and Zou, EDA (EMNLP 2019)."""

    chance: float = 0.1
    takes = (Text,)

    def change(self, column: Array, rng: np.random.Generator) -> Array:
        """Thin out the rows."""
        return _texts(self._thinned(text, rng) for text in column)

    def _thinned(self, text: str, rng: np.random.Generator) -> str:
        words = text.split()
        if not words:
            return text
        kept = rng.random(len(words)) >= self.chance
        kept[int(rng.integers(len(words)))] = True
        return text if kept.all() else " ".join(word for word, ok in zip(words, kept.tolist(), strict=True) if ok)


@dataclass(frozen=True)
class Jitter(Augment):
    """Add noise to a number, of the standard deviation `by` in its own units; it stays in its declared range."""

    by: float = 1.0
    takes = (Number,)

    def change(self, column: Array, rng: np.random.Generator) -> Array:
        """Move each row; the range is applied by `augmented`, which knows the schema."""
        return np.asarray(column + rng.normal(0.0, self.by, size=len(column)))


@dataclass(frozen=True)
class SwapCells(Augment):
    """Put the cell of another row in place, with a chance of `chance`: a table's row that is partly unknown.

    Bahri et al., SCARF (ICLR 2022).
    """

    chance: float = 0.1
    takes = (Number, Category)

    def change(self, column: Array, rng: np.random.Generator) -> Array:
        """Swap some cells."""
        some = np.flatnonzero(rng.random(len(column)) < self.chance)
        changed = column.copy()
        changed[some] = column[rng.integers(len(column), size=len(some))] if len(some) else column[some]
        return changed


def checked(augment: Sequence[Augment]) -> tuple[Augment, ...]:
    """Return augmentations as a tuple.

    Raises:
        ProjectError: one is none.
    """
    for one in augment:
        if not isinstance(one, Augment):
            raise ProjectError(f"augment has {one!r}.", "give a list such as [tm.augment.Typos('text')]")
    return tuple(augment)


def augmented(augment: Sequence[Augment], schema: Schema, columns: Columns, rng: np.random.Generator) -> Columns:
    """Return a batch with all augmentations applied in turn; the batch given stays as it is.

    Raises:
        ProjectError: one does not fit the schema.
    """
    changed = {name: columns[name] for name in columns}
    for one in augment:
        one.check(schema)
        column, kind = one.change(changed[one.input], rng), schema.inputs[one.input]
        if isinstance(kind, Number) and (kind.low is not None or kind.high is not None):
            column = np.clip(column, kind.low, kind.high)
        if isinstance(kind, Text):
            column = _texts(text[: kind.max_chars] for text in column)
        changed[one.input] = column
    return changed


def with_copies(data: TrainingData, augment: Sequence[Augment], *, copies: int, seed: int) -> TrainingData:
    """Return the rows and `copies` augmented copies of each, every row with all of its copies weighing what it did."""
    if not augment or not len(data):
        return data
    rng = np.random.default_rng([seed, 0])
    more = [augmented(augment, data.schema, data.columns, rng) for _ in range(copies)]
    return replace(
        data,
        columns={n: np.concatenate([data.columns[n], *(m[n] for m in more)]) for n in data.columns},
        targets=np.tile(data.targets, 1 + copies),
        weights=np.tile(data.weights, 1 + copies),
        ids=data.ids * (1 + copies),
    )


def _texts(texts: Any) -> Array:
    return np.array([*texts, None], dtype=object)[:-1]
