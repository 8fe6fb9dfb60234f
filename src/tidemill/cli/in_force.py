"""What commands say while the project file's schema is not in force."""

from __future__ import annotations

import typer

from tidemill.app import App
from tidemill.cli.settings import who
from tidemill.loop.controls import Controls
from tidemill.schema import Schema


def publish(opened: App, *, by: str = "") -> None:
    """Put the project file in force; where its schema waits for a version, say so and leave in force what is."""
    opened.publish(by=who(by))
    waiting = opened.waiting
    if waiting is not None:
        typer.echo(f"{waiting}", err=True)


def sent_instead(opened: Controls, before: Schema) -> str:
    """Return what callers send now, "" where it has the names of `before`."""
    now = opened.schemas.now().inputs
    return "" if set(now) == set(before.inputs) else f", requests with {', '.join(now)}"
