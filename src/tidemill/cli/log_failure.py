"""What the gateway does when its log cannot be written: the choice of `tidemill serve` and `tidemill up`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

LogFailureOption = Annotated[
    Literal["refuse", "answer"],
    typer.Option(
        "--on-log-failure",
        envvar="TIDEMILL_ON_LOG_FAILURE",
        help="When the log cannot be written: refuse predictions, or answer without logging. Feedback is refused.",
    ),
]
