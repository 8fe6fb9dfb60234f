"""What `Similar` looks for: examples, the cases of a suite, or the examples that meet a condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from tidemill.errors import ProjectError
from tidemill.loop.suites import sources_of
from tidemill.loop.world import World
from tidemill.monitor.cohorts import with_projections
from tidemill.project import Project
from tidemill.stores.conditions import check_condition, evaluate
from tidemill.strategy.candidates import Target

_MAX_LOOKED_AT = 10_000  # examples, the newest
_MAX_ROWS = 1_000


def check_looked_for(project: Project) -> None:
    """Refuse a `Similar` whose text is no suite, no cohort and no condition over the project's columns.

    Raises:
        ProjectError: the message names the text.
    """
    for to in project.strategy.curate.needs().similar:
        if isinstance(to, str) and to not in {*project.cohorts, *(suite.name for suite in project.suites)}:
            try:
                check_condition(to, [*project.inputs, *project.projections])
            except ProjectError as error:
                names = ", ".join([*(suite.name for suite in project.suites), *project.cohorts]) or "none"
                raise ProjectError(
                    f"curate.Similar(to={to!r}) is no suite, no cohort and no condition: {error.message}",
                    f"suites and cohorts are {names}",
                ) from error


def inputs_looked_for(world: World, to: Target) -> Sequence[Mapping[str, Any]]:
    """Return the canonical inputs, at most 1,000, of what `Similar(to=...)` names; none where there is nothing yet.

    Raises:
        NotFound: an id is not in the reservoir.
        ProjectError: a suite cannot be read, or a condition cannot be computed.
    """
    if not isinstance(to, str):
        return world.inputs(to)
    suite = next((one for one in world.project.suites if one.name == to), None)
    if suite is not None:
        return [case.inputs for case in suite.ask(sources_of(world, None))[:_MAX_ROWS]]
    return _meeting(world, world.project.cohorts.get(to, to))


def _meeting(world: World, condition: str) -> list[dict[str, Any]]:
    """Return the newest examples for training that meet a condition."""
    ids = training_ids(world)[-_MAX_LOOKED_AT:]
    names = list(world.project.inputs)
    known = [row for row in world.inputs(ids) if all(row.get(name) is not None for name in names)]
    if not known:
        return []
    frame = with_projections(world.project, pl.DataFrame([{n: row[n] for n in names} for row in known]))
    met = evaluate({"": condition}, frame)[""]
    return [row for row, ok in zip(known, met.tolist(), strict=True) if ok][-_MAX_ROWS:]


def training_ids(world: World) -> list[str]:
    """Return the ids of the examples for training, the oldest first."""
    index = world.reservoir.index(world.name)
    return index.filter(pl.col("split") == "train")["id"].to_list()
