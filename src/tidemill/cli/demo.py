"""`tidemill demo`."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from tidemill.app import App
from tidemill.cli import digits
from tidemill.cli.live import Live
from tidemill.cli.play import FEEDBACK_DELAY_S, RATE, Cast, Labeller, Play
from tidemill.cli.processes import Processes
from tidemill.cli.settings import JsonOption
from tidemill.cli.stream import replay
from tidemill.cli.summary import summary
from tidemill.cli.template import fast
from tidemill.loop.first import train_first
from tidemill.stores.tabular import examples_from
from tidemill.strategy.wording import counted
from tidemill.testing.traffic import Users

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def demo(
    as_json: JsonOption = False,
    stream: Annotated[Path | None, typer.Option("--stream", help="A recorded stream to replay instead.")] = None,
    project: Annotated[str | None, typer.Option("--project", help="The project file for the stream.")] = None,
    rows: Annotated[int, typer.Option("--rows", help="At most this many rows of the stream, evenly spread.")] = 12_000,
    home: Annotated[Path | None, typer.Option("--home", help="Keep the folder here; else it is thrown away.")] = None,
) -> None:
    """Watch the whole loop: a model falls, is retrained and brought back safely; a bad one is stopped twice."""
    console = Console(stderr=as_json)
    with _folder(home) as folder:
        if stream is not None:
            if project is None:
                raise typer.BadParameter("name the project file for the stream with --project")
            result = replay(stream, project, folder, console, max_rows=rows)
        else:
            result = _play(folder, console)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        _say_plainly(console, result)


@contextmanager
def _folder(home: Path | None) -> Iterator[Path]:
    if home is not None:
        home.mkdir(parents=True, exist_ok=True)
        yield home
        return
    folder = Path(tempfile.mkdtemp(prefix="tidemill-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _play(folder: Path, console: Console) -> dict[str, Any]:
    known, before, fresh = _pools(digits.load())
    app, users, play = _prepare(folder, console, before, fresh)
    examples = examples_from(digits.digits_table(known), app.project.schema, now=app.clock.now())
    console.print(f"Training version 1 on {len(known)} real handwritten digits ...")
    train_first(app.world, examples, clock=app.clock, progress=lambda _: None)
    with Processes(folder, fast.__file__) as processes:
        users.port = processes.port
        stop = threading.Event()
        live = Live(app, users, console, stop)
        live.start()
        try:
            play.act_one()
            play.act_two()
            users.stop()
        finally:
            stop.set()
            live.join()
    app.engine().drain()
    result = summary(app, num_answered=users.counts["answered"])
    app.close()
    return result


def _prepare(folder: Path, console: Console, before: digits.Digits, fresh: digits.Digits) -> tuple[App, Users, Play]:
    app = App.open(fast.__file__, folder)
    cast = Cast(before)
    users = Users("127.0.0.1", 0, draw=cast.draw, say=cast.say, rate=RATE, delay_s=FEEDBACK_DELAY_S, seed=1)
    labeller = Labeller(app, digits.load())

    def tell(line: str) -> None:
        console.print(f"[bold]{line}[/bold]")

    return app, users, Play(app=app, cast=cast, users=users, labeller=labeller, fresh=fresh, tell=tell)


def _pools(everything: digits.Digits) -> tuple[digits.Digits, digits.Digits, digits.Digits]:
    """Split the pictures: to train version 1, for traffic before the first retraining, and for traffic after it."""
    order = np.random.default_rng(0).permutation(len(everything))
    known, before, fresh = np.split(order, [600, 1_400])
    return everything.part(known), everything.part(before), everything.part(fresh)


def _say_plainly(console: Console, result: dict[str, Any]) -> None:
    console.print("\n[bold]What happened[/bold]")
    for phase, values in result["quality"].items():
        shown = ", ".join(f"{cohort} {'-' if value is None else f'{value:.3f}'}" for cohort, value in values.items())
        console.print(f"  quality {phase:<7} {shown}")
    asked = result["requests"]
    console.print(
        f"  {counted(asked['answered'], 'request')} answered, {asked['logged']:,} in the log; "
        f"{counted(result['retrainings'], 'retraining')}"
    )
    bad = result.get("bad_candidate")
    if bad is not None:
        gate = "stopped by the gate" if bad["stopped_by_gate"] else "NOT stopped by the gate"
        guard = "rolled back" if bad["rolled_back"] else "NOT rolled back"
        share = f"{bad['largest_share']:.0%}"
        console.print(f"  the poisoned candidate: {gate}; let through, {guard} at a share of {share}")
