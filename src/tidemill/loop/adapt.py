"""The step that re-fits the policy on what has matured: a version of its own, logged, reversible like a person's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from tidemill.clock import micros
from tidemill.loop.world import Turn, time_of
from tidemill.monitor.outcomes import Window, horizon, matured_frame, scores_of
from tidemill.policy import Policy
from tidemill.records import Json, Route
from tidemill.stats.first_seen import hashed
from tidemill.strategy.adapt import AdaptNeeds, Known, Refit

_STEP = "adapt"
_BY = "loop"
_FACTS = ["unit", "answered_version", "scores"]


def adapt(turn: Turn) -> bool:
    """Look when it is time; return whether the policy changed. A rollout compares versions under one policy."""
    world, member = turn.world, turn.strategy.adapt
    needs, route = member.needs(), world.catalog.route(turn.name)
    if needs is None or route is None or route.rollout is not None:
        return False
    state = turn.state(_STEP)
    last = time_of(state.get("at"))
    if (last is not None and turn.now < last + needs.every) or world.catalog.paused_at(turn.name) is not None:
        return False
    policy = world.catalog.policy(turn.name, route.policy_version)
    refit = member.fit(_known(turn, needs, route), world.project.output, policy)
    return _write(turn, route, policy, refit, state)


def _write(turn: Turn, route: Route, policy: Policy, refit: Refit, state: Json) -> bool:
    """Remember having looked, keep the verdict when it says something new, and put a new policy in force."""
    world, changes = turn.world, refit.policy != policy
    verdict = refit.verdict.to_json()
    body = {"at": micros(turn.now), "outcome": verdict["outcome"], "verdict": verdict}
    with turn.write() as conn:
        world.journal.put_state(conn, turn.name, _STEP, body, turn.now)
        if changes or verdict["outcome"] != state.get("outcome"):
            world.journal.add_verdict(conn, turn.name, refit.verdict, cycle=None, step=_STEP, now=turn.now)
        if changes:
            reason = refit.verdict.reason
            new = world.catalog.add_policy(conn, turn.name, refit.policy, now=turn.now, by=_BY, reason=reason)
            wanted = replace(route, policy_version=new.number)
            world.catalog.set_route(
                conn, turn.name, wanted, now=turn.now, by=_BY, reason=f"policy {new.number}: {reason}"
            )
    return changes


def _known(turn: Turn, needs: AdaptNeeds, route: Route) -> Known:
    """Return the labelled answers of the live version, the first of each unit; a unit is held out always or never."""
    until = turn.known_until - horizon(turn.world.project)
    mine = (pl.col("answered_version") == route.stable) & pl.col("label").is_not_null() & pl.col("scores").is_not_null()
    frames = [
        matured_frame(turn.world.log, turn.world.project, Window(after=a, until=b), trust=needs.trust, facts=_FACTS)
        .filter(mine)
        .select("request_id", *_FACTS, "label")
        for a, b in turn.parts(until - needs.window, until)
    ]
    frame = pl.concat(frames, how="vertical_relaxed").unique("unit", keep="first", maintain_order=True)
    return Known(
        scores=scores_of(turn.world.project, frame),
        labels=np.array([*frame["label"].to_list(), None], dtype=object)[:-1],
        held_out=hashed(frame["unit"].to_list()) % 2 == 1,
    )
