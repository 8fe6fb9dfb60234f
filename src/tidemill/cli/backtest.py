"""`tidemill backtest`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from tidemill.app import App
from tidemill.cli.settings import (
    DEFAULT_HOME,
    DEFAULT_PROJECT,
    DatabaseOption,
    HomeOption,
    JsonOption,
    ProjectOption,
    who,
)
from tidemill.clock import SystemClock, duration
from tidemill.errors import ProjectError
from tidemill.loop.backtest.archive import archive
from tidemill.loop.backtest.backtest import backtest as replay
from tidemill.loop.backtest.card import Card
from tidemill.loop.backtest.result import BacktestResult
from tidemill.loop.world import World
from tidemill.project import Project, load_project, load_strategy
from tidemill.stores.backtests import Backtests
from tidemill.stores.home import Home
from tidemill.strategy import presets
from tidemill.strategy.presets import Oracle
from tidemill.strategy.strategy import Strategy

OWN_LOG = "log"
_PRESETS: dict[str, Callable[..., Strategy | Oracle]] = {
    "never": presets.never,
    "every_window": presets.every_window,
    "periodic": presets.periodic,
    "amount": presets.amount,
    "degraded": presets.degraded,
    "drift": presets.drift,
    "recent_replay": presets.recent_replay,
    "sliding_window": presets.sliding_window,
    "everything": presets.everything,
    "oracle": presets.oracle,
}

_HEADS = {
    "worst_window": "worst window", "worst_cohort": "worst cohort", "retrainings": "trained", "promotions": "promoted",
    "rollbacks": "rolled back", "labels": "labels", "train_cpu_s": "CPU s", "regret": "regret",
}  # fmt: skip

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def backtest(
    stream: Annotated[
        str, typer.Argument(help=f"A Parquet, CSV or JSON lines file; `{OWN_LOG}` for the project's own log.")
    ],
    project: ProjectOption = DEFAULT_PROJECT,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            "--strategy",
            help="A file with a Strategy or a Project, or a preset of your strategy such as preset:periodic:30d."
            " Give it for each; by default the project's own.",
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="Print a card of the change from this strategy, as Markdown.")
    ] = None,
    time: Annotated[str, typer.Option("--time", help="The column that says when a request came.")] = "time",
    label: Annotated[str, typer.Option("--label", help="The column with what turned out to be true.")] = "label",
    unit: Annotated[str | None, typer.Option("--unit", help="The column that says whose a request is.")] = None,
    start: Annotated[str, typer.Option("--start", help="Where history ends: a share of the rows, or a time.")] = "0.2",
    step: Annotated[
        str | None, typer.Option("--step", help="How far looks lie apart: a time such as 1d, or a number of rows.")
    ] = None,
    label_delay: Annotated[str, typer.Option("--label-delay", help="How long a label takes.")] = "0s",
    label_budget: Annotated[
        float | None, typer.Option("--label-budget-per-day", help="How many questions people answer a day.")
    ] = None,
    label_noise: Annotated[float, typer.Option("--label-noise", help="The share of labels that are wrong.")] = 0.0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How often to repeat it with other chance.")] = 1,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Processes; one for each core by default.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Keep results of single runs here: one that was stopped goes on.")
    ] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write the report here, as HTML.")] = None,
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what strategies would have done on a recorded stream, before they touch traffic."""
    declared = load_project(project)
    strategies = _strategies(strategy or [], declared, project)
    changed = next(iter(strategies))
    if against is not None:
        strategies[_free(against, strategies)] = load_strategy(against)
    console = Console(stderr=True)
    with _source(stream, project, home, database) as source, _bar(console) as tell:
        result = replay(
            declared, source, strategies=strategies, time=time, label=label, unit=unit, start=_start(start),
            step=_step(step), label_delay=label_delay, label_budget_per_day=label_budget, label_noise=label_noise,
            seeds=seeds, jobs=jobs, folder=folder, progress=tell,
        )  # fmt: skip
    if report is not None:
        result.report(report)
    card = None if against is None else Card.of(result, _last(strategies), changed)
    if card is not None:
        _expect(card, strategies[changed], project, home, database)
    kept = _archived(result, card, home, project=declared.name, source=stream)
    _show(result, card, kept, as_json=as_json)
    if kept is not None:
        console.print(f"Kept in {home / 'backtests' / kept}", soft_wrap=True, highlight=False)


def _strategies(given: list[str], declared: Project, project: str) -> dict[str, Strategy | Oracle]:
    found: dict[str, Strategy | Oracle] = {}
    for one in given:
        found[_free(one, found)] = _preset(one, declared.strategy) if one.startswith("preset:") else load_strategy(one)
    return found or {_free(project, {}): declared.strategy}


def _free(path: str, taken: dict[str, Any]) -> str:
    """Return a short name that no other strategy has."""
    file, _, name = path.partition(":")
    short = (f"{file}:{name}" if file == "preset" else Path(file).stem + (f":{name}" if name else "")).removeprefix(
        "preset:"
    )
    return short if short not in taken else path if path not in taken else f"{path} ({len(taken) + 1})"


def _last(strategies: dict[str, Strategy | Oracle]) -> str:
    return list(strategies)[-1]


def _preset(text: str, base: Strategy) -> Strategy | Oracle:
    """Read `preset:NAME` or `preset:NAME:ARGUMENT:...`, such as `preset:recent_replay:90d:5000`."""
    _, name, *arguments = text.split(":")
    if name not in _PRESETS:
        raise ProjectError(f"there is no preset {name!r}.", f"there are {', '.join(_PRESETS)}")
    try:
        return _PRESETS[name](*map(_argument, arguments), base=base)
    except TypeError as error:
        raise ProjectError(f"{text!r} does not fit the preset: {error}.", "see tm.presets for what it takes") from error


def _argument(text: str) -> str | float:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        return text


def _start(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _step(text: str | None) -> timedelta | int | None:
    if text is None or text.isdigit():
        return None if text is None else int(text)
    return duration(text, name="--step")


@contextmanager
def _source(stream: str, project: str, home: Path, database: str | None) -> Iterator[Path | World]:
    if stream != OWN_LOG:
        yield Path(stream)
        return
    opened = App.open(project, home, database=database)
    try:
        yield opened.world
    finally:
        opened.close()


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[float, float | None], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading the stream", total=1.0)

        def tell(fraction: float, left_s: float | None) -> None:
            left = "" if left_s is None else f", {_time(left_s)} to go"
            bar.update(task, completed=fraction, description=f"replaying{left}")

        yield tell


def _time(seconds: float) -> str:
    return f"{math.ceil(seconds)} s" if seconds < 100 else f"{math.ceil(seconds / 60)} min"


def _archived(result: BacktestResult, card: Card | None, home: Path, *, project: str, source: str) -> str | None:
    """Keep what was found if there is a home folder, and return its id."""
    if not home.is_dir():
        return None
    now = SystemClock().now()
    return archive(result, Backtests(Home(home)), project=project, source=Path(source).name, card=card, now=now)


def _expect(card: Card, strategy: Strategy | Oracle, project: str, home: Path, database: str | None) -> None:
    """Keep what is expected, so that `tidemill strategy log` can put what came true beside it."""
    if isinstance(strategy, Oracle) or not (home.is_dir() or database):
        return
    opened = App.open(project, home, database=database)
    try:
        opened.expect(strategy, card.prediction())
        opened.record("expect", f"strategy {card.new}", by=who(""), result=f"{card.verdict}: {card.reason}")
    finally:
        opened.close()


def _show(result: BacktestResult, card: Card | None, kept: str | None, *, as_json: bool) -> None:
    if as_json:
        body = {"summary": result.summary.to_dicts(), "card": None if card is None else card.to_json(),
                "setting": result.setting, "spent": result.spent, "kept": kept}  # fmt: skip
        typer.echo(json.dumps(body, indent=2))
    elif card is not None:
        typer.echo(card.to_markdown())
    else:
        _print(result)


def _cell(value: str | float | None) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:,.4g}"


def _print(result: BacktestResult) -> None:
    """Print a line for each strategy, the mean of its seeds."""
    shown = {"strategy": "", result.metric: result.metric, **_HEADS}
    means = result.summary.drop("seed").group_by("strategy", maintain_order=True).agg(pl.all().mean())
    table = Table(*shown.values(), box=None)
    for row in means.select(list(shown)).iter_rows():
        table.add_row(*map(_cell, row))
    Console().print(table)
    if not result.conclusive:
        typer.echo(f"Only {result.coverage:.0%} of the stream can be judged: nothing here is conclusive.")
