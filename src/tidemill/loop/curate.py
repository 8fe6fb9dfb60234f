"""The step that picks what deserves a label from the requests of the last slot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

import polars as pl
from sqlalchemy import Connection

from tidemill.clock import from_micros, micros
from tidemill.loop.candidates import gathered
from tidemill.loop.picked import KEPT, PROBABILITY, REASON, PickedRows
from tidemill.loop.world import Turn, time_of
from tidemill.monitor.outcomes import FACTS, Window, horizon, matured_frame
from tidemill.records import Example, Trust
from tidemill.strategy.curate import Candidates, Picks
from tidemill.strategy.label import UNLIMITED

_DAY = timedelta(days=1)


def curate(turn: Turn) -> bool:
    """Pick from the requests since the last slot, within the label budget; return whether anything was written.

    More than fit in memory are taken part by part, turn by turn, each with its share of the budget.
    """
    state, slot = turn.state("curate"), _slot(turn)
    after, readable = time_of(state.get("until")), _readable_until(turn)
    if state.get("slot") == slot or (after is not None and readable <= after):
        return False
    parts = turn.parts(after, readable)
    window = Window(after=after, until=parts[0][1])
    since = state.get("since") or micros(turn.now)
    budget, spent = _budget(turn, turn.now - from_micros(since), int(state.get("spent", 0)))
    if budget <= 0 and state:
        return False  # the requests wait: passed over, they could not be picked, and yet would seem to be represented
    examples = pick(turn, window, _share(budget, len(parts))) if budget > 0 else []
    with turn.write() as conn:
        num_new = turn.world.reservoir.add(conn, turn.name, examples, sameness=turn.world.sameness)
        _ask_for_labels(turn, conn, examples)
        done = slot if len(parts) == 1 else state.get("slot")
        body = {"slot": done, "since": since, "until": micros(window.until), "spent": spent + num_new}
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


def _share(budget: int, num_parts: int) -> int:
    """Return the budget of the first of some parts of about one size; what it leaves is for the others."""
    return budget if budget == UNLIMITED else math.ceil(budget / num_parts)


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
    facts = [*FACTS, "subject"]
    matured = matured_frame(world.log, world.project, window, trust=Trust.FUNCTIONS, inputs=True, facts=facts)
    frame = _pickable(turn, matured)
    if not len(frame):
        return []
    candidates, context = gathered(turn, frame, window)
    picks = turn.strategy.curate.pick(candidates, context, budget, world.rng("curate", micros(window.until)))
    inputs = tuple(world.project.inputs)
    frame = frame[list(dict.fromkeys([*KEPT, *inputs]))]
    return PickedRows(_picked(frame, candidates, picks), picked_at=turn.now, inputs=inputs)


def _pickable(turn: Turn, frame: pl.DataFrame) -> pl.DataFrame:
    # Where nobody could be asked, what is picked stands for the requests that get feedback.
    needed = ["decision", *turn.world.project.inputs, *([] if _can_ask(turn) else ["label"])]
    if not any(frame[name].has_nulls() for name in needed):
        return frame
    return frame.filter(pl.all_horizontal(pl.col(name).is_not_null() for name in needed))


def _picked(frame: pl.DataFrame, candidates: Candidates, picks: Picks) -> pl.DataFrame:
    """Return the picked rows of the frame, in the order of the picks, with why and by what chance."""
    if picks.places is not None:
        frame = frame[picks.places]
    elif picks.ids != candidates.ids:  # not all of them, or in another order
        ids = pl.DataFrame({"request_id": picks.ids}, schema={"request_id": pl.String()})
        frame = ids.join(frame, on="request_id", how="left", maintain_order="left")
    # A request whose inputs were not kept could not be picked.
    chance = pl.Series(PROBABILITY, picks.probabilities, dtype=pl.Float64) * frame["keep_probability"]
    return frame.hstack([_text(REASON, picks.reasons), chance])


def _text(name: str, texts: Sequence[str]) -> pl.Series:
    """Return texts as a column: mostly all are the same."""
    if texts and texts.count(texts[0]) == len(texts):
        return pl.Series(name, [texts[0]], dtype=pl.String).new_from_index(0, len(texts))
    return pl.Series(name, texts, dtype=pl.String)


def _ask_for_labels(turn: Turn, conn: Connection, examples: Sequence[Example]) -> None:
    queue = turn.strategy.label.queue
    if queue is None:
        return
    ids = examples.below(Trust(queue.trust)) if isinstance(examples, PickedRows) else []
    turn.world.reservoir.ask(conn, turn.name, ids, priority=0.0, now=turn.now)
