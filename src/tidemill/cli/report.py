"""`tidemill report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from tidemill.cli.screen import verdict_lines
from tidemill.cli.settings import DEFAULT_HOME, DEFAULT_PROJECT, DatabaseOption, HomeOption, JsonOption, ProjectOption
from tidemill.errors import NotFound, ProjectError
from tidemill.loop.controls import Controls
from tidemill.records import Json
from tidemill.review.render.markdown import markdown
from tidemill.review.render.page import page
from tidemill.review.render.terminal import terminal
from tidemill.review.report import Report

app = typer.Typer(pretty_exceptions_enable=False)

Format = Literal["terminal", "markdown", "html"]


@app.command()
def report(
    version: Annotated[int | None, typer.Argument(help="The version; by default the newest with a report.")] = None,
    form: Annotated[
        Format, typer.Option("--format", help="How to show it; html is one file that needs nothing else.")
    ] = "terminal",
    out: Annotated[Path | None, typer.Option("--out", help="Write it to this file instead of showing it.")] = None,
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
    as_json: JsonOption = False,
) -> None:
    """Show how a version did on the test examples against the live one and baselines, and the verdicts it got."""
    opened = Controls.of_home(home, project, database=database)
    stored = _stored(opened, version)
    found = Report.from_json(stored)
    if out is None and form == "terminal" and not as_json:
        console = Console()
        console.print(terminal(found))
        _print_verdicts(opened, found, console)
        return
    text = json.dumps(stored, indent=2) if as_json else _text(found, form, opened.name)
    if out is None:
        typer.echo(text, nl=not text.endswith("\n"))
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ProjectError(f"{str(out)!r} cannot be written: {error}.", "name another file with --out") from error
    typer.echo(f"{out}: the report on version {found.candidate}")


def _stored(opened: Controls, version: int | None) -> Json:
    catalog, versions = opened.catalog, [m.version for m in opened.catalog.models(opened.name)]
    wanted = [version] if version is not None else versions[::-1]
    stored = next((body for v in wanted if (body := catalog.report(opened.name, v)) is not None), None)
    if stored is None:
        raise NotFound(
            f"there is no report{'' if version is None else f' on version {version}'}.",
            f"versions are {versions or 'none yet'}",
        )
    return stored


def _text(found: Report, form: Format, project: str) -> str:
    if form == "html":
        return page(found, project=project)
    if form == "markdown":
        return markdown(found)
    console = Console(width=120, no_color=True, force_terminal=False)
    with console.capture() as captured:
        console.print(terminal(found))
    return captured.get()


def _print_verdicts(opened: Controls, found: Report, console: Console) -> None:
    """Print what came later too: the verdicts of its whole way through traffic."""
    cycles = [c.number for c in opened.journal.cycles(opened.name) if c.candidate == found.candidate]
    for line in (line for c in cycles for line in verdict_lines(opened.journal.verdicts(opened.name, cycle=c))):
        console.print(line)
