"""`tidemill batch`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from tidemill.cli.settings import DEFAULT_HOME, DEFAULT_PROJECT, DatabaseOption, HomeOption, JsonOption, ProjectOption
from tidemill.clock import SystemClock
from tidemill.deploy.batch import Done, predict_table
from tidemill.deploy.order import Order
from tidemill.errors import NotFound
from tidemill.stores.addresses import read_place
from tidemill.stores.belonging import open_database
from tidemill.stores.catalog import Catalog
from tidemill.stores.home import Home
from tidemill.strategy.wording import counted

app = typer.Typer(pretty_exceptions_enable=False)

_PLACE = "a .parquet or .csv file, or a table as sqlite:///file.db#table or postgresql://user@host/name#table"


@app.command()
def batch(
    source: Annotated[str, typer.Argument(metavar="IN", help=f"What to predict: {_PLACE}.")],
    to: Annotated[str, typer.Argument(metavar="OUT", help="Where predictions go, written likewise.")],
    version: Annotated[
        int | None, typer.Option("--version", help="The version that predicts; by default the stable one.")
    ] = None,
    on_bad_row: Annotated[
        Literal["refuse", "skip"],
        typer.Option("--on-bad-row", help="At a row that does not fit: stop, or leave it out and go on."),
    ] = "refuse",
    refused: Annotated[
        str | None,
        typer.Option("--refused", help="Where rows that were left out go, with reasons; by default beside OUT."),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option("--keep", help="Columns of IN to keep, with commas; by default all that are no inputs."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, help="Processes; by default as many as there are cores and work for."),
    ] = None,
    batch_rows: Annotated[
        int | None, typer.Option("--batch-rows", min=1, help="Rows per call of the model; measured by default.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Let an OUT that is there give way at the end.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what an interrupted run left.")] = False,
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
    as_json: JsonOption = False,
) -> None:
    """Predict every row of a table. Killed, the same command goes on where it was; OUT appears when it is whole."""
    order = Order(
        source=read_place(source),
        to=read_place(to),
        refused=None if refused is None else read_place(refused),
        version=version,
        on_bad_row=on_bad_row,
        keep=None if keep is None else tuple(name.strip() for name in keep.split(",") if name.strip()),
        jobs=jobs,
        batch_rows=batch_rows,
        replace=replace,
        restart=restart,
    )
    kept_in = Home(home).make()
    with open_database(kept_in, database) as opened, _bar() as bar:
        catalog, task = Catalog(opened), bar.add_task("predicting", total=1.0, rows="", left="")
        done = predict_table(
            order, project=_name(catalog, project), home=kept_in, catalog=catalog, clock=SystemClock(),
            tell=lambda told: _show(bar, task, told),
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(done.to_json(), indent=2))
        return
    typer.echo(f"{counted(done.num_rows, 'row')} by version {done.version} in {done.seconds:.1f} s: {order.to}")
    if done.num_refused:
        typer.echo(f"{counted(done.num_refused, 'row')} refused, with reasons: {order.refused_to}")


def _name(catalog: Catalog, file: str) -> str:
    """Return the project that was published from this file, without running it: what it says is in the catalog."""
    path, colon, name = file.partition(":")
    published = {catalog.file(known): known for known in catalog.projects()}
    found = published.get(f"{Path(path).absolute()}{colon}{name}")
    if found is None and len(published) == 1 and file == DEFAULT_PROJECT:
        return next(iter(published.values()))
    if found is None:
        there = ", ".join(published) or "none"
        raise NotFound(
            f"no project of {file!r} is published here; there is {there}.", "run `tidemill check`, or --home"
        )
    return found


def _bar() -> Progress:
    """Return a bar that is drawn when there is news, and only for a person: a thread of its own would cost the job."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%  {task.fields[rows]}"),
        TextColumn("{task.fields[left]}"), console=console, transient=True, auto_refresh=False,
        disable=not console.is_terminal,
    )  # fmt: skip


def _show(bar: Progress, task: TaskID, done: Done) -> None:
    rate = (done.num_rows + done.num_refused - done.num_before) / max(done.seconds, 1e-9)
    left = "" if done.left_s is None else f"{_span(done.left_s)} left"
    rows = f"{counted(done.num_rows, 'row')}, {rate:,.0f}/s"
    bar.update(task, completed=done.fraction, rows=rows, left=left, refresh=True)


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
