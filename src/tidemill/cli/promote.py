"""`tidemill promote`."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.app import App
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
def promote(
    version: Annotated[int, typer.Argument(help="The version to release.")],
    now: Annotated[bool, typer.Option("--now", help="All traffic at once, past the online stage.")] = False,
    reason: ReasonOption = "",
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Release a version under the online stage's guards, even one that the gate stopped; or at once with --now."""
    opened = Controls.of_home(home, project, database=database)
    if now:
        if version == opened.route().stable:
            opened = App.open(project, home, database=database)  # it may read the schema that the file declares now
        before = opened.schemas.now()
        route = opened.promote_now(version, by=who(by), reason=reason)
        back = "" if route.fallback is None else f"; `tidemill rollback` returns to {route.fallback}"
        typer.echo(f"version {route.stable} answers all traffic{sent_instead(opened, before)}{back}")
        return
    opened.catalog.artefact(opened.name, version)
    opened.ask("promote", by=who(by), version=version, reason=reason)
    typer.echo(f"asked; the loop takes version {version} into traffic step by step")
