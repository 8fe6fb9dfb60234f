"""Many rows, of which a model sees some at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tidemill.schema import Array


def in_batches(
    scores: Callable[[Mapping[str, Array]], Any], columns: Mapping[str, Array], batch_rows: int | None
) -> Any:
    """Return the scores (N, K) of columns of N rows, asked for `batch_rows` at a time; None for all at once."""
    num_rows = len(next(iter(columns.values())))
    if batch_rows is None or num_rows <= batch_rows:
        return scores(columns)
    begins = range(0, num_rows, batch_rows)
    return np.concatenate(
        [scores({name: column[at : at + batch_rows] for name, column in columns.items()}) for at in begins]
    )
