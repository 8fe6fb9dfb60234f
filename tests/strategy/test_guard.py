"""What watches a rollout."""

from __future__ import annotations

import copy
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.errors import ProjectError
from tidemill.records import Outcome, Trust, Verdict
from tidemill.strategy.guard import Errors, Guard, Latency, NoWorse, SampleRatio
from tidemill.strategy.outcomes import Outcomes
from tidemill.testing.rollouts import Arm, Traffic, draw

PASS, FAIL, OPEN = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE
GUARDS = [Errors(), Latency(), NoWorse("accuracy"), SampleRatio()]
KNOWN = Traffic(feedback=1.0)


def rows(seed: int, num: int, *, share: float = 0.05, live: Arm, candidate: Arm, **changes) -> Outcomes:
    rng = np.random.default_rng(seed)
    traffic = replace(KNOWN, **changes)
    return draw(rng, num, share=share, live=live, candidate=candidate, traffic=traffic)


def judged(guard: Guard, *batches: Outcomes, margin: float = 1.25) -> Verdict:
    """Feed the same rows as requests and as outcomes, through JSON each time, and decide."""
    state = guard.start((margin,))
    for batch in batches:
        state = json.loads(json.dumps(guard.update(state, batch, batch), allow_nan=False))
    return guard.decide(state, margin)


GOOD, FINE = Arm(error=0.05, failed=0.01), Arm(error=0.05)


# --- every guard ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guard", GUARDS, ids=str)
def test_a_guard_that_saw_nothing_neither_rolls_back_nor_divides_by_zero(guard):
    for verdict in (judged(guard), judged(guard, Outcomes.empty())):
        assert verdict.outcome is (OPEN if isinstance(guard, NoWorse) else PASS)
        json.dumps(verdict.to_json(), allow_nan=False)


@pytest.mark.parametrize("guard", GUARDS, ids=str)
def test_a_guard_leaves_out_rows_that_had_no_choice_of_arm(guard):
    before = rows(1, 2000, live=GOOD, candidate=GOOD)
    without = replace(before, share=np.zeros(2000), candidate=np.zeros(2000, dtype=bool))
    assert judged(guard, without) == judged(guard)


@pytest.mark.parametrize("guard", GUARDS, ids=str)
@given(cuts=st.lists(st.integers(0, 1500), max_size=4), seed=st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_facts_in_batches_of_any_size_give_the_same_verdict_through_json(guard, cuts, seed):
    arms = {"live": Arm(error=0.2, failed=0.05), "candidate": Arm(error=0.4, failed=0.1, latency_ms=7.0)}
    whole = rows(seed, 1500, share=0.25, **arms)
    people = np.array([f"u{i % 400}" for i in range(1500)], dtype=object)
    whole = replace(whole, unit=people, share=np.where(np.arange(1500) < 700, 0.05, 0.25))
    edges = [0, *sorted(cuts), 1500]
    parts = [whole.take(np.arange(a, b)) for a, b in itertools.pairwise(edges)]
    one, many = judged(guard, whole), judged(guard, *parts)
    assert (one.outcome, one.reason) == (many.outcome, many.reason)
    assert dict(one.numbers) == pytest.approx(dict(many.numbers))


@pytest.mark.parametrize("guard", GUARDS, ids=str)
def test_asking_twice_gives_the_same_answer_and_changes_nothing(guard):
    known = rows(2, 1200, share=0.25, live=GOOD, candidate=GOOD)
    state = guard.update(guard.start((3.0,)), known, known)
    kept = copy.deepcopy(state)
    assert guard.decide(state, 3.0) == guard.decide(state, 3.0)
    guard.update(state, known, known)
    assert state == kept


@pytest.mark.parametrize("make", [lambda: Errors(max_share=0), lambda: Errors(margin=0.5), lambda: Latency(alpha=0)])
def test_parameters_that_make_no_sense_are_refused(make):
    with pytest.raises(ProjectError, match=r"guard\."):
        make()


# --- NoWorse ----------------------------------------------------------------------------------------------------------


def test_a_poisoned_candidate_is_found_out():
    verdict = judged(NoWorse("accuracy"), rows(3, 1500, live=FINE, candidate=Arm(error=0.4)))
    assert verdict.outcome is FAIL
    assert verdict.back_to == "data"
    assert "losses are ×" in verdict.reason and "more than ×1.25" in verdict.reason


def test_a_better_candidate_may_go_on_at_the_margin_of_its_step_and_not_yet_at_a_narrower_one():
    seen = rows(4, 700, live=Arm(error=0.2), candidate=Arm(error=0.03))
    at_three, at_one = (judged(NoWorse("accuracy"), seen, margin=m) for m in (3.0, 1.0))
    assert (at_three.outcome, at_one.outcome) == (PASS, OPEN)
    assert at_three.reason.startswith("accuracy: no worse than ×3 (evidence ")


def test_two_arms_of_few_errors_are_inconclusive_and_say_how_many_more_are_needed():
    """20 outcomes of the candidate without an error, 380 of the live model with two: about how many, and how long."""
    seen = rows(5, 400, live=Arm(error=0.0), candidate=Arm(error=0.0))
    loss = np.zeros(400)
    loss[np.flatnonzero(~seen.candidate)[:2]] = 1.0
    verdict = judged(NoWorse("accuracy"), replace(seen, values={"accuracy": loss}), margin=3.0)
    assert verdict.outcome is OPEN
    assert "0 errors in" in verdict.reason and ", 2 in" in verdict.reason
    assert "more errors, about" in verdict.reason and "more outcomes, about" in verdict.reason
    assert verdict.numbers["more_outcomes"] > verdict.numbers["more_errors"] > 0
    # 200 outcomes a second, so the time told is the outcomes told over 200
    assert verdict.numbers["more_seconds"] == pytest.approx(verdict.numbers["more_outcomes"] / 200, rel=0.02, abs=1)


def test_no_error_at_all_is_inconclusive_too():
    verdict = judged(NoWorse("accuracy"), rows(6, 400, live=Arm(error=0.0), candidate=Arm(error=0.0)), margin=3.0)
    assert verdict.outcome is OPEN
    assert verdict.numbers["more_outcomes"] > 1000


def test_a_ratio_between_the_margins_tells_that_waiting_will_not_help():
    """×1.1 is never shown to be below 1, nor above 1.25."""
    seen = rows(7, 4000, share=0.5, live=Arm(error=0.3), candidate=Arm(error=0.335))
    verdict = judged(NoWorse("accuracy"), seen, margin=1.0)
    assert verdict.outcome is OPEN
    assert "no number of outcomes will tell" in verdict.reason


def test_a_worsening_candidate_is_told_to_be_near_roll_back():
    verdict = judged(NoWorse("accuracy", alpha=1e-6), rows(8, 400, share=0.5, live=FINE, candidate=Arm(error=0.15)))
    assert verdict.outcome is OPEN
    assert "to roll back at ×1.25 it takes about" in verdict.reason


def test_evidence_is_carried_over_steps_each_outcome_at_its_own_share():
    arms = {"live": Arm(error=0.2), "candidate": Arm(error=0.1)}
    first, second = rows(9, 500, share=0.05, **arms), rows(10, 100, share=0.25, **arms)
    both = judged(NoWorse("accuracy"), first, second, margin=2.0)
    for one in (first, second):
        assert (
            both.numbers["evidence_no_worse"]
            > judged(NoWorse("accuracy"), one, margin=2.0).numbers["evidence_no_worse"]
        )
    assert both.numbers["candidate_outcomes"] == first.candidate.sum() + second.candidate.sum()


def test_outcomes_without_a_label_do_not_count():
    seen = rows(11, 1000, live=FINE, candidate=FINE, feedback=0.3)
    verdict = judged(NoWorse("accuracy"), seen)
    known = ~np.isnan(seen.values["accuracy"])
    assert verdict.numbers["candidate_outcomes"] + verdict.numbers["live_outcomes"] == known.sum()


def test_a_loss_that_is_not_zero_or_one_is_refused_with_the_way_out():
    seen = rows(12, 10, share=0.5, live=FINE, candidate=FINE)
    seen = replace(seen, values={"accuracy": np.full(10, 0.3)})
    with pytest.raises(ProjectError, match=r"write guard.NoWorse\('accuracy', binary=False\)"):
        judged(NoWorse("accuracy"), seen)


@pytest.mark.parametrize(("ratio", "said"), [(0.6, PASS), (2.5, FAIL), (1.25, OPEN)])
def test_any_loss_is_tested_when_told_so_and_marked_as_not_exact(ratio, said):
    seen = rows(13, 4000, share=0.5, live=FINE, candidate=FINE)
    loss = np.random.default_rng(13).exponential(size=4000) * np.where(seen.candidate, ratio, 1.0)
    verdict = judged(NoWorse("log_loss", binary=False), replace(seen, values={"log_loss": loss}))
    assert verdict.outcome is said
    assert verdict.numbers["exact"] is False
    assert "mean loss" in verdict.reason


def test_no_worse_reads_its_metric_at_its_trust_and_takes_the_projects_first_by_default():
    assert NoWorse("accuracy").needs().metrics == ("accuracy",)
    assert NoWorse("accuracy", trust="truth").needs().trust is Trust.TRUTH
    assert NoWorse().resolved("log_loss", binary=False) == NoWorse("log_loss", binary=False)
    assert NoWorse("f1").resolved("accuracy") == NoWorse("f1")
    with pytest.raises(ProjectError, match="no metric"):
        NoWorse().needs()


# --- Errors -----------------------------------------------------------------------------------------------------------


def test_a_candidate_that_fails_more_often_is_rolled_back_and_an_equal_one_passes():
    live = Arm(error=0.0, failed=0.01)
    worse = judged(Errors(), rows(14, 3000, live=live, candidate=Arm(error=0.0, failed=0.1)))
    equal = judged(Errors(), rows(14, 3000, live=live, candidate=live))
    assert (worse.outcome, equal.outcome) == (FAIL, PASS)
    assert worse.back_to == "training"
    assert equal.reason.startswith("no evidence of more failures: ")


def test_above_the_floor_it_goes_back_even_if_the_live_model_fails_as_often():
    both = Arm(error=0.0, failed=0.5)
    verdict = judged(Errors(), rows(15, 1500, live=both, candidate=both))
    assert verdict.outcome is FAIL
    assert "latest answers fail than the 20 % allowed" in verdict.reason


def test_an_outage_after_ten_thousand_good_answers_is_seen_at_once():
    fine = rows(16, 10_000, share=0.5, live=FINE, candidate=FINE)
    down = rows(17, 80, share=0.5, live=Arm(error=0.0, failed=1.0), candidate=Arm(error=0.0, failed=1.0))
    assert judged(Errors(), fine, down).outcome is FAIL


def test_one_user_who_tries_again_and_again_is_one_failure():
    fine = rows(18, 400, share=0.25, live=FINE, candidate=FINE)
    retries = rows(19, 60, share=0.25, live=FINE, candidate=FINE)
    retries = replace(
        retries,
        unit=np.full(60, "ana", dtype=object),
        candidate=np.ones(60, dtype=bool),
        failed=np.ones(60, dtype=bool),
    )
    verdict = judged(Errors(), fine, retries)
    assert verdict.outcome is PASS
    assert verdict.numbers["candidate_failures"] == 1


# --- Latency ----------------------------------------------------------------------------------------------------------


def test_a_slower_candidate_is_rolled_back_and_an_equal_one_passes():
    live = Arm(error=0.0, latency_ms=5.0)
    slower = judged(Latency(), rows(20, 4000, share=0.25, live=live, candidate=Arm(error=0.0, latency_ms=9.0)))
    equal = judged(Latency(), rows(20, 4000, share=0.25, live=live, candidate=live))
    assert (slower.outcome, equal.outcome) == (FAIL, PASS)
    assert "slow answers are ×" in slower.reason


def test_answers_from_memory_are_no_evidence_of_a_slow_candidate():
    """The live model has seen nearly everything, a candidate nothing yet: what ran is compared with what ran."""
    ran = Arm(error=0.0, latency_ms=5.0)
    seen = rows(20, 4000, share=0.25, live=ran, candidate=ran)
    warm = ~seen.candidate & (np.random.default_rng(1).random(len(seen)) < 0.5)
    verdict = judged(Latency(), replace(seen, latency_ms=np.where(warm, np.nan, seen.latency_ms)))
    assert verdict.outcome is PASS


def test_load_that_slows_both_arms_is_no_fault_of_the_candidate():
    calm, busy = Arm(error=0.0, latency_ms=5.0), Arm(error=0.0, latency_ms=50.0)
    batches = [rows(21 + i, 1500, share=0.5, live=arm, candidate=arm) for i, arm in enumerate((calm, busy, busy))]
    assert judged(Latency(), *batches).outcome is PASS


def test_the_cut_moves_with_the_load_so_that_a_candidate_slow_under_load_is_found():
    calm, busy, slower = (Arm(error=0.0, latency_ms=ms) for ms in (5.0, 50.0, 90.0))
    batches = [
        rows(22, 1500, share=0.5, live=calm, candidate=calm),
        rows(23, 1500, share=0.5, live=busy, candidate=busy),
    ]
    verdict = judged(Latency(), *batches, rows(24, 1500, share=0.5, live=busy, candidate=slower))
    assert verdict.outcome is FAIL
    assert verdict.numbers["slow_above_ms"] > 60


def test_before_the_cut_is_set_it_says_what_is_missing():
    verdict = judged(Latency(), rows(24, 200, share=0.5, live=FINE, candidate=FINE))
    assert verdict.outcome is PASS
    assert "more answers of the live model set the cut" in verdict.reason


# --- SampleRatio ------------------------------------------------------------------------------------------------------


def test_a_mismatch_of_the_arms_is_inconclusive_with_the_counts():
    verdict = judged(SampleRatio(), rows(25, 20_000, share=0.05, live=FINE, candidate=FINE, routed=0.7))
    assert verdict.outcome is OPEN
    assert "sample-ratio mismatch: the candidate met" in verdict.reason
    units, met = verdict.numbers["units"], verdict.numbers["candidate_units"]
    assert f"met {met:,} of {units:,} units counted, {0.05 * units:,.0f} expected" in verdict.reason
    assert met < 0.04 * units and units > 18_000


def test_users_who_come_back_a_hundred_times_are_no_mismatch():
    """300 sticky users, 30,000 requests: counted by request 1 in 1,000 would not hold; counted by user it does."""
    for seed in range(10):
        rng = np.random.default_rng((26, seed))
        arm, who = rng.random(300) < 0.05, rng.zipf(1.6, 30_000) % 300
        seen = rows(seed, 30_000, live=FINE, candidate=FINE)
        seen = replace(seen, candidate=arm[who], unit=np.array([f"user-{i}" for i in who], dtype=object))
        verdict = judged(SampleRatio(), seen)
        assert verdict.outcome is PASS
        assert verdict.numbers["units"] == pytest.approx(len(np.unique(who)), abs=3)


def test_true_splits_hold_at_every_look_over_all_steps():
    guard = SampleRatio()
    for seed in range(15):
        state = guard.start((3.0,))
        for step, share in enumerate((0.05, 0.25, 0.5)):
            for look in range(4):
                batch = rows(1000 * seed + 10 * step + look, 500, share=share, live=FINE, candidate=FINE)
                state = guard.update(state, batch, batch)
                assert guard.decide(state, 3.0).outcome is PASS


def test_numbers_of_evidence_never_overflow():
    verdict = judged(SampleRatio(), replace(rows(27, 5000, live=FINE, candidate=FINE), candidate=np.ones(5000, bool)))
    assert math.isfinite(verdict.numbers["evidence_mismatch"])
