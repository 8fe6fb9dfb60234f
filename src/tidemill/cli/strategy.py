"""`tidemill strategy`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tidemill.app import App
from tidemill.cli.settings import DEFAULT_HOME, DEFAULT_PROJECT, DatabaseOption, HomeOption, JsonOption, ProjectOption
from tidemill.errors import NotFound
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
    """Show each strategy version with what it brought: quality, retrainings, labels."""
    opened = App.open(project, home, database=database)
    w = opened.world
    rows = ledger(w.project, catalog=w.catalog, journal=w.journal, log=w.log, reservoir=w.reservoir,
                  now=opened.clock.now())  # fmt: skip
    if as_json:
        typer.echo(json.dumps([row.to_json() for row in rows], indent=2))
        return
    table = Table("version", "digest", "since", w.project.metrics[0].name, "cycles", "promoted", "labels", box=None)
    for row in rows:
        table.add_row(*_cells(row))
    Console().print(table)


def _cells(row: StrategyPeriod) -> list[str]:
    quality = "-" if row.quality is None else f"{row.quality:.3f} (n {row.num_judged})"
    return [str(row.number), row.digest, f"{row.since:%Y-%m-%d %H:%M:%S}", quality, str(row.num_cycles),
            str(row.num_promoted), str(row.num_labels)]  # fmt: skip


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
