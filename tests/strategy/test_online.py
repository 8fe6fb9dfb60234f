"""How a candidate meets real traffic."""

from __future__ import annotations

import copy
import itertools
import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.clock import micros
from tidemill.errors import ProjectError
from tidemill.records import Outcome, Trust
from tidemill.strategy.guard import Errors, Latency, NoWorse
from tidemill.strategy.online import Action, Gradual, Now, Online, RolloutFacts, Shadow, Shadows
from tidemill.strategy.outcomes import Outcomes
from tidemill.testing.rollouts import BEGIN, Arm, Traffic, draw, simulate

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PLAN = Gradual(guards=(Errors(), NoWorse("accuracy")))
EQUAL = {"live": Arm(error=0.05), "candidate": Arm(error=0.05)}
POISONED = {"live": Arm(error=0.05), "candidate": Arm(error=0.40)}
BETTER = {"live": Arm(error=0.228), "candidate": Arm(error=0.034)}


def met(seed: int, num: int, share: float, *, at: datetime = NOW, known: float = 1.0, **arms: Arm) -> RolloutFacts:
    rows = draw(np.random.default_rng(seed), num, share=share, traffic=Traffic(feedback=known), **(arms or EQUAL))
    rows = replace(rows, received_at=rows.received_at - micros(BEGIN) + micros(at))
    return RolloutFacts(now=at, requests=rows, outcomes=rows)


def after(online: Online, *many: RolloutFacts, now: datetime | None = None) -> Action:
    """Feed the facts in turn, deciding after each as the loop does, through JSON each time."""
    action = online.decide(online.start(NOW), NOW)
    for facts in many:
        state = json.loads(json.dumps(online.update(action.state, facts), allow_nan=False))
        action = online.decide(state, now or facts.now)
    return action


# --- Now and Shadow ---------------------------------------------------------------------------------------------------


def test_now_promotes_at_once():
    action = after(Now())
    assert (action.kind, action.share, action.shadow) == ("promote", 1.0, False)


def test_a_shadow_answers_nobody_and_is_left_after_enough_predictions():
    plan = Shadow(requests=200)
    first = after(plan)
    assert (first.kind, first.share, first.shadow, first.step) == ("stay", 0.0, True, "shadow")
    half = RolloutFacts(now=NOW + timedelta(minutes=5), shadows=Shadows(num=100, num_disagree=7))
    waiting = after(plan, half)
    assert waiting.kind == "stay"
    assert "200 wanted, about 5 min to go" in waiting.verdict.reason
    left = after(plan, half, replace(half, shadows=Shadows(num=100, num_disagree=3)))
    assert left.kind == "promote"
    assert left.verdict.numbers["disagreement_share"] == 0.05
    assert "5 % differ from what was answered" in left.verdict.reason


def test_a_shadow_that_fails_is_rolled_back_early():
    action = after(Shadow(requests=1000), RolloutFacts(now=NOW, shadows=Shadows(num=40, num_failed=20)))
    assert (action.kind, action.share, action.shadow) == ("rollback", 0.0, False)
    assert action.verdict.back_to == "training"


def test_a_shadow_just_above_the_floor_waits_for_evidence_and_then_for_a_person():
    few = RolloutFacts(now=NOW, shadows=Shadows(num=1000, num_failed=13))
    assert after(Shadow(requests=1000), few).kind == "stay"
    late = after(Shadow(requests=1000, max_duration="1d"), few, now=NOW + timedelta(days=1))
    assert late.kind == "hold"
    assert "inconclusive after 1d" in late.verdict.reason


def test_a_shadow_without_traffic_does_what_on_inconclusive_says():
    none, late = RolloutFacts(now=NOW), NOW + timedelta(days=8)
    for choice in ("hold", "rollback", "promote"):
        assert after(Shadow(on_inconclusive=choice), none, now=late).kind == choice


# --- Gradual, step by step --------------------------------------------------------------------------------------------


def test_it_begins_with_the_first_share_and_nothing_known():
    action = after(PLAN)
    assert (action.kind, action.share, action.shadow, action.step) == ("stay", 0.05, False, "5 %")
    assert action.verdict.outcome is Outcome.INCONCLUSIVE
    assert "0 of 200 requests" in action.verdict.reason


def test_a_step_is_not_left_before_its_requests_whatever_the_evidence():
    plan = replace(PLAN, min_requests=3000)
    strong = met(1, 2000, 0.05, **BETTER)
    waiting = after(plan, strong)
    assert waiting.kind == "stay"
    assert "2,000 of 3,000 requests" in waiting.verdict.reason
    assert [part.outcome for part in waiting.verdict.parts] == [Outcome.PASS] * 3
    assert after(plan, strong, met(2, 1000, 0.05, **BETTER)).kind == "advance"


def test_a_step_counts_the_requests_since_it_began_and_keeps_the_evidence():
    first = after(PLAN, met(3, 2000, 0.05, **BETTER))
    assert (first.kind, first.share, first.step) == ("advance", 0.25, "25 %")
    assert first.state["requests"] == 0
    late = met(4, 500, 0.05, at=NOW - timedelta(hours=1), **BETTER)  # answered before the step began, read after it
    state = PLAN.update(first.state, late)
    assert state["requests"] == 0
    known = sum(row[1] + row[3] for row in state["guards"][1]["losses"])
    assert known == 2500


def test_the_last_step_promotes_with_the_numbers_in_the_verdict():
    facts = [met(5 + i, 2000, s, at=NOW + timedelta(hours=i), **BETTER) for i, s in enumerate((0.05, 0.25, 0.5))]
    action = after(PLAN, *facts)
    assert (action.kind, action.share, action.step) == ("promote", 1.0, "promoted")
    assert action.verdict.outcome is Outcome.PASS
    assert "no worse than ×1.25" in action.verdict.reason
    assert [part.by for part in action.verdict.parts] == ["Errors()", "NoWorse('accuracy')", "SampleRatio()"]


def test_a_guards_failure_rolls_back_at_once_from_any_step():
    begun = after(PLAN, met(8, 2000, 0.05, **BETTER))
    state = PLAN.update(begun.state, met(9, 1000, 0.25, **POISONED))
    action = PLAN.decide(state, NOW)
    assert (action.kind, action.share, action.step) == ("rollback", 0.0, "rolled back")
    assert action.verdict.outcome is Outcome.FAIL
    assert action.verdict.back_to == "data"
    assert "at 25 %: accuracy: losses are ×" in action.verdict.reason


def test_margins_narrow_as_the_share_grows():
    assert [PLAN.margin(s) for s in (0.01, 0.05, 0.25, 0.5, 0.9)] == [3.0, 3.0, 2.0, 1.25, 1.25]
    assert PLAN.margin(0.15) == pytest.approx(2.5)
    assert Gradual((0.1, 1.0), margins=(1.5,)).margin(0.1) == 1.5


def test_an_undecided_step_tells_how_many_more_outcomes_and_how_long():
    action = after(PLAN, met(10, 400, 0.05))
    assert action.kind == "stay"
    assert "1 error in 19 outcomes of the candidate, 20 in 381 of the live model" in action.verdict.reason
    assert "more outcomes, about" in action.verdict.reason


@pytest.mark.parametrize("choice", ["hold", "rollback", "promote"])
def test_after_max_duration_on_inconclusive_decides(choice):
    plan = replace(PLAN, max_duration="2d", on_inconclusive=choice)
    undecided = met(11, 400, 0.05)
    assert after(plan, undecided).kind == "stay"
    action = after(plan, undecided, now=NOW + timedelta(days=2))
    assert action.kind == choice
    assert action.verdict.outcome is Outcome.INCONCLUSIVE
    assert action.verdict.reason.startswith("at 5 %: inconclusive after 2d: ")
    assert action.share == {"hold": 0.05, "rollback": 0.0, "promote": 1.0}[choice]


def test_a_held_step_goes_on_when_the_evidence_comes():
    plan = replace(PLAN, max_duration="2d")
    held = after(plan, met(12, 400, 0.05), now=NOW + timedelta(days=3))
    state = plan.update(held.state, met(13, 3000, 0.05, at=NOW + timedelta(days=3), **BETTER))
    assert plan.decide(state, NOW + timedelta(days=4)).kind == "advance"


def mismatched(num: int = 20_000) -> RolloutFacts:
    facts = met(14, num, 0.05, **BETTER)
    wrong = replace(facts.requests, candidate=np.random.default_rng(0).random(num) < 0.02)
    return replace(facts, requests=wrong)


def test_a_sample_ratio_mismatch_holds_even_a_candidate_that_looks_better():
    action = after(PLAN, mismatched())
    assert (action.kind, action.share) == ("hold", 0.05)
    assert action.verdict.outcome is Outcome.INCONCLUSIVE
    assert "sample-ratio mismatch" in action.verdict.reason


@pytest.mark.parametrize(("choice", "kind"), [("hold", "hold"), ("rollback", "rollback"), ("promote", "hold")])
def test_a_mismatch_is_never_promoted(choice, kind):
    plan = replace(PLAN, on_inconclusive=choice)
    assert after(plan, mismatched(), now=NOW + timedelta(days=20)).kind == kind


def test_a_guards_failure_counts_more_than_a_mismatch():
    facts = mismatched()
    down = replace(facts.requests, failed=facts.requests.candidate.copy())
    assert after(PLAN, replace(facts, requests=down)).kind == "rollback"


def test_a_plan_of_one_share_promotes_at_once():
    assert after(Gradual((1.0,), guards=())).kind == "promote"


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Gradual((0.5, 0.25, 1.0)), "grow to 1.0"),
        (lambda: Gradual((0.05, 0.5)), "grow to 1.0"),
        (lambda: Gradual((0.05, 1.0), margins=(3.0, 2.0)), "margins"),
        (lambda: Gradual(guards=(Now(),)), "guards"),  # type: ignore[arg-type]
        (lambda: Gradual(on_inconclusive="wait"), "on_inconclusive"),  # type: ignore[arg-type]
        (lambda: Shadow(0), "requests"),
        (lambda: Shadow() >> "gradual", "parts"),  # type: ignore[operator]
    ],
)
def test_plans_that_make_no_sense_are_refused_with_what_to_write(make, match):
    with pytest.raises(ProjectError, match=match):
        make()


# --- Then -------------------------------------------------------------------------------------------------------------


def test_one_part_begins_where_the_one_before_would_promote():
    plan = Shadow(requests=100) >> PLAN
    shadowed = RolloutFacts(now=NOW, shadows=Shadows(num=100))
    action = after(plan, shadowed)
    assert (action.kind, action.share, action.shadow, action.step) == ("advance", 0.05, False, "5 %")
    assert "100 shadow predictions" in action.verdict.reason
    later = [met(15 + i, 2000, s, at=NOW + timedelta(hours=i), **BETTER) for i, s in enumerate((0.05, 0.25, 0.5))]
    assert after(plan, shadowed, later[0]).share == 0.25
    assert after(plan, shadowed, *later).kind == "promote"


def test_a_roll_back_in_any_part_ends_all():
    plan = Shadow(requests=100) >> PLAN
    assert after(plan, RolloutFacts(now=NOW, shadows=Shadows(num=60, num_failed=60))).kind == "rollback"


def test_parts_that_end_at_once_are_passed():
    assert after(Shadow(requests=10) >> Now(), RolloutFacts(now=NOW, shadows=Shadows(num=10))).kind == "promote"
    assert after(Now() >> Shadow()).kind == "advance"


def test_three_parts_are_one_chain_written_as_it_was_made():
    plan = Shadow(100) >> Now() >> Gradual(guards=(Errors(),))
    assert len(plan.parts) == 3
    assert str(plan) == "Shadow(100) >> Now() >> Gradual(guards=(Errors(),))"
    assert plan.digest() == (Shadow(100) >> Now() >> Gradual(guards=[Errors()])).digest()


def test_a_plan_reads_what_its_guards_read_and_refuses_guards_that_trust_differently():
    guards = (NoWorse("accuracy", trust="truth"), Latency(), NoWorse("appeal", trust="truth"))
    needs = (Shadow() >> Gradual(guards=guards)).needs()
    assert (needs.metrics, needs.trust) == (("accuracy", "appeal"), Trust.TRUTH)
    with pytest.raises(ProjectError, match="crowd and truth"):
        Gradual(guards=(NoWorse("accuracy", trust="crowd"), NoWorse("appeal", trust="truth"))).needs()
    default = Shadow() >> Gradual()
    assert default.resolved("accuracy").needs().metrics == ("accuracy",)


# --- rules over all facts ---------------------------------------------------------------------------------------------


@given(cuts=st.lists(st.integers(0, 900), max_size=4), seed=st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_facts_in_batches_of_any_size_give_the_same_action_through_json(cuts, seed):
    plan = Gradual(guards=(Errors(), Latency(), NoWorse("accuracy")))
    whole = met(seed, 900, 0.05, known=0.5, live=Arm(error=0.2, failed=0.02), candidate=Arm(error=0.2, failed=0.03))
    edges = [0, *sorted(cuts), 900]

    def fed(bounds):
        state = plan.start(NOW)
        for a, b in bounds:
            rows = whole.requests.take(np.arange(a, b))
            state = json.loads(json.dumps(plan.update(state, RolloutFacts(now=NOW, requests=rows, outcomes=rows))))
        return plan.decide(state, NOW + timedelta(seconds=9))

    one, many = fed([(0, 900)]), fed(itertools.pairwise(edges))
    assert (one.kind, one.share, one.step) == (many.kind, many.share, many.step)
    assert one.verdict.reason == many.verdict.reason


def test_asking_twice_gives_the_same_answer_and_changes_nothing():
    plan = Shadow(requests=1) >> PLAN
    begun = after(plan, RolloutFacts(now=NOW, shadows=Shadows(num=1)))
    facts = met(18, 500, 0.05)
    state = plan.update(begun.state, facts)
    kept = copy.deepcopy(state)
    assert plan.decide(state, NOW) == plan.decide(state, NOW)
    assert plan.update(state, facts) == plan.update(kept, facts)
    assert state == kept


def test_no_news_leaves_the_state_as_it_is():
    begun = PLAN.update(PLAN.start(NOW), met(19, 500, 0.05))
    assert PLAN.update(begun, RolloutFacts(now=NOW, requests=Outcomes.empty())) == begun


# --- what the plan does to candidates, simulated ----------------------------------------------------------------------


def ends(runs: int, plan: Online = PLAN, **changes) -> Counter[tuple[str, str]]:
    found = [simulate(plan, np.random.default_rng((51, i)), **changes) for i in range(runs)]
    return Counter((end.kind, end.step) for end in found)


def test_an_equal_candidate_is_rolled_back_at_most_alpha_of_the_time():
    """Errors and NoWorse at .05 each, 40 rollouts, looked at every 100 of 5,000 requests: no more than 4."""
    arms = {"live": Arm(error=0.1, failed=0.01), "candidate": Arm(error=0.1, failed=0.01)}
    found = ends(40, look_every=100, most=5000, **arms)
    assert sum(n for (kind, _), n in found.items() if kind == "rollback") <= 4


@pytest.mark.parametrize("error", [0.40, 0.61])
def test_a_poisoned_candidate_is_rolled_back_in_the_five_percent_step(error):
    """.95 falls to .60 everywhere; or .02 for the 60 % that have the new app."""
    found = ends(30, live=Arm(error=0.05), candidate=Arm(error=error), most=8000)
    assert found[("rollback", "5 %")] >= 29


def test_a_good_candidate_is_promoted_at_the_demos_scale():
    """About 1,000 requests at 30 % feedback that comes 300 requests late."""
    runs = [simulate(PLAN, np.random.default_rng((52, i)), most=6000, **BETTER) for i in range(30)]
    promoted = [run.requests for run in runs if run.kind == "promote"]
    assert len(promoted) >= 29
    assert np.median(promoted) <= 1600


def test_a_route_that_gives_the_candidate_too_little_is_held():
    found = ends(5, traffic=Traffic(routed=0.5), look_every=500, most=10_000, **EQUAL)
    assert found[("hold", "5 %")] == 5
