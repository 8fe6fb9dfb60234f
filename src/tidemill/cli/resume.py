"""`tidemill resume`."""

from __future__ import annotations

import typer

from tidemill.cli.settings import DEFAULT_HOME, DEFAULT_PROJECT, DatabaseOption, HomeOption, ProjectOption
from tidemill.loop.controls import Controls

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def resume(
    home: HomeOption = DEFAULT_HOME, database: DatabaseOption = None, project: ProjectOption = DEFAULT_PROJECT
) -> None:
    """Go on after a pause."""
    Controls.of_home(home, project, database=database).pause(paused=False)
    typer.echo("resumed")
