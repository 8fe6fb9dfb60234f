"""`tidemill alert`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from tidemill.cli.screen import show_table
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
from tidemill.cli.webhook import WebhookOption, WebhookPrivateOption, WebhookSecretOption, webhook_of
from tidemill.clock import duration
from tidemill.errors import ProjectError
from tidemill.loop.controls import Controls
from tidemill.loop.tell import send_test
from tidemill.stores.alerts import Alerts, OpenAlert

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.command(name="list")
def list_(
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
    as_json: JsonOption = False,
) -> None:
    """Show the newest alerts: open, closed, silenced, and those that could not be told."""
    controls = Controls.of_home(home, project, database=database)
    found = Alerts(controls.db).history(controls.name)
    if as_json:
        typer.echo(json.dumps([_json(one) for one in found], indent=2))
        return
    table = Table("id", "state", "since", "alert", "reason", box=None)
    for one in found:
        state = "open" if one.is_open else "closed"
        if one.is_silent(controls.clock.now()):
            state += ", silent"
        if one.problem:
            state += f", not told in {one.tries} {'try' if one.tries == 1 else 'tries'}: {one.problem}"
        elif one.told_at is not None:
            state += ", told"
        table.add_row(str(one.id), state, f"{one.opened_at:%Y-%m-%d %H:%M:%S}", one.name, one.verdict.reason)
    show_table(table)


@app.command()
def silence(
    id: Annotated[int, typer.Argument(help="The alert's id.")],
    time: Annotated[str, typer.Option("--for", help="How long to tell nobody of it, such as 2h.")] = "1d",
    reason: ReasonOption = "",
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Tell nobody of an alert, nor of its next ones, for some time; it is still shown."""
    controls = Controls.of_home(home, project, database=database)
    until = controls.clock.now() + duration(time, name="--for")
    controls.silence(id, until, by=who(by), reason=reason)
    typer.echo(f"alert {id} is silent until {until:%Y-%m-%d %H:%M:%S}")


@app.command()
def test(
    webhook: WebhookOption = None,
    webhook_secret: WebhookSecretOption = "",
    webhook_private: WebhookPrivateOption = False,
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Send the webhook a sample, and say whether it took it."""
    told = webhook_of(webhook, webhook_secret, webhook_private)
    if told is None:
        raise ProjectError("there is no webhook.", "give it with --webhook or TIDEMILL_WEBHOOK")
    controls = Controls.of_home(home, project, database=database)
    problem = send_test(told, controls.name, controls.clock.now())
    said = f"not taken: {problem}" if problem else f"{told.host} took the sample"
    controls.record("test webhook", told.host, by=who(by), result=said)
    typer.echo(said)
    raise typer.Exit(1 if problem else 0)


def _json(one: OpenAlert) -> object:
    times = ("opened_at", "fired_at", "closed_at", "silent_until", "told_at")
    told = {name: None if getattr(one, name) is None else getattr(one, name).isoformat() for name in times}
    about = {"id": one.id, "alert": one.name, "cohort": one.cohort, "tries": one.tries, "problem": one.problem}
    return {**about, **told, "verdict": one.verdict.to_json()}
