"""Where alerts are told: the choice of `tidemill loop`, `tidemill up` and `tidemill alert test`."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.loop.webhook import Webhook

WebhookOption = Annotated[
    str | None,
    typer.Option(
        "--webhook",
        envvar="TIDEMILL_WEBHOOK",
        help="The URL that alerts are posted to as they open and close.",
        show_default=False,
    ),
]
WebhookSecretOption = Annotated[
    str,
    typer.Option(
        "--webhook-secret",
        envvar="TIDEMILL_WEBHOOK_SECRET",
        help="What posts to the webhook are signed with; better given as a variable.",
        show_default=False,
    ),
]
WebhookPrivateOption = Annotated[
    bool,
    typer.Option(
        "--webhook-private", envvar="TIDEMILL_WEBHOOK_PRIVATE", help="Let the webhook be in a private network."
    ),
]


def webhook_of(url: str | None, secret: str, private: bool) -> Webhook | None:
    """Return the webhook, None where none is given.

    Raises:
        ProjectError: the URL is none, or there is no secret.
    """
    return Webhook(url=url, secret=secret, private=private) if url else None


def webhook_variables(url: str | None, secret: str, private: bool) -> dict[str, str]:
    """Return the variables that hand a webhook to a child process: they hold secrets, so they are no arguments."""
    if not url:
        return {}
    return {
        "TIDEMILL_WEBHOOK": url,
        "TIDEMILL_WEBHOOK_SECRET": secret,
        "TIDEMILL_WEBHOOK_PRIVATE": "1" if private else "0",
    }
