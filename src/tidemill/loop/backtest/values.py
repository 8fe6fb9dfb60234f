"""Labels and decisions as numbers, so that arrays can hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from tidemill.schema import Array, Classes, Output


@dataclass(frozen=True)
class Values:
    """Turns canonical labels of an output into float64 and back: the number of a class, or the value; NaN for none."""

    output: Output

    def codes(self, values: Sequence[Any]) -> Array:
        """Return the numbers of labels, float64 (N,)."""
        if not isinstance(self.output, Classes):
            return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        number = {name: float(i) for i, name in enumerate(self.output.names)} | {None: np.nan}
        return np.array([number[value] for value in values], dtype=np.float64)

    def series(self, name: str, codes: Array) -> pl.Series:
        """Return the labels of numbers as a column, null where there is none."""
        if not isinstance(self.output, Classes):
            return pl.Series(name, codes, dtype=pl.Float64).fill_nan(None)
        known = ~np.isnan(codes)
        index = pl.Series(np.where(known, codes, 0).astype(np.uint32))
        column = pl.Series(name, list(self.output.names), dtype=pl.String).gather(index)
        return column if known.all() else column.zip_with(pl.Series(known), pl.Series(name, [None], dtype=pl.String))

    def targets(self, codes: Array) -> Array:
        """Return what a loss takes: class numbers int64 (N,), or values float64 (N,)."""
        return codes.astype(np.int64) if isinstance(self.output, Classes) else codes
