"""What the live version was good for: its first outcomes since it went live, found in the log once and kept.

They are kept by version, so that a version that is returned to is held to what it was, and not to what it has become.
What is declared late, a cohort, a trigger or an alert, is looked up in the log, as far back as that goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl
from sqlalchemy import Connection

from tidemill.clock import from_micros, micros
from tidemill.fingerprint import digest
from tidemill.loop.world import Turn
from tidemill.monitor.outcomes import Window, matured_frame, outcomes
from tidemill.records import Json
from tidemill.schema import Array
from tidemill.strategy.outcomes import OutcomeNeeds, Outcomes
from tidemill.strategy.reference import EVERYONE, FirstOutcomes, Firsts, References, extended, given, lacks
from tidemill.strategy.reference_needs import ReferenceNeeds

_FIRST_LOOK = timedelta(hours=1)  # at the past: longer where there is little
_FEW_ROWS = 20_000

_Spells = Sequence[tuple[int, int]]  # (since, until] in which a version was the live one, in microseconds


@dataclass(frozen=True)
class Found:
    """`known` is for the stage; `body` is what to keep of it, None where nothing is new.

    Where it `is_behind`, more of the past is left to be read: it is to be kept, though nothing else has come.
    """

    known: References
    body: Json | None = None
    is_behind: bool = False

    def keep(self, turn: Turn, conn: Connection, live: int) -> None:
        """Keep what is new, in the transaction that moves the watermark."""
        if self.body is not None:
            turn.world.journal.put_state(conn, turn.name, _state_name(live), self.body, turn.now)


def references(turn: Turn, needs: OutcomeNeeds, live: int, rows: Outcomes, window: Window) -> Found:
    """Return the references of the live version with `rows`, the outcomes of `window`, among what they are made of."""
    if not needs.references:
        return Found({})
    kept = turn.state(_state_name(live))
    keys = {(need, name): _key(turn, needs, need, name) for need in needs.references for name in _streams(turn, need)}
    known = {which: FirstOutcomes.from_json(kept[key]) for which, key in keys.items() if key in kept}
    is_behind = False
    if any(which not in known or lacks(which[0], known[which]) for which in keys):
        known, is_behind = _filled(turn, needs, live, {which: known.get(which) for which in keys}, rows, window)
    body = {**kept, **{keys[which]: first.to_json() for which, first in known.items()}}
    return Found(given(known), None if body == kept else body, is_behind)


def _filled(
    turn: Turn, needs: OutcomeNeeds, live: int, known: dict[tuple[ReferenceNeeds, str], FirstOutcomes | None],
    rows: Outcomes, window: Window,
) -> tuple[Firsts, bool]:  # fmt: skip
    """Return what is known with the outcomes of the window, and all before it that were not looked at.

    A past that is long is read over several turns; until all of it is, the window waits to be read as a part of it.
    Returns also whether that is so.
    """
    spells, num_read = _spells(turn, live), 0
    filled = {which: first or FirstOutcomes(until=spells[0][0]) for which, first in known.items()}
    for some, until in _behind(turn, needs, live, spells, filled, window.after):
        filled = extended(filled, some, _mine(some, live, spells), until=until)
        num_read += len(some)
        if not any(lacks(need, first) for (need, _), first in filled.items()):
            return filled, False
        if num_read > turn.most_rows:
            return filled, True
    return extended(filled, rows, _mine(rows, live, spells), until=micros(window.until)), False


def _behind(
    turn: Turn, needs: OutcomeNeeds, live: int, spells: _Spells, known: Firsts, after: datetime | None
) -> Iterator[tuple[Outcomes, int]]:
    """Yield the outcomes before `after` that references lack, with up to when they go; a part at a time."""
    if after is None:
        return  # the window goes back to the beginning
    since = min(first.until for (need, _), first in known.items() if lacks(need, first))
    step = _FIRST_LOOK
    for begin, end in spells:
        at, stop = from_micros(max(begin, since)), from_micros(min(end, micros(after)))
        while at < stop:
            until = turn.reach(at, min(at + step, stop))
            frame = matured_frame(turn.world.log, turn.world.project, Window(after=at, until=until), trust=needs.trust)
            frame = frame.filter(pl.col("assigned_version") == live)
            yield outcomes(turn.world.project, frame, candidate=None, metrics=needs.metrics), micros(until)
            at, step = until, step * 2 if len(frame) < _FEW_ROWS else step


def _mine(rows: Outcomes, live: int, spells: _Spells) -> Array:
    """Return which rows the live version answered as such, bool (N,): those of its rollout chose it."""
    found: Array = np.zeros(len(rows), dtype=bool)
    for since, until in spells:
        found |= (rows.received_at > since) & (rows.received_at <= until)
    found &= rows.version == live
    return found


def _spells(turn: Turn, version: int) -> _Spells:
    """Return when a version was the live one, oldest first; the last spell has no end yet."""
    history = turn.world.catalog.history(turn.name)
    ends = [*(micros(change.at) for change in history[1:]), np.iinfo(np.int64).max]
    stable = [(micros(c.at), end) for c, end in zip(history, ends, strict=True) if c.route.stable == version]
    spells: list[tuple[int, int]] = []
    for since, until in stable:
        if spells and spells[-1][1] == since:
            spells[-1] = (spells[-1][0], until)
        else:
            spells.append((since, until))
    return spells


def _streams(turn: Turn, need: ReferenceNeeds) -> Sequence[str]:
    return (EVERYONE, *turn.world.project.cohorts) if need.streams is None else need.streams


def _key(turn: Turn, needs: OutcomeNeeds, need: ReferenceNeeds, name: str) -> str:
    """Return under what name first losses are kept: a cohort that is declared otherwise is another one."""
    condition = turn.world.project.cohorts.get(name, "")
    return f"{need.metric} {needs.trust} {need.size} {name} {digest(condition)}"


def _state_name(live: int) -> str:
    return f"reference.{live}"
