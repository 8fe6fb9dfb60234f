"""The ratio of two arms' event rates, looked at after every event."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.stats.event_ratio import ArmCounts, EventRatio

SHARES = (0.05, 0.25, 0.5)


def rows(rng: np.random.Generator, num: int, *, share: float, ratio: float, base: float = 0.1):
    candidate = rng.random(num) < share
    event = (rng.random(num) < base * np.where(candidate, ratio, 1.0)).astype(np.float64)
    return {"share": np.full(num, share), "candidate": candidate, "event": event}


def ever(rng: np.random.Generator, *, share: float, ratio: float, margin: float, alpha: float, worse: bool, num: int):
    """Whether the evidence reaches 1 / alpha at any of `num` events, looking after each of them."""
    mine = np.cumsum(rng.random(num) < share * ratio / (share * ratio + 1 - share))
    for n, k in enumerate(mine.tolist(), start=1):
        test = EventRatio((ArmCounts(share, 0, k, 0, n - k),))
        if (test.log_worse(margin) if worse else test.log_no_worse(margin)) >= -math.log(alpha):
            return True
    return False


@pytest.mark.parametrize("worse", [True, False])
@pytest.mark.parametrize(("share", "margin"), [(0.05, 3.0), (0.5, 1.25)])
def test_a_candidate_exactly_at_the_margin_is_misjudged_at_most_alpha_of_the_time(share, margin, worse):
    """Ville's inequality with a look after each event: 200 runs at alpha .1, within three standard errors of it."""
    rng, runs, alpha = np.random.default_rng(11), 200, 0.1
    wrong = sum(
        ever(rng, share=share, ratio=margin, margin=margin, alpha=alpha, worse=worse, num=120) for _ in range(runs)
    )
    assert wrong <= runs * alpha + 3 * math.sqrt(runs * alpha * (1 - alpha))


def test_an_equal_candidate_is_almost_never_called_worse_than_the_margin():
    rng = np.random.default_rng(12)
    wrong = sum(ever(rng, share=0.25, ratio=1, margin=1.25, alpha=0.05, worse=True, num=150) for _ in range(150))
    assert wrong / 150 <= 0.05


@pytest.mark.parametrize(("ratio", "worse"), [(4.0, True), (0.2, False)])
def test_a_clear_difference_is_found(ratio, worse):
    rng = np.random.default_rng(13)
    found = sum(ever(rng, share=0.25, ratio=ratio, margin=1.25, alpha=0.05, worse=worse, num=100) for _ in range(50))
    assert found >= 48


def test_a_base_rate_that_swings_does_not_pass_for_a_difference():
    """The candidate met mostly the bad hours: pooled rates say 2.4 times worse, the ratio says equal."""
    quiet, busy = ArmCounts(0.05, 500, 5, 9500, 95), ArmCounts(0.5, 5000, 500, 5000, 500)
    test = EventRatio((quiet, busy))
    assert test.sum_candidate / test.num_candidate > 2 * test.sum_stable / test.num_stable
    assert test.ratio == pytest.approx(1.0, abs=0.01)
    assert test.log_worse(1.25) < 0


@given(
    cuts=st.lists(st.integers(0, 120), max_size=6),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_batches_of_any_size_give_the_state_that_row_by_row_gives(cuts, seed):
    rng = np.random.default_rng(seed)
    share = rng.choice([0.0, 0.05, 0.25, 1.0], 120)
    candidate = rng.random(120) < share
    event = rng.choice([0.0, 1.0, math.nan], 120)
    edges = [0, *sorted(cuts), 120]

    def fed(bounds):
        test = EventRatio()
        for a, b in bounds:
            test = test.add(share=share[a:b], candidate=candidate[a:b], event=event[a:b])
        return test

    in_batches = fed(itertools.pairwise(edges))
    one_by_one = fed((i, i + 1) for i in range(120))
    assert in_batches == one_by_one == EventRatio.from_json(json.loads(json.dumps(in_batches.to_json())))


def test_rows_without_a_choice_of_arm_or_without_an_answer_tell_nothing():
    nothing = EventRatio().add(
        share=np.array([0.0, 1.0, 0.5]),
        candidate=np.array([False, True, True]),
        event=np.array([1.0, 1.0, math.nan]),
    )
    assert nothing.to_json() == []
    assert nothing.log_worse(1.25) == 0.0 == nothing.log_no_worse(1.25)


def test_evidence_is_finite_and_no_division_by_zero_when_no_event_was_ever_seen():
    test = EventRatio((ArmCounts(0.05, 50, 0, 950, 0),))
    assert test.ratio == 1.0
    assert test.log_no_worse(1.25) == 0.0
    more = test.more_outcomes(share=0.05, margin=3.0, alpha=0.05, worse=False)
    events = test.more_events(share=0.05, margin=3.0, alpha=0.05, worse=False)
    assert more is not None and events is not None and more > 100 * events


def test_the_number_of_events_told_to_be_missing_is_about_what_it_takes():
    rng = np.random.default_rng(14)
    test = EventRatio().add(**rows(rng, 600, share=0.25, ratio=1.0))
    told = test.more_events(share=0.25, margin=2.0, alpha=0.05, worse=False)
    assert told is not None and told > 0
    before = test.sum_candidate + test.sum_stable
    while test.log_no_worse(2.0) < math.log(20):
        test = test.add(**rows(rng, 100, share=0.25, ratio=1.0))
    taken = test.sum_candidate + test.sum_stable - before
    assert told / 3 <= taken <= told * 3
    assert test.more_events(share=0.25, margin=2.0, alpha=0.05, worse=False) == 0.0


def test_no_number_of_events_is_told_where_none_would_do():
    worse = EventRatio((ArmCounts(0.5, 100, 60, 100, 20),))
    assert worse.more_events(share=0.5, margin=1.25, alpha=1e-9, worse=False) is None
    assert worse.more_outcomes(share=0.5, margin=1.25, alpha=1e-9, worse=False) is None


def test_evidence_of_two_shares_adds_up():
    """Carried over steps, each event weighed with the share it came under."""
    small, large = ArmCounts(0.05, 0, 1, 0, 40), ArmCounts(0.5, 0, 5, 0, 40)
    both = EventRatio((small, large)).log_no_worse(2.0)
    assert both > max(EventRatio((one,)).log_no_worse(2.0) for one in (small, large))


def test_a_mismatch_of_the_arms_is_found_and_a_true_split_is_not():
    """Every row an event: 4 % of 60,000 where 5 % was asked for, against 20 true splits."""
    rng = np.random.default_rng(15)
    off = rng.binomial(60_000, 0.04)
    assert EventRatio((ArmCounts(0.05, 0, off, 0, 60_000 - off),)).log_apart() > math.log(1000)
    for _ in range(20):
        k = rng.binomial(60_000, 0.05)
        assert EventRatio((ArmCounts(0.05, 0, k, 0, 60_000 - k),)).log_apart() < math.log(1000)
