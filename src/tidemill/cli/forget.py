"""`tidemill forget`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated

import typer

from tidemill.app import App
from tidemill.cli.settings import (
    DEFAULT_HOME,
    DEFAULT_PROJECT,
    ByOption,
    DatabaseOption,
    HomeOption,
    JsonOption,
    ProjectOption,
    ReasonOption,
    who,
)
from tidemill.errors import Fenced
from tidemill.loop.person import KnownOf
from tidemill.stores.erasures import Erasure

app = typer.Typer(pretty_exceptions_enable=False)

_LOOK_S = 0.2
_WORDS = {
    "predictions": "predictions", "feedback": "words of feedback", "profiles": "device profiles",
    "examples": "examples of the reservoir", "tasks": "tasks of the label queue", "labellings": "answers of labellers",
    "cases": "cases of suites",
}  # fmt: skip


@app.command()
def forget(
    subject: Annotated[str, typer.Argument(help="The `subject` that requests were sent with.")],
    unit: Annotated[bool, typer.Option("--unit", help="Take what bears the `unit` of that name too.")] = False,
    datasets: Annotated[
        bool, typer.Option("--datasets", help="Erase the rows of every dataset version with this person in it.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what there is.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether to go on.")] = False,
    reason: ReasonOption = "",
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
    as_json: JsonOption = False,
) -> None:
    """Delete what is kept about a person, for good, and say which dataset and model versions learnt from it.

    A running loop does it, else this command. Killed anywhere, whoever turns the loop next goes on with it.
    """
    opened = App.open(project, home, database=database)
    known = opened.known_of(subject, by_unit=unit)
    if dry_run:
        _show(known, subject, as_json=as_json, verb="would delete")
        return
    if not yes and (any(known.counts.values()) or (datasets and known.datasets)):
        _show(known, subject, as_json=False, verb="is about to delete", err=True)
        if datasets and known.datasets:
            typer.echo("the rows of these dataset versions go too, those of others with them", err=True)
        typer.confirm("this cannot be undone; go on?", abort=True, err=True)
    number = opened.forget(subject, by_unit=unit, datasets=datasets, by=who(by), reason=reason)
    done = _wait(opened, number)
    versions = [one for one in opened.world.datasets.all(opened.name) if one.digest in done.body["datasets"]]
    _show(KnownOf.of(done.body["counts"], versions, done.body["models"]), subject, as_json=as_json, verb="deleted")


def _wait(opened: App, number: int) -> Erasure:
    """Do the work, or wait for the loop that does it."""
    engine, told = opened.engine(), False
    try:
        while (erasure := opened.erasure(number)).done_at is None:
            did: bool | None = False
            with suppress(Fenced):  # a loop has begun to turn meanwhile
                did = engine.take("forget")
            if not did:
                if not told:
                    rests = erasure.rest.get("why", "gateways hand over what they have logged")
                    why = "the loop is at it" if did is None else rests
                    typer.echo(f"erasure {number}: {why}; it goes on if you leave", err=True)
                    told = True
                opened.clock.sleep(_LOOK_S)
    finally:
        engine.let_go()
    return erasure


def _show(known: KnownOf, subject: str, *, as_json: bool, verb: str, err: bool = False) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(known), indent=2))
        return
    for why in known.unread:
        typer.echo(f"not counted: {why}", err=True)
    if not any(known.counts.values()):
        typer.echo(f"nothing is kept about {subject!r}: 0 rows", err=err)
    else:
        typer.echo(f"{verb}:", err=err)
        for name, words in _WORDS.items():
            if known.counts[name]:
                typer.echo(f"  {known.counts[name]:>7}  {words}", err=err)
    for numbers, state in ((known.datasets, "kept; `--datasets` erases it"), (known.erased, "erased")):
        if numbers:
            typer.echo(f"in dataset version {_listed(numbers)} ({state})", err=err)
    if known.models:
        typer.echo(f"model version {_listed(known.models)} learnt from these, and keeps what it learnt", err=err)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
