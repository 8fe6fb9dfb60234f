"""Cohorts: which rows of a frame meet each named condition over tags, inputs and projections."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import polars as pl

from tidemill.errors import ProjectError
from tidemill.project import Project
from tidemill.projections import project_known
from tidemill.runtime.routing import position
from tidemill.schema import Array, Image, Number, Tensor
from tidemill.stores.conditions import condition_columns, evaluate


def check_cohorts(project: Project) -> None:
    """Refuse a cohort whose condition is not allowed, names an unknown column, or is not true or false.

    Raises:
        ProjectError: the message names the cohort, its condition and the offending part.
    """
    for name, condition in project.cohorts.items():
        try:
            read = condition_columns(condition, [*project.inputs, *project.projections])
            if set(read) <= set(project.inputs):  # what a projection gives is not known before it has run
                evaluate({"": condition}, _unknown_row(project))
        except ProjectError as error:
            raise ProjectError(f"cohort {name!r}: {error.message}", error.hint) from error


def _unknown_row(project: Project) -> pl.DataFrame:
    """Return the inputs with the types they have in the log, and one row of nulls."""
    types = {Number: pl.Float64(), Image: pl.Binary(), Tensor: pl.Binary()}
    schema = {name: types.get(type(kind), pl.String()) for name, kind in project.inputs.items()}
    return pl.DataFrame({name: [None] for name in schema}, schema=schema)


def columns_needed(project: Project) -> list[str]:
    """Return the inputs that must be read to tell the cohorts of a row."""
    if _projections_of_cohorts(project):
        return list(project.inputs)  # a projection sees the whole example
    return [n for n in project.inputs if n in project.schema.tags or _is_named(n, project)]


def _projections_of_cohorts(project: Project) -> list[str]:
    """Return the projections that cohorts are told by: a function of yours runs once for each row."""
    return [name for name in project.projections if _is_named(name, project)]


def _is_named(name: str, project: Project) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", " ".join(project.cohorts.values())) is not None


def cohort_masks(project: Project, frame: pl.DataFrame) -> dict[str, Array]:
    """Return a bool array (N,) per cohort; a row whose inputs were dropped is in no cohort that needs them."""
    if not project.cohorts or not len(frame):
        return {name: np.zeros(len(frame), dtype=bool) for name in project.cohorts}
    masks = evaluate(project.cohorts, with_projections(project, frame, _projections_of_cohorts(project)))
    return {name: only_known(project, frame, project.cohorts[name], mask) for name, mask in masks.items()}


def only_known(project: Project, frame: pl.DataFrame, condition: str, mask: Array) -> Array:
    """Return which rows that meet a condition are known to: of dropped inputs it is not, however it reads.

    `x IS NULL` is true of an input that was dropped, and `country = 'NL' OR x > 3` may be; but a kept row stands for
    dropped ones already. Rows that are no part of the log, without a probability, are all known.
    """
    if "keep_probability" not in frame.columns or not mask.any() or not needs_inputs(project, condition):
        return mask
    known: Array = mask & inputs_kept(project, frame, among=mask)
    return known


def needs_inputs(project: Project, condition: str) -> bool:
    """Tell whether a condition reads more than tags: what the log stage may have dropped."""
    read = condition_columns(condition, [*project.inputs, *project.projections])
    return not set(read) <= set(project.schema.tags)


def inputs_kept(project: Project, frame: pl.DataFrame, *, among: Array | None = None) -> Array:
    """Return which rows of the log have their inputs, bool (N,); the tags are always there.

    Where the frame has only some inputs, and all of these are null, what the gateway drew is drawn again by the
    request's id; only rows `among` those asked for are.
    """
    kept = [name for name in project.inputs if name not in project.schema.tags]
    seen = [name for name in kept if name in frame.columns]
    whole = pl.col("keep_probability").fill_null(0.0) >= 1.0  # an input that is newer than a row is null there
    there = frame.select(pl.any_horizontal(whole, *(pl.col(name).is_not_null() for name in seen))).to_series()
    found: Array = there.to_numpy().astype(bool)
    return found if len(seen) == len(kept) else found | _drawn(frame, ~found & (True if among is None else among))


def _drawn(frame: pl.DataFrame, asked: Array) -> Array:
    """Return which of the rows asked for the gateway kept: it draws by a hash of the id, so they are drawn alike."""
    drawn: Array = np.zeros(len(frame), dtype=bool)
    rows = np.flatnonzero(asked)
    some = frame.select("request_id", pl.col("keep_probability").fill_null(0.0))[rows]
    drawn[rows] = [chance > 0 and position("keep", id_) < chance for id_, chance in some.iter_rows()]
    return drawn


def keep_weights(frame: pl.DataFrame) -> Array:
    """Return how many requests each row stands for whose inputs were kept, float64 (N,): 0 where none ever are."""
    chance = pl.col("keep_probability")
    weights: Array = frame.select(pl.when(chance > 0).then(1 / chance).otherwise(0.0)).to_series().to_numpy()
    return weights


def with_projections(project: Project, frame: pl.DataFrame, names: Sequence[str] | None = None) -> pl.DataFrame:
    """Return the frame with a column per projection, of `names` or all, null where inputs were dropped or it fails."""
    wanted = {name: project.projections[name] for name in (project.projections if names is None else names)}
    if not wanted:
        return frame
    known = frame.select(pl.all_horizontal(pl.col(n).is_not_null() for n in project.inputs)).to_series()
    rows = np.flatnonzero(known.to_numpy())
    some = frame.select(list(project.inputs))[rows]
    columns = {n: t.column(some[n].to_list()) for n, t in project.schema.inputs.items()}
    values = project_known(wanted, columns, len(rows))
    return frame.with_columns(_spread(name, value, rows, len(frame)) for name, value in values.items())


def _spread(name: str, values: Sequence[object], rows: Array, num_rows: int) -> pl.Series:
    full: list[object] = [None] * num_rows
    for row, value in zip(rows, values, strict=True):
        full[row] = value
    return pl.Series(name, full)
