"""`tidemill reject`."""

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
    who,
)
from tidemill.loop.controls import Controls

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def reject(
    reason: Annotated[str, typer.Option("--reason", help="Why; shown with the cycle.")],
    version: Annotated[int | None, typer.Argument(help="The candidate; by default the one under way.")] = None,
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Stop a candidate: its training ends, at the gate it is rejected, in traffic it is rolled back."""
    opened = Controls.of_home(home, project, database=database)
    version = version or opened.candidate_in_making()
    opened.ask("reject", by=who(by), version=version, reason=reason)
    what = "its candidate is not trained yet: the cycle ends" if version is None else f"version {version}"
    typer.echo(f"asked; `tidemill status` shows what came of it ({what})")
