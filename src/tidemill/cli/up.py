"""`tidemill up`."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from typing import Annotated

import typer

from tidemill.app import App
from tidemill.cli.in_force import publish
from tidemill.cli.log_failure import LogFailureOption
from tidemill.cli.settings import (
    DEFAULT_HOME,
    DEFAULT_PROJECT,
    DatabaseOption,
    DurabilityOption,
    GrpcPortOption,
    HomeOption,
    HostOption,
    PageNameOption,
    PortOption,
    ProjectOption,
    WorkersOption,
    child_environment,
)
from tidemill.cli.webhook import (
    WebhookOption,
    WebhookPrivateOption,
    WebhookSecretOption,
    webhook_of,
    webhook_variables,
)
from tidemill.dashboard.serve import PORT, free_port
from tidemill.serving.listening import is_loopback
from tidemill.serving.serve import token_table

app = typer.Typer(pretty_exceptions_enable=False)
_STOP_S = 15.0


@app.command()
def up(
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    durability: DurabilityOption = "process",
    on_log_failure: LogFailureOption = "refuse",
    workers: WorkersOption = 1,
    grpc_port: GrpcPortOption = None,
    webhook: WebhookOption = None,
    webhook_secret: WebhookSecretOption = "",
    webhook_private: WebhookPrivateOption = False,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Run the web page too, as one more process.")] = True,
    page_port: Annotated[
        int | None,
        typer.Option(
            "--page-port", envvar="TIDEMILL_PAGE_PORT", min=0, max=65535, show_default=False,
            help=f"Port of the page; {PORT} by default, or the next that is free.",
        ),
    ] = None,
    name: PageNameOption = [],  # noqa: B006  typer copies it
) -> None:  # fmt: skip
    """Run gateway, loop and page as processes on one folder, and start again the one that dies."""
    webhook_of(webhook, webhook_secret, webhook_private)  # says what is wrong with it
    opened = App.open(project, home, database=database)  # says what is wrong with the project before anything starts
    token_table(opened.world.db, opened.clock, beyond_loopback=not is_loopback(host))
    publish(opened)
    version = opened.world.catalog.route(opened.name)
    opened.close()
    at = free_port(host, page_port) if page else None
    typer.echo(f"serving {opened.name!r} on http://{host}:{port} (Ctrl-C stops)")
    if at is not None:
        typer.echo(f"page on http://{host}:{at}")
    if version is None:
        typer.echo("no version yet: make one with `tidemill train DATA`; the gateway answers 503 until then")
    gateway = ["serve", "--home", str(home), "--host", host, "--port", str(port), "--durability", durability]
    gateway += ["--on-log-failure", on_log_failure, "--workers", str(workers)]
    gateway += [] if grpc_port is None else ["--grpc-port", str(grpc_port)]
    env = child_environment(database) | webhook_variables(webhook, webhook_secret, webhook_private)
    commands = [gateway, ["loop", "--home", str(home), "--project", project]]
    if at is not None:
        shown = ["page", "--home", str(home), "--project", project, "--host", host, "--port", str(at)]
        shown += ["--gateway", f"http://{_reached(host)}:{port}"]
        commands.append(shown + [part for one in name for part in ("--name", one)])
    keep_up(commands, env)


def _reached(host: str) -> str:
    """Return the name that this machine reaches a listening address by."""
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def keep_up(commands: list[list[str]], env: dict[str, str]) -> None:
    """Run the commands until SIGTERM or SIGINT; one that dies is started again, after a growing rest."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    keepers = [threading.Thread(target=_keep, args=(command, env, stop)) for command in commands]
    for keeper in keepers:
        keeper.start()
    for keeper in keepers:
        keeper.join()


def _keep(command: list[str], env: dict[str, str], stop: threading.Event) -> None:
    rest_s = 0.5
    while not stop.is_set():
        began = time.monotonic()
        child = subprocess.Popen([sys.executable, "-m", "tidemill.cli", *command], env=env, start_new_session=True)
        while child.poll() is None and not stop.wait(0.1):
            pass
        if stop.is_set():
            _end(child)
            return
        rest_s = 0.5 if time.monotonic() - began > 30 else min(rest_s * 2, 30.0)
        ended = f"tidemill {command[0]} ended with code {child.returncode}"
        typer.echo(f"{ended}; starting it again in {rest_s:g} s", err=True)
        stop.wait(rest_s)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
