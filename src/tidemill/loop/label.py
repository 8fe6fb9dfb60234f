"""The step that gives examples the labels that arrived as feedback."""

from __future__ import annotations

from datetime import timedelta
from operator import itemgetter

import polars as pl

from tidemill.clock import from_micros, micros
from tidemill.loop.world import Turn, time_of
from tidemill.records import Json, Trust

_BEHIND = timedelta(minutes=1)  # how far the watermark may stay behind when there is nothing to write


def label(turn: Turn) -> bool:
    """Label examples from the feedback since the last turn; return whether there was any."""
    world, after = turn.world, time_of(turn.state("label").get("until"))
    if turn.strategy.label.feedback is None:
        return False
    if after is not None and turn.known_until <= after:
        return False
    found = _for_examples(turn, world.log.feedback(turn.name, after=after, until=turn.known_until, kinds=["label"]))
    if not found and after is not None and turn.known_until - after < _BEHIND:
        return False
    with turn.write() as conn:
        for row in sorted(found, key=itemgetter("request_id")):  # as `App.answer`: neither waits for the other
            at, trust = from_micros(row["received_at"]), Trust(row["trust"])
            world.reservoir.label(
                conn, turn.name, row["request_id"], value=row["value"], trust=trust, source=row["source"], at=at
            )
        world.journal.put_state(conn, turn.name, "label", {"until": micros(turn.known_until)}, turn.now)
    return bool(found)


def _for_examples(turn: Turn, feedback: pl.DataFrame) -> list[dict[str, Json]]:
    """Return the rows of feedback that are about a curated example."""
    if not len(feedback):
        return []
    known = turn.world.reservoir.present(turn.name, feedback["request_id"].unique().to_list())
    return feedback.filter(pl.col("request_id").is_in(list(known))).to_dicts()
