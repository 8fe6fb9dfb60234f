"""`tidemill dataset`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

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
from tidemill.errors import NotFound
from tidemill.records import DatasetVersion, Json
from tidemill.stores.export import export as write
from tidemill.strategy.wording import counted

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

_SHOWN_IDS = 5
_WHICH = "A number, a tag, or the first digits of a digest; by default the newest."
NewestArgument = Annotated[str | None, typer.Argument(help=_WHICH, show_default=False)]


@app.command("list")
def list_(
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
    as_json: JsonOption = False,
) -> None:
    """List the dataset versions: when each was formed, by what, from which, and how many rows it has."""
    opened = App.open(project, home, database=database)
    versions = opened.world.datasets.all(opened.name)
    found = [_described(opened, version) for version in versions]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table("version", "digest", "tags", "formed", "by", "from", "train", "test", "rows", box=None)
    for version, one in zip(versions, found, strict=True):
        table.add_row(
            str(one["number"]), one["digest"][:12], " ".join(one["tags"]), one["created_at"][:19], one["formed_by"],
            (one["parent"] or "-")[:12], str(one["num_train"]), str(one["num_test"]), version.state,
        )  # fmt: skip
    show_table(table)


@app.command()
def show(
    version: NewestArgument = None,
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
    as_json: JsonOption = False,
) -> None:
    """Show what a version holds: labels and trust by split, and the models that learnt from it."""
    opened = App.open(project, home, database=database)
    found = _find(opened, version)
    models = [m.version for m in opened.world.catalog.models(opened.name) if m.dataset == found.digest]
    body = {**_described(opened, found), **asdict(opened.world.datasets.contents(opened.name, found.digest)),
            "models": models}  # fmt: skip
    if as_json:
        typer.echo(json.dumps(body, indent=2))
        return
    for name, value in body.items():
        typer.echo(f"{name:<12}{_plain(value)}")


@app.command()
def diff(
    old: Annotated[str | None, typer.Argument(help="By default the one before the newest.")] = None,
    new: Annotated[str | None, typer.Argument(help="By default the newest.")] = None,
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
    as_json: JsonOption = False,
) -> None:
    """Show which examples were added, removed, relabelled or moved to the other split."""
    opened = App.open(project, home, database=database)
    after = _find(opened, new)
    if old is None and after.number == 1:
        raise NotFound("there is no version before version 1.", "name two versions, or form another with a retraining")
    before = _find(opened, old if old is not None else str(after.number - 1))
    found = asdict(opened.world.datasets.diff(opened.name, before.digest, after.digest))
    if as_json:
        typer.echo(json.dumps({"old": before.number, "new": after.number, **found}, indent=2))
        return
    typer.echo(f"version {before.number} to {after.number}")
    for name, ids in found.items():
        shown = ", ".join(ids[:_SHOWN_IDS]) + (" ..." if len(ids) > _SHOWN_IDS else "")
        typer.echo(f"{name.replace('_', ' '):<14}{len(ids):>8}  {shown}".rstrip())


@app.command()
def tag(
    name: Annotated[str, typer.Argument(help="A name, such as golden.")],
    version: NewestArgument = None,
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
    move: Annotated[bool, typer.Option("--move", help="Take the name from the version that has it.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Take the name away; the version stays.")] = False,
    by: ByOption = "",
) -> None:
    """Give a version a name that every command takes instead of its number."""
    opened = App.open(project, home, database=database)
    datasets = opened.world.datasets
    if delete:
        with opened.world.db.begin() as conn:
            datasets.untag(conn, opened.name, name)
            opened.note(conn, "untag dataset", name, by=who(by), reason="", result="no version has it")
        typer.echo(f"no version is called {name!r} any more")
        return
    found = _find(opened, version)
    with opened.world.db.begin() as conn:
        datasets.tag(conn, opened.name, name, found.digest, now=opened.clock.now(), move=move)
        opened.note(conn, "tag dataset", name, by=who(by), reason="", result=f"dataset version {found.number}")
    typer.echo(f"version {found.number} is called {name!r}")


@app.command()
def export(
    version: Annotated[str, typer.Argument(help="A number, a tag, or the first digits of a digest.")],
    to: Annotated[Path, typer.Argument(help="A .parquet or .csv file; else a folder for Hugging Face `datasets`.")],
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Write a version to a file or folder of another tool."""
    opened = App.open(project, home, database=database)
    num = write(opened.world.datasets, opened.name, version, to)
    typer.echo(f"wrote {counted(num, 'row')} to {to}")


def _find(opened: App, ref: str | None) -> DatasetVersion:
    if ref is not None:
        return opened.world.datasets.resolve(opened.name, ref)
    known = opened.world.datasets.all(opened.name)
    if not known:
        raise NotFound(f"{opened.name!r} has no dataset yet.", "make one with `tidemill train DATA`")
    return known[-1]


def _described(opened: App, version: DatasetVersion) -> Json:
    tags = [name for name, digest in opened.world.datasets.tags(opened.name).items() if digest == version.digest]
    times = {name: getattr(version, name) for name in ("created_at", "erased_at", "retired_at")}
    return {**asdict(version), **{name: at and at.isoformat() for name, at in times.items()}, "tags": tags}


def _plain(value: Json) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
