"""Labels and decisions as numbers, so that arrays can hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from tidemill.schema import Array, Classes, Output
from tidemill.stats.metrics import Judged


@dataclass(frozen=True)
class Values:
    """Turns canonical labels of an output into float64 and back: the number of a class, or the value; NaN for none."""

    output: Output

    def codes(self, values: Sequence[Any] | pl.Series) -> Array:
        """Return the numbers of labels, float64 (N,)."""
        if isinstance(values, pl.Series):
            return self._of_column(values)
        if not isinstance(self.output, Classes):
            return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        number = {name: float(i) for i, name in enumerate(self.output.names)} | {None: np.nan}
        return np.array([number[value] for value in values], dtype=np.float64)

    def _of_column(self, values: pl.Series) -> Array:
        if not isinstance(self.output, Classes) or values.dtype != pl.String():
            return self.codes(values.to_list())
        return values.cast(self._enum).cat.physical().cast(pl.Float64).to_numpy()  # NaN where it is null

    @cached_property
    def _enum(self) -> pl.Enum:
        assert isinstance(self.output, Classes)
        return pl.Enum(self.output.names)

    def objects(self, codes: Array) -> Array:
        """Return the labels of numbers as objects (N,), None where there is none."""
        if isinstance(self.output, Classes):
            names = np.array([*self.output.names, None], dtype=object)  # the last one is for NaN
            return np.take(names, np.nan_to_num(codes, nan=len(names) - 1).astype(np.int64))
        found: Array = codes.astype(object)
        found[np.isnan(codes)] = None
        return found

    def series(self, name: str, codes: Array) -> pl.Series:
        """Return the labels of numbers as a column, null where there is none."""
        if not isinstance(self.output, Classes):
            return pl.Series(name, codes, dtype=pl.Float64).fill_nan(None)
        known = ~np.isnan(codes)
        index = pl.Series(np.where(known, codes, 0).astype(np.uint32))
        column = pl.Series(name, list(self.output.names), dtype=pl.String).gather(index)
        return column if known.all() else column.zip_with(pl.Series(known), pl.Series(name, [None], dtype=pl.String))

    def judged(self, codes: Array, scores: Array, decisions: Sequence[str | float | None]) -> Judged:
        """Lay decisions (N,) beside the labels of numbers; `scores` is (N, K)."""
        if not isinstance(self.output, Classes):
            said = np.array([np.nan if one is None else one for one in decisions], dtype=np.float64)
            return Judged(decisions=said, labels=codes, scores=scores, targets=codes)
        targets = np.where(np.isnan(codes), -1, codes).astype(np.int64)
        said = np.array([*decisions, None], dtype=object)[:-1]
        names, labels = tuple(self.output.names), self.objects(codes)
        return Judged(decisions=said, labels=labels, scores=scores, targets=targets, classes=names)

    def targets(self, codes: Array) -> Array:
        """Return what a loss takes: class numbers int64 (N,), or values float64 (N,)."""
        return codes.astype(np.int64) if isinstance(self.output, Classes) else codes
