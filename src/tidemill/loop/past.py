"""Curation of the past, when a person asks: logged requests that meet a condition are put into the label queue.

The strategy's curation looks at each request once, as it comes. What a cohort that is declared today would have wanted
months ago is fetched by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import polars as pl

from tidemill.errors import ProjectError
from tidemill.loop.picked import PROBABILITY, REASON, PickedRows
from tidemill.loop.world import World
from tidemill.monitor.cohort_status import cohort_mask
from tidemill.monitor.outcomes import FACTS, Window, matured_frame
from tidemill.records import Trust
from tidemill.stores.conditions import Answer, evaluate

FIRST = 1.0  # priority in the queue: a person waits for these


def curate_past(
    world: World, condition: str, window: Window, *, num: int, wrong: bool, seed: int, now: datetime,
    answer: Answer = evaluate,
) -> tuple[int, int]:  # fmt: skip
    """Put `num` requests of a window that meet a condition, drawn at random, into the label queue.

    `condition` is a cohort's name or SQL over tags, inputs and projections, which `answer` answers; `wrong` takes only
    those that feedback contradicts. Requests that are examples already count among neither. Their inclusion probability
    is unknown, so that no estimate rests on them.

    Returns:
        How many became examples, and how many there were.

    Raises:
        ProjectError: the condition is none, or the strategy has no label queue.
    """
    _check_queue(world)
    frame = _candidates(world, condition, window, wrong=wrong, answer=answer)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(frame))[:num])
    chosen = frame[drawn].with_columns(
        pl.lit(f"asked: {condition}").alias(REASON), pl.lit(None, dtype=pl.Float64()).alias(PROBABILITY)
    )
    rows = PickedRows(chosen, picked_at=now, inputs=tuple(world.project.inputs))
    with world.db.begin() as conn:
        num_new = world.reservoir.add(conn, world.name, rows, sameness=world.sameness)
        world.reservoir.ask(conn, world.name, [row.id for row in rows], priority=FIRST, now=now)
    return num_new, len(frame)


def curate_requests(world: World, request_ids: Sequence[str], *, why: str, now: datetime) -> tuple[int, int]:
    """Put requests that a person has pointed at into the label queue, before everything that waits there.

    One that is an example already is asked for again. Their inclusion probability is unknown, so that no estimate
    rests on them.

    Returns:
        How many became examples, and how many were so already.

    Raises:
        ProjectError: the strategy has no label queue, or none of the requests has its inputs in the log.
    """
    _check_queue(world)
    known = world.reservoir.present(world.name, request_ids)
    rows = _logged(world, [id_ for id_ in request_ids if id_ not in known], why, now)
    if not known and not len(rows):
        raise ProjectError("the log kept no inputs of these requests.", "point at others; `log` says what is kept")
    with world.db.begin() as conn:
        num_new = world.reservoir.add(conn, world.name, rows, sameness=world.sameness)
        asked = [*sorted(known), *(row.id for row in rows)]
        world.reservoir.ask_again(conn, world.name, asked, priority=FIRST, now=now)
    return num_new, len(known)


def _logged(world: World, request_ids: Sequence[str], why: str, now: datetime) -> PickedRows:
    """Return those requests whose inputs are in the log, as what was picked."""
    inputs = tuple(world.project.inputs)
    columns = ["request_id", "unit", "subject", "received_at", "decision", "answered_version", *inputs]
    frame = world.log.lookup(world.name, request_ids, columns=columns, schema=world.project.schema)
    frame = frame.filter(pl.all_horizontal(pl.col(name).is_not_null() for name in inputs))
    unknown = {"label": pl.String(), "label_trust": pl.String(), "label_at": pl.Int64(), PROBABILITY: pl.Float64()}
    frame = frame.unique("request_id", maintain_order=True).with_columns(
        pl.lit(why).alias(REASON), *(pl.lit(None, dtype=kind).alias(name) for name, kind in unknown.items())
    )
    return PickedRows(frame, picked_at=now, inputs=inputs)


def _check_queue(world: World) -> None:
    if world.project.strategy.label.queue is None:
        raise ProjectError("the strategy has no label queue.", "add tm.label.Queue() to its label stage")


def _candidates(world: World, condition: str, window: Window, *, wrong: bool, answer: Answer) -> pl.DataFrame:
    facts = [*FACTS, "subject"]
    frame = matured_frame(world.log, world.project, window, trust=Trust.FUNCTIONS, inputs=True, facts=facts)
    kept = pl.all_horizontal(pl.col(name).is_not_null() for name in world.project.inputs)
    frame = frame.filter(pl.col("decision").is_not_null() & kept)
    if wrong:
        frame = frame.filter((pl.col("label") != pl.col("decision")).fill_null(value=False))
    frame = frame.filter(pl.Series(cohort_mask(world.project, frame, condition, answer), dtype=pl.Boolean))
    known = world.reservoir.present(world.name, frame["request_id"].to_list())
    return frame.filter(~pl.col("request_id").is_in(list(known)))
