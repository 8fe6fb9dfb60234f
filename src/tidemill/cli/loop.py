"""`tidemill loop`."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from tidemill.app import App
from tidemill.cli.in_force import publish
from tidemill.cli.settings import DEFAULT_HOME, DEFAULT_PROJECT, DatabaseOption, HomeOption, ProjectOption
from tidemill.cli.webhook import WebhookOption, WebhookPrivateOption, WebhookSecretOption, webhook_of
from tidemill.clock import duration
from tidemill.serving.log_lines import tell

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def loop(
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
    poll: Annotated[str, typer.Option("--poll", help="How long to rest when there is nothing to do.")] = "500ms",
    lapse: Annotated[
        str, typer.Option("--lapse", help="How long a candidate keeps its traffic when no loop watches it.")
    ] = "60s",
    webhook: WebhookOption = None,
    webhook_secret: WebhookSecretOption = "",
    webhook_private: WebhookPrivateOption = False,
) -> None:
    """Run the loop: curate, label, watch, form, train, test, release. Safe to kill, and to run twice."""
    tell("loop")
    told = webhook_of(webhook, webhook_secret, webhook_private)
    opened, stop = App.open(project, home, database=database), threading.Event()
    publish(opened)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    engine = opened.engine(
        poll_s=duration(poll, name="--poll").total_seconds(), lapse=duration(lapse, name="--lapse"), webhook=told
    )
    typer.echo(f"loop of {opened.name!r} turns in {opened.world.home.folder}")
    engine.run(stop)
    opened.close()
