"""The step that forms a dataset version from the labelled examples."""

from __future__ import annotations

import numpy as np
import polars as pl

from tidemill.loop.ending import end_cycle
from tidemill.loop.world import Turn
from tidemill.monitor.cohorts import cohort_masks
from tidemill.records import Cycle, Outcome, Trust, Verdict
from tidemill.strategy.dataset import ExampleIndex

_RANKS = {str(trust): trust.rank for trust in Trust}


def form(turn: Turn, cycle: Cycle) -> bool:
    """Pin what the candidate learns from; the cycle fails when there is nothing labelled to learn from."""
    world = turn.world
    selection = turn.strategy.dataset.form(example_index(turn), turn.now, world.rng("form", cycle.number))
    stage = str(turn.strategy.dataset)
    if not selection.ids:
        reason = f"{stage} selects no labelled example: label some, or widen the dataset stage"
        verdict = Verdict(outcome=Outcome.FAIL, by=stage, reason=reason, back_to="labels")
        return end_cycle(turn, cycle, "failed", verdict, step="form")
    with turn.write() as conn:
        world.reservoir.consolidate(conn, turn.name, now=turn.now)
        version = world.datasets.form(
            conn, turn.name, ids=selection.ids, weights=selection.weights, formed_by=stage,
            parent=live_dataset(turn), schema=world.project.schema, now=turn.now,
            test_trust=Trust(turn.strategy.test_trust),
        )  # fmt: skip
        body = {
            "dataset": version.digest,
            "num_train": version.num_train,
            "num_test": version.num_test,
            "num_left_out": len(selection.ids) - version.num_train,  # they do not fit the schema of today
        }
        world.journal.record(conn, turn.name, cycle.number, "form", body, turn.now)
        world.journal.move(conn, turn.name, cycle.number, step="train", dataset=version.digest)
    return True


def live_dataset(turn: Turn) -> str | None:
    """Return the digest of what the live version learnt from."""
    route = turn.world.catalog.route(turn.name)
    return turn.world.catalog.model(turn.name, route.stable).dataset if route else None


def example_index(turn: Turn) -> ExampleIndex:
    """Return the labelled examples as the dataset stages see them, oldest request first."""
    world = turn.world
    frame = world.reservoir.index(turn.name).filter(pl.col("label").is_not_null()).sort("received_at", "id")
    return ExampleIndex(
        ids=np.array(frame["id"].to_list(), dtype=object),
        received_at=frame["received_at"].to_numpy().astype(np.int64),
        labelled_at=frame["labelled_at"].to_numpy().astype(np.int64),
        split=np.array(frame["split"].to_list(), dtype=object),
        label=np.array(frame["label"].to_list(), dtype=object),
        trust=frame["trust"].replace_strict(_RANKS, return_dtype=pl.Int64).to_numpy(),
        decision=np.array(frame["decision"].to_list(), dtype=object),
        cohorts=_cohorts(turn, frame),
    )


def _cohorts(turn: Turn, frame: pl.DataFrame) -> dict[str, np.ndarray]:
    """Return the cohort masks of the examples; cohorts need their inputs, so they are read only when declared."""
    project = turn.world.project
    if not project.cohorts or not len(frame):
        return {}
    rows = turn.world.reservoir.inputs(turn.name, frame["id"].to_list())
    return cohort_masks(project, pl.DataFrame(rows, infer_schema_length=None))
