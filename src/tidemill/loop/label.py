"""The step that gives examples the labels that arrived as feedback."""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl

from tidemill.clock import micros
from tidemill.loop.world import Turn, time_of

_BEHIND = timedelta(minutes=1)  # how far the watermark may stay behind when there is nothing to write


def label(turn: Turn) -> bool:
    """Label examples from the feedback since the last turn; return whether there was any, or is more."""
    world, after = turn.world, time_of(turn.state("label").get("until"))
    if turn.strategy.label.feedback is None:
        return False
    if after is not None and turn.known_until <= after:
        return False
    until = turn.reach(after, turn.known_until, kind="feedback")
    found = _for_examples(turn, _said(turn, after, until))
    is_behind = until < turn.known_until
    if not len(found) and not is_behind and after is not None and until - after < _BEHIND:
        return False
    with turn.write() as conn:
        world.reservoir.label_all(conn, turn.name, found)
        world.journal.put_state(conn, turn.name, "label", {"until": micros(until)}, turn.now)
    return len(found) > 0 or is_behind


def _said(turn: Turn, after: datetime | None, until: datetime) -> pl.DataFrame:
    return turn.world.log.labels(turn.name, after=after, until=until, schema=turn.world.project.schema)


def _for_examples(turn: Turn, feedback: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of feedback that are about a curated example."""
    if not len(feedback):
        return feedback
    known = turn.world.reservoir.are_present(turn.name, feedback["request_id"])
    return feedback if known.all() else feedback.filter(known)
