"""The step that takes a candidate into traffic: each turn it looks, decides, and moves the route by compare-and-set.

What the rollout remembers and the route it wants are written in one transaction, so that a kill cannot part them. If
somebody else moved the route (`tidemill rollback`), the cycle ends: a person's word stands.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl
from sqlalchemy import Connection

from tidemill.clock import from_micros, micros
from tidemill.loop.ending import close, end_moved_by_somebody, promoted, without_candidate
from tidemill.loop.trail import longer
from tidemill.loop.world import Turn
from tidemill.monitor.outcomes import Window, answered_frame, failures, horizon, matured_frame, outcomes
from tidemill.monitor.pairs import pair_outcomes, pair_requests, shadow_pairs, shadowable
from tidemill.records import Cycle, Json, Outcome, Route, Verdict
from tidemill.stats.first_seen import first_seen
from tidemill.stores.journal import Command
from tidemill.strategy.guard import Disagreement
from tidemill.strategy.outcomes import Outcomes
from tidemill.strategy.rollout import Action, RolloutFacts, Shadows

_STEP = "release"
_UNIT_BITS = 18  # a rollout tells about 260,000 units apart; the bitmap takes 32 kB at most


def release(turn: Turn, cycle: Cycle) -> bool:
    """Take the rollout one look further; return whether anything was written."""
    route = turn.world.catalog.route(turn.name)
    assert route is not None, "a cycle reaches `release` with a route"
    memory = turn.state(_state_name(cycle))
    is_mine = bool(memory) and route.rollout == memory["rollout"]
    if route.stable == cycle.candidate or (memory and not is_mine):
        return end_moved_by_somebody(turn, cycle, step=_STEP)
    is_new = not memory or memory["digest"] != turn.strategy.online.digest()  # another stage: its evidence is not ours
    if not is_new:
        return _look(turn, cycle, route, memory)
    if turn.world.catalog.paused_at(turn.name) is not None:
        return False
    return _begin(turn, cycle, route)


def _state_name(cycle: Cycle) -> str:
    return f"release.{cycle.number}"


def _begin(turn: Turn, cycle: Cycle, route: Route) -> bool:
    """Give the candidate its first place in traffic."""
    online = turn.strategy.online
    action = online.decide(online.start(turn.now), turn.now)
    rollout = f"{turn.name}-{cycle.number}"
    memory = {
        "rollout": rollout,
        "digest": online.digest(),
        "seen": {},
        "requests_until": micros(turn.known_until),
        "outcomes_until": micros(turn.known_until),
        "began": micros(turn.now),
    }
    _carry_out(turn, cycle, route, memory, action, news=True)
    return True


def _look(turn: Turn, cycle: Cycle, route: Route, memory: Json) -> bool:
    online = turn.strategy.online
    facts, read = _facts(turn, cycle, memory)
    state = online.update(memory["online"], facts)
    action = online.decide(state, turn.now)
    is_behind = _is_behind(turn, read)
    waits = is_behind or turn.world.catalog.paused_at(turn.name) is not None
    if waits and action.kind in ("advance", "promote"):
        action = replace(action, kind="hold", share=route.share, shadow=bool(route.shadows), state=state)
    word = _rejection(turn, cycle)
    if word is not None:
        action = _by_person(action, word)
    news = action.kind != memory["kind"] or action.step != memory["step"]
    _carry_out(turn, cycle, route, {**memory, **read}, action, news=news, word=word)
    return news or is_behind or len(facts.requests) > 0


def _carry_out(
    turn: Turn, cycle: Cycle, route: Route, memory: Json, action: Action, *, news: bool, word: Command | None = None
) -> None:
    """Write what is remembered, the verdict if it is news, and the route if it changes: one transaction."""
    world = turn.world
    memory = {**memory, "online": action.state, "kind": action.kind, "step": action.step,
              "verdict": action.verdict.to_json(),
              "trail": longer(memory.get("trail"), action.verdict, step=action.step, now=turn.now)}  # fmt: skip
    with turn.write() as conn:
        world.journal.put_state(conn, turn.name, _state_name(cycle), memory, turn.now)
        if word is not None:
            world.journal.handle(conn, word.id, "rolled back", turn.now)
        if action.kind in ("promote", "rollback"):
            _finish(turn, conn, cycle, route, action)
            return
        if news:
            world.journal.add_verdict(conn, turn.name, action.verdict, cycle=cycle.number, step=_STEP, now=turn.now)
        _move_route(turn, conn, route, wanted_route(route, cycle, memory["rollout"], action), action.verdict.reason)


def wanted_route(route: Route, cycle: Cycle, rollout: str, action: Action) -> Route:
    """Return the route that the action asks for. The salt is the rollout's, so that each rollout draws anew."""
    return replace(
        route,
        rollout=rollout,
        salt=rollout,
        candidate=cycle.candidate if action.share > 0 else None,
        share=action.share,
        shadows=(cycle.candidate,) if action.shadow and cycle.candidate is not None else (),
    )


def _move_route(turn: Turn, conn: Connection, route: Route, wanted: Route, reason: str) -> None:
    """Set the wanted route, or only move on the time at which the candidate's share lapses."""
    catalog, lapses_at = turn.world.catalog, turn.now + turn.lapse
    if wanted == route and wanted.rollout is not None:
        catalog.renew(conn, turn.name, wanted.rollout, lapses_at)
    else:
        wanted = replace(wanted, lapses_at=lapses_at)
        catalog.set_route(conn, turn.name, wanted, now=turn.now, by="loop", reason=reason)


def _finish(turn: Turn, conn: Connection, cycle: Cycle, route: Route, action: Action) -> None:
    world, candidate = turn.world, cycle.candidate
    assert candidate is not None
    if action.kind == "promote":
        new = promoted(route, candidate)
        if route.stable != candidate:
            world.catalog.set_status(conn, turn.name, route.stable, "retired")
    else:
        new = without_candidate(route)
    world.catalog.set_route(conn, turn.name, new, now=turn.now, by="loop", reason=action.verdict.reason)
    outcome = "promoted" if action.kind == "promote" else "rolled back"
    close(turn, conn, cycle, outcome, action.verdict, step=_STEP)


# --- facts ------------------------------------------------------------------------------------------------------------


def _facts(turn: Turn, cycle: Cycle, memory: Json) -> tuple[RolloutFacts, Json]:
    """Return what is new since the last look, and what to remember of having read it."""
    world = turn.world
    requests_until = _reach(turn, memory["requests_until"], turn.known_until)
    outcomes_until = _reach(turn, memory["outcomes_until"], turn.known_until - horizon(world.project))
    new = Window(after=from_micros(memory["requests_until"]), until=from_micros(requests_until))
    matured = Window(after=from_micros(memory["outcomes_until"]), until=from_micros(outcomes_until))
    frame = answered_frame(world.log, world.project, new).filter(pl.col("rollout") == memory["rollout"])
    seen = dict(memory["seen"])
    facts = RolloutFacts(
        now=turn.now,
        requests=outcomes(world.project, frame, candidate=cycle.candidate),
        outcomes=_with_past(turn, memory, _matured(turn, cycle, memory["rollout"], matured, seen)),
        shadows=_shadows(turn, memory["rollout"], new, matured, seen),
    )
    return facts, {"requests_until": requests_until, "outcomes_until": outcomes_until, "seen": seen}


def _reach(turn: Turn, after: int, until: datetime) -> int:
    return max(micros(turn.reach(from_micros(after), until)), after)


def _is_behind(turn: Turn, read: Json) -> bool:
    """Tell whether there is more to read than was read: nobody goes on to the next step on a part of the evidence."""
    matured = micros(turn.known_until - horizon(turn.world.project))
    return bool(read["requests_until"] < micros(turn.known_until) or read["outcomes_until"] < matured)


def _matured(turn: Turn, cycle: Cycle, rollout: str, window: Window, seen: dict[str, str]) -> Outcomes:
    """Return the requests that matured since the last look, with losses at the first of each unit."""
    world, needs = turn.world, turn.strategy.online.needs()
    frame = matured_frame(world.log, world.project, window, trust=needs.trust)
    frame = frame.filter((pl.col("rollout") == rollout) & (pl.col("share") > 0))
    rows = outcomes(world.project, frame, candidate=cycle.candidate, metrics=needs.metrics)
    return _first_of_unit(rows, seen)


def _first_of_unit(rows: Outcomes, seen: dict[str, str], *, pairs: bool = False) -> Outcomes:
    """Leave a metric's value only at its first of each unit, and note in `seen` which units had theirs.

    A unit counts once: counting every request of sticky users breaks the guarantee of the sequential test. In `pairs`
    of rows both keep it.
    """
    values, step = {}, 2 if pairs else 1
    for metric, loss in rows.values.items():
        key = f"shadow.{metric}" if pairs else metric
        known = step * np.flatnonzero(~np.isnan(loss[::step]))
        is_first, seen[key] = first_seen(seen.get(key, ""), rows.unit[known], bits=_UNIT_BITS)
        values[metric] = np.full(len(loss), np.nan)
        for side in range(step):
            values[metric][known[is_first] + side] = loss[known[is_first] + side]
    return replace(rows, values=values)


def _with_past(turn: Turn, memory: Json, rows: Outcomes) -> Outcomes:
    """Add the mean loss that each unit had before the rollout, where a member asks for it."""
    needs = turn.strategy.online.needs()
    if not needs.before or not len(rows):
        return rows
    began = from_micros(memory["began"])
    window = Window(after=began - needs.before, until=began)
    past = turn.world.past(memory["rollout"], window, metrics=needs.metrics, trust=needs.trust)
    known = {name: np.array([means.get(unit, np.nan) for unit in rows.unit]) for name, means in past.items()}
    return replace(rows, before=known)


def _shadows(turn: Turn, rollout: str, new: Window, matured: Window, seen: dict[str, str]) -> Shadows:
    world, needs = turn.world, turn.strategy.online.needs()
    pairs = shadow_pairs(world.log, world.project, new, rollout)
    requests = pair_requests(world.project, pairs)
    differ = requests.values.get(Disagreement.metric, np.zeros(0))
    metrics = shadowable(world.project, needs.metrics) if needs.pairs else ()
    found = pair_outcomes(world.log, world.project, matured, rollout, metrics=metrics, trust=needs.trust)
    return Shadows(
        num=len(pairs),
        num_failed=int(failures(pairs.mine).sum()),
        num_disagree=int((differ == 1).sum()),
        latency_ms=pairs.mine["latency_ms"].to_numpy().astype(np.float64),
        requests=requests,
        outcomes=_first_of_unit(found, seen, pairs=True),
    )


# --- people -----------------------------------------------------------------------------------------------------------


def _rejection(turn: Turn, cycle: Cycle) -> Command | None:
    """Return a person's word against this candidate."""
    for command in turn.world.journal.waiting(turn.name):
        if command.verb == "reject" and command.args.get("version") in (None, cycle.candidate):
            return command
    return None


def _by_person(action: Action, word: Command) -> Action:
    reason = f"rejected by {word.by}: {word.args.get('reason') or 'no reason given'}"
    verdict = Verdict(outcome=Outcome.FAIL, by="person", reason=reason, parts=(action.verdict,))
    return replace(action, kind="rollback", verdict=verdict)
