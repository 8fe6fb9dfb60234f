"""`tidemill rollback`."""

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
def rollback(
    reason: ReasonOption = "",
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Take the candidate out of traffic, or return to the version before. Needs no loop, and takes effect at once."""
    route = Controls.of_home(home, project, database=database).rollback(by=who(by), reason=reason)
    typer.echo(f"version {route.stable} answers all traffic")
