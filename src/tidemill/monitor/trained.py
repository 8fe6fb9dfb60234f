"""The rows that a version was trained on, where inputs have been declared otherwise since."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from tidemill.project import Project
from tidemill.schema import Input, Text
from tidemill.stores.declared import declared_types


class Lacking(NamedTuple):
    """The inputs of today that rows of before have not.

    The `filled` are newer than these and have their default in every row; of the `unknown` nothing is known: they have
    none, or were of another kind, for which no default ever stood.
    """

    filled: Sequence[str] = ()
    unknown: Sequence[str] = ()


def as_declared(project: Project, frame: pl.DataFrame) -> tuple[pl.DataFrame, Lacking]:
    """Return training rows with the inputs of today, null where they are unknown; and which the rows have not.

    Where there are no rows, nothing is missing.
    """
    types = {**dict.fromkeys(project.inputs, pl.String()), **declared_types(project.schema)}
    missing = [n for n, kind in project.inputs.items() if len(frame) and not _has(frame, n, kind, types[n])]
    stands = {name: value for name, value in project.schema.defaults.items() if name not in frame.columns}
    rows = frame.with_columns(pl.lit(stands.get(name), dtype=types[name]).alias(name) for name in missing)
    return rows, Lacking([n for n in missing if n in stands], [n for n in missing if n not in stands])


def compared(project: Project, names: Sequence[str], lacking: Lacking) -> tuple[str, ...]:
    """Return the columns that can be compared with rows that lack inputs: a projection needs whole examples."""
    missing = [*lacking.filled, *lacking.unknown]
    out = {*missing, *(f"{name}.length" for name in missing if isinstance(project.inputs[name], Text))}
    out |= set(project.projections) if lacking.unknown else set()
    return tuple(name for name in names if name not in out)


def _has(frame: pl.DataFrame, name: str, kind: Input, dtype: pl.DataType) -> bool:
    if frame.schema.get(name) != dtype:
        return False
    try:
        kind.column(frame[name].drop_nulls().head(1).to_list())
    except ValueError:  # an image or a tensor of another shape
        return False
    return True
