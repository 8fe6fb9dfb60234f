"""`tidemill label`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from tidemill.app import App
from tidemill.cli.settings import (
    DEFAULT_HOME,
    DEFAULT_PROJECT,
    ByOption,
    DatabaseOption,
    HomeOption,
    ProjectOption,
    who,
)
from tidemill.errors import ProjectError
from tidemill.records import Example, Json
from tidemill.schema import Output, Schema, Value

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def label(
    answers: Annotated[list[str] | None, typer.Argument(help="Answers as ID=LABEL; none shows what waits.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="JSON lines with id and label.")] = None,
    limit: Annotated[int, typer.Option("--limit", help="How many to show.")] = 20,
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Show the examples that wait for a label as JSON lines, or answer them.

    The lines may be answered in place: write a `label` into each and give the file back with --file.
    """
    opened = App.open(project, home, database=database)
    given = [*map(_split, answers or []), *(_lines(file) if file else [])]
    if not given:
        for example in opened.queue(limit):
            typer.echo(json.dumps(shown(example, opened.project.schema)))
        return
    opened.answer([(id_, _typed(value, opened.project.output)) for id_, value in given], by=who(by))
    typer.echo(f"labelled {len(given)}")


def _split(text: str) -> tuple[str, Json]:
    id_, equals, value = text.partition("=")
    if not equals:
        raise ProjectError(f"{text!r} is no answer.", "write ID=LABEL")
    return id_, value


def _lines(file: Path) -> list[tuple[str, Json]]:
    try:
        rows = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
        return [(row["id"], row["label"]) for row in rows if row.get("label") is not None]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProjectError(
            f"{file} is no file of answers: {error!r}.", "write one JSON object with id and label per line"
        ) from error


def _typed(value: Json, output: Output) -> Json:
    """Return an answer typed on the command line as a number where the output is one."""
    if isinstance(output, Value) and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value  # the output says what is wrong with it
    return value


def shown(example: Example, schema: Schema) -> Json:
    """Return an example as JSON; arrays become nested lists."""
    inputs = {}
    for name, value in example.inputs.items():
        column = schema.inputs[name].column([value])[0]
        inputs[name] = column.tolist() if isinstance(column, np.ndarray) else value
    return {"id": example.id, "inputs": inputs, "decision": example.decision, "reason": example.reason, "label": None}
