"""`tidemill check`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.text import Text

from tidemill.cli.screen import verdict_line
from tidemill.cli.settings import DEFAULT_HOME, DEFAULT_PROJECT, DatabaseOption, HomeOption, ProjectOption
from tidemill.cli.train import LabelColumnOption
from tidemill.clock import SystemClock
from tidemill.errors import NotFound, ProjectError
from tidemill.loop.controls import Controls
from tidemill.loop.data_checks import checked_data, training_frame
from tidemill.loop.schema_in_force import Waiting
from tidemill.loop.suites import suites_folder
from tidemill.model import TrainingData
from tidemill.monitor.cohorts import check_cohorts
from tidemill.monitor.drift import check_drift
from tidemill.project import Project, load_project
from tidemill.records import Outcome, Verdict
from tidemill.review.suggest import suggest_schema
from tidemill.review.suite_checks import check_suites, rows_of
from tidemill.stores.case_file import read_cases
from tidemill.stores.home import Home
from tidemill.stores.tabular import examples_from, read_table
from tidemill.strategy.data_checks import DataChecks
from tidemill.strategy.evidence import Evidence
from tidemill.strategy.gate import needs
from tidemill.strategy.suites import Suites
from tidemill.suites import Sources
from tidemill.training import smoke
from tidemill.training.made_up import made_up_data

app = typer.Typer(pretty_exceptions_enable=False)
_NUM_MADE_UP = 64


@app.command()
def check(
    data: Annotated[Path | None, typer.Argument(help="Labelled rows to try it on; made-up rows without.")] = None,
    label: LabelColumnOption = "label",
    suggest: Annotated[bool, typer.Option("--suggest", help="Write a pandera schema that DATA meets instead.")] = False,
    out: Annotated[Path, typer.Option("--out", help="Where --suggest writes it.")] = Path("data_checks.py"),
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Compile the project and train and predict a little with it; a failure names the likely cause.

    The same checks run before every unattended training. Suites make their cases, and DATA is held against the
    strategy's data checks. Where the home serves the project, it says what of the file waits for a version.
    """
    console, loaded = Console(), load_project(project)
    if suggest:
        _suggest(loaded, data, label, out)
        return
    check_cohorts(loaded)
    check_drift(loaded)
    manifest = loaded.compile()
    console.print(f"[green]compiled[/green] {manifest.project!r}, strategy {manifest.strategy}")
    rows = _rows(loaded, data, label)
    with tempfile.TemporaryDirectory() as folder:
        trained = smoke.run(loaded.trainer, rows, seed=0, workdir=Path(folder))
    verdicts = (*trained, *check_suites(loaded.suites, _sources(project, rows)))
    if data is not None:
        verdicts = (*verdicts, *_data_checks(loaded, rows))
    for verdict in verdicts:
        console.print(verdict_line(verdict))
    if loaded.suites and not any(isinstance(member, Suites) for member in loaded.strategy.offline):
        console.print("the suites are reported and block nothing: add tm.offline.Suites() to the strategy")
    waiting = _waiting(loaded, home, database)
    if waiting is not None:
        console.print(Text(f"{waiting}", "yellow"))
    if any(v.outcome is Outcome.FAIL for v in verdicts):
        raise typer.Exit(1)


def _waiting(project: Project, home: Path, database: str | None) -> Waiting | None:
    """Return what of the file is not in force in a home that serves it, None where none does."""
    if not Home(home).folder.is_dir():
        return None
    try:
        opened = Controls.of_home(home, project.name, database=database)
    except NotFound:
        return None
    try:
        return opened.schemas.waiting(project.schema) if opened.name == project.name else None
    finally:
        opened.close()


def _suggest(project: Project, data: Path | None, label: str, out: Path) -> None:
    if data is None:
        raise ProjectError("--suggest needs data to look at.", "name it: `tidemill check DATA --suggest`")
    if out.exists():
        raise ProjectError(f"{str(out)!r} exists already.", "move it, or name another file with --out")
    frame = training_frame(_rows(project, data, label)).drop("weight")
    out.write_text(suggest_schema(frame, project.schema, project=project.name), encoding="utf-8")
    typer.echo(f"{out}: a schema that {len(frame)} rows meet; change it to what has to hold")
    typer.echo(f"then: `from {out.stem} import schema`, and tm.offline.DataChecks(schema) in the strategy")


def _data_checks(project: Project, rows: TrainingData) -> list[Verdict]:
    members = [member for member in project.strategy.offline if isinstance(member, DataChecks)]
    checked = checked_data(rows, needs(members).data)
    seen = Evidence(cells=(), candidate=1, live=None, now=SystemClock().now(), data=checked)
    return [member.judge(seen) for member in members]


def _sources(project: str, data: TrainingData) -> Sources:
    """Return where suites take their cases from when there is no dataset yet."""
    folder, schema = suites_folder(project), data.schema
    return Sources(
        schema=schema,
        ids=data.ids,
        take=lambda index: rows_of(data, index),
        read=lambda path: read_cases(folder / path, schema),
    )


def _rows(project: Project, data: Path | None, label: str) -> TrainingData:
    schema = project.schema
    if data is None:
        return made_up_data(schema, num_rows=_NUM_MADE_UP, rng=np.random.default_rng(0))
    examples = examples_from(read_table(data, schema, label=label), schema, now=SystemClock().now(), label=label)
    return TrainingData(
        schema=schema,
        columns=schema.columns([e.inputs for e in examples]),
        targets=schema.output.targets([e.label for e in examples]),
        weights=np.ones(len(examples)),
        ids=tuple(e.id for e in examples),
    )
