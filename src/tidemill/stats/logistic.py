"""A small logistic regression: features to a probability, with a ridge and a second fit that calibrates it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from tidemill.schema import Array

_ROUNDS = 30
_STEP = 1e-8
_FOLDS = 5
_FAR = 30.0  # logits beyond that are 0 and 1


@dataclass(frozen=True)
class Logistic:
    """`probability` = 1 / (1 + exp(-(slope (x w) + offset))); features are standardised inside."""

    mean: Array
    width: Array
    weights: Array
    slope: float
    offset: float

    @classmethod
    def fit(cls, features: Array, targets: Array, *, ridge: float = 1.0) -> Self:
        """Fit features float (N, D) to targets float (N,) in 0..1.

        The weights come from all rows; slope and offset from what five other fits, each without a fifth of the rows,
        say about that fifth (Platt, Advances in Large Margin Classifiers, 1999). The fifths are taken in turn.
        """
        mean, spread = features.mean(axis=0), features.std(axis=0)
        width = np.where(spread > 0, spread, 1.0)
        rows = np.column_stack([np.ones(len(features)), (features - mean) / width])
        held_out, fold = np.zeros(len(rows)), np.arange(len(rows)) % _FOLDS
        for k in range(_FOLDS):
            held_out[fold == k] = rows[fold == k] @ _weights(rows[fold != k], targets[fold != k], ridge)
        offset, slope = _weights(np.column_stack([np.ones(len(rows)), held_out]), targets, 1e-3)
        return cls(mean, width, _weights(rows, targets, ridge), max(0.0, float(slope)), float(offset))

    def logit(self, features: Array) -> Array:
        """Return the logarithm of the odds before calibration, float (N,): it ranks as the probability does."""
        rows = np.column_stack([np.ones(len(features)), (features - self.mean) / self.width])
        return np.asarray(rows @ self.weights)

    def probability(self, features: Array) -> Array:
        """Return calibrated probabilities, float (N,)."""
        return _sigmoid(self.slope * self.logit(features) + self.offset)


def _weights(rows: Array, targets: Array, ridge: float) -> Array:
    """Return the ridge estimate by Newton's method; the first column, of ones, has no penalty."""
    weights = np.zeros(rows.shape[1])
    penalty = np.full(rows.shape[1], ridge)
    penalty[0] = 1e-6
    for _ in range(_ROUNDS):
        said = _sigmoid(rows @ weights)
        slope = rows.T @ (said - targets) + penalty * weights
        curve = (rows * (said * (1 - said) + 1e-9)[:, None]).T @ rows + np.diag(penalty)
        step = np.linalg.solve(curve, slope)
        weights = weights - step / max(1.0, float(np.abs(step).max()) / 5.0)
        if float(np.abs(step).max()) < _STEP:
            break
    return weights


def _sigmoid(logits: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -_FAR, _FAR))))
