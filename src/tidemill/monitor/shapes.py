"""How the values of each column are spread, in a reference and now: what a picture beside a look at drift shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from tidemill.monitor.drift import Training
from tidemill.monitor.trained import Lacking, as_declared, compared
from tidemill.monitor.views import view_names, views
from tidemill.project import Project
from tidemill.schema import Array, Image, Tensor, Text
from tidemill.stores.log import Log
from tidemill.strategy.drift_needs import DriftNeeds

MOST_ROWS = 5_000
"""Of each side."""
_NUM_BINS, _MOST_WORDS = 16, 10
_FACTS = ["received_at", "scores", "decision", "abstained", "outlier", "keep_probability"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shares of a column's values by bin, of those that are known, and the shares that are missing.

    `names` are the bins' lower edges, or words, the last of which may stand for all others.
    """

    names: tuple[str, ...]
    reference: tuple[float, ...]
    now: tuple[float, ...]
    missing: tuple[float, float] = (0.0, 0.0)


def shapes(project: Project, log: Log, training: Training, needs: DriftNeeds, until: datetime) -> dict[str, Shape]:
    """Return the shapes of the columns that a look compares, by name; vectors have none.

    Rows that were kept or picked with a probability count by its inverse.
    """
    names = [
        n for n in needs.columns or view_names(project, traffic=needs.past is not None) if not _is_vector(project, n)
    ]
    after = until - needs.window
    now = _traffic(project, log, after, until)
    if needs.past is None:
        before, lacking = as_declared(project, training())
        before = before.sample(min(len(before), MOST_ROWS), seed=0)
    else:
        before = _traffic(project, log, after - needs.past, after)
        span = {"after": after - needs.past, "until": until}
        lacking = Lacking(unknown=log.retyped(project.name, schema=project.schema, **span))
    names = list(compared(project, names, lacking))
    weights = (
        _weights(before, "probability" if needs.past is None else "keep_probability"),
        _weights(now, "keep_probability"),
    )
    sides = [views(project, frame, names) for frame in (before, now)]
    found = {name: shape_of(sides[0][name], sides[1][name], *weights) for name in names}
    return {name: shape for name, shape in found.items() if shape is not None}


def shape_of(before: pl.Series, now: pl.Series, weights: Array, weights_now: Array) -> Shape | None:
    """Return the shape of a column from its values and weights float (n,) on both sides; None where none is known."""
    if before.dtype == pl.Float64 and now.dtype == pl.Float64:
        return _numbers(before, now, weights, weights_now)
    return _words(before.cast(pl.String), now.cast(pl.String), weights, weights_now)


def _is_vector(project: Project, name: str) -> bool:
    return isinstance(project.schema.inputs.get(name), Text | Image | Tensor)


def _traffic(project: Project, log: Log, after: datetime, until: datetime) -> pl.DataFrame:
    columns = list(dict.fromkeys([*_FACTS, *project.inputs]))
    return log.sample(project.name, after=after, until=until, at_most=MOST_ROWS, columns=columns, schema=project.schema)


def _weights(frame: pl.DataFrame, by: str) -> Array:
    chances = frame[by].cast(pl.Float64).fill_null(0.0).to_numpy()
    weights: Array = np.divide(1.0, chances, out=np.zeros(len(chances)), where=chances > 0)
    return weights


def _numbers(before: pl.Series, now: pl.Series, weights: Array, weights_now: Array) -> Shape | None:
    sides = [side.fill_null(float("nan")).to_numpy() for side in (before, now)]
    both = np.concatenate(sides)
    both = both[np.isfinite(both)]
    if not len(both):
        return None
    edges = _edges(both)
    shares = [_binned(side, weight, edges) for side, weight in zip(sides, (weights, weights_now), strict=True)]
    names = tuple(f"{edge:.3g}" for edge in edges[:-1])
    missing = _missing([np.isnan(side) for side in sides], (weights, weights_now))
    return Shape(names=names, reference=shares[0], now=shares[1], missing=missing)


def _edges(values: Array) -> Array:
    """Return equal bins over the middle 99 % of the values, one for each value of few; the ends take the rest."""
    known = np.unique(values)
    if len(known) <= _NUM_BINS:
        return np.append(known, known[-1] + 1.0)
    low, high = np.quantile(values, [0.005, 0.995])
    return np.linspace(low, high if high > low else low + 1.0, _NUM_BINS + 1)


def _binned(values: Array, weights: Array, edges: Array) -> tuple[float, ...]:
    known = np.isfinite(values)
    codes = np.clip(np.searchsorted(edges, values[known], side="right") - 1, 0, len(edges) - 2)
    return _shares(np.bincount(codes, weights=weights[known], minlength=len(edges) - 1))


def _words(before: pl.Series, now: pl.Series, weights: Array, weights_now: Array) -> Shape | None:
    sides = [
        pl.DataFrame({"word": side, "weight": weight}).drop_nulls("word").group_by("word").agg(pl.col("weight").sum())
        for side, weight in ((before, weights), (now, weights_now))
    ]
    counts = [dict(side.iter_rows()) for side in sides]
    totals = [sum(count.values()) or 1.0 for count in counts]
    words = {word: sum(c.get(word, 0.0) / t for c, t in zip(counts, totals, strict=True)) for c in counts for word in c}
    if not words:
        return None
    ordered = sorted(words, key=lambda word: (-words[word], word))
    kept, rest = ordered[:_MOST_WORDS], ordered[_MOST_WORDS:]
    listed = [[*(c.get(w, 0.0) for w in kept), *([sum(c.get(w, 0.0) for w in rest)] if rest else [])] for c in counts]
    missing = _missing([side.is_null().to_numpy() for side in (before, now)], (weights, weights_now))
    names = (*kept, *([f"{len(rest):,} others"] if rest else []))
    return Shape(names=names, reference=_shares(listed[0]), now=_shares(listed[1]), missing=missing)


def _missing(gone: Sequence[Array], weights: tuple[Array, Array]) -> tuple[float, float]:
    first, second = (
        float(weight[side].sum() / (weight.sum() or 1.0)) for side, weight in zip(gone, weights, strict=True)
    )
    return first, second


def _shares(counts: Sequence[float] | Array) -> tuple[float, ...]:
    total = float(np.sum(counts)) or 1.0
    return tuple(float(count) / total for count in counts)
