"""`tidemill curate`."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.app import App
from tidemill.cli.settings import (
    DEFAULT_HOME,
    DEFAULT_PROJECT,
    ByOption,
    DatabaseOption,
    HomeOption,
    ProjectOption,
    ReasonOption,
    who,
)
from tidemill.clock import duration

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def curate(
    condition: Annotated[str, typer.Argument(help="A cohort's name, or a condition such as 'age < 30'.")],
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many, drawn at random.")] = 50,
    last: Annotated[str, typer.Option("--last", help="From the requests of this long.")] = "30d",
    wrong: Annotated[bool, typer.Option("--wrong", help="Only those whose feedback says otherwise.")] = False,
    reason: ReasonOption = "",
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Put past requests that meet a condition into the label queue, before everything that waits there."""
    opened = App.open(project, home, database=database)
    num, found = opened.curate_past(condition, num=limit, period=duration(last, name="--last"), wrong=wrong)
    said = f"{num} of {found} requests wait for a label"
    opened.record("curate", condition, by=who(by), reason=reason, result=said)
    typer.echo(f"{said}: `tidemill label` shows them")
