"""Rollouts on a virtual clock: how a plan would treat a candidate that is as good or as bad as you say.

It runs the same `update` and `decide` as the loop, on drawn requests, so it tells before deploying how often a plan
rolls back an equal candidate, and how many requests it takes to promote a better one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from tidemill.clock import micros
from tidemill.schema import Array
from tidemill.strategy.online import Action, Online, RolloutFacts, Shadows
from tidemill.strategy.outcomes import Outcomes

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One model in traffic: chances that it is wrong and that it fails to answer, and how long it takes."""

    error: float
    failed: float = 0.0
    latency_ms: float = 5.0  # the median; lognormal with a sigma of 0.3


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What comes: `feedback` is the chance that the truth of a request becomes known, `delay` after so many requests.

    A request is a unit of its own. `routed` multiplies the odds of the candidate: 1 is what the route asks for.
    """

    metric: str = "accuracy"
    feedback: float = 0.3
    delay: int = 300
    per_second: float = 200.0
    routed: float = 1.0


@dataclass(frozen=True, kw_only=True)
class End:
    """How a rollout ended, in which step, and after how many requests; `stay` when they ran out."""

    kind: str
    step: str
    requests: int
    action: Action


def draw(rng: np.random.Generator, num: int, *, share: float, live: Arm, candidate: Arm, traffic: Traffic) -> Outcomes:
    """Return `num` requests routed at `share`, received from `BEGIN` on; the loss of those without feedback is NaN."""
    odds = traffic.routed * share / (traffic.routed * share + 1 - share)
    mine = rng.random(num) < odds
    wrong = rng.random(num) < np.where(mine, candidate.error, live.error)
    known = rng.random(num) < traffic.feedback
    return Outcomes(
        received_at=micros(BEGIN) + (np.arange(num) * 1e6 / traffic.per_second).astype(np.int64),
        unit=np.char.mod("u%d", rng.integers(0, 1 << 62, num)).astype(object),
        version=np.where(mine, 2, 1),
        candidate=mine,
        share=np.full(num, share),
        failed=rng.random(num) < np.where(mine, candidate.failed, live.failed),
        latency_ms=np.where(mine, candidate.latency_ms, live.latency_ms) * np.exp(0.3 * rng.standard_normal(num)),
        values={traffic.metric: np.where(known, wrong.astype(np.float64), np.nan)},
    )


def simulate(
    online: Online,
    rng: np.random.Generator,
    *,
    live: Arm,
    candidate: Arm,
    traffic: Traffic | None = None,
    look_every: int = 50,
    most: int = 20_000,
) -> End:
    """Run one rollout to its end, or to `most` requests, looking after every `look_every` of them."""
    traffic = traffic or Traffic()
    state, now, waiting = online.start(BEGIN), BEGIN, deque[Outcomes]()
    action = online.decide(state, now)
    step = action.step
    for looks in range(most // look_every):
        if action.kind in ("promote", "rollback"):
            return End(kind=action.kind, step=step, requests=looks * look_every, action=action)
        step = action.step
        rows = draw(rng, look_every, share=action.share, live=live, candidate=candidate, traffic=traffic)
        rows = replace(rows, received_at=rows.received_at + micros(now) - micros(BEGIN))
        now += timedelta(seconds=look_every / traffic.per_second)
        waiting.append(rows)
        late = waiting.popleft() if len(waiting) * look_every > traffic.delay else Outcomes.empty()
        shadows = _shadows(rng, rows, live, candidate) if action.shadow else Shadows()
        facts = RolloutFacts(now=now, requests=rows, outcomes=_known(late, traffic.metric), shadows=shadows)
        action = online.decide(online.update(action.state, facts), now)
    return End(kind=action.kind, step=action.step, requests=most, action=action)


def _known(rows: Outcomes, metric: str) -> Outcomes:
    return rows.take(~np.isnan(rows.values[metric])) if len(rows) else rows


def _shadows(rng: np.random.Generator, rows: Outcomes, live: Arm, candidate: Arm) -> Shadows:
    differ: Array = (rng.random(len(rows)) < live.error) != (rng.random(len(rows)) < candidate.error)
    failed = int((rng.random(len(rows)) < candidate.failed).sum())
    return Shadows(num=len(rows), num_failed=failed, num_disagree=int(differ.sum()), latency_ms=rows.latency_ms)
