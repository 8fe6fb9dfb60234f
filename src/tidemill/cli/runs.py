"""`tidemill runs`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Column, Table

from tidemill.app import App
from tidemill.cli.screen import show_table
from tidemill.cli.settings import DEFAULT_HOME, DEFAULT_PROJECT, DatabaseOption, HomeOption, JsonOption, ProjectOption
from tidemill.errors import NotFound
from tidemill.records import Json
from tidemill.stores.models import Run

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def runs(
    compare: Annotated[list[str] | None, typer.Argument(help="Two runs to compare.")] = None,
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
    as_json: JsonOption = False,
) -> None:
    """List training runs with parameters, metrics, data and code; or show where two of them differ."""
    opened = App.open(project, home, database=database)
    found = {r.run: r for r in opened.world.catalog.runs(opened.name)}
    if compare:
        _compare({name: flat(found[name].body) if name in found else _unknown(name, list(found)) for name in compare})
    elif as_json:
        typer.echo(json.dumps({name: {"status": r.status, **r.body} for name, r in found.items()}, indent=2))
    else:
        headings = ("status", "started", "seconds", "rows", "dataset", "on training rows")
        table = Table(Column("run", no_wrap=True), *headings, box=None)
        for name, r in found.items():
            table.add_row(name, *_cells(r))
        show_table(table)
        for name, r in found.items():
            if r.body.get("error"):  # a sentence, which a column would break word by word
                typer.echo(f"{name} {r.status}: {r.body['error']}")


def _cells(run: Run) -> list[str]:
    body = run.body
    numbers = ", ".join(f"{k} {v:.3f}" for k, v in body.get("metrics", {}).items())
    started, dataset = f"{run.started_at:%m-%d %H:%M:%S}", str(body.get("dataset", ""))[:12]
    seconds, rows = f"{body.get('seconds', 0):.1f}", str(body.get("num_rows", ""))
    return [run.status, started, seconds, rows, dataset, numbers]


def _unknown(name: str, known: list[str]) -> dict[str, str]:
    raise NotFound(f"there is no run {name!r}.", f"runs are {', '.join(known) or 'none yet'}")


def flat(body: Json, prefix: str = "") -> dict[str, str]:
    """Return nested JSON as dotted names to text."""
    if not isinstance(body, dict):
        return {prefix: json.dumps(body)}
    return {k: v for name, value in body.items() for k, v in flat(value, f"{prefix}.{name}".lstrip(".")).items()}


def _compare(bodies: dict[str, dict[str, str]]) -> None:
    table = Table("", *bodies, box=None)
    for name in sorted({n for body in bodies.values() for n in body}):
        values = [body.get(name, "-") for body in bodies.values()]
        if len(set(values)) > 1:
            table.add_row(name, *values)
    show_table(table)
