"""The step that picks what deserves a label from the requests of the last slot."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import polars as pl
from sqlalchemy import Connection

from tidemill.clock import from_micros, micros
from tidemill.loop.candidates import gathered
from tidemill.loop.picked import PROBABILITY, REASON, PickedRows
from tidemill.loop.world import Turn, time_of
from tidemill.monitor.outcomes import Window, horizon, matured_frame
from tidemill.records import Example, Trust
from tidemill.strategy.curate import Picks
from tidemill.strategy.label import UNLIMITED

_DAY = timedelta(days=1)


def curate(turn: Turn) -> bool:
    """Pick from the requests since the last slot, within the label budget; return whether anything was written."""
    state, slot = turn.state("curate"), _slot(turn)
    window = Window(after=time_of(state.get("until")), until=_readable_until(turn))
    if state.get("slot") == slot or (window.after is not None and window.until <= window.after):
        return False
    since = state.get("since") or micros(turn.now)
    budget, spent = _budget(turn, turn.now - from_micros(since), int(state.get("spent", 0)))
    if budget <= 0 and state:
        return False  # the requests wait: passed over, they could not be picked, and yet would seem to be represented
    examples = pick(turn, window, budget) if budget > 0 else []
    with turn.write() as conn:
        num_new = turn.world.reservoir.add(conn, turn.name, examples, sameness=turn.world.sameness)
        _ask_for_labels(turn, conn, examples)
        body = {"slot": slot, "since": since, "until": micros(window.until), "spent": spent + num_new}
        turn.world.journal.put_state(conn, turn.name, "curate", body, turn.now)
    return True


def _slot(turn: Turn) -> int:
    return int(turn.now.timestamp() // turn.strategy.curate_every.total_seconds())


def _budget(turn: Turn, elapsed: timedelta, spent: int) -> tuple[int, int]:
    """Return how many may be picked now, and what is spent; what earlier days left over is not kept for today."""
    allowance = turn.strategy.label.allowance
    if allowance(elapsed) == UNLIMITED:
        return UNLIMITED, 0
    earlier = max(elapsed - turn.pace, timedelta(0)) // _DAY * _DAY  # the days that this step could have looked at
    spent = max(spent, allowance(earlier))
    return allowance(elapsed) - spent, spent


def _readable_until(turn: Turn) -> datetime:
    """Return how far to read: only matured requests when picking depends on feedback, else up to the newest."""
    waits_for_feedback = not _can_ask(turn) or turn.strategy.curate.needs().feedback
    return turn.known_until - horizon(turn.world.project) if waits_for_feedback else turn.known_until


def _can_ask(turn: Turn) -> bool:
    """Tell whether a request without feedback can get a label: from people, or from functions."""
    return turn.strategy.label.queue is not None or turn.strategy.label.functions is not None


def pick(turn: Turn, window: Window, budget: int) -> Sequence[Example]:
    """Ask the strategy which requests of a window become examples, at most `budget`."""
    world = turn.world
    frame = _pickable(turn, matured_frame(world.log, world.project, window, trust=Trust.FUNCTIONS, inputs=True))
    if not len(frame):
        return []
    candidates, context = gathered(turn, frame, window)
    picks = turn.strategy.curate.pick(candidates, context, budget, world.rng("curate", micros(window.until)))
    return _examples(turn, frame, picks)


def _pickable(turn: Turn, frame: pl.DataFrame) -> pl.DataFrame:
    kept = pl.all_horizontal(pl.col(n).is_not_null() for n in turn.world.project.inputs)
    frame = frame.filter(pl.col("decision").is_not_null() & kept)
    if not _can_ask(turn):
        # Nobody could be asked for the others, so what is picked stands for the requests that get feedback.
        return frame.filter(pl.col("label").is_not_null())
    return frame


def _examples(turn: Turn, frame: pl.DataFrame, picks: Picks) -> PickedRows:
    """Return the picked rows of the frame, in the order of the picks."""
    picked = pl.DataFrame(
        {"request_id": picks.ids, REASON: picks.reasons, PROBABILITY: picks.probabilities},
        schema={"request_id": pl.String(), REASON: pl.String(), PROBABILITY: pl.Float64()},
    )
    # A request whose inputs were not kept could not be picked.
    chance = pl.col(PROBABILITY) * pl.col("keep_probability")
    if picked["request_id"].equals(frame["request_id"]):  # all of them
        chosen = picked.hstack(frame.drop("request_id"))
    else:
        chosen = picked.join(frame, on="request_id", how="left", maintain_order="left")
    return PickedRows(chosen.with_columns(chance), picked_at=turn.now, inputs=tuple(turn.world.project.inputs))


def _ask_for_labels(turn: Turn, conn: Connection, examples: Sequence[Example]) -> None:
    queue = turn.strategy.label.queue
    if queue is None:
        return
    wanted = Trust(queue.trust).rank
    ids = [e.id for e in examples if e.trust is None or e.trust.rank < wanted]
    turn.world.reservoir.ask(conn, turn.name, ids, priority=0.0, now=turn.now)
