"""`tidemill try`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tidemill.cli.settings import (
    DEFAULT_HOME,
    DEFAULT_PROJECT,
    DatabaseOption,
    GatewayOption,
    GatewayTokenOption,
    HomeOption,
    HostOption,
    ProjectOption,
)
from tidemill.dashboard.gateway import URL, Gateway
from tidemill.dashboard.gradio_app import run
from tidemill.dashboard.trial import wire
from tidemill.errors import InvalidInput
from tidemill.loop.controls import Controls

app = typer.Typer(pretty_exceptions_enable=False)


@app.command("try")
def try_(
    inputs: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Inputs, each as it would be typed.")
    ] = None,
    gradio: Annotated[bool, typer.Option("--gradio", help="Make a Gradio app of the schema, and serve it.")] = False,
    gateway: GatewayOption = URL,
    token: GatewayTokenOption = "",
    host: HostOption = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Of the Gradio app.", min=0, max=65535)] = 7860,
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Ask the model by hand over the gateway's REST API, and print its answer; or do so in a Gradio app."""
    controls = Controls.of_home(home, project, database=database)
    name, schema = controls.name, controls.schemas.now()
    controls.close()
    asked = Gateway(url=gateway, token=token)
    if gradio:
        run(name, schema, asked, host=host, port=port)
        return
    typed = dict(_split(text) for text in inputs or [])
    unknown = [one for one in typed if one not in schema.inputs]
    if unknown:
        raise InvalidInput(f"there is no input {unknown[0]!r}.", f"give {', '.join(schema.inputs)}", unknown[0])
    values, wrong = wire(schema, typed)
    if wrong:
        raise InvalidInput(" ".join(wrong.values()), f"give {', '.join(f'{one}=...' for one in wrong)}")
    typer.echo(json.dumps(asked.predict(name, values), indent=2))


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidInput(f"{text[:60]!r} is no input.", "write NAME=VALUE")
    return name, value
