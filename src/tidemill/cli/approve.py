"""`tidemill approve`."""

from __future__ import annotations

from typing import Annotated

import typer

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
from tidemill.loop.controls import Controls

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def approve(
    version: Annotated[int | None, typer.Argument(help="The candidate; by default the one under way.")] = None,
    reason: ReasonOption = "",
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Let the candidate that waits for a person's approval go on to live traffic."""
    opened = Controls.of_home(home, project, database=database)
    version = version or opened.waiting_candidate()
    opened.ask("approve", by=who(by), version=version, reason=reason)
    typer.echo(f"asked; `tidemill status` shows what came of it (version {version})")
