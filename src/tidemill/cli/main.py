"""`tidemill`: finds the command, and says what went wrong in one line with the next move.

A command's module is imported only when it runs, so that `tidemill serve` never loads what only the loop needs.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

import typer

from tidemill import __version__
from tidemill.errors import TidemillError

COMMANDS = {
    "init": "Write a project that runs: a file to change, and data to begin with.",
    "check": "Check the project file, and train and predict a little with it.",
    "train": "Make version 1 from labelled data, with its report against a baseline.",
    "up": "Serve and keep learning: the gateway, the loop and the page on one folder.",
    "serve": "Run the gateway alone.",
    "loop": "Run the loop alone.",
    "page": "Run the web page alone: see the loop, label, try the model.",
    "status": "Show route, cycle, verdicts with reasons, and quality by cohort.",
    "alert": "List alerts, or silence one.",
    "forget": "Delete what is kept about a person, and say which versions learnt from it.",
    "batch": "Predict every row of a Parquet or CSV file or an SQL table.",
    "report": "Show how a candidate did against the live version.",
    "runs": "List training runs, or compare two.",
    "curate": "Put past requests that meet a condition into the label queue.",
    "label": "Show the examples that wait for a label, or answer them.",
    "import": "Add labelled data to the reservoir.",
    "dataset": "List, compare, name or export the versions that models learnt from.",
    "retrain": "Ask the loop to open a cycle now.",
    "approve": "Let a candidate that waits for a person go on.",
    "reject": "Stop a candidate, with a reason.",
    "promote": "Release a version step by step, or at once.",
    "rollback": "Take the candidate out of traffic, or return to the version before.",
    "drill": "Rehearse the rollback on live traffic, and keep the evidence.",
    "policy": "Change how scores become decisions, without a new model; list policies, or go back.",
    "pause": "Open no new cycle and move no candidate on; guards still roll back.",
    "resume": "Go on after a pause.",
    "strategy": "Show each strategy version and what it brought, or compare two.",
    "backtest": "Say what strategies would have done on a recorded stream, before they touch traffic.",
    "token": "Make, list or revoke the tokens that gateways ask their callers for.",
    "suite": "List, show, run or grow the suites of test cases that every candidate has to pass.",
    "try": "Ask the model by hand, here or in a Gradio app.",
    "sql": "Ask the log in SQL; it only reads.",
    "demo": "Watch the whole loop on real handwritten digits.",
}

MODULES = {"import": "import_", "try": "try_"}
"""Where a command is whose name Python keeps for itself."""


def usage() -> str:
    """Return the help of `tidemill` itself."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{text}" for name, text in COMMANDS.items()]
    head = "Usage: tidemill COMMAND [ARGS]...\n\nKeep a deployed deep-learning model learning.\n\nCommands:"
    return "\n".join([head, *lines, "", "`tidemill COMMAND --help` tells more; `tidemill --version` the version."])


def run(arguments: Sequence[str] | None = None) -> None:
    """Run one command; an error on purpose is one line with the next move, and exit code 1."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("--help", "-h", "help"):
        typer.echo(usage())
        return
    if given[0] == "--version":
        typer.echo(f"tidemill {__version__}")
        return
    name = given[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        typer.echo(f"error: there is no command {name!r}.", err=True)
        typer.echo(f" next: {f'did you mean `tidemill {near[0]}`?' if near else 'see `tidemill --help`'}", err=True)
        sys.exit(2)
    _run(name, given[1:])


def _run(name: str, arguments: list[str]) -> None:
    module = importlib.import_module(f"tidemill.cli.{MODULES.get(name, name)}")
    try:
        module.app(arguments, prog_name=f"tidemill {name}")
    except TidemillError as error:
        typer.echo(f"error: {error.message}", err=True)
        if error.hint:
            typer.echo(f" next: {error.hint}", err=True)
        sys.exit(1)
