"""One HTML file that says what a backtest found. It needs nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import polars as pl

_COLOURS = (
    "#1f6f8b",
    "#c8553d",
    "#588157",
    "#8e6c8a",
    "#d4a017",
    "#3d5a80",
    "#9c6644",
    "#7a7a7a",
    "#2a9d8f",
    "#b56576",
)
_WIDE, _HIGH, _EDGE = 900, 300, 46
_MOST_EVENTS = 400
_FRONTS = {"retrainings": "retrainings", "labels": "labels", "train_cpu_s": "CPU s of training"}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 13px; width: 100% } td, th { padding: .2rem .5rem; text-align: right }
td:first-child, th:first-child, td.t { text-align: left } tr:nth-child(even) { background: #f5f5f2 }
svg { max-width: 100%; height: auto } svg text { font: 11px system-ui, sans-serif; fill: #555 }
.fronts { display: flex; flex-wrap: wrap } .fronts svg { width: 300px }
@media (prefers-color-scheme: dark) { body { background: #1a1a1a; color: #ddd }
tr:nth-child(even) { background: #242424 } svg text { fill: #aaa } }
"""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the page shows; `better` says whether higher values of the metric are."""

    metric: str
    higher_is_better: bool
    coverage: float
    summary: pl.DataFrame
    windows: pl.DataFrame
    events: pl.DataFrame


@dataclass(frozen=True)
class _Scale:
    """From values to places in a picture."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        return self.begin + (value - self.low) / ((self.high - self.low) or 1.0) * (self.end - self.begin)


def page(found: Findings) -> str:
    """Return the page."""
    names = found.summary["strategy"].unique(maintain_order=True).to_list()
    colours = {name: _COLOURS[at % len(_COLOURS)] for at, name in enumerate(names)}
    fronts = "".join(_front(found, cost, title, colours) for cost, title in _FRONTS.items())
    notice = (
        ""
        if found.coverage >= 0.8
        else f"<p><b>Only {found.coverage:.0%} of the stream can be judged: nothing here is conclusive.</b></p>"
    )
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Backtest</title><style>{_STYLE}</style>"
        f"<h1>Backtest</h1>{notice}{_legend(colours)}<h2>{escape(found.metric)} that users would have got</h2>"
        f"{_curves(found, colours)}<h2>What it costs</h2><p>A ring marks strategies that no other beats in both.</p>"
        f"<div class='fronts'>{fronts}</div>"
        f"<h2>Summary</h2>{_table(found.summary)}<h2>What happened</h2>"
        f"{_event_line(found, colours)}{_events(found)}</html>"
    )


def _legend(colours: Mapping[str, str]) -> str:
    parts = [f"<span style='color:{colour}'>&#9632;</span> {escape(name)}" for name, colour in colours.items()]
    return f"<p>{' &nbsp; '.join(parts)}</p>"


def _curves(found: Findings, colours: Mapping[str, str]) -> str:
    means = found.windows.group_by("strategy", "window", maintain_order=True).agg(
        pl.col("quality").mean(), pl.col("end").first()
    )
    known = means.drop_nulls("quality")
    if not len(known):
        return "<p>No window can be judged.</p>"
    last = int(found.windows["window"].to_numpy().max())
    x = _Scale(0, max(last, 1), _EDGE, _WIDE - 10)
    y = _Scale(*_bounds(known["quality"].to_list()), _HIGH - 24, 8)
    lines = []
    for name, colour in colours.items():
        rows = known.filter(pl.col("strategy") == name)
        points = " ".join(f"{x(w):.1f},{y(q):.1f}" for w, q in rows.select("window", "quality").iter_rows())
        lines.append(
            f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='2'>"
            f"<title>{escape(name)}</title></polyline>"
        )
    times = means.filter(pl.col("strategy") == next(iter(colours)))["end"].to_list()
    marks = "".join(f"<text x='{x(at):.0f}' y='{_HIGH - 6}' text-anchor='middle'>{times[at]:%Y-%m-%d}</text>"
                    for at in np.unique(np.linspace(0, len(times) - 1, 6).astype(int)))  # fmt: skip
    return f"<svg viewBox='0 0 {_WIDE} {_HIGH}' role='img'>{_grid(y, _WIDE)}{''.join(lines)}{marks}</svg>"


def _front(found: Findings, cost: str, title: str, colours: Mapping[str, str]) -> str:
    """Draw quality against a cost."""
    means = found.summary.group_by("strategy", maintain_order=True).agg(pl.col(found.metric, cost).mean())
    points = [(name, float(c), float(q)) for name, q, c in means.iter_rows() if q is not None]
    if not points:
        return ""
    x = _Scale(*_bounds([c for _, c, _ in points]), 60, 280)
    y = _Scale(*_bounds([q for _, _, q in points]), 210, 12)
    best = {name for name, c, q in points if not any(_beats(found, other, (c, q)) for _, *other in points)}
    dots = [
        f"<circle cx='{x(c):.1f}' cy='{y(q):.1f}' r='{8 if name in best else 5}' fill='{colours[name]}'"
        f" fill-opacity='.8' stroke='{'#222' if name in best else 'none'}'>"
        f"<title>{escape(name)}: {q:.4f} at {c:,.4g}</title></circle>"
        for name, c, q in points
    ]
    label = f"<text x='170' y='240' text-anchor='middle'>{escape(title)}: {x.low:,.4g} to {x.high:,.4g}</text>"
    return f"<svg viewBox='0 0 300 250' role='img'>{_grid(y, 290)}{''.join(dots)}{label}</svg>"


def _beats(found: Findings, other: Sequence[float], mine: tuple[float, float]) -> bool:
    sign = 1 if found.higher_is_better else -1
    (cost, quality), (my_cost, my_quality) = other, mine
    as_good = cost <= my_cost and sign * quality >= sign * my_quality
    return as_good and (cost < my_cost or sign * quality > sign * my_quality)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or 0.01
    return low - room, high + room


def _grid(y: _Scale, width: int) -> str:
    ticks = np.linspace(y.low, y.high, 5)
    return "".join(
        f"<line x1='{_EDGE}' x2='{width}' y1='{y(t):.1f}' y2='{y(t):.1f}' stroke='#8884'/>"
        f"<text x='{_EDGE - 5}' y='{y(t) + 4:.1f}' text-anchor='end'>{t:.3g}</text>"
        for t in ticks
    )


def _event_line(found: Findings, colours: Mapping[str, str]) -> str:
    """Draw when each strategy trained, promoted, rejected and rolled back."""
    seed = found.summary["seed"][0]
    rows = found.events.filter(pl.col("seed").eq_missing(seed) & pl.col("step").is_in(["watch", "test", "release"]))
    times = found.windows["end"].to_list()
    if not len(rows) or not times:
        return ""
    x = _Scale(min(times).timestamp(), max(times).timestamp(), 170, _WIDE - 12)
    names = list(colours)
    parts = [f"<text x='4' y='{24 * at + 20}'>{escape(name)}</text>" for at, name in enumerate(names)]
    for row in rows.iter_rows(named=True):
        shape = {"fire": "#888", "pass": "#2a9d2a", "fail": "#c00"}.get(row["outcome"], "#d4a017")
        size = 3 if row["step"] == "watch" else 5
        told = escape(f"{row['at']:%Y-%m-%d} {row['step']} {row['outcome']}: {row['reason']}", quote=True)
        place = f"cx='{x(row['at'].timestamp()):.1f}' cy='{24 * names.index(row['strategy']) + 16}'"
        parts.append(f"<circle {place} r='{size}' fill='{shape}'><title>{told}</title></circle>")
    return f"<svg viewBox='0 0 {_WIDE} {24 * len(names) + 12}' role='img'>{''.join(parts)}</svg>"


def _events(found: Findings) -> str:
    shown = found.events.head(_MOST_EVENTS)
    rest = len(found.events) - len(shown)
    more = f"<p>{rest:,} more are in <code>result.events</code>.</p>" if rest else ""
    return f"<details><summary>Every verdict with its reason</summary>{_table(shown)}{more}</details>"


def _table(frame: pl.DataFrame) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in frame.columns)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in frame.iter_rows())
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"<td>{value:,.4g}</td>"
    kind = " class='t'" if isinstance(value, str) else ""
    return f"<td{kind}>{'' if value is None else escape(str(value))}</td>"
