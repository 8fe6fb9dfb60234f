"""How one cohort, and the worst slices, look in a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer
from rich.table import Table

from tidemill.cli.screen import show_table
from tidemill.monitor.cohort_status import CohortStatus, WorstRequest
from tidemill.monitor.quality import Quality
from tidemill.monitor.slices import WorstSlice

_LEVEL = 0.05
_MOST_CHARS = 60


def show_cohort(found: CohortStatus, period: str, *, as_json: bool) -> None:
    """Print a cohort close up."""
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    condition = f" ({found.condition})" if found.condition and found.condition != found.cohort else ""
    typer.echo(f"cohort {found.cohort}{condition}: {found.num} answered requests, last {period}")
    show_table(_metrics(found))
    show_table(_trend(found))
    if found.worst:
        typer.echo("worst outcomes")
        show_table(_requests(found.worst))


def show_worst(found: Sequence[WorstSlice], *, as_json: bool) -> None:
    """Print the slices that chance does not explain, and all declared cohorts that are worse than the rest."""
    if as_json:
        typer.echo(json.dumps([one.to_json() for one in found], indent=2))
        return
    shown = [one for one in found if one.p <= _LEVEL or one.cohort is not None][:20]
    table = Table("where", "", "labelled", "value", "elsewhere", "p", box=None)
    for one in shown:
        kind = "declared" if one.cohort is not None else "found"
        where = one.condition if one.cohort is None else f"{one.cohort} ({one.condition})"
        table.add_row(where, kind, str(one.num), f"{one.value:.3f}", f"{one.elsewhere:.3f}", f"{one.p:.3g}")
    if shown:
        typer.echo(f"{shown[0].metric} is worst in these (p corrected for all that was looked at):")
        show_table(table)
    if not any(one.p <= _LEVEL for one in shown):
        typer.echo("no slice is worse than chance explains")


def _metrics(found: CohortStatus) -> Table:
    table = Table("metric", "value", "95 % interval", "labelled", "elsewhere", box=None)
    for here, there in zip(found.quality, found.elsewhere, strict=True):
        table.add_row(here.metric, _value(here), _interval(here), str(here.num), _value(there))
    return table


def _trend(found: CohortStatus) -> Table:
    table = Table("until", "metric", "value", "95 % interval", "labelled", box=None)
    for point in found.trend:
        q = point.quality
        table.add_row(f"{point.until:%Y-%m-%d %H:%M:%S}", q.metric, _value(q), _interval(q), str(q.num))
    return table


def _requests(worst: Sequence[WorstRequest]) -> Table:
    names = list(worst[0].shown)
    table = Table("request", "decision", "label", "score", *names, box=None)
    for one in worst:
        score = "" if one.score is None else f"{one.score:.2f}"
        table.add_row(
            one.request_id, _plain(one.decision), _plain(one.label), score, *[_plain(one.shown[n]) for n in names]
        )
    return table


def _plain(value: Any) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _MOST_CHARS else f"{text[: _MOST_CHARS - 1]}…"


def _value(q: Quality) -> str:
    return "-" if q.value is None else f"{q.value:.3f}"


def _interval(q: Quality) -> str:
    return "" if q.low is None or q.high is None else f"{q.low:.3f} to {q.high:.3f}"
