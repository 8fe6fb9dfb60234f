"""What is compared of requests when one looks for drift: numbers, words, or vectors, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from tidemill.errors import ProjectError
from tidemill.monitor.cohorts import with_projections
from tidemill.monitor.outcomes import scores_of
from tidemill.project import Project
from tidemill.schema import Array, Classes, Image, Input, Number, Output, Schema, Tensor, Text
from tidemill.stats.embedding import Embedding

MOST_VECTORS = 2_000
"""Rows of each side of which vectors are compared."""

View = pl.Series
"""Of a column: Float64, String, or an Array of Float32 that is null but for the rows that vectors are made of."""


def view_names(project: Project, *, traffic: bool) -> list[str]:
    """Return what a project's requests may be compared by; outputs only beside other traffic."""
    names = []
    for name, kind in project.schema.inputs.items():
        names += [name, f"{name}.length"] if isinstance(kind, Text) else [name]
    names += list(project.projections)
    return [*names, *_output_names(project), "decision", "abstained", "outlier"] if traffic else names


def check_columns(project: Project, columns: Sequence[str] | None, *, traffic: bool, by: str) -> None:
    """Refuse columns that there are none of.

    Raises:
        ProjectError: the message names the member, the column and what there is.
    """
    known = view_names(project, traffic=traffic)
    for name in columns or ():
        if name not in known:
            hint = f"there is {', '.join(known)}"
            if not traffic and name in view_names(project, traffic=True):
                hint = f"{hint}; what was answered is compared with traffic, as in reference='30d'"
            raise ProjectError(f"{by} watches {name!r}, which is no column.", hint)


def views(project: Project, frame: pl.DataFrame, names: Sequence[str]) -> dict[str, View]:
    """Return the columns `names` of a frame of requests or training rows, null where a value is missing."""
    projected = set(project.projections) & set(names)
    frame = with_projections(project, frame, sorted(projected))
    found: dict[str, View] = {name: _plain(frame[name]) for name in projected}
    for name in project.schema.inputs:
        found |= _of_input(project, name, frame, names)
    outputs = _of_outputs(project, frame, names) if set(_output_names(project)) & set(names) else {}
    others = {name: _plain(frame[name]) for name in ("decision", "abstained") if name in names}
    if "outlier" in names:
        others["outlier"] = _plain(frame["outlier"].list.len().fill_null(0) > 0)
    every = {**found, **outputs, **others}
    return {name: every[name] for name in names}


def _of_input(project: Project, name: str, frame: pl.DataFrame, names: Sequence[str]) -> dict[str, View]:
    kind, found = project.schema.inputs[name], {}
    if isinstance(kind, Text) and f"{name}.length" in names:
        found[f"{name}.length"] = frame[name].str.len_chars().cast(pl.Float64)
    if name not in names:
        return found
    if isinstance(kind, Text | Image | Tensor):
        return {**found, name: _vectors(kind, frame[name], project.output)}
    return {name: frame[name].cast(pl.Float64 if isinstance(kind, Number) else pl.String)}


def _output_names(project: Project) -> list[str]:
    output = project.output
    return [f"score.{name}" for name in output.names] if isinstance(output, Classes) else ["score"]


def _of_outputs(project: Project, frame: pl.DataFrame, names: Sequence[str]) -> dict[str, View]:
    scores, known = scores_of(project, frame), _output_names(project)
    columns = {name: pl.Series(scores[:, min(at, scores.shape[1] - 1)]) for at, name in enumerate(known)}
    return {name: column.fill_nan(None) for name, column in columns.items() if name in names}


def _plain(column: pl.Series) -> View:
    """Return numbers as Float64, and words, true and false as String."""
    if column.dtype.is_numeric():
        return column.cast(pl.Float64)
    return column.cast(pl.String)


def _vectors(kind: Input, column: pl.Series, output: Output) -> View:
    """Return vectors of evenly spread rows, null elsewhere."""
    known = np.flatnonzero(column.is_not_null().to_numpy())
    some = known[np.unique(np.linspace(0, len(known) - 1, MOST_VECTORS).astype(np.int64))] if len(known) else known
    made = _embedded(kind, column[some].to_list(), output).astype(np.float32)
    place = np.full(len(column), -1)
    place[some] = np.arange(len(some))
    return pl.Series(made).gather(pl.Series(place).replace(-1, None))


def _embedded(kind: Input, values: list[object], output: Output) -> Array:
    """Return values float (n, D), by the embedding that declared inputs have of themselves."""
    schema = Schema({"value": replace(kind, tag=False) if isinstance(kind, Text) else kind}, output)
    return Embedding(schema, shift={"value": 0.0}, scale={"value": 1.0}).of([{"value": value} for value in values])
