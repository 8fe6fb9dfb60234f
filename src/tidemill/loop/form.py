"""The step that forms a dataset version from the labelled examples."""

from __future__ import annotations

from tidemill.loop.ending import end_cycle
from tidemill.loop.world import Turn
from tidemill.records import Cycle, Outcome, Trust, Verdict


def form(turn: Turn, cycle: Cycle) -> bool:
    """Pin what the candidate learns from; the cycle fails when there is nothing labelled to learn from."""
    if turn.waits:
        return False  # the training that follows would read the file
    world = turn.world
    selection = turn.strategy.dataset.form(world.labelled(), turn.now, world.rng("form", cycle.number))
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
