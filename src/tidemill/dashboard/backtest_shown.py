"""What is drawn of a backtest: curves, what quality costs, when what happened, and how any two strategies compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from markupsafe import Markup

from tidemill.dashboard import svg
from tidemill.dashboard.chart import Chart, Series
from tidemill.errors import NotFound
from tidemill.records import Json
from tidemill.review.render.svg import Scale, line, tag, text
from tidemill.schema import Array
from tidemill.stats.paired_blocks import mean_span
from tidemill.stores.backtests import KeptBacktest

_TONES = ("main", "other", "unsure", "bad", "muted", "good")
_COSTS = {"retrainings": "retrainings", "labels": "labels", "train_cpu_s": "CPU s of training"}
_SIGNS = {"pass": "✓", "fail": "✕", "fire": "▲", "quiet": "·"}
_MOST_SIGNS = 2000


class Compared(NamedTuple):
    """How much better `b` is than `a`: what of, from `low` to `high`, and what that says."""

    a: str
    b: str
    gain: float | None
    low: float | None
    high: float | None
    num: int
    unit: str
    verdict: str
    reason: str


def means(found: KeptBacktest) -> list[Json]:
    """Return a row for each strategy: the mean of its seeds, None where none of them knows."""
    rows: list[Json] = []
    for name in found.names:
        of = [row for row in found.summary if row["strategy"] == name]
        keys = [key for key in (of[0] if of else {}) if key not in ("strategy", "seed")]
        rows.append({"strategy": name, "seeds": len(of), **{key: _mean([row[key] for row in of]) for key in keys}})
    return rows


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def curves(found: KeptBacktest) -> Chart:
    """Return the quality of each window, a line for each strategy: the mean of its seeds, and their range."""
    table = found.windows.with_columns(pl.col("quality").cast(pl.Float64).fill_nan(None))
    table = table.group_by("strategy", "window").agg(
        pl.col("end").first(), pl.col("quality").mean(), pl.col("quality").min().alias("low"),
        pl.col("quality").max().alias("high"),
    )  # fmt: skip
    times = table.select("window", "end").unique("window").sort("window")
    has_seeds = len({row["seed"] for row in found.summary}) > 1
    series = []
    for at, name in enumerate(found.names):
        of = times.join(table.filter(pl.col("strategy") == name).drop("end"), on="window", how="left").sort("window")
        band = {"low": of["low"].to_list(), "high": of["high"].to_list()} if has_seeds else {}
        series.append(Series(name=name, values=of["quality"].to_list(), tone=_TONES[at % len(_TONES)], **band))
    better = "higher is better" if found.higher_is_better else "lower is better"
    desc = f"{better}; what users would have got, by window" + (", with the range of the seeds" if has_seeds else "")
    return Chart(title=found.metric, times=times["end"].to_list(), series=series, desc=desc, height=300)


def fronts(found: KeptBacktest) -> list[Markup]:
    """Return quality against each cost; on the front is what no other beats in both."""
    drawn = []
    for cost, title in _COSTS.items():
        known = [(row["strategy"], row.get(cost), row.get(found.metric)) for row in means(found)]
        points = [(float(c), float(q), name) for name, c, q in known if c is not None and q is not None]
        marked = [(c, q, name, not any(_beats(found, one, (c, q)) for one in points)) for c, q, name in points]
        if marked:
            drawn.append(svg.pareto(marked, title=f"{found.metric} by {title}", across=title, up=found.metric))
    return drawn


def _beats(found: KeptBacktest, other: tuple[float, float, str], mine: tuple[float, float]) -> bool:
    sign = 1 if found.higher_is_better else -1
    cost, quality = other[0] - mine[0], sign * (other[1] - mine[1])
    return cost <= 0 and quality >= 0 and (cost < 0 or quality > 0)


def event_line(found: KeptBacktest, events: pl.DataFrame, *, width: float = 900, height: float = 26) -> Markup:
    """Draw when each strategy fired, tested and released (of its first seed): each sign says its verdict's reason."""
    ends = found.windows["end"]
    shown = events.filter(pl.col("step").is_in(["watch", "test", "release"])).head(_MOST_SIGNS)
    if not len(shown) or not len(ends):
        return Markup("")
    times = [*shown["at"].to_list(), *ends.to_list()]
    across = Scale(min(times).timestamp(), max(times).timestamp() + 1, 170, width - 14)
    drawn, foot = list[Markup](), height * len(found.names)
    for at, name in enumerate(found.names):
        drawn.append(text(4, height * at + 18, name[:26], class_="tick"))
        drawn.append(line(170, height * (at + 1), width, height * (at + 1)))
    for row in shown.iter_rows(named=True):
        y = height * found.names.index(row["strategy"]) + 18
        told = f"{row['at']:%Y-%m-%d %H:%M} {row['step']} {row['outcome']}: {row['reason']}"
        tone = {"pass": "good", "fail": "bad", "fire": "unsure"}.get(row["outcome"], "tick")
        sign, x = _SIGNS.get(row["outcome"], "?"), across(row["at"].timestamp())
        drawn.append(tag("text", tag("title", told), sign, x=x, y=y, text_anchor="middle", class_=f"sign {tone}"))
    for when in (min(times), max(times)):
        anchor = "start" if when == min(times) else "end"
        drawn.append(text(across(when.timestamp()), foot + 16, f"{when:%Y-%m-%d}", anchor=anchor, class_="tick"))
    desc = "▲ a trigger fired, ✓ a verdict passed, ✕ one failed, ? it stayed open"
    return svg.picture("When what happened", *drawn, width=width, height=foot + 24, desc=desc)


def compared(found: KeptBacktest, a: str, b: str) -> Compared:
    """Return how much better `b` is than `a`: request by request where that was kept, else window by window.

    Raises:
        NotFound: it has no such strategy.
    """
    for name in (a, b):
        if name not in found.names:
            raise NotFound(f"this backtest has no strategy {name[:80]!r}.", f"it has {', '.join(found.names)}")
    for one in found.comparisons:
        if (one["a"], one["b"]) in ((a, b), (b, a)):
            return _kept(one, turned=one["a"] != a)
    return _by_window(found, a, b)


def _kept(one: Json, *, turned: bool) -> Compared:
    gain, low, high, verdict = one["gain"], one["low"], one["high"], one["verdict"]
    if not turned:
        return Compared(one["a"], one["b"], gain, low, high, one["num"], "requests", verdict, one["reason"])
    minus = [None if value is None else -value for value in (gain, high, low)]
    said = {"better": "worse", "worse": "better"}.get(verdict, verdict)
    reason = f"the other way round: {one['reason']}"
    return Compared(one["b"], one["a"], minus[0], minus[1], minus[2], one["num"], "requests", said, reason)


def _by_window(found: KeptBacktest, a: str, b: str) -> Compared:
    of_a, of_b = (_qualities(found, name) for name in (a, b))
    if a == b or not of_a.size or of_a.shape[1] != of_b.shape[1]:
        return Compared(a, b, None, None, None, 0, "windows", "inconclusive", "there is nothing to compare")
    if len(of_a) != len(of_b):
        of_a, of_b = np.nanmean(of_a, axis=0, keepdims=True), np.nanmean(of_b, axis=0, keepdims=True)
    sign = 1.0 if found.higher_is_better else -1.0
    span = mean_span(sign * (of_b - of_a), rng=np.random.default_rng(0))
    if not span.num:
        return Compared(a, b, None, None, None, 0, "windows", "inconclusive", "no window can be judged under both")
    verdict = "better" if span.low > 0 else "worse" if span.high < 0 else "inconclusive"
    reason = f"{span.value:+.4f} ({span.low:+.4f} to {span.high:+.4f}) over {span.num} windows, each counted as one"
    if not found.conclusive:
        verdict, reason = "inconclusive", f"{reason}; only {found.coverage:.0%} of the stream can be judged"
    return Compared(a, b, span.value, span.low, span.high, span.num, "windows", verdict, reason)


def _qualities(found: KeptBacktest, name: str) -> Array:
    """Return the quality of a strategy by seed and window, float (S, W), NaN where nobody knows."""
    of = found.windows.filter(pl.col("strategy") == name).sort("window")
    seeds = [of.filter(pl.col("seed").eq_missing(seed)) for seed in of["seed"].unique(maintain_order=True)]
    rows: list[Any] = [one["quality"].cast(pl.Float64).fill_null(float("nan")).to_numpy() for one in seeds]
    return np.array(rows) if rows and len({len(row) for row in rows}) == 1 else np.empty((0, 0))
