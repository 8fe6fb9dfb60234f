"""What runs of a backtest share: features, trained models and predictions, each computed once and known by content."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tidemill.errors import TidemillError, TrainingError
from tidemill.loop.backtest.shelf import Made, Shelf, size_of
from tidemill.loop.backtest.stream import Stream
from tidemill.model import Model, TrainingData, check_scores
from tidemill.project import Project
from tidemill.schema import Array, Columns
from tidemill.training.export import Exportable, export
from tidemill.training.fitted import Fitted
from tidemill.training.known import KnownRows
from tidemill.training.sklearn_trainer import matrix_of
from tidemill.transforms import Pipeline

_MOST_BYTES = 3 << 28  # of models at hand; one that is needed again is on the shelf, or trained again
_UNKNOWN_BYTES = 40_000_000  # of a model that cannot be measured: as much as a large one of text takes
_MAX_SCORED = 400
_ROWS_AT_ONCE = 1 << 16


@dataclass
class Spent:
    """CPU seconds of this process by what they went into, and how often a memo had the answer."""

    train_s: float = 0.0
    predict_s: float = 0.0
    features_s: float = 0.0
    trainings: int = 0
    trainings_known: int = 0
    rows_predicted: int = 0
    rows_known: int = 0

    def add(self, other: Spent) -> Spent:
        """Return the sums."""
        return Spent(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def less(self, other: Spent) -> Spent:
        """Return the differences."""
        return Spent(**{name: value - getattr(other, name) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Recipe:
    """All that a model depends on; `content` names the training rows, `start_from` the artefact to fine-tune."""

    content: str
    trainer: str
    seed: int
    start_from: str | None

    @property
    def artefact(self) -> str:
        """The name of the model that it makes."""
        text = f"{self.content}/{self.trainer}/{self.seed}/{self.start_from}"
        return hashlib.sha256(text.encode()).hexdigest()


Lesson: TypeAlias = Callable[[], TrainingData]
"""Gives the rows that a model learns from, to who asks: what was trained before is not taught again."""


@dataclass(frozen=True)
class _Made:
    recipe: Recipe
    lesson: Lesson
    cpu_s: float


@dataclass
class _Scores:
    known: Array
    scores: Array


@dataclass
class Memo:
    """The models and predictions of one stream and project in this process.

    With `enabled=False` it keeps no features, and forgets the rest between runs. On a `shelf` it finds what other
    processes made.
    """

    stream: Stream
    project: Project
    enabled: bool = True
    shelf: Shelf | None = None
    spent: Spent = field(default_factory=Spent)
    _matrices: dict[str, Any] = field(default_factory=dict)
    _made: dict[str, _Made] = field(default_factory=dict)
    _models: OrderedDict[str, Model] = field(default_factory=OrderedDict)
    _bytes: dict[str, int] = field(default_factory=dict)
    _seed: int | None = None
    _scores: OrderedDict[str, _Scores] = field(default_factory=OrderedDict)
    _sizes: dict[str, float] = field(default_factory=dict)
    _folders: dict[str, tempfile.TemporaryDirectory[str]] = field(default_factory=dict)

    @cached_property
    def inputs(self) -> Columns:
        """All inputs of the stream as a model takes them."""
        schema = self.project.schema
        return {name: kind.column(self.stream.frame[name].to_list()) for name, kind in schema.inputs.items()}

    @cached_property
    def masks(self) -> dict[str, Array]:
        """Which rows of the stream are in each cohort, bool (N,)."""
        return self.stream.masks(self.project)

    def columns(self, rows: Array) -> KnownRows:
        """Return the inputs of rows."""
        return KnownRows({name: column[rows] for name, column in self.inputs.items()}, rows, self)

    def of(self, pipeline: Pipeline, rows: Array) -> Any:
        """Return the features of rows; those of the whole stream are computed at the first call."""
        if not self.enabled:
            return matrix_of(Fitted(pipeline, {}), {name: column[rows] for name, column in self.inputs.items()})
        key = json.dumps(pipeline.to_json(), sort_keys=True)
        if key not in self._matrices:
            begun = self._cpu_s()
            made = partial(matrix_of, Fitted(pipeline, {}), dict(self.inputs))
            self._matrices[key] = made() if self.shelf is None else self.shelf.features(key, made)
            self.spent.features_s += self._cpu_s() - begun
        return self._matrices[key][rows]

    def begin(self, seed: int | None) -> None:
        """Begin a run. Under another seed nothing is of use that was made under the last one: let go of it."""
        if seed != self._seed:
            self._let_go()
        self._seed = seed

    def forget(self) -> None:
        """Let go of models and predictions unless they are kept: called between runs."""
        if not self.enabled:
            self._let_go()

    def _let_go(self) -> None:
        for kept in (self._made, self._models, self._bytes, self._scores):
            kept.clear()

    # --- models

    def train(self, recipe: Recipe, lesson: Lesson) -> float:
        """Make a model unless it is known; return the CPU seconds that the training took when it was done.

        Raises:
            TidemillError: the trainer failed.
        """
        name = recipe.artefact
        if name in self._made:
            self.spent.trainings_known += 1
            return self._made[name].cpu_s
        with nullcontext() if self.shelf is None else self.shelf.training(name):
            model, cpu_s = self._found(name) or self._new(recipe, lesson)
            self._made[name] = _Made(recipe, lesson, cpu_s)
            self._hold(name, model)
            if self.shelf is not None:
                self.shelf.lend(name, self._at_hand)
        return cpu_s

    def _cpu_s(self) -> float:
        """Return the CPU seconds of this process, less those of lending, which may fall into a training."""
        return time.process_time() - (0.0 if self.shelf is None else self.shelf.lending_s)

    def _at_hand(self, artefact: str) -> Made | None:
        """Return a model to whoever asks from another thread."""
        model, made = self._models.get(artefact), self._made.get(artefact)
        return None if model is None or made is None else (model, made.cpu_s)

    def _found(self, artefact: str) -> Made | None:
        """Return a model from the shelf."""
        found = None if self.shelf is None else self.shelf.model(artefact)
        self.spent.trainings_known += found is not None
        return found

    def _new(self, recipe: Recipe, lesson: Lesson) -> Made:
        """Train a model."""
        before = self.spent.train_s
        model = self._trained(recipe, lesson())
        cpu_s = self.spent.train_s - before
        self.spent.trainings += 1
        return model, cpu_s

    def _hold(self, artefact: str, model: Model) -> None:
        """Have a model at hand; of too much, those that nobody asked for the longest go on the shelf."""
        self._models[artefact] = model
        self._bytes[artefact] = size_of(model) or _UNKNOWN_BYTES
        while len(self._models) > 1 and sum(self._bytes.values()) > _MOST_BYTES:
            name, old = self._models.popitem(last=False)
            del self._bytes[name]
            if self.shelf is not None:
                self.shelf.put(name, old, self._made[name].cpu_s)

    def _trained(self, recipe: Recipe, data: TrainingData) -> Model:
        start_from = None if recipe.start_from is None else self._folder(recipe.start_from)
        begun, features = self._cpu_s(), self.spent.features_s
        try:
            with tempfile.TemporaryDirectory(prefix="tidemill-backtest-") as workdir:
                return self.project.trainer.train(
                    data, start_from=start_from, seed=recipe.seed, workdir=Path(workdir), progress=lambda _: None
                )
        except TidemillError:
            raise
        except Exception as error:
            what = f"{type(self.project.trainer).__name__}.train raised {type(error).__name__}: {error}"
            raise TrainingError(what, "train on these rows alone to see the traceback") from error
        finally:
            self.spent.train_s += self._cpu_s() - begun - (self.spent.features_s - features)

    def model(self, artefact: str) -> Model:
        """Return a model that was made; one that nobody has any more is trained again, which gives the same."""
        if artefact not in self._models:
            made, found = self._made[artefact], None if self.shelf is None else self.shelf.model(artefact)
            self._hold(artefact, self._trained(made.recipe, made.lesson()) if found is None else found[0])
        self._models.move_to_end(artefact)
        return self._models[artefact]

    def _folder(self, artefact: str) -> Path:
        """Return a model as files, for a trainer that goes on from it."""
        if artefact not in self._folders:
            self._folders[artefact] = tempfile.TemporaryDirectory(prefix="tidemill-backtest-")
            export(self.model(artefact), self._made[artefact].lesson(), Path(self._folders[artefact].name))
        return Path(self._folders[artefact].name)

    def size_mb(self, artefact: str) -> float:
        """Return how many megabytes (of 1,000,000 bytes) a model takes as files."""
        if artefact not in self._sizes:
            with tempfile.TemporaryDirectory(prefix="tidemill-backtest-") as folder:
                export(self.model(artefact), self._made[artefact].lesson(), Path(folder))
                files = [file for file in Path(folder).rglob("*") if file.is_file()]
                self._sizes[artefact] = sum(file.stat().st_size for file in files) / 1e6
        return self._sizes[artefact]

    # --- predictions

    def scores(self, artefact: str, rows: Array) -> Array:
        """Return what a model gives for rows of the stream, float32 (N, K)."""
        entry = self._scores.get(artefact)
        if entry is None:
            shape = (len(self.stream), self.project.output.num_scores)
            entry = _Scores(np.zeros(len(self.stream), dtype=bool), np.zeros(shape, dtype=np.float32))
            self._scores[artefact] = entry
            if len(self._scores) > _MAX_SCORED:
                self._scores.popitem(last=False)
        self._scores.move_to_end(artefact)
        asked = as_slice(rows)
        new = rows[~entry.known[asked]]
        if len(new):
            model = self.model(artefact)
            begun, features = self._cpu_s(), self.spent.features_s
            for at in range(0, len(new), _ROWS_AT_ONCE):
                some = new[at : at + _ROWS_AT_ONCE]
                entry.scores[some] = self.predict(model, self.columns(some), len(some))
            entry.known[new] = True
            self.spent.predict_s += self._cpu_s() - begun - (self.spent.features_s - features)
        self.spent.rows_predicted += len(new)
        self.spent.rows_known += len(rows) - len(new)
        found: Array = entry.scores[asked]
        return found

    def predict(self, model: Model, columns: Columns, num_rows: int) -> Array:
        """Return what a model gives for a batch, float32 (N, K)."""
        given = columns if isinstance(model, Exportable) else dict(columns)
        return check_scores(model.predict(given), num_rows=num_rows, num_scores=self.project.output.num_scores)


def as_slice(rows: Array) -> Array | slice:
    """Return rows that follow each other as a slice, of which nothing is copied."""
    follow = len(rows) > 0 and (np.diff(rows) == 1).all()
    return slice(int(rows[0]), int(rows[-1]) + 1) if follow else rows


def content_of(parts: Sequence[object]) -> str:
    """Return a name for JSON values: equal values have the same."""
    return hashlib.sha256(json.dumps(list(parts), sort_keys=True, default=str).encode()).hexdigest()
