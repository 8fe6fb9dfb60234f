"""`tidemill drill`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tidemill.cli.settings import (
    DEFAULT_HOME,
    DEFAULT_PROJECT,
    ByOption,
    DatabaseOption,
    HomeOption,
    JsonOption,
    ProjectOption,
    who,
)
from tidemill.loop.controls import Controls
from tidemill.loop.drill import drill as run
from tidemill.stores.blobs import Blobs
from tidemill.stores.home import Home

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def drill(
    gateway: Annotated[
        list[str] | None, typer.Option("--gateway", help="Its address; once for each gateway.", show_default=False)
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", envvar="TIDEMILL_TOKEN", help="For gateways that ask for one.")
    ] = None,
    by: ByOption = "",
    as_json: JsonOption = False,
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Roll live traffic back for a second, prove that the version before answers as it did, and return."""
    controls = Controls.of_home(home, project, database=database)
    done = run(controls, Blobs(Home(home).blobs), gateway or ["http://127.0.0.1:8000"], by=who(by), token=token)
    typer.echo(json.dumps(done.to_json(), indent=2) if as_json else done.verdict().reason)
    raise typer.Exit(0 if done.passed else 1)
