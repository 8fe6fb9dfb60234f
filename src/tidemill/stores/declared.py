"""What is stored as a project declares it now, whatever was declared when it was written: columns, and rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from tidemill.schema import Category, Classes, Image, Input, Number, Schema, Sensitive, Tensor, Text, Value
from tidemill.stores.scan import lost

_TYPES: Mapping[type, pl.DataType] = {
    Text: pl.String(), Category: pl.String(), Sensitive: pl.String(), Number: pl.Float64(), Image: pl.Binary(),
    Tensor: pl.Binary(), Classes: pl.String(), Value: pl.Float64(),
}  # fmt: skip


def declared_types(schema: Schema) -> dict[str, pl.DataType]:
    """Return the type of each input's column, and of the decision's; one of an unknown kind is left out."""
    kinds = {**{name: type(kind) for name, kind in schema.inputs.items()}, "decision": type(schema.output)}
    return {name: _TYPES[kind] for name, kind in kinds.items() if kind in _TYPES}


def of_declared_size(frame: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Return the frame with null for images and tensors of another shape than is declared."""
    sizes = {name: _num_bytes(kind) for name, kind in schema.inputs.items() if isinstance(kind, Image | Tensor)}
    fits = {n: pl.col(n).bin.size() == s for n, s in sizes.items() if frame.schema.get(n) == pl.Binary()}
    return frame.with_columns(pl.when(fit).then(pl.col(name)) for name, fit in fits.items()) if fits else frame


def told_by(schema: Schema) -> list[str]:
    """Return columns that tell of a row whether its inputs were kept: among them small inputs of every kept row."""
    small = [name for name in schema.required if isinstance(schema.inputs[name], Number | Category | Sensitive)]
    return ["role", "keep_probability", *[name for name in small if name not in schema.tags][:2]]


def older_filled(frame: pl.DataFrame, schema: Schema, names: Sequence[str]) -> pl.DataFrame:
    """Return rows of the log with the defaults of the inputs `names` in those that are older than these.

    Tags are always kept. Of other inputs a row has none where the log stage dropped them: it stays so. So does a value
    of another kind that was lost when it was read: it is missing, and no default was ever meant.
    """
    types, seen = declared_types(schema), [n for n in schema.inputs if n in frame.columns and n not in schema.tags]
    frame = frame.with_columns(
        pl.lit(None, dtype=types[name]).alias(name) for name in names if name not in frame.columns
    )
    answers = pl.col("role") == "answer"
    certain = pl.col("keep_probability").fill_null(0.0) >= 1.0
    kept = answers & pl.any_horizontal(certain, *(pl.col(name).is_not_null() for name in seen))
    was_lost = {name: pl.col(lost(name)).fill_null(value=False) for name in names if lost(name) in frame.columns}
    never = {name: pl.col(name).is_null() & ~was_lost.get(name, pl.lit(value=False)) for name in names}
    return frame.with_columns(
        pl.when(never[name] & (answers if name in schema.tags else kept))
        .then(pl.lit(schema.defaults[name], dtype=types[name]))
        .otherwise(pl.col(name))
        .alias(name)
        for name in names
    ).drop(map(lost, was_lost))


def with_defaults(frame: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Return rows of a dataset with the inputs that it was formed before, where these have a default."""
    types = declared_types(schema)
    newer = {name: default for name, default in schema.defaults.items() if name not in frame.columns}
    return frame.with_columns(pl.lit(default, dtype=types[name]).alias(name) for name, default in newer.items())


def of_today(row: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """Return stored inputs as they are declared: with defaults where they are older, less what was otherwise."""
    types, whole = declared_types(schema), schema.filled(row)
    return {n: whole[n] for n, kind in schema.inputs.items() if _is_of(kind, types.get(n), whole.get(n))}


def _is_of(kind: Input, dtype: pl.DataType | None, value: Any) -> bool:
    if isinstance(kind, Image | Tensor):
        return isinstance(value, bytes) and len(value) == _num_bytes(kind)
    return value is not None and (dtype is None or isinstance(value, str if dtype == pl.String() else int | float))


def _num_bytes(kind: Image | Tensor) -> int:
    return math.prod(kind.shape) * (4 if isinstance(kind, Tensor) else 1)
