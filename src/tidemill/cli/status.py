"""`tidemill status`."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from tidemill.app import App
from tidemill.cli.close_up import show_cohort, show_worst
from tidemill.cli.screen import quality_table, verdict_line, verdict_lines, wide_console
from tidemill.cli.settings import DEFAULT_HOME, DEFAULT_PROJECT, DatabaseOption, HomeOption, JsonOption, ProjectOption
from tidemill.clock import duration, from_micros
from tidemill.errors import ProjectError, TidemillError
from tidemill.loop.controls import Controls
from tidemill.monitor.status import Status, status_without
from tidemill.records import Json, Route, Verdict
from tidemill.stores.alerts import Alerts
from tidemill.stores.home import Home
from tidemill.stores.reservoir import Reservoir
from tidemill.strategy.wording import counted, span

app = typer.Typer(pretty_exceptions_enable=False)
_LONG = timedelta(minutes=1)  # a segment is taken into the log within seconds


@app.command()
def status(
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
    period: Annotated[str, typer.Option("--period", help="Quality over the requests of this long.")] = "1d",
    cohort: Annotated[
        str | None,
        typer.Option("--cohort", help="Look at one cohort instead, or at a condition such as 'age < 30'."),
    ] = None,
    worst: Annotated[bool, typer.Option("--worst", help="Look for the cohorts and slices that are worst.")] = False,
    metric: Annotated[
        str | None, typer.Option("--metric", help="By this metric; by default the first.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show route, cycle and step, the last verdicts with reasons, quality by cohort, and trouble.

    With --cohort: its metrics, their trend, and the requests with the worst outcomes. With --worst: where a metric is
    worse than elsewhere, by cohorts, columns and pairs of columns.
    """
    long = duration(period, name="--period")
    if cohort is None and not worst:
        _stand(project, home, database, long, period, as_json=as_json)
        return
    opened = App.open(project, home, database=database)
    if cohort is not None:
        show_cohort(opened.cohort_status(cohort, metric=metric, period=long), period, as_json=as_json)
        return
    show_worst(opened.worst(metric=metric, period=long), as_json=as_json)


def _stand(project: str, home: Path, database: str | None, long: timedelta, period: str, *, as_json: bool) -> None:
    try:
        found = App.open(project, home, database=database).status(period=long)
    except ProjectError as error:
        found = _by_stores(project, home, database, error)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        show(wide_console(), found, period)


def _by_stores(project: str, home: Path, database: str | None, error: ProjectError) -> Status:
    """Return what the stores know while the project file is broken; raise its error where they know nothing of it."""
    try:
        opened = Controls.of_home(home, project, database=database)
    except TidemillError:
        raise error from None
    return status_without(
        opened.name, f"{error}", catalog=opened.catalog, journal=opened.journal,
        reservoir=Reservoir(opened.db, Home(home).reservoir), alerts=Alerts(opened.db), now=opened.clock.now(),
    )  # fmt: skip


def show(console: Console, found: Status, period: str) -> None:
    """Print a status."""
    if found.problem:
        console.print(
            Text.assemble(("the project file is wrong; this is what the stores know: ", "bold red"), found.problem)
        )
    console.print(f"[bold]{found.project}[/bold]  {route_text(found.route)}")
    console.print("versions: " + (", ".join(f"{v} {state}" for v, state in found.versions.items()) or "none"))
    if found.waits:
        console.print(Text(found.waits, "yellow"))
    _show_loop(console, found)
    labelled = f"{found.num_labelled} labelled, {found.num_waiting} waiting for a label"
    console.print(f"examples: {found.num_examples}, {labelled}")
    made, allowed = found.picks
    if allowed is not None and made >= allowed > 0:
        console.print(Text(f"the label budget is spent: {made} picked; the day releases it little by little", "yellow"))
    if not found.problem:
        console.print(quality_table(found.quality, title=f"quality users got, last {period}"))
    if found.num_maturing:
        young = f"{counted(found.num_maturing, 'request')}, younger than {span(found.horizon.total_seconds())}"
        told = f"not in it yet: about {young}"
        console.print(Text(f"{told}; feedback on a request counts for so long (`horizon`)", "dim"))
    for command in found.commands:
        said = f"{command.by} asked to {command.verb}: {command.result or 'not taken up yet'}"
        console.print(Text(f"{command.at:%Y-%m-%d %H:%M:%S}  {said}"))
    for line in verdict_lines(found.verdicts):
        console.print(line)
    for alert in found.alerts:
        since = f"ALERT since {alert.opened_at:%Y-%m-%d %H:%M:%S}: "
        console.print(Text.assemble((since, "bold red"), alert.verdict.reason))
    for alert in found.untold:
        console.print(Text(f"alert {alert.id} could not be told in {alert.tries} tries: {alert.problem}", "red"))
    for name, state in found.batches.items():
        console.print(batch_line(name, state))
    for step, trouble in found.trouble.items():
        often = "once" if trouble["times"] == 1 else f"{trouble['times']} times"
        console.print(Text.assemble((f"step {step} failed {often}: ", "red"), trouble["error"]))


def _show_loop(console: Console, found: Status) -> None:
    """Print where the loop is, and what it said last."""
    if found.loop is None:
        console.print("[red]no loop turns: start one with `tidemill loop` or `tidemill up`[/red]")
    if found.known_until is not None and found.now - found.known_until > _LONG:
        since = f"{found.known_until:%Y-%m-%d %H:%M:%S}"
        told = f"what came since {since} is not in the log: a gateway hangs, or the loop is behind"
        console.print(Text(told, "yellow"))
    if found.paused_at is not None:
        console.print(f"[yellow]paused since {found.paused_at:%Y-%m-%d %H:%M:%S}[/yellow]")
    if found.cycle is not None:
        candidate = f", candidate version {found.cycle.candidate}" if found.cycle.candidate else ""
        console.print(f"cycle {found.cycle.number} is in step [bold]{found.cycle.step}[/bold]{candidate}")
    for name, verdict in (("trigger", found.watching), ("rollout", found.rollout)):
        if verdict is not None:
            console.print(f"{name}: ", verdict_line(Verdict.from_json(verdict)))


def batch_line(name: str, state: Json) -> Text:
    """Return how a scheduled batch prediction stands."""
    line = Text(f"batch {name}: ")
    if state.get("stale"):
        line.append("STALE ", style="red")
    status = state.get("status", "waits for its first version")
    line.append(status, style="red" if status in ("failed", "resting") else "")
    if status in ("failed", "resting"):
        line.append(f" after attempt {state['attempt']}: {state['error']}")
    if state.get("done_at") is not None:
        last = f"{from_micros(state['done_at']):%Y-%m-%d %H:%M:%S}"
        result = state["result"]
        line.append(f"; last {last}, {counted(result['num_rows'], 'row')} by version {result['version']}")
    return line


def route_text(route: Route | None) -> str:
    """Return who answers, in words."""
    if route is None:
        return "no version yet: make one with `tidemill train DATA`"
    text = f"version {route.stable} answers"
    if route.candidate is not None:
        text += f", version {route.candidate} gets {route.share:.0%}"
    if route.shadows:
        text += f", version {', '.join(map(str, route.shadows))} in shadow"
    text += f" (fallback {route.fallback})" if route.fallback is not None else ""
    return text + (f", decided by policy {route.policy_version}" if route.policy_version > 1 else "")
