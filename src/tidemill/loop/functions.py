"""The step that labels examples by functions of the project's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
import polars as pl

from tidemill.errors import InvalidInput, ProjectError
from tidemill.loop.world import Turn
from tidemill.project import Project
from tidemill.records import Trust
from tidemill.schema import Array, Classes, Image, Number, Schema, Tensor
from tidemill.stats.label_model import label_model, majority

_MAX_ROWS = 10_000  # the newest examples
_LEAST_KNOWN = 20


def functions(turn: Turn) -> bool:
    """Label new examples by the strategy's functions; return whether there were any."""
    stage, world = turn.strategy.label.functions, turn.world
    if stage is None or not isinstance(world.project.output, Classes):
        return False
    picked_until = turn.state("curate").get("until")
    if picked_until is None or picked_until == turn.state("functions").get("until"):
        return False
    index = world.reservoir.index(turn.name).tail(_MAX_ROWS)
    inputs = world.inputs(index["id"].to_list())
    fits = [_fits(world.project.schema, row) for row in inputs]
    index = index.filter(pl.Series(fits, dtype=pl.Boolean))
    votes = votes_of(world.project, stage.voters, list(compress(inputs, fits)))
    chances, by = weighed(votes, _known(world.project, index), len(world.project.output.names))
    best, sure = chances.argmax(axis=1), (chances.max(axis=1) >= stage.sure) & (votes >= 0).any(axis=1)
    unlabelled = index["label"].is_null().to_numpy()
    rows = np.flatnonzero(sure & unlabelled)
    ids, names = index["id"].to_list(), world.project.output.names
    with turn.write() as conn:
        for row in sorted(rows.tolist(), key=lambda row: ids[row]):
            world.reservoir.label(
                conn,
                turn.name,
                ids[row],
                value=names[best[row]],
                trust=Trust.FUNCTIONS,
                source="functions",
                at=turn.now,
            )
        world.journal.put_state(conn, turn.name, "functions", {"until": picked_until, "by": by}, turn.now)
    return len(rows) > 0


def votes_of(project: Project, voters: Sequence[Callable[..., Any]], rows: Sequence[Mapping[str, Any]]) -> Array:
    """Return what each function says of each row: class indices int64 (N, S), -1 where it says nothing.

    Raises:
        ProjectError: a function raised, or gave what is no label; the message names it.
    """
    names = list(project.inputs)
    columns = {n: project.schema.inputs[n].column([row[n] for row in rows]) for n in names}
    votes = np.full((len(rows), len(voters)), -1, dtype=np.int64)
    for at in range(len(rows)):
        row = {name: column[at] for name, column in columns.items()}
        for source, voter in enumerate(voters):
            said = _said(project, voter, row)
            if said is not None:
                votes[at, source] = project.output.targets([said])[0]
    return votes


def _fits(schema: Schema, row: Mapping[str, Any]) -> bool:
    """Tell whether an example has the inputs of today, and each as a value of its kind."""
    try:
        for name, kind in schema.inputs.items():
            wanted = float if isinstance(kind, Number) else bytes if isinstance(kind, Image | Tensor) else str
            if not isinstance(row[name], wanted):
                return False
            kind.column([row[name]])
    except (KeyError, ValueError):
        return False
    return True


def _said(project: Project, voter: Callable[..., Any], row: Mapping[str, Any]) -> str | float | None:
    try:
        label = voter(row)
        return None if label is None else project.output.parse_label(label)
    except InvalidInput as error:
        raise ProjectError(f"label function {voter.__qualname__!r}: {error.message}", error.hint) from error
    except Exception as error:
        raise ProjectError(
            f"label function {voter.__qualname__!r} raised {type(error).__name__}: {error}", "mend the function"
        ) from error


def _known(project: Project, index: pl.DataFrame) -> Array:
    """Return the classes that people or a system of record gave, int64 (N,), -1 of other rows."""
    judges = index["trust"].is_in([str(Trust.PEOPLE), str(Trust.TRUTH)]).fill_null(value=False).to_numpy()
    found, labels = np.full(len(index), -1, dtype=np.int64), index["label"].to_list()
    for at in np.flatnonzero(judges):
        try:
            found[at] = project.output.targets([project.output.parse_label(labels[at])])[0]
        except InvalidInput:
            continue  # of a class that the project has no more
    return found


def weighed(votes: Array, known: Array, num_classes: int) -> tuple[Array, str]:
    """Return the chances of the classes float64 (N, K), and what gave them: `label model` or `majority`.

    The majority is taken where it is right more often than the model on the rows whose class is `known` (int (N,), -1
    where not), of which 20 must have votes; below that the model is believed.
    """
    by_model, by_count = label_model(votes, num_classes).chances, majority(votes, num_classes)
    some = (known >= 0) & (votes >= 0).any(axis=1)
    right = [float((chances[some].argmax(axis=1) == known[some]).sum()) for chances in (by_model, by_count)]
    if some.sum() >= _LEAST_KNOWN and right[1] > right[0]:
        return by_count, "majority"
    return by_model, "label model"
