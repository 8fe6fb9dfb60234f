"""`tidemill import`."""

from __future__ import annotations

import typer

from tidemill.app import App
from tidemill.cli.in_force import publish
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
from tidemill.cli.train import DataArgument, LabelColumnOption, TimeColumnOption, UnitColumnOption, read_examples
from tidemill.loop.first import add_examples

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def import_(
    data: DataArgument,
    label: LabelColumnOption = "label",
    time: TimeColumnOption = None,
    unit: UnitColumnOption = None,
    reason: ReasonOption = "",
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Add labelled data to the reservoir: the next dataset may use it, and a fifth is kept for tests."""
    opened = App.open(project, home, database=database)
    publish(opened, by=by)
    examples = read_examples(opened, data, label=label, time=time, unit=unit)
    said = f"added {add_examples(opened.world, examples)} of {len(examples)} examples"
    opened.record("import", data.name, by=who(by), reason=reason, result=said)
    typer.echo(f"{said}; the others were there")
