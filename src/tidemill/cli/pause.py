"""`tidemill pause`."""

from __future__ import annotations

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
def pause(
    reason: ReasonOption = "",
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Open no new cycle and move no candidate on; guards still roll back."""
    Controls.of_home(home, project, database=database).pause(paused=True, by=who(by), reason=reason)
    typer.echo("paused; `tidemill resume` goes on")
