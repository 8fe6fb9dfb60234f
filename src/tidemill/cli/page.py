"""`tidemill page`."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.app import App
from tidemill.cli.settings import (
    DEFAULT_HOME,
    DEFAULT_PROJECT,
    DatabaseOption,
    GatewayOption,
    GatewayTokenOption,
    HomeOption,
    HostOption,
    PageNameOption,
    ProjectOption,
    who,
)
from tidemill.cli.webhook import WebhookOption, WebhookPrivateOption, WebhookSecretOption, webhook_of
from tidemill.dashboard.gateway import URL, Gateway
from tidemill.dashboard.serve import PORT, run
from tidemill.serving.log_lines import tell

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def page(
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
    host: HostOption = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option("--page-port", "--port", envvar="TIDEMILL_PAGE_PORT", help="The port; 0 takes a free one."),
    ] = PORT,
    name: PageNameOption = [],  # noqa: B006  typer copies it
    gateway: GatewayOption = URL,
    token: GatewayTokenOption = "",
    webhook: WebhookOption = None,
    webhook_secret: WebhookSecretOption = "",
    webhook_private: WebhookPrivateOption = False,
) -> None:
    """Run the web page alone: see the loop, label, try the model, and press its buttons."""
    tell("page")
    told = webhook_of(webhook, webhook_secret, webhook_private)
    opened = App.open(project, home, database=database).with_webhook(told)
    run(
        opened, host=host, port=port, hosts=tuple(name), user=who(""), gateway=Gateway(url=gateway, token=token),
        ready=lambda url: typer.echo(f"page on {url}"),
    )  # fmt: skip
    opened.close()
