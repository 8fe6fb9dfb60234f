"""Labels that look wrong, by the scores that their requests were answered with."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

import numpy as np
import polars as pl

from tidemill.clock import from_micros
from tidemill.loop.world import Turn, World
from tidemill.monitor.outcomes import judged, scores_of
from tidemill.records import Trust
from tidemill.schema import Classes
from tidemill.stats.confident import label_suspicion

_MAX_LOOKED_AT = 20_000  # labels, the newest
_PRIORITY = 1.0
_DAY = timedelta(days=1)


class Suspect(NamedTuple):
    """An example whose label is probably wrong: how suspect it is, its label, and what the model said."""

    id: str
    suspicion: float
    label: str
    decision: str


def suspects(world: World, limit: int) -> list[Suspect]:
    """Return the examples whose labels look most wrong, the worst first; those asked for again once are left out.

    A request was answered before its label came, so the version that answered it did not learn from that label: its
    scores are out of sample. Labels of a system of record are not suspected.
    """
    project, asked = world.project, world.reservoir.asked(world.name)
    if not isinstance(project.output, Classes):
        return []
    index = world.reservoir.index(world.name)
    kept = pl.col("label").is_not_null() & pl.col("request_id").is_not_null() & (pl.col("trust") != str(Trust.TRUTH))
    index = index.filter(kept)
    again = [
        id_
        for id_, at in zip(index["id"], index["picked_at"], strict=True)
        if asked.get(id_, from_micros(at)) > from_micros(at)
    ]
    index = index.filter(~pl.col("id").is_in(again)).tail(_MAX_LOOKED_AT)
    found = world.log.lookup(
        world.name, index["request_id"].to_list(), columns=["request_id", "scores", "decision"], schema=project.schema
    )
    rows = index.select("id", "request_id", "label").join(found, on="request_id", how="inner", maintain_order="left")
    known = judged(project.output, scores=scores_of(project, rows), labels=rows["label"].to_list())
    rows, scores, targets = (
        rows.filter(pl.Series(known.targets >= 0)),
        known.scores[known.targets >= 0],
        known.targets[known.targets >= 0],
    )
    found_wrong = label_suspicion(scores, targets)
    worst = np.argsort(-found_wrong, kind="stable")[:limit]
    ids, labels, said = (rows[name].to_list() for name in ("id", "label", "decision"))
    return [Suspect(ids[i], float(found_wrong[i]), labels[i], said[i]) for i in worst if found_wrong[i] > 0]


def recheck(turn: Turn) -> bool:
    """Once a day, ask again for labels that look wrong, as many as the strategy says; return whether there were any."""
    queue = turn.strategy.label.queue
    day = int(turn.now.timestamp() // _DAY.total_seconds())
    if queue is None or not queue.recheck or turn.state("recheck").get("day") == day:
        return False
    found = [one.id for one in suspects(turn.world, queue.recheck)]
    with turn.write() as conn:
        turn.world.reservoir.ask_again(conn, turn.name, found, priority=_PRIORITY, now=turn.now)
        turn.world.journal.put_state(conn, turn.name, "recheck", {"day": day}, turn.now)
    return bool(found)
