"""The rows that a version was trained on, where inputs have been declared otherwise since."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from tidemill.project import Project
from tidemill.schema import Image, Input, Number, Tensor, Text


def as_declared(project: Project, frame: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Return training rows with the inputs of today, and the names of those that they have not, or of another kind.

    These have their default in every row, or null where there is none. Where there are no rows, nothing is missing.
    """
    missing = [name for name, kind in project.inputs.items() if len(frame) and not _has(frame, name, kind)]
    stands = project.schema.defaults
    return frame.with_columns(
        pl.lit(stands.get(name), dtype=_type(project.inputs[name])).alias(name) for name in missing
    ), missing


def compared(project: Project, names: Sequence[str], missing: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that can be compared with training rows: a projection needs whole examples."""
    out = {*missing, *(f"{name}.length" for name in missing if isinstance(project.inputs[name], Text))}
    out |= set(project.projections) if set(missing) - set(project.schema.defaults) else set()
    return tuple(name for name in names if name not in out)


def _has(frame: pl.DataFrame, name: str, kind: Input) -> bool:
    if frame.schema.get(name) != _type(kind):
        return False
    try:
        kind.column(frame[name].drop_nulls().head(1).to_list())
    except ValueError:  # an image or a tensor of another shape
        return False
    return True


def _type(kind: Input) -> pl.DataType:
    if isinstance(kind, Number):
        return pl.Float64()
    return pl.Binary() if isinstance(kind, Image | Tensor) else pl.String()
