"""`tidemill suite`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from tidemill.app import App
from tidemill.cli.screen import show_table
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
from tidemill.errors import NotFound, ProjectError
from tidemill.loop.suites import add_logged, find_suite, run_suites, sources_of, told_of
from tidemill.loop.world import World
from tidemill.records import Json
from tidemill.review.suites import shown
from tidemill.strategy.suite_result import SuiteResult
from tidemill.strategy.wording import counted
from tidemill.suites import Suite

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

NameArgument = Annotated[str, typer.Argument(help="The suite's name in the project file.")]


@app.command("list")
def list_(
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
    as_json: JsonOption = False,
) -> None:
    """List the project's suites with kind, version and number of cases."""
    opened = App.open(project, home, database=database)
    rows = [_row(suite, opened.world) for suite in opened.project.suites]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("name", "kind", "cases", "at least", "version", box=None)
    for row in rows:
        cases = Text(row["problem"], "red") if row["problem"] else Text(str(row["num_cases"]))
        table.add_row(row["name"], row["kind"], cases, f"{row['at_least']:.0%}", row["version"])
    if rows:
        show_table(table)
    else:
        typer.echo("the project has no suites: add tm.suites.Cases(...) to it")


def _row(suite: Suite, world: World) -> dict[str, Json]:
    body = {"name": suite.name, "kind": type(suite).__name__, "at_least": suite.at_least}
    try:
        cases = suite.ask(sources_of(world, _newest_dataset(world)))
    except ProjectError as error:
        return {**body, "num_cases": 0, "version": "", "problem": str(error)}
    return {**body, "num_cases": len(cases), "version": suite.version(cases), "problem": ""}


@app.command()
def show(
    name: NameArgument,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many cases.")] = 20,
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Show the cases of a suite: the inputs, what is wanted, and why a case is there."""
    opened = App.open(project, home, database=database)
    suite = find_suite(opened.project.suites, name)
    cases = suite.ask(sources_of(opened.world, _newest_dataset(opened.world)))
    typer.echo(f"{suite.name}: {type(suite).__name__}, version {suite.version(cases)}, {counted(len(cases), 'case')}")
    for case in cases[:limit]:
        came = f"  from {shown(case.original)}" if case.original is not None else f"  wanted {case.label!r}"
        typer.echo(f"{case.id}: {shown(case.inputs)}{came}{f'  ({case.note})' if case.note else ''}")
    if len(cases) > limit:
        typer.echo(f"and {len(cases) - limit} more: --limit {len(cases)}")


@app.command()
def run(
    name: NameArgument,
    version: Annotated[int | None, typer.Option("--version", help="The version; by default the live one.")] = None,
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
    as_json: JsonOption = False,
) -> None:
    """Put a suite to a version, beside the live one, and show what fails. Exit code 1 when too few cases pass."""
    opened = App.open(project, home, database=database)
    suite, world = find_suite(opened.project.suites, name), opened.world
    route = world.catalog.route(opened.name)
    live = None if route is None else route.stable
    asked = live if version is None else version
    if asked is None:
        raise NotFound(f"{opened.name!r} has no version yet.", "make one with `tidemill train DATA`")
    dataset = world.catalog.model(opened.name, asked).dataset
    (result,) = run_suites(world, [suite], candidate=asked, live=None if asked == live else live, dataset=dataset)
    if as_json:
        typer.echo(json.dumps(asdict(result), indent=2))
    else:
        _print(result, asked)
    if result.problem or (result.share is not None and result.share < suite.at_least):
        raise typer.Exit(1)


def _print(result: SuiteResult, version: int) -> None:
    typer.echo(f"version {version}, {result}; wanted {result.at_least:.0%} (suite version {result.version or '-'})")
    for case in result.failed:
        new = "newly failing " if case.new else ""
        typer.echo(f"  {new}{case}{f'  ({case.note})' if case.note else ''}")


@app.command()
def add(
    name: NameArgument,
    from_prediction: Annotated[
        list[str], typer.Option("--from-prediction", help="The id of a request in the log; once for each.")
    ],
    label: Annotated[
        str | None, typer.Option("--label", help="The right answer; by default the label that is known.")
    ] = None,
    note: Annotated[str, typer.Option("--note", help="Why it is a case; kept with it.")] = "",
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Make logged requests cases: their inputs and the right answer go to the end of the suite's file."""
    opened = App.open(project, home, database=database)
    now = opened.clock.now()
    said = add_logged(opened.world, name, from_prediction, label=label, note=note, by=who(by), now=now)
    opened.record("add to suite", f"suite {name}", by=who(by), reason=note, result=told_of(from_prediction))
    for line in said:
        typer.echo(line)


def _newest_dataset(world: World) -> str | None:
    models = world.catalog.models(world.name)
    return models[-1].dataset if models else None
