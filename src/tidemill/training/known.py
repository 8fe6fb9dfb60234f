"""Columns of rows that are known by number, so that features which are the same for every model are computed once."""

from __future__ import annotations

from typing import Any, Protocol

from tidemill.schema import Array, Columns
from tidemill.transforms import Pipeline


class Features(Protocol):
    """Keeps the features of the rows of one table."""

    def of(self, pipeline: Pipeline, rows: Array) -> Any:
        """Return the matrix, dense or CSR, of rows int64 (N,) under a pipeline that learns nothing."""
        ...


class KnownRows(dict[str, Array]):
    """The columns of a batch; `rows` int64 (N,) are their numbers in the table that `features` belongs to."""

    def __init__(self, columns: Columns, rows: Array, features: Features) -> None:
        super().__init__(columns)
        self.rows = rows
        self.features = features

    def take(self, index: Array) -> KnownRows:
        """Return the rows at `index` (positions, or a slice)."""
        return KnownRows({name: column[index] for name, column in self.items()}, self.rows[index], self.features)
