"""Curation of the past, when a person asks: logged requests that meet a condition are put into the label queue.

The strategy's curation looks at each request once, as it comes. What a cohort that is declared today would have wanted
months ago is fetched by hand.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import polars as pl

from tidemill.errors import ProjectError
from tidemill.loop.picked import PROBABILITY, REASON, PickedRows
from tidemill.loop.world import World
from tidemill.monitor.cohort_status import cohort_mask
from tidemill.monitor.outcomes import Window, matured_frame
from tidemill.records import Trust

FIRST = 1.0  # priority in the queue: a person waits for these


def curate_past(
    world: World, condition: str, window: Window, *, num: int, wrong: bool, seed: int, now: datetime
) -> tuple[int, int]:
    """Put `num` requests of a window that meet a condition, drawn at random, into the label queue.

    `condition` is a cohort's name or SQL over tags, inputs and projections; `wrong` takes only those that feedback
    contradicts. Requests that are examples already count among neither. Their inclusion probability is unknown, so
    that no estimate rests on them.

    Returns:
        How many became examples, and how many there were.

    Raises:
        ProjectError: the condition is none, or the strategy has no label queue.
    """
    if world.project.strategy.label.queue is None:
        raise ProjectError("the strategy has no label queue.", "add tm.label.Queue() to its label stage")
    frame = _candidates(world, condition, window, wrong=wrong)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(frame))[:num])
    chosen = frame[drawn].with_columns(
        pl.lit(f"asked: {condition}").alias(REASON), pl.lit(None, dtype=pl.Float64()).alias(PROBABILITY)
    )
    rows = PickedRows(chosen, picked_at=now, inputs=tuple(world.project.inputs))
    with world.db.begin() as conn:
        num_new = world.reservoir.add(conn, world.name, rows, sameness=world.sameness)
        world.reservoir.ask(conn, world.name, [row.id for row in rows], priority=FIRST, now=now)
    return num_new, len(frame)


def _candidates(world: World, condition: str, window: Window, *, wrong: bool) -> pl.DataFrame:
    frame = matured_frame(world.log, world.project, window, trust=Trust.FUNCTIONS, inputs=True)
    kept = pl.all_horizontal(pl.col(name).is_not_null() for name in world.project.inputs)
    frame = frame.filter(pl.col("decision").is_not_null() & kept)
    if wrong:
        frame = frame.filter((pl.col("label") != pl.col("decision")).fill_null(value=False))
    frame = frame.filter(pl.Series(cohort_mask(world.project, frame, condition), dtype=pl.Boolean))
    known = world.reservoir.present(world.name, frame["request_id"].to_list())
    return frame.filter(~pl.col("request_id").is_in(list(known)))
