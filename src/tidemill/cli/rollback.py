"""`tidemill rollback`."""

from __future__ import annotations

import typer

from tidemill.cli.in_force import sent_instead
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
def rollback(
    reason: ReasonOption = "",
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Take the candidate out of traffic, or return to the version before. Needs no loop, and takes effect at once."""
    opened = Controls.of_home(home, project, database=database)
    before = opened.schemas.now()
    route = opened.rollback(by=who(by), reason=reason)
    typer.echo(f"version {route.stable} answers all traffic{sent_instead(opened, before)}")
    unread = opened.schemas.unread_by(route.stable)
    if unread:
        typer.echo(f"callers go on sending {', '.join(unread)}, which it does not know: take that out of the project")
        typer.echo("file to go back to the inputs it was trained on")
