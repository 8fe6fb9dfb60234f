"""How far scores are from what they say: the expected calibration error of the decided class, with its interval."""

from __future__ import annotations

import numpy as np

from tidemill.review.population import Rows
from tidemill.schema import Array
from tidemill.stats.intervals import effective_size
from tidemill.stats.metrics import Judged
from tidemill.strategy.evidence import MIN_ROWS, Bin, Calibration

_MOST_BINS, _NUM_DRAWS, _STEPS = 15, 2_000, 20


def calibration(judged: Judged, rows: Rows, rng: np.random.Generator) -> Calibration | None:
    """Return the expected calibration error on `rows`, None for an output without classes or fewer than 30 rows.

    A row's confidence is the score of its decision. Rows are sorted by it and put into up to 15 bins of equally many
    and at least 30. The error is the weighted mean over bins of |share right - mean confidence| (Naeini et al., AAAI
    2015). Noise alone makes that larger than 0, so the interval is not around it: it holds the errors of those
    multiples of the measured differences under which what was measured is not in a tail of 2.5 % (a test inverted along
    one line, as in Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 12.3). Each difference is a
    mean over rows, and taken for normal.
    """
    rows = rows.where(judged.known & np.isfinite(judged.scores).all(axis=1)) if judged.classes else rows
    n = len(rows.index)
    if not judged.classes or n < MIN_ROWS:
        return None
    confidence, right = _confidence(judged, rows.index)
    order = np.argsort(confidence, kind="stable")
    bins = np.array_split(order, min(_MOST_BINS, n // MIN_ROWS))
    parts = [_part(confidence[at], right[at], rows.weights[at]) for at in bins]
    share = np.array([rows.weights[at].sum() for at in bins]) / rows.weights.sum()
    gap, error = np.array([right - sure for sure, right, _ in parts]), np.array([spread for *_, spread in parts])
    value = float(share @ np.abs(gap))
    noise = error * rng.standard_normal((_NUM_DRAWS, len(bins)))
    low, high = (value * _multiple(gap, noise, share, value, tail) for tail in (0.975, 0.025))
    shown = [Bin(confidence=p[0], accuracy=p[1], n=len(at)) for p, at in zip(parts, bins, strict=True)]
    return Calibration(error=value, low=low, high=max(high, value), n=n, bins=tuple(shown))


def _multiple(gap: Array, noise: Array, share: Array, value: float, tail: float) -> float:
    """Return the multiple of `gap` under which the error's quantile `tail` is `value`, 0 if none is small enough."""
    low, high = 0.0, 4.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        above = np.quantile(np.abs(middle * gap + noise) @ share, tail) > value
        low, high = (low, middle) if above else (middle, high)
    return low


def _confidence(judged: Judged, index: Array) -> tuple[Array, Array]:
    """Return the score of the decision and whether it was right, float64 (n,) each."""
    place = {name: at for at, name in enumerate(judged.classes)}
    decided = np.array([place.get(name, -1) for name in judged.decisions[index]], dtype=np.int64)
    scores = judged.scores[index]
    sure = np.where(decided >= 0, scores[np.arange(len(index)), decided], scores.max(axis=1))
    return sure.astype(np.float64), (judged.decisions[index] == judged.labels[index]).astype(np.float64)


def _part(confidence: Array, right: Array, weights: Array) -> tuple[float, float, float]:
    """Return mean confidence, share right, and the standard error of their difference."""
    total = float(weights.sum())
    sure, share = float(weights @ confidence) / total, float(weights @ right) / total
    size = effective_size(weights)
    # Rows that are all right, or all wrong, have no spread to see; half a row of the other kind gives them one.
    smooth = (share * size + 0.5) / (size + 1)
    return sure, share, float(np.sqrt(smooth * (1 - smooth) / size))
