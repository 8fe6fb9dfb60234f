"""The schemas of the strategy held against the rows that a candidate learns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from tidemill.model import TrainingData
from tidemill.review.data_checks import check_data
from tidemill.schema import Array
from tidemill.stores.declared import declared_types
from tidemill.strategy.data_checked import DataChecked


def checked_data(data: TrainingData, schemas: Sequence[tuple[str, Any]]) -> tuple[DataChecked, ...]:
    """Return what becomes of each schema, by the digest of the member that asks for it.

    Raises:
        MissingExtra: pandera is not installed.
    """
    if not schemas:
        return ()
    frame, inputs = training_frame(data), tuple(data.schema.inputs)
    return tuple(check_data(frame, schema, digest=digest, ids=data.ids, inputs=inputs) for digest, schema in schemas)


def training_frame(data: TrainingData) -> pl.DataFrame:
    """Return training rows as schemas see them: the inputs in canonical form, `label` and `weight`."""
    types = declared_types(data.schema)
    names = getattr(data.schema.output, "names", None)
    labels = data.targets.tolist() if names is None else [names[target] for target in data.targets]
    columns = {name: pl.Series(_values(data.columns[name]), dtype=types[name]) for name in data.schema.inputs}
    return pl.DataFrame({**columns, "label": pl.Series(labels, dtype=types["decision"]), "weight": data.weights})


def _values(column: Array) -> list[Any]:
    return column.tolist() if column.ndim == 1 else [row.tobytes() for row in column]
