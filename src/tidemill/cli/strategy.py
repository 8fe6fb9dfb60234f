"""`tidemill strategy`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated

import typer
from rich.table import Table

from tidemill.app import App
from tidemill.cli.screen import show_table
from tidemill.cli.settings import DEFAULT_HOME, DEFAULT_PROJECT, DatabaseOption, HomeOption, JsonOption, ProjectOption
from tidemill.errors import NotFound
from tidemill.monitor.gains import Gain, Release, foretold, releases
from tidemill.monitor.ledger import StrategyPeriod, ledger
from tidemill.strategy.strategy import diff_json

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def log(
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
    as_json: JsonOption = False,
) -> None:
    """Show each strategy version with what it brought, and each release's offline gain beside its online gain."""
    opened = App.open(project, home, database=database)
    w = opened.world
    rows = ledger(w.project, catalog=w.catalog, journal=w.journal, log=w.log, reservoir=w.reservoir,
                  now=opened.clock.now())  # fmt: skip
    released = releases(w.project, catalog=w.catalog, journal=w.journal, log=w.log, now=opened.clock.now())
    if as_json:
        told = {"strategies": [row.to_json() for row in rows], "releases": [r.to_json() for r in released]}
        typer.echo(json.dumps({**told, "foretold": foretold(released)}, indent=2))
        return
    names = ["version", "digest", "since", w.project.metrics[0].name, "cycles", "promoted", "labels"]
    is_expected = any(row.expected is not None for row in rows)
    table = Table(*names, *(["expected of it"] if is_expected else []), box=None)
    for row in rows:
        table.add_row(*_cells(row), *([_expected(row)] if is_expected else []))
    show_table(table)
    _show_releases(released)


def _show_releases(released: Sequence[Release]) -> None:
    if not released:
        return
    table = Table("cycle", "version", "strategy", "outcome", "offline gain", "online gain", box=None)
    for one in released:
        gains = [_gain(one.offline), _gain(one.online)]
        table.add_row(str(one.cycle), str(one.version), one.strategy, one.outcome, *gains)
    show_table(table)
    typer.echo(foretold(released))


def _gain(gain: Gain | None) -> str:
    return "-" if gain is None else f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}, n {gain.n})"


def _cells(row: StrategyPeriod) -> list[str]:
    quality = "-" if row.quality is None else f"{row.quality:.3f} (n {row.num_judged})"
    return [str(row.number), row.digest, f"{row.since:%Y-%m-%d %H:%M:%S}", quality, str(row.num_cycles),
            str(row.num_promoted), str(row.num_labels)]  # fmt: skip


def _expected(row: StrategyPeriod) -> str:
    """Tell what a backtest foretold; counts for as long as the version was in force."""
    told = row.expected
    if told is None:
        return "-"
    days = (row.until - row.since) / timedelta(days=1)
    value, low, high = told["quality"]
    quality = "-" if value is None else f"{value:.3f} ({low:.3f} to {high:.3f})"
    spans = {name: (told[name][1] * days, told[name][2] * days) for name in ("retrainings", "labels")}
    return "; ".join([quality, *(f"{name} {least:,.3g} to {most:,.3g}" for name, (least, most) in spans.items())])


@app.command()
def diff(
    old: Annotated[int | None, typer.Argument(help="A version number; by default the one before the newest.")] = None,
    new: Annotated[int | None, typer.Argument(help="A version number; by default the newest.")] = None,
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Show what changed from one strategy version to another."""
    opened = App.open(project, home, database=database)
    versions = {v.number: v for v in opened.world.catalog.strategies(opened.name)}
    new = max(versions) if new is None else new
    old = new - 1 if old is None else old
    for number in (old, new):
        if number not in versions:
            raise NotFound(f"there is no strategy version {number}.", f"versions are {', '.join(map(str, versions))}")
    for line in diff_json(versions[old].body, versions[new].body) or ["no difference"]:
        typer.echo(line)
