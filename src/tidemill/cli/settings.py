"""What a deployment sets by flag or environment variable, the same for every command."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

HomeOption = Annotated[
    Path, typer.Option("--home", envvar="TIDEMILL_HOME", help="The folder that everything is kept in.")
]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar="TIDEMILL_DATABASE",
        help="Where catalog and journal are, such as postgresql://user@host/name; else in the home folder.",
        show_default=False,
    ),
]
ProjectOption = Annotated[
    str, typer.Option("--project", envvar="TIDEMILL_PROJECT", help="The project file, or file.py:name.")
]
HostOption = Annotated[str, typer.Option("--host", envvar="TIDEMILL_HOST", help="The address to listen on.")]
PortOption = Annotated[int, typer.Option("--port", envvar="TIDEMILL_PORT", help="The port; 0 takes a free one.")]
DurabilityOption = Annotated[
    Literal["process", "power"],
    typer.Option(
        "--durability",
        envvar="TIDEMILL_DURABILITY",
        help="What an answer's log row survives: the death of the process, or a power cut.",
    ),
]
WorkersOption = Annotated[
    int,
    typer.Option(
        "--workers", envvar="TIDEMILL_WORKERS", min=1, max=256, help="How many gateway processes share the port."
    ),
]
GrpcPortOption = Annotated[
    int | None,
    typer.Option(
        "--grpc-port", envvar="TIDEMILL_GRPC_PORT", min=0, max=65535, help="Port for gRPC; none unless it is given."
    ),
]
PageNameOption = Annotated[
    list[str],
    typer.Option(
        "--name", envvar="TIDEMILL_PAGE_NAMES", help="A name that the page is asked for by; may be given again.",
        show_default=False,
    ),
]  # fmt: skip
ConnectionsOption = Annotated[
    int,
    typer.Option(
        "--max-connections",
        envvar="TIDEMILL_MAX_CONNECTIONS",
        min=1,
        help="How many connections each gateway process holds; the next ones are told 503.",
    ),
]
ByOption = Annotated[str, typer.Option("--by", help="Who asks; your user name by default.", show_default=False)]
GatewayOption = Annotated[
    str, typer.Option("--gateway", envvar="TIDEMILL_GATEWAY", help="Address of the gateway that models are tried at.")
]
GatewayTokenOption = Annotated[
    str,
    typer.Option("--token", envvar="TIDEMILL_TOKEN", help="For a gateway that asks for one.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept with the action.")]

DEFAULT_HOME = Path(".tidemill")
DEFAULT_PROJECT = "project.py"


def child_environment(database: str | None) -> dict[str, str]:
    """Return the variables of a command that works on `database`: its URL may hold a password, so it is no argument."""
    own = {name: value for name, value in os.environ.items() if name != "TIDEMILL_DATABASE"}
    return own if database is None else {**own, "TIDEMILL_DATABASE": database}


def who(by: str) -> str:
    """Return the name to write an action down under."""
    return by or getpass.getuser()
