"""`tidemill report`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from tidemill.app import App
from tidemill.cli.screen import verdict_lines
from tidemill.cli.settings import DEFAULT_HOME, DEFAULT_PROJECT, DatabaseOption, HomeOption, JsonOption, ProjectOption
from tidemill.errors import NotFound
from tidemill.review.report import Report

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def report(
    version: Annotated[int | None, typer.Argument(help="The version; by default the newest with a report.")] = None,
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown as it is.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how a version did on the test examples against the live one and a baseline, and the verdicts it got."""
    opened = App.open(project, home, database=database)
    catalog, versions = opened.world.catalog, [m.version for m in opened.world.catalog.models(opened.name)]
    wanted = [version] if version is not None else versions[::-1]
    stored = next((body for v in wanted if (body := catalog.report(opened.name, v)) is not None), None)
    if stored is None:
        raise NotFound(
            f"there is no report{'' if version is None else f' on version {version}'}.",
            f"versions are {versions or 'none yet'}",
        )
    if as_json:
        typer.echo(json.dumps(stored, indent=2))
        return
    found = Report.from_json(stored)
    if markdown:
        typer.echo(found.to_markdown())
        return
    console = Console()
    console.print(Markdown(found.to_markdown()))
    cycles = [c.number for c in opened.world.journal.cycles(opened.name) if c.candidate == found.candidate]
    for line in (line for c in cycles for line in verdict_lines(opened.world.journal.verdicts(opened.name, cycle=c))):
        console.print(line)
