"""`tidemill sql`."""

from __future__ import annotations

import base64
import csv
import json
import os
import sys
import threading
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from tidemill.app import App
from tidemill.cli.screen import show_table
from tidemill.cli.settings import (
    DEFAULT_HOME,
    DEFAULT_PROJECT,
    DatabaseOption,
    HomeOption,
    ProjectOption,
)
from tidemill.clock import duration
from tidemill.stores.sql import Rows

app = typer.Typer(pretty_exceptions_enable=False)
_WRITTEN: dict[type[Any], Callable[[Any], Any]] = {
    datetime: datetime.isoformat,
    date: date.isoformat,
    timedelta: timedelta.total_seconds,
    bytes: lambda value: base64.b64encode(value).decode(),
    Decimal: float,
}
_GRACE_S = 5.0  # some functions of DuckDB do not hear that they are interrupted

Format = Literal["table", "json", "csv"]


@app.command()
def sql(
    query: Annotated[
        str, typer.Argument(help="One SELECT over the tables predictions, feedback, outcomes and examples.")
    ],
    form: Annotated[Format, typer.Option("--format", help="How to print the rows.")] = "table",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many rows.")] = 100,
    timeout: Annotated[str, typer.Option("--timeout", help="How long the query may take.")] = "60s",
    memory: Annotated[str, typer.Option("--memory", help="How much memory it may take, such as 500MB.")] = "1GB",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Ask the log in SQL: it only reads, and only this project's rows. "DESCRIBE predictions" tells the columns."""
    timeout_s = duration(timeout, name="--timeout").total_seconds()
    opened = App.open(project, home, database=database)
    _end_after(timeout_s + _GRACE_S)
    found = opened.sql(query, limit=limit, timeout_s=timeout_s, memory=memory)
    {"table": _show, "json": _json, "csv": _csv}[form](found)
    if found.more:
        typer.echo(f"these are the first {limit} rows; see more with --limit", err=True)
    opened.close()


def _end_after(seconds: float) -> None:
    """End this process if it is still at work by then."""

    def end() -> None:
        typer.echo("error: the query did not stop when its time was up.\n next: ask for less", err=True)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def _show(found: Rows) -> None:
    table = Table(*found.columns, box=None)
    for row in found.rows:
        table.add_row(*["" if value is None else str(plain(value)) for value in row])
    show_table(table)


def _json(found: Rows) -> None:
    rows = [dict(zip(found.columns, map(plain, row), strict=True)) for row in found.rows]
    typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))


def _csv(found: Rows) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(found.columns)
    writer.writerows([["" if value is None else plain(value) for value in row] for row in found.rows])


def plain(value: Any) -> Any:
    """Return a value as JSON has it: times in ISO 8601, bytes as base64."""
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    known = next((write for kind, write in _WRITTEN.items() if isinstance(value, kind)), str)
    return value if value is None or isinstance(value, str | bool | int | float) else known(value)
