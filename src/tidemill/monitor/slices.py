"""Where a metric falls: the worst slices of the matured requests, declared as cohorts or found in the columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import polars as pl

from tidemill.errors import ProjectError
from tidemill.monitor.cohorts import cohort_masks, inputs_kept, keep_weights, needs_inputs, with_projections
from tidemill.monitor.outcomes import Window, judge, judged, loss, matured_frame
from tidemill.project import Project
from tidemill.records import Json, Trust
from tidemill.schema import Array, Category, Number, Text
from tidemill.stats.metrics import Metric
from tidemill.stats.worst import Column, worst_slices
from tidemill.stores.log import Log

MOST_ROWS = 20_000
_PART_ROWS = 200_000
_NUM_BINS, _MOST_VALUES, _LEAST, _LEAST_SHARE = 5, 20, 30, 0.01


@dataclass(frozen=True, kw_only=True)
class WorstSlice:
    """A slice of requests in which a metric is worse than elsewhere.

    `condition` is SQL over tags, inputs and projections, as a cohort has it; `cohort` its name where it is declared.
    `p` is corrected for all slices that were looked at.
    """

    metric: str
    condition: str
    cohort: str | None
    num: int
    value: float
    elsewhere: float
    p: float

    def __str__(self) -> str:
        where = self.cohort or self.condition
        return f"{self.metric} {self.value:.3g} in {self.num} where {where}, {self.elsewhere:.3g} elsewhere"

    def to_json(self) -> Json:
        """Return it as JSON."""
        return dict(vars(self))


def slice_metric(project: Project, name: str | None) -> Metric:
    """Return the metric to search by: the named one, or the first that a single request has.

    Raises:
        ProjectError: there is no such metric, or no single request has it.
    """
    row = judged(project.output, scores=np.zeros((0, project.output.num_scores)), labels=[])
    if name is None:
        found = next((metric for metric in project.metrics if metric.rows(row) is not None), None)
        if found is None:
            raise ProjectError("no metric of the project has a value for a single request.", "declare one that has")
        return found
    metric = project.metric(name)
    if metric.rows(row) is None:
        raise ProjectError(f"{metric.name} has no value for a single request.", "name a metric that has")
    return metric


def judged_frame(log: Log, project: Project, window: Window, metric: Metric, *, trust: Trust) -> pl.DataFrame:
    """Return the newest matured requests of a window in which the metric is known, with all inputs: enough for `worst`.

    The log is read part by part, the newest first, until there are twice as many as count.
    """
    frames, num = [], 0
    spans = log.spans(project.name, after=window.after, until=window.until, at_most=_PART_ROWS)
    for after, until in reversed(spans):
        frame = matured_frame(log, project, Window(after=after, until=until), trust=trust, inputs=True)
        known = ~np.isnan(loss(metric, judge(project, frame))) & frame["decision"].is_not_null().to_numpy()
        frames.append(frame.filter(pl.Series(known, dtype=pl.Boolean)))
        num += len(frames[-1])
        if num >= 2 * MOST_ROWS:
            break
    return pl.concat(frames[::-1], how="vertical_relaxed")


def worst(project: Project, frame: pl.DataFrame, metric: Metric, rng: np.random.Generator) -> list[WorstSlice]:
    """Return the slices of a matured frame in which the metric is worst, the worst first.

    Looked at are declared cohorts, and single columns and pairs of them over tags, inputs and projections, numbers in
    quintiles, texts by length, with at least 30 requests and 1 % of all. One request of each unit counts, the newest;
    of more than 20,000 the newest are taken. Where the log stage dropped inputs, those kept stand for the others.
    """
    frame = frame.filter(pl.col("decision").is_not_null())
    known = judge(project, frame)
    losses = loss(metric, known)
    rows = _newest_of_units(frame, np.flatnonzero(~np.isnan(losses)))
    if len(rows) < 2 * _LEAST:
        return []
    seen = with_projections(project, frame[rows])
    columns = [*_cohorts(project, seen), *_columns(project, seen)]
    values = metric.rows(known)
    assert values is not None, "`slice_metric` gives such a metric"
    found = []
    for one in worst_slices(losses[rows], columns, rng, least=_LEAST, least_share=_LEAST_SHARE):
        named = one.parts[0][1] if one.parts[0][0] == "" else None
        condition = project.cohorts[named] if named is not None else " AND ".join(part for _, part in one.parts)
        value, elsewhere = one.means(values[rows])
        found.append(
            WorstSlice(
                metric=metric.name,
                condition=condition,
                cohort=named,
                num=len(one),
                value=value,
                elsewhere=elsewhere,
                p=one.p,
            )
        )
    return found


def _newest_of_units(frame: pl.DataFrame, rows: Array) -> Array:
    units = frame["unit"].to_numpy()[rows][::-1]
    _, newest = np.unique(units.astype(str), return_index=True)
    return np.sort(rows[::-1][newest])[-MOST_ROWS:]


# --- columns in cells


def _cohorts(project: Project, frame: pl.DataFrame) -> list[Column]:
    kept, found = _weights(project, frame), []
    for name, mask in cohort_masks(project, frame).items():
        weights = kept if needs_inputs(project, project.cohorts[name]) else None
        found.append(Column(name="", cells=(name,), codes=np.where(mask, 0, -1), alone=True, weights=weights))
    return found


def _columns(project: Project, frame: pl.DataFrame) -> list[Column]:
    found: list[Column | None] = []
    for name, kind in project.inputs.items():
        if isinstance(kind, Number):
            found.append(_numbers(name, name, frame[name]))
        elif isinstance(kind, Category):
            found.append(_values(name, frame[name].cast(pl.String)))
        elif isinstance(kind, Text):
            found.append(_numbers(name, f"length({name})", frame[name].str.len_chars()))
    found += [_projected(name, frame[name]) for name in project.projections]
    kept, tags = _weights(project, frame), project.schema.tags
    columns = [column for column in found if column is not None and len(column.cells) > 1]
    return [column if column.name in tags else replace(column, weights=kept) for column in columns]


def _weights(project: Project, frame: pl.DataFrame) -> Array | None:
    """Return how many requests each row stands for by its inputs, 0 where they were dropped; None where each by one."""
    weights = np.where(inputs_kept(project, frame), keep_weights(frame), 0.0)
    return None if (weights == 1.0).all() or not weights.any() else weights


def _projected(name: str, values: pl.Series) -> Column | None:
    if values.dtype == pl.Boolean:
        codes = values.cast(pl.Int64).fill_null(-1).to_numpy()
        return Column(name=name, cells=(f"NOT {name}", name), codes=codes)
    return _values(name, values) if values.dtype == pl.String else _numbers(name, name, values)


def _values(name: str, values: pl.Series) -> Column | None:
    """Return the most frequent values, at most 20."""
    counts = values.drop_nulls().value_counts(sort=False).sort(["count", values.name], descending=[True, False])
    known = counts[values.name].head(_MOST_VALUES).to_list()
    place = {value: at for at, value in enumerate(known)}
    codes = np.array([place.get(value, -1) for value in values.to_list()], dtype=np.int64)
    quoted = ["'" + value.replace("'", "''") + "'" for value in known]
    return Column(name=name, cells=tuple(f"{name} = {value}" for value in quoted), codes=codes)


def _numbers(name: str, what: str, values: pl.Series) -> Column | None:
    """Return the quintiles of the numbers, as intervals that are closed above."""
    numbers = values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        return None
    levels = np.arange(1, _NUM_BINS) / _NUM_BINS
    edges = _rounded(np.quantile(known, levels, method="lower"), known)
    edges = edges[edges < known.max()]
    codes = np.where(np.isnan(numbers), -1, np.searchsorted(edges, numbers, side="left"))
    return Column(name=name, cells=tuple(_intervals(what, edges)), codes=codes)


def _rounded(edges: Array, known: Array) -> Array:
    """Round the edges as far as their distances allow, so that people can read the conditions."""
    spread = float(np.ptp(known))
    if spread == 0:
        return np.unique(edges)
    digits = int(np.ceil(-np.log10(spread))) + 2
    return np.unique(np.round(edges, digits))


def _intervals(what: str, edges: Array) -> Sequence[str]:
    if not len(edges):
        return [f"{what} IS NOT NULL"]
    shown = [f"{edge:.12g}" for edge in edges]
    between = [f"{what} > {low} AND {what} <= {high}" for low, high in pairwise(shown)]
    return [f"{what} <= {shown[0]}", *between, f"{what} > {shown[-1]}"]
