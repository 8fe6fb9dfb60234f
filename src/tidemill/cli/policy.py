"""`tidemill policy`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated

import typer
from rich.table import Table

from tidemill.cli.screen import show_table
from tidemill.cli.settings import (
    DEFAULT_HOME,
    DEFAULT_PROJECT,
    ByOption,
    DatabaseOption,
    HomeOption,
    JsonOption,
    ProjectOption,
    ReasonOption,
    who,
)
from tidemill.errors import ProjectError
from tidemill.loop.controls import Controls
from tidemill.policy import Policy
from tidemill.stores.catalog import PolicyVersion

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.command(name="set")
def set_(
    abstain_below: Annotated[
        float | None, typer.Option("--abstain-below", help="Abstain where the decision's score is lower; 0 for never.")
    ] = None,
    threshold: Annotated[
        list[str] | None, typer.Option("--threshold", help="CLASS=SCORE: decide the class from this score; 0 for any.")
    ] = None,
    top: Annotated[int | None, typer.Option("--top", help="How many of the best classes to tell.")] = None,
    reason: ReasonOption = "",
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Change the policy in force, and use the result at once; what is not given stays as it is."""
    opened = Controls.of_home(home, project, database=database)
    before = opened.catalog.policy_in_force(opened.name)
    policy = _changed(before.policy, abstain_below=abstain_below, thresholds=threshold or [], top=top)
    new = opened.set_policy(policy, by=who(by), reason=reason)
    if new.number == before.number:
        typer.echo(f"policy {new.number} says so already: {new.policy}")
        return
    typer.echo(f"policy {new.number} is in force: {new.policy}; `tidemill policy use {before.number}` goes back")


@app.command()
def use(
    number: Annotated[int, typer.Argument(help="The policy's number.")],
    reason: ReasonOption = "",
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Put a policy in force that there is already."""
    opened = Controls.of_home(home, project, database=database)
    opened.use_policy(number, by=who(by), reason=reason)
    typer.echo(f"policy {number} is in force: {opened.catalog.policy(opened.name, number)}")


@app.command(name="list")
def list_(
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    project: ProjectOption = DEFAULT_PROJECT,
    as_json: JsonOption = False,
) -> None:
    """Show every policy, who made it and why, and which is in force."""
    opened = Controls.of_home(home, project, database=database)
    catalog = opened.catalog
    current, versions = catalog.policy_in_force(opened.name), catalog.policies(opened.name)
    if as_json:
        typer.echo(json.dumps([_json(v, in_force=v.number == current.number) for v in versions], indent=2))
        return
    table = Table("", "policy", "what it does", "since", "by", "reason", box=None)
    for v in versions:
        mark = "*" if v.number == current.number else ""
        table.add_row(mark, str(v.number), str(v.policy), f"{v.at:%Y-%m-%d %H:%M:%S}", v.by, v.reason)
    show_table(table)


def _changed(policy: Policy, *, abstain_below: float | None, thresholds: list[str], top: int | None) -> Policy:
    """Return a policy with what was given changed; a level of 0, which every score reaches, is none."""
    levels = {**policy.thresholds, **dict(map(_threshold, thresholds))}
    level = policy.abstain_below if abstain_below is None else abstain_below
    return replace(
        policy,
        thresholds={name: at for name, at in levels.items() if at > 0},
        abstain_below=level or None,
        top=policy.top if top is None else top,
    )


def _threshold(text: str) -> tuple[str, float]:
    name, _, level = text.rpartition("=")
    try:
        return name, float(level)
    except ValueError:
        raise ProjectError(f"--threshold {text!r} is not CLASS=SCORE.", "give it such as toxic=0.8") from None


def _json(version: PolicyVersion, *, in_force: bool) -> object:
    about = {"at": version.at.isoformat(), "by": version.by, "reason": version.reason, "in_force": in_force}
    return {"policy": version.number, **version.policy.to_json(), **about}
