"""`tidemill train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress as Bar

from tidemill.app import App
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
from tidemill.loop.first import train_first, train_next
from tidemill.model import Progress
from tidemill.records import Example
from tidemill.review.render.terminal import terminal
from tidemill.stores.tabular import examples_from, read_table

app = typer.Typer(pretty_exceptions_enable=False)

DataArgument = Annotated[
    Path, typer.Argument(help="Labelled rows: a .parquet, .csv or .jsonl file, or a folder of Hugging Face `datasets`.")
]
LabelColumnOption = Annotated[str, typer.Option("--label", help="The column that holds the label.")]
TimeColumnOption = Annotated[str | None, typer.Option("--time", help="The column with the time of the row, UTC.")]
UnitColumnOption = Annotated[str | None, typer.Option("--unit", help="The column that says whose row it is.")]


@app.command()
def train(
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
    """Make version 1 from labelled data, show its report against a baseline, and route all traffic to it.

    Of a project that is served it makes the first version of a changed schema, which answers once it is promoted.
    """
    opened = App.open(project, home, database=database)
    is_first = opened.world.catalog.route(opened.name) is None
    if is_first:  # else it is refused below, or the schema waits for this version
        opened.publish(by=who(by))
    examples = read_examples(opened, data, label=label, time=time, unit=unit)
    with Bar(transient=True) as bar:
        task = bar.add_task("training", total=1.0)

        def show(progress: Progress) -> None:
            bar.update(task, completed=progress.fraction, description=progress.message or "training")

        make = train_first if is_first else train_next
        version, report = make(opened.world, examples, clock=opened.clock, progress=show)
    said = f"version {version} answers all traffic" if is_first else f"version {version} is made"
    opened.record("train", data.name, by=who(by), reason=reason, result=said)
    Console().print(terminal(report))
    if is_first:
        typer.echo(f"{said}: `tidemill up` serves it and keeps it learning")
        return
    live, sent = opened.route().stable, ", ".join(opened.project.inputs)
    typer.echo(f"{said}; version {live} goes on answering. Next: `tidemill promote {version} --now` puts it and its")
    typer.echo(f"schema in force at once: from then on callers send {sent}")


def read_examples(opened: App, data: Path, *, label: str, time: str | None, unit: str | None) -> list[Example]:
    """Read a file into examples of the project."""
    return examples_from(
        read_table(data, opened.project.schema, label=label), opened.project.schema, now=opened.clock.now(),
        key=opened.world.catalog.secret(opened.name), label=label, time=time, unit=unit,
    )  # fmt: skip
