"""Columns of the log as a project declares them now, whatever they were when a row was written."""

from __future__ import annotations

import math
from collections.abc import Mapping

import polars as pl

from tidemill.schema import Category, Classes, Image, Number, Schema, Sensitive, Tensor, Text, Value

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


def _num_bytes(kind: Image | Tensor) -> int:
    return math.prod(kind.shape) * (4 if isinstance(kind, Tensor) else 1)
