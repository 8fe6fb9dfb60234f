"""`tidemill serve`."""

from __future__ import annotations

import importlib
from typing import Any

import typer

from tidemill.cli.log_failure import LogFailureOption
from tidemill.cli.settings import (
    DEFAULT_HOME,
    ConnectionsOption,
    DatabaseOption,
    DurabilityOption,
    GrpcPortOption,
    HomeOption,
    HostOption,
    PortOption,
    WorkersOption,
)
from tidemill.serving.log_lines import tell
from tidemill.serving.supervisor import Supervisor
from tidemill.stores.home import Home

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def serve(
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    durability: DurabilityOption = "process",
    on_log_failure: LogFailureOption = "refuse",
    workers: WorkersOption = 1,
    grpc_port: GrpcPortOption = None,
    max_connections: ConnectionsOption = 4096,
) -> None:
    """Run the gateway: it answers predictions, takes feedback, and logs both before it answers."""
    tell("serve")
    settings: dict[str, Any] = {
        "database": database,
        "host": host,
        "port": port,
        "durability": durability,
        "on_log_failure": on_log_failure,
        "grpc_port": grpc_port,
        "max_connections": max_connections,
    }
    if workers == 1:
        # Only here: a supervisor does without all that a gateway loads.
        importlib.import_module("tidemill.serving.serve").run(Home(home).make(), **settings)
    else:
        Supervisor(Home(home).make(), settings, workers).run()
