"""Made-up rows that fit a schema: enough to see whether a project runs when there is no data yet."""

from __future__ import annotations

import numpy as np

from tidemill.model import TrainingData
from tidemill.schema import Array, Category, Classes, Image, Input, Number, Schema, Tensor

_WORDS = ("tide", "comes", "goes", "again", "with", "wind", "rain", "sun", "salt", "sand", "stone", "boat", "fish")


def made_up_data(schema: Schema, *, num_rows: int, rng: np.random.Generator) -> TrainingData:
    """Return rows with random inputs and random labels; every class occurs when there are rows enough."""
    columns = {name: _column(kind, num_rows, rng) for name, kind in schema.inputs.items()}
    if isinstance(schema.output, Classes):
        targets: Array = np.arange(num_rows, dtype=np.int64) % schema.output.num_scores
    else:
        bounds = getattr(schema.output, "low", None), getattr(schema.output, "high", None)
        targets = rng.uniform(*_within(*bounds), num_rows)
    ids = tuple(f"made-up-{i}" for i in range(num_rows))
    return TrainingData(schema=schema, columns=columns, targets=targets, weights=np.ones(num_rows), ids=ids)


def _column(kind: Input, num_rows: int, rng: np.random.Generator) -> Array:
    if isinstance(kind, Image):
        return rng.integers(0, 256, (num_rows, *kind.shape)).astype(np.uint8)
    if isinstance(kind, Tensor):
        return rng.normal(size=(num_rows, *kind.shape)).astype(np.float32)
    if isinstance(kind, Number):
        return rng.uniform(*_within(kind.low, kind.high), num_rows)
    if isinstance(kind, Category) and kind.values:
        return np.array(kind.values, dtype=object)[rng.integers(0, len(kind.values), num_rows)]
    max_chars = getattr(kind, "max_chars", None)
    texts = [" ".join(rng.choice(_WORDS, 8))[:max_chars] for _ in range(num_rows)]
    return np.array([*texts, None], dtype=object)[:-1]


def _within(low: float | None, high: float | None) -> tuple[float, float]:
    """Return bounds that are both known, 0 to 1 where nothing is declared."""
    if low is None:
        low = 0.0 if high is None else min(0.0, high - 1.0)
    return low, low + 1.0 if high is None else high
