"""Whether a trainer learns at all: it is shown a handful of rows, and its model asked about the same rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tidemill.model import TrainingData
from tidemill.schema import Array

BATCH = 32
_REPEATS = 8  # so that minimum leaf sizes and few epochs still let a trainer memorise a batch
_MORE_OFTEN = 5
# Hardly better than the best constant is enough: a weak signal is a hard problem, no broken training.
_BETTER, _ABOVE = 1 - 1e-6, 0.05


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """What a model made of rows it was shown.

    `something` tells whether it beats the best constant answer, `most` whether it is clearly right; `likely` is what
    usually is the matter when it does not.
    """

    something: bool
    most: bool
    numbers: Mapping[str, float]
    likely: str

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.3g}" for name, value in self.numbers.items())


def batch_of(data: TrainingData, rng: np.random.Generator) -> TrainingData:
    """Return up to 32 rows with different inputs, classes in turn, each eight times."""
    order = rng.permutation(len(data))
    if data.targets.dtype.kind != "f":
        turn = np.empty(len(data), dtype=np.int64)
        for label in np.unique(data.targets):
            mine = order[data.targets[order] == label]
            turn[mine] = np.arange(len(mine))
        order = order[np.argsort(turn[order], kind="stable")]
    # Rows with the same inputs and other labels cannot be memorised by any model.
    seen: dict[Any, int] = {}
    for i in order:
        seen.setdefault(tuple(_key(column[i]) for column in data.columns.values()), int(i))
        if len(seen) == BATCH:
            break
    batch = data.take(np.tile(list(seen.values()), _REPEATS))
    return replace(batch, weights=np.ones(len(batch)))  # a row without weight would not be learnt


def pair_of(batch: TrainingData) -> TrainingData:
    """Return the two rows of a batch whose labels are furthest apart, as many times as makes a batch of the same size.

    Any two different rows can be told apart, however little the inputs say about the label.
    """
    pair = np.array([batch.targets.argmin(), batch.targets.argmax()])
    return batch.take(np.tile(pair, len(batch) // 2))


def more_often(rows: TrainingData) -> TrainingData:
    """Return the same rows five times over: a trainer takes five times as many steps on them."""
    return rows.take(np.tile(np.arange(len(rows)), _MORE_OFTEN))


def _key(value: Any) -> Any:
    return value.tobytes() if isinstance(value, np.ndarray) else value


def learnt(batch: TrainingData, scores: Array) -> Learnt:
    """Compare the scores (N, K) of a model that was trained on `batch` with the best constant answer."""
    return _values(batch, scores) if batch.targets.dtype.kind == "f" else _classes(batch, scores)


def _values(batch: TrainingData, scores: Array) -> Learnt:
    error = float(((scores - batch.targets.reshape(scores.shape)) ** 2).mean())
    constant = float(batch.targets.var())
    return Learnt(
        something=error < _BETTER * constant,
        most=error < 0.5 * constant,
        numbers={"squared_error": error, "of_a_constant": constant},
        likely="the learning rate, or targets far from 0 to 1 that the model never reaches",
    )


def _classes(batch: TrainingData, scores: Array) -> Learnt:
    share = np.bincount(batch.targets, minlength=scores.shape[1]) / len(batch)
    majority = float(share.max())
    accuracy = float((scores.argmax(axis=1) == batch.targets).mean())
    chances = np.clip(scores[np.arange(len(batch)), batch.targets], 1e-7, 1)
    loss = float(-np.log(chances).mean())
    constant = -math.fsum(s * math.log(s) for s in share if s > 0)
    return Learnt(
        something=accuracy > majority + _ABOVE or loss < _BETTER * constant,
        most=accuracy > 0.5 * (1 + majority),
        numbers={"accuracy": accuracy, "majority": majority, "log_loss": loss},
        likely="the learning rate, features that never reach the model, or outputs in another order than the labels",
    )
