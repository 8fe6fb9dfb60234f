"""From the log to `Outcomes`: per-row losses of the declared metrics, with cohorts and arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from tidemill.errors import InvalidInput
from tidemill.monitor.cohorts import cohort_masks, columns_needed
from tidemill.project import Project
from tidemill.records import Trust
from tidemill.schema import Array, Classes, Output
from tidemill.stats.metrics import Judged, Metric, events_of
from tidemill.stores.log import Log
from tidemill.strategy.outcomes import Outcomes

FACTS = [
    "request_id", "received_at", "unit", "rollout", "share", "assigned_version", "answered_version",
    "error", "fallback_reason", "latency_ms", "cached", "decision", "scores", "keep_probability", "abstained",
]  # fmt: skip


_PART_ROWS = 200_000  # of the log, read at a time


@dataclass(frozen=True, kw_only=True)
class Window:
    """Requests received in (after, until]; `after` None reads from the beginning."""

    after: datetime | None
    until: datetime


def matured_frame(
    log: Log, project: Project, window: Window, *, trust: Trust, inputs: bool = False, facts: Sequence[str] = FACTS
) -> pl.DataFrame:
    """Return the answered requests of a window with label (of at least `trust`) and events inside the horizon.

    With `inputs`, all declared inputs are among the columns, else those that cohorts need; `facts` are the others.

    The caller asks only for windows whose rows have matured: `until` ≤ now - horizon.
    """
    return log.outcomes(
        project.name,
        after=window.after,
        until=window.until,
        horizon=horizon(project),
        trust=trust,
        events=events_of(project.metrics),
        columns=[*facts, *(project.inputs if inputs else columns_needed(project))],
        schema=project.schema,
    )


def answered_frame(log: Log, project: Project, window: Window) -> pl.DataFrame:
    """Return the answered requests of a window, matured or not."""
    return log.predictions(
        project.name, after=window.after, until=window.until, columns=[*FACTS, *columns_needed(project)],
        schema=project.schema,
    )  # fmt: skip


def horizon(project: Project) -> timedelta:
    """Return how long after a request its feedback still counts."""
    return project.strategy.label.horizon


def outcomes(project: Project, frame: pl.DataFrame, *, candidate: int | None, metrics: Sequence[str] = ()) -> Outcomes:
    """Turn a frame of answered requests into facts; `metrics` need the frame to be a matured one."""
    if not len(frame):
        return Outcomes.empty()
    known = judge(project, frame) if metrics else None
    failed = failures(frame)
    return Outcomes(
        received_at=frame["received_at"].to_numpy().astype(np.int64),
        unit=np.asarray(frame["unit"].to_numpy(), dtype=object),
        version=frame["assigned_version"].to_numpy().astype(np.int64),
        candidate=(frame["assigned_version"] == (candidate if candidate is not None else -1)).to_numpy().astype(bool),
        share=frame["share"].to_numpy().astype(np.float64),
        failed=failed,
        latency_ms=_latency(frame),
        # A failed row was answered by another version: its decision says nothing about the assigned one.
        values={n: np.where(failed, np.nan, loss(project.metric(n), known)) for n in metrics} if known else {},
        cohorts=cohort_masks(project, frame),
        abstained=_true(frame["abstained"]),
    )


def _latency(frame: pl.DataFrame) -> Array:
    """Return how long each version took, float64 (N,), NaN where it did not run: a new one has no scores remembered."""
    took = np.array(frame["latency_ms"].to_numpy(), dtype=np.float64)  # NaN where it is null
    took[_true(frame["cached"])] = np.nan
    return took


def _true(flags: pl.Series) -> Array:
    """Return which flags are set, bool (N,): null is not."""
    known = flags.fill_null(value=False) if flags.has_nulls() else flags
    return known.to_numpy().astype(bool)


def failures(frame: pl.DataFrame) -> Array:
    """Return which rows the assigned version failed to answer, bool (N,)."""
    error, reason = frame["error"], frame["fallback_reason"]
    if error.null_count() == reason.null_count() == len(frame):
        return np.zeros(len(frame), dtype=bool)
    return (error.is_not_null() | reason.is_not_null()).to_numpy().astype(bool)


def scores_of(project: Project, frame: pl.DataFrame) -> Array:
    """Return the scores float64 (N, K), NaN where there are none, or as many as the output had before it changed."""
    num, scores = project.output.num_scores, frame["scores"]
    if len(frame) and not scores.has_nulls():
        with suppress(pl.exceptions.PolarsError):  # some have another number: the output has changed
            return np.asarray(scores.cast(pl.Array(pl.Float32, num)).to_numpy(), dtype=np.float64)
    blank = [float("nan")] * num
    listed = [s if s is not None and len(s) == num else blank for s in scores.to_list()]
    return np.array(listed, dtype=np.float64).reshape(-1, num)


def judge(project: Project, frame: pl.DataFrame) -> Judged:
    """Return decisions beside labels for a matured frame."""
    output, scores = project.output, scores_of(project, frame)
    events = {c.removeprefix("event_"): frame[c].to_numpy() for c in frame.columns if c.startswith("event_")}
    decisions, labels = frame["decision"], frame["label"]
    if not (isinstance(output, Classes) and decisions.dtype == labels.dtype == pl.String):
        return judged(output, scores=scores, labels=labels.to_list(), decisions=decisions.to_list(), events=events)
    (words, named), (told, codes) = _coded(decisions), _coded(labels)
    of_words = judged(output, scores=np.zeros((len(told), output.num_scores)), labels=told, decisions=told)
    return Judged(
        decisions=_column(words, is_class=True)[named], labels=of_words.labels[codes], scores=scores,
        targets=of_words.targets[codes], classes=of_words.classes, events=events,
    )  # fmt: skip


def _coded(words: pl.Series) -> tuple[list[str | None], Array]:
    """Return the different words of a column, and where each row's is among them: an object a word, not a row."""
    known = words.unique()
    places = words.replace_strict(known, pl.Series(range(len(known)), dtype=pl.Int64))
    return known.to_list(), places.to_numpy().astype(np.int64)


def judged(
    output: Output, *, scores: Array, labels: Sequence[Any], decisions: Sequence[Any] | None = None,
    events: Mapping[str, Array] | None = None,
) -> Judged:  # fmt: skip
    """Lay scores (N, K) beside canonical labels, None where unknown; decisions are the output's own unless given.

    A label that the output does not know, such as of a class that the project has no more, is unknown too.
    """
    is_class = isinstance(output, Classes)
    canonical = {label: _known(output, label) for label in set(labels)}
    labels = [canonical[label] for label in labels]
    known = [i for i, label in enumerate(labels) if label is not None]
    targets = np.full(len(labels), -1, dtype=np.int64) if is_class else np.full(len(labels), np.nan)
    targets[known] = output.targets([labels[i] for i in known])
    return Judged(
        decisions=_column(output.decide(scores) if decisions is None else decisions, is_class),
        labels=_column(labels, is_class),
        scores=scores,
        targets=targets,
        classes=tuple(output.names) if isinstance(output, Classes) else (),
        events=dict(events or {}),
    )


def _known(output: Output, label: Any) -> str | float | None:
    try:
        return None if label is None else output.parse_label(label)
    except InvalidInput:
        return None


def _column(values: Sequence[Any], is_class: bool) -> Array:
    if is_class:
        return np.array([*values, None], dtype=object)[:-1]
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def past_losses(
    log: Log, project: Project, window: Window, *, metrics: Sequence[str], trust: Trust, at_most: int = _PART_ROWS
) -> dict[str, dict[str, float]]:
    """Return by metric the mean loss of each unit in a window, read in parts of about `at_most` rows."""
    sums: dict[str, list[pl.DataFrame]] = {}
    for after, until in log.spans(project.name, after=window.after, until=window.until, at_most=at_most):
        frame = matured_frame(log, project, Window(after=after, until=until), trust=trust)
        rows = outcomes(project, frame, candidate=None, metrics=metrics)
        for name, losses in rows.values.items():
            known = pl.DataFrame({"unit": rows.unit.tolist(), "loss": losses}, schema_overrides={"unit": pl.String})
            known = known.filter(pl.col("loss").is_not_nan())
            sums.setdefault(name, []).append(known.group_by("unit").agg(pl.col("loss").sum(), num=pl.len()))
    means = {name: pl.concat(parts).group_by("unit").agg(pl.col("loss", "num").sum()) for name, parts in sums.items()}
    return {name: dict(rows.select("unit", pl.col("loss") / pl.col("num")).iter_rows()) for name, rows in means.items()}


def loss(metric: Metric, rows_judged: Judged) -> Array:
    """Return the metric per row with higher = worse, float64 (N,), NaN where it is not known.

    Raises:
        ValueError: the metric has no per-row form (F1); the project check refuses it where it would be needed.
    """
    rows = metric.rows(rows_judged)
    if rows is None:
        raise ValueError(f"metric {metric.name!r} has no value per row")
    if not metric.higher_is_better:
        return rows
    best = metric.bounds[1]
    return -rows if best is None else best - rows
