"""A/B tests, baking, shadows with guards, and guards over abstentions and means."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tidemill.clock import micros
from tidemill.errors import ProjectError
from tidemill.records import Outcome
from tidemill.strategy.guard import Abstains, Difference, Disagreement, Errors, NoWorse
from tidemill.strategy.online import AB, Action, Bake, Gradual, Online, RolloutFacts, Shadow, Shadows
from tidemill.strategy.outcomes import Outcomes
from tidemill.testing.rollouts import BEGIN, Arm, Traffic, draw

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def met(seed: int, num: int, share: float, *, live: float, candidate: float, at: datetime) -> RolloutFacts:
    """Requests of an hour with errors of the two rates, all outcomes known at once."""
    arms = {"live": Arm(error=live), "candidate": Arm(error=candidate)}
    rows = draw(np.random.default_rng(seed), num, share=share, traffic=Traffic(feedback=1.0), **arms)
    rows = replace(rows, received_at=rows.received_at - micros(BEGIN) + micros(at - HOUR))
    return RolloutFacts(now=at, requests=rows, outcomes=rows)


def run(
    online: Online, *, hours: int, live: float = 0.1, candidate: float = 0.1, num: int = 500, seed: int = 0
) -> Action:
    action = online.decide(online.start(NOW), NOW)
    for hour in range(1, hours + 1):
        facts = met(seed * 1000 + hour, num, action.share, live=live, candidate=candidate, at=NOW + hour * HOUR)
        state = json.loads(json.dumps(online.update(action.state, facts), allow_nan=False))
        action = online.decide(state, facts.now)
        if action.kind in ("promote", "rollback"):
            break
    return action


# --- A/B --------------------------------------------------------------------------------------------------------------

TEST = AB("accuracy", min_duration="6h", max_duration="2d")


def test_a_better_candidate_is_promoted_with_its_effect_but_not_before_a_whole_period_was_seen():
    early = run(TEST, hours=5, live=0.3, candidate=0.05)
    assert (early.kind, early.share) == ("stay", 0.5)
    assert "better so far" in early.verdict.reason
    done = run(TEST, hours=48, live=0.3, candidate=0.05)
    assert done.kind == "promote"
    numbers = done.verdict.numbers
    assert numbers["effect_low"] < 0.05 / 0.3 < numbers["effect_high"] < 1
    assert numbers["effect_is"] == "ratio of losses"


def test_a_worse_candidate_is_rolled_back_as_soon_as_that_shows():
    done = run(TEST, hours=48, live=0.05, candidate=0.3)
    assert done.kind == "rollback"
    assert done.verdict.back_to == "data"
    assert done.verdict.numbers["effect_low"] > 1


def test_arms_that_do_not_differ_end_as_the_strategy_says_and_say_what_it_would_take():
    waiting = run(TEST, hours=3)
    assert waiting.kind == "stay"
    assert "to tell" in waiting.verdict.reason or "do not differ" in waiting.verdict.reason
    assert run(TEST, hours=48).kind == "rollback"
    assert run(replace(TEST, on_inconclusive="promote"), hours=48).kind == "promote"


def test_the_interval_covers_the_ratio_at_every_look_nearly_always():
    missed = 0
    for seed in range(60):
        state, hit = TEST.start(NOW), True
        for hour in range(1, 21):
            facts = met(seed * 100 + hour, 200, 0.5, live=0.1, candidate=0.15, at=NOW + hour * HOUR)
            state = TEST.update(state, facts)
            numbers = TEST.decide(state, facts.now).verdict.numbers
            low, high = numbers["effect_low"] or 0.0, numbers["effect_high"] or np.inf
            hit &= low <= 1.5 <= high
        missed += not hit
    assert missed <= 60 * 0.05 + 3 * (60 * 0.05 * 0.95) ** 0.5


def test_a_metric_that_is_a_mean_is_compared_by_difference():
    plan = AB("event_value_buy", binary=False, min_duration="1h", guards=())
    state = plan.start(NOW)
    for hour in range(1, 9):
        facts = met(hour, 2000, 0.5, live=0, candidate=0, at=NOW + hour * HOUR)
        rng = np.random.default_rng(hour)
        value = -rng.exponential(10.0, 2000) - 2.0 * facts.requests.candidate  # a loss: less is more sold
        state = plan.update(state, replace(facts, outcomes=replace(facts.outcomes, values={"event_value_buy": value})))
    done = plan.decide(state, NOW + 9 * HOUR)
    assert done.kind == "promote"
    assert done.verdict.numbers["effect_low"] < -2.0 < done.verdict.numbers["effect_high"] < 0


@pytest.mark.parametrize("wrong", [{"share": 1.0}, {"alpha": 0}, {"min_duration": "15d"}, {"on_inconclusive": "wait"}])
def test_an_ab_test_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ProjectError, match=r"online\.AB"):
        AB("accuracy", **wrong)


# --- Bake -------------------------------------------------------------------------------------------------------------


def test_baking_takes_its_time_at_most_of_the_traffic_and_then_promotes():
    plan = Bake("6h", guards=[Errors()])
    waiting = run(plan, hours=5)
    assert (waiting.kind, waiting.share) == ("stay", 0.95)
    assert "1 h of 6h to go" in waiting.verdict.reason or "to go" in waiting.verdict.reason
    assert run(plan, hours=6).kind == "promote"


def test_a_candidate_that_starts_to_fail_while_it_bakes_goes_back():
    plan = Gradual((0.5, 1.0), guards=[Errors()], min_requests=100) >> Bake("6h", guards=[Errors()])
    action = plan.decide(plan.start(NOW), NOW)
    for hour in range(1, 8):
        facts = met(hour, 400, action.share, live=0, candidate=0, at=NOW + hour * HOUR)
        failed = facts.requests.candidate & (hour > 3) & (np.arange(400) % 2 == 0)
        facts = replace(facts, requests=replace(facts.requests, failed=failed))
        action = plan.decide(plan.update(action.state, facts), facts.now)
        if action.kind == "rollback":
            break
    assert (action.kind, hour) == ("rollback", 4)


# --- shadows with guards ----------------------------------------------------------------------------------------------


def shadowed(seed: int, num: int, *, live: float, candidate: float, differ: float = 0.0) -> RolloutFacts:
    """Pairs whose errors fall on the same hard requests but for those that only one of the two gets wrong."""
    rng = np.random.default_rng(seed)
    mine, theirs = rng.random(num) < candidate, rng.random(num) < live
    loss = np.stack([mine & ~theirs, theirs & ~mine], axis=1).reshape(-1).astype(float)
    apart = np.stack([rng.random(num) < differ, np.full(num, np.nan)], axis=1).reshape(-1)
    rows = draw(rng, 2 * num, share=0.5, live=Arm(error=0), candidate=Arm(error=0), traffic=Traffic())
    rows = replace(
        rows, candidate=np.tile([True, False], num), unit=np.repeat(rows.unit[::2], 2), failed=np.zeros(2 * num, bool)
    )
    shadows = Shadows(
        num=num, latency_ms=np.ones(num), requests=replace(rows, values={"disagreement": apart}),
        outcomes=replace(rows, values={"accuracy": loss}),
    )  # fmt: skip
    return RolloutFacts(now=NOW + HOUR, shadows=shadows)


def look(plan: Shadow, facts: RolloutFacts) -> Action:
    return plan.decide(plan.update(plan.start(NOW), facts), facts.now)


PAIRED = Shadow(200, guards=[NoWorse("accuracy")])


def test_a_shadow_that_is_wrong_where_the_live_model_is_right_is_rolled_back():
    done = look(PAIRED, shadowed(1, 400, live=0.05, candidate=0.3))
    assert (done.kind, done.verdict.back_to) == ("rollback", "data")


def test_a_shadow_is_left_on_evidence_of_pairs_and_waits_without():
    assert look(PAIRED, shadowed(2, 400, live=0.3, candidate=0.02)).kind == "promote"
    waiting = look(PAIRED, shadowed(3, 400, live=0.02, candidate=0.02))
    assert (waiting.kind, waiting.shadow) == ("stay", True)
    assert "to go on" in waiting.verdict.reason or "to roll back" in waiting.verdict.reason


def test_too_much_disagreement_rolls_a_shadow_back_without_any_label():
    plan = Shadow(200, guards=[Disagreement(0.1)])
    assert look(plan, shadowed(4, 600, live=0, candidate=0, differ=0.05)).kind == "promote"
    done = look(plan, shadowed(4, 600, live=0, candidate=0, differ=0.25))
    assert done.kind == "rollback"
    assert "differ from what was answered, more than 10 %" in done.verdict.reason


# --- guards -----------------------------------------------------------------------------------------------------------


def rows(num: int, seed: int = 0, share: float = 0.5, **changes: object) -> Outcomes:
    drawn = draw(
        np.random.default_rng(seed), num, share=share, live=Arm(error=0), candidate=Arm(error=0), traffic=Traffic()
    )
    return replace(drawn, **changes)  # type: ignore[arg-type]


def word(guard: Abstains | Difference, requests: Outcomes, *, margin: float = 1.25, part: float = 1.0) -> Outcome:
    return guard.decide(guard.update(guard.start((margin,)), requests, requests), margin, part=part).outcome


def test_a_candidate_that_abstains_more_is_rolled_back_and_one_that_abstains_as_often_is_not():
    base, rng = rows(4000), np.random.default_rng(5)
    as_often = rng.random(4000) < 0.1
    assert word(Abstains(), replace(base, abstained=as_often)) is Outcome.PASS
    more = rng.random(4000) < np.where(base.candidate, 0.3, 0.1)
    assert word(Abstains(), replace(base, abstained=more)) is Outcome.FAIL
    assert word(Abstains(), base) is Outcome.PASS


@pytest.mark.parametrize(("worse_by", "said"), [(0.0, Outcome.PASS), (2.0, Outcome.FAIL), (0.5, Outcome.INCONCLUSIVE)])
def test_a_mean_is_judged_in_its_own_units(worse_by, said):
    base = rows(6000)
    value = np.random.default_rng(6).normal(10, 2, 6000) + worse_by * base.candidate
    guard = Difference("sold", margin=0.5)
    requests = replace(base, values={"sold": value})
    assert word(guard, requests) is said
    told = guard.decide(guard.update(guard.start((1.25,)), requests, requests), 1.25)
    assert told.numbers["worse_by_low"] <= worse_by <= told.numbers["worse_by_high"]


def test_guards_share_alpha_so_that_a_second_one_needs_more_to_roll_back():
    base = rows(900, share=0.5)
    loss = np.random.default_rng(8).random(900) < np.where(base.candidate, 0.135, 0.06)
    guard = NoWorse("accuracy")
    state = guard.update(guard.start((1.25,)), base, replace(base, values={"accuracy": loss.astype(float)}))
    alone, third = guard.decide(state, 1.25), guard.decide(state, 1.25, part=1 / 3)
    assert third.numbers["wanted_evidence_worse"] == 3 * alone.numbers["wanted_evidence_worse"]
    assert third.numbers["wanted_evidence"] == alone.numbers["wanted_evidence"]


def test_with_more_guards_an_equal_candidate_is_not_rolled_back_more_often():
    """Four guards, each at its margin: 150 rollouts, of which at most alpha and what chance adds may go back."""
    plan = Gradual(
        (0.5, 1.0), guards=[NoWorse(f"m{i}", margin=1.0) for i in range(4)], min_requests=10**9, max_duration="30d"
    )
    back = 0
    for seed in range(150):
        rng, action = np.random.default_rng(seed), plan.decide(plan.start(NOW), NOW)
        for hour in range(1, 16):
            facts = met(seed * 100 + hour, 100, 0.5, live=0, candidate=0, at=NOW + hour * HOUR)
            values = {f"m{i}": (rng.random(100) < 0.2).astype(float) for i in range(4)}
            facts = replace(facts, outcomes=replace(facts.outcomes, values=values))
            action = plan.decide(plan.update(action.state, facts), facts.now)
            if action.kind == "rollback":
                back += 1
                break
    assert back <= 150 * 0.05 + 3 * (150 * 0.05 * 0.95) ** 0.5
