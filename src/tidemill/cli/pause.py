"""`tidemill pause`."""

from __future__ import annotations

import typer

from tidemill.cli.settings import DEFAULT_HOME, DEFAULT_PROJECT, DatabaseOption, HomeOption, ProjectOption
from tidemill.loop.controls import Controls

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def pause(
    home: HomeOption = DEFAULT_HOME, database: DatabaseOption = None, project: ProjectOption = DEFAULT_PROJECT
) -> None:
    """Open no new cycle and move no candidate on; guards still roll back."""
    Controls.of_home(home, project, database=database).pause(paused=True)
    typer.echo("paused; `tidemill resume` goes on")
