"""`tidemill retrain`."""

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
def retrain(
    reason: ReasonOption = "",
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Ask the loop to open a cycle now, whatever the trigger says."""
    number = Controls.of_home(home, project, database=database).ask("retrain", by=who(by), reason=reason)
    typer.echo(f"asked (command {number}); the loop opens a cycle at its next turn: `tidemill status` shows it")
