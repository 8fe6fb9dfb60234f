"""`tidemill label`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from rich.table import Table
from typer.core import TyperGroup

from tidemill.app import App
from tidemill.cli.screen import show_table
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
from tidemill.errors import ProjectError
from tidemill.records import Example, Json
from tidemill.schema import Output, Schema, Value
from tidemill.stores.label_studio import from_export, to_config, to_tasks
from tidemill.strategy.wording import counted


class _AnswersByDefault(TyperGroup):
    """`tidemill label`, with or without ID=LABEL and options, is `tidemill label answer`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the command that was left out."""
        if not args or (args[0] not in self.commands and args[0] not in ("--help", "-h")):
            args = ["answer", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_AnswersByDefault, pretty_exceptions_enable=False)

LimitOption = Annotated[int, typer.Option("--limit", help="How many to show.")]
FormatOption = Annotated[Literal["jsonl", "label-studio"], typer.Option("--format", help="How the file is written.")]


@app.command()
def answer(
    answers: Annotated[list[str] | None, typer.Argument(help="Answers as ID=LABEL; none shows your tasks.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="JSON lines with id and label.")] = None,
    limit: LimitOption = 20,
    look: Annotated[bool, typer.Option("--look", help="Show what waits, and take nothing.")] = False,
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Take tasks and show them as JSON lines, or answer them; `answer` may be left out.

    What is shown is yours for a while, and nobody else gets it. The lines may be answered in place: write a `label`
    into each and give the file back with --file.
    """
    opened = App.open(project, home, database=database)
    given = [*map(_split, answers or []), *(_lines(file) if file else [])]
    if not given:
        _show(opened, limit, by=who(by), look=look)
        return
    opened.answer(_all_typed(given, opened), by=who(by))
    opened.record("answer", _examples([id_ for id_, _ in given]), by=who(by), result=f"labelled {len(given)}")
    typer.echo(f"labelled {len(given)}")


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="The file to write; - for the screen.")] = Path("-"),
    format: FormatOption = "label-studio",
    config: Annotated[
        Path | None, typer.Option("--config", help="Write Label Studio's labelling interface too.")
    ] = None,
    limit: LimitOption = 1000,
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Take tasks and write them for another tool; the answers come back with `tidemill label import`."""
    opened = App.open(project, home, database=database)
    schema, tasks = opened.project.schema, opened.labelling.take(limit, by=who(by))
    if format == "label-studio":
        text = json.dumps(to_tasks(tasks, schema), indent=2) + "\n"
    else:
        text = "".join(json.dumps(shown(example, schema)) + "\n" for example in tasks)
    _write(file, text)
    if config is not None:
        _write(config, to_config(schema, opened.labelling.stage.rulebook))


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="What the other tool wrote.")],
    format: FormatOption = "label-studio",
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Answer tasks by the JSON export of Label Studio, each annotation in the name of who made it."""
    opened = App.open(project, home, database=database)
    if format == "label-studio":
        answers = from_export(_json(file))
        names = list(dict.fromkeys(one.by for one in answers))
        for name in names:
            opened.answer(_all_typed([(one.id, one.label) for one in answers if one.by == name], opened), by=name)
        said = f"labelled {len(answers)}"
        opened.record("import labels", file.name, by=who(by), result=f"{said}, as {', '.join(names)}")
    else:
        given = _lines(file)
        opened.answer(_all_typed(given, opened), by=who(by))
        said = f"labelled {len(given)}"
        opened.record("import labels", file.name, by=who(by), result=said)
    typer.echo(said)


@app.command()
def ask(
    ids: Annotated[list[str], typer.Argument(help="The examples' ids.")],
    priority: Annotated[float, typer.Option("--priority", help="The higher, the sooner; what was picked has 0.")] = 1.0,
    reason: ReasonOption = "",
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Ask for the labels of examples, again where they were answered."""
    opened = App.open(project, home, database=database)
    opened.labelling.ask(ids, priority=priority)
    opened.record("ask for labels", _examples(ids), by=who(by), reason=reason, result=f"asked for {len(ids)}")
    typer.echo(f"asked for {len(ids)}")


@app.command()
def skip(
    ids: Annotated[list[str], typer.Argument(help="The examples' ids.")],
    reason: ReasonOption = "",
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Leave tasks to others, and take back what you said of them."""
    opened = App.open(project, home, database=database)
    for id_ in ids:
        opened.labelling.skip(id_, by=who(by), reason=reason)
    opened.record("skip", _examples(ids), by=who(by), reason=reason, result=f"skipped {len(ids)}")
    typer.echo(f"skipped {len(ids)}")


@app.command()
def golden(
    labels: Annotated[list[str], typer.Argument(help="Known labels as ID=LABEL.")],
    reason: ReasonOption = "",
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Let examples whose label is known measure those who label."""
    opened = App.open(project, home, database=database)
    known = _all_typed([_split(text) for text in labels], opened)
    opened.labelling.make_golden(known)
    said = f"{len(known)} measure those who label"
    opened.record("make golden", _examples([id_ for id_, _ in known]), by=who(by), reason=reason, result=said)
    typer.echo(f"{len(labels)} golden")


@app.command()
def labellers(
    home: HomeOption = DEFAULT_HOME, database: DatabaseOption = None, project: ProjectOption = DEFAULT_PROJECT
) -> None:
    """Show how each labeller does on golden examples, and how far they agree with each other."""
    labelling = App.open(project, home, database=database).labelling
    table = Table("labeller", "answers", "golden", "right", "95 % interval", box=None)
    for one in labelling.labellers():
        right = "" if one.accuracy is None else f"{one.accuracy:.0%}"
        interval = "" if one.low is None else f"{one.low:.0%} to {one.high:.0%}"
        table.add_row(one.name, str(one.num_answers), str(one.num_golden), right, interval)
    show_table(table)
    found = labelling.agreement()
    if found.num_examples:
        typer.echo(f"agreement on {counted(found.num_examples, 'example')}: Krippendorff's alpha {found.alpha:.2f}")
    for pair, kappa in found.kappas.items():
        typer.echo(f"{pair[0]} and {pair[1]}: Cohen's kappa {kappa:.2f}")


@app.command()
def suspects(
    limit: LimitOption = 20,
    again: Annotated[bool, typer.Option("--ask", help="Ask for their labels again.")] = False,
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Show the labels that look most wrong, by the scores that their requests were answered with."""
    opened = App.open(project, home, database=database)
    found = opened.labelling.suspects(limit)
    for one in found:
        typer.echo(json.dumps(one._asdict()))
    if again and found:
        ids = [one.id for one in found]
        opened.labelling.ask(ids)
        said = f"asked for {len(ids)}"
        opened.record("ask for labels", _examples(ids), by=who(by), reason="they look wrong", result=said)
        typer.echo(f"asked for {len(found)}", err=True)


def _show(opened: App, limit: int, *, by: str, look: bool) -> None:
    queue = opened.project.strategy.label.queue
    look = look or queue is None  # then there is nothing to take
    if queue is not None and queue.rulebook:
        typer.echo(queue.rulebook, err=True)
    for example in opened.queue(limit) if look else opened.labelling.take(limit, by=by):
        typer.echo(json.dumps(shown(example, opened.project.schema)))


def _examples(ids: Sequence[str]) -> str:
    """Return examples as the audit log names them."""
    return f"example {ids[0]}" if len(ids) == 1 else counted(len(ids), "example")


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


def _json(file: Path) -> Json:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ProjectError(f"{file} is no JSON file: {error!r}.", "give the JSON export of Label Studio") from error


def _write(file: Path, text: str) -> None:
    if str(file) == "-":
        typer.echo(text, nl=False)
    else:
        file.write_text(text)


def _all_typed(answers: list[tuple[str, Json]], opened: App) -> list[tuple[str, Json]]:
    return [(id_, _typed(value, opened.project.output)) for id_, value in answers]


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
