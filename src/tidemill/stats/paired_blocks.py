"""The mean of a series in time, or of a paired difference, with an interval.

Rows that are near in time are alike, so blocks of them are drawn: the circular block bootstrap of Politis and Romano
(1992), after Künsch, Annals of Statistics 17 (1989).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tidemill.schema import Array

_ROUNDS = 2_000
_BLOCKS = 50  # of which a bootstrap draws: fewer make the interval too short, more break what belongs together


@dataclass(frozen=True)
class Span:
    """A mean with its interval, over `num` rows."""

    value: float
    low: float
    high: float
    num: int


def mean_span(values: Array, *, rng: np.random.Generator, alpha: float = 0.05, rounds: int = _ROUNDS) -> Span:
    """Return the mean of the known values of S repetitions of a series in time, with its interval.

    Args:
        values: float (S, N), NaN where not known; rows in order of time.
        rng: draws the blocks and the repetitions.
        alpha: the interval has level 1 - alpha.
        rounds: how many times to draw.
    """
    known = ~np.isnan(values)
    num = int(known.any(axis=0).sum())
    if not num:
        return Span(math.nan, math.nan, math.nan, 0)
    sums, counts = _blocks(np.where(known, values, 0.0)), _blocks(known.astype(np.float64))
    repetitions, blocks = sums.shape
    length = max(1, round(blocks / _BLOCKS))
    starts = rng.integers(0, blocks, size=(rounds, math.ceil(blocks / length)))
    drawn = ((starts[:, :, None] + np.arange(length)) % blocks).reshape(rounds, -1)[:, :blocks]
    which = rng.integers(0, repetitions, size=(rounds, repetitions))
    weights = np.stack([np.bincount(row, minlength=blocks) for row in drawn]).astype(np.float64)
    of_repetition = np.stack([np.bincount(row, minlength=repetitions) for row in which]).astype(np.float64)
    totals = np.einsum("rs,rb,sb->r", of_repetition, weights, sums, optimize=True)
    sizes = np.einsum("rs,rb,sb->r", of_repetition, weights, counts, optimize=True)
    means = totals[sizes > 0] / sizes[sizes > 0]
    low, high = np.quantile(means, [alpha / 2, 1 - alpha / 2])
    return Span(float(sums.sum() / counts.sum()), float(low), float(high), num)


def _blocks(rows: Array) -> Array:
    """Return the sums of up to 1,000 runs of rows, float (S, B)."""
    num = rows.shape[1]
    edges = np.linspace(0, num, min(num, 20 * _BLOCKS), endpoint=False).astype(np.int64)
    summed: Array = np.add.reduceat(rows, edges, axis=1)
    return summed
