"""Made-up rows that fit a schema: enough to see whether a project runs when there is no data yet."""

from __future__ import annotations

import numpy as np

from tidemill.model import TrainingData
from tidemill.schema import Array, Category, Classes, Image, Input, Number, Schema, Tensor

_WORDS = np.array(
    "the tide comes and goes again with wind rain sun salt sand stone boat net fish bird".split(), dtype=object
)


def made_up_data(schema: Schema, *, num_rows: int, rng: np.random.Generator) -> TrainingData:
    """Return rows with random inputs and random labels; every class occurs when there are rows enough."""
    columns = {name: _column(kind, num_rows, rng) for name, kind in schema.inputs.items()}
    if isinstance(schema.output, Classes):
        targets: Array = np.arange(num_rows, dtype=np.int64) % schema.output.num_scores
    else:
        targets = rng.uniform(
            getattr(schema.output, "low", None) or 0.0, getattr(schema.output, "high", None) or 1.0, num_rows
        )
    ids = tuple(f"made-up-{i}" for i in range(num_rows))
    return TrainingData(schema=schema, columns=columns, targets=targets, weights=np.ones(num_rows), ids=ids)


def _column(kind: Input, num_rows: int, rng: np.random.Generator) -> Array:
    if isinstance(kind, Image):
        return rng.integers(0, 256, (num_rows, *kind.shape)).astype(np.uint8)
    if isinstance(kind, Tensor):
        return rng.normal(size=(num_rows, *kind.shape)).astype(np.float32)
    if isinstance(kind, Number):
        low = 0.0 if kind.low is None else kind.low
        return rng.uniform(low, low + 1.0 if kind.high is None else kind.high, num_rows)
    if isinstance(kind, Category) and kind.values:
        return np.array(kind.values, dtype=object)[rng.integers(0, len(kind.values), num_rows)]
    return np.array([" ".join(rng.choice(_WORDS, 8)) for _ in range(num_rows)] + [None], dtype=object)[:-1]
