"""One label from the votes of several weak sources, each right more or less often."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tidemill.schema import Array

_ROUNDS = 100
_STEP = 1e-6
_PRIOR = 1.0  # votes that each source is taken to have cast before, seven in ten of them right
_PRIOR_RIGHT = 0.7


@dataclass(frozen=True)
class Voted:
    """The chance of each class, float64 (N, K), and how often each source is right, float64 (S,)."""

    chances: Array
    accuracy: Array


def majority(votes: Array, num_classes: int) -> Array:
    """Return the share of the votes for each class, float64 (N, K); nobody's vote is the same for all.

    `votes` are class indices, int (N, S), -1 where a source abstains.
    """
    counts = (votes[:, :, None] == np.arange(num_classes)).sum(axis=1).astype(np.float64)
    cast = counts.sum(axis=1, keepdims=True)
    return np.asarray(np.where(cast > 0, counts / np.maximum(cast, 1), 1.0 / num_classes))


def label_model(votes: Array, num_classes: int) -> Voted:
    """Weigh sources by how well they agree, found by expectation maximisation from the majority on.

    The model of Dawid and Skene (Applied Statistics 28, 1979) with one accuracy for each source, whose errors fall
    evenly on the other classes, and sources independent given the truth (as in Ratner et al., VLDB 2017). Sources that
    copy each other are taken for more than they are.
    """
    cast = votes >= 0
    chances = majority(votes, num_classes)
    accuracy = np.full(votes.shape[1], _PRIOR_RIGHT)
    for _ in range(_ROUNDS):
        before = accuracy
        agreed = np.take_along_axis(chances, np.maximum(votes, 0), axis=1) * cast
        accuracy = (agreed.sum(axis=0) + _PRIOR * _PRIOR_RIGHT) / (cast.sum(axis=0) + _PRIOR)
        share = chances[cast.any(axis=1)].sum(axis=0) + 1.0
        chances = _posterior(votes, accuracy, share / share.sum())
        if float(np.abs(accuracy - before).max(initial=0.0)) < _STEP:
            break
    return Voted(chances, accuracy)


def _posterior(votes: Array, accuracy: Array, share: Array) -> Array:
    """Return the chance of each class given the votes."""
    num_classes = len(share)
    right, wrong = np.log(accuracy), np.log((1 - accuracy) / max(1, num_classes - 1))
    logs = np.tile(np.log(share), (len(votes), 1))
    for source, (yes, no) in enumerate(zip(right, wrong, strict=True)):
        column = votes[:, source]
        some = np.flatnonzero(column >= 0)
        logs[some] += no
        logs[some, column[some]] += yes - no
    chances = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(chances / chances.sum(axis=1, keepdims=True))
