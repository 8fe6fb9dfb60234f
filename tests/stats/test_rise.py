"""Has a mean risen above a bar, at a time not known beforehand?"""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.stats.rise import Reference, Rise, log_rate_above


def errors(rng: np.random.Generator, num: int, rate: float):
    return (rng.random(num) < rate).astype(np.float64)


def alarm(test: Rise, losses, alpha: float, look: int = 10) -> int | None:
    """The row at which the evidence reaches 1 / alpha, looking every few rows; None if it never does."""
    for i in range(0, len(losses), look):
        test = test.add(losses[i : i + look])
        if test.log_evidence() >= -math.log(alpha):
            return i + look
    return None


def test_a_rate_at_the_bar_raises_a_false_alarm_at_most_alpha_of_the_time():
    rng, runs, alpha = np.random.default_rng(21), 200, 0.1
    false = sum(alarm(Rise(bar=0.1), errors(rng, 1500, 0.1), alpha) is not None for _ in range(runs))
    assert false <= runs * alpha + 3 * math.sqrt(runs * alpha * (1 - alpha))


def test_a_loss_without_upper_bound_at_the_bar_keeps_the_same_promise():
    """Exact for any loss above the floor, heavy tails or not."""
    rng, runs, alpha = np.random.default_rng(22), 150, 0.1
    false = sum(
        alarm(Rise(bar=1.0), np.exp(rng.standard_normal(800) - 0.5), alpha, look=20) is not None for _ in range(runs)
    )
    assert false <= runs * alpha + 3 * math.sqrt(runs * alpha * (1 - alpha))


def test_a_change_after_three_thousand_good_rows_is_found_nearly_as_fast_as_one_at_once():
    rng = np.random.default_rng(23)

    def delay(good: int) -> float:
        found = []
        for _ in range(20):
            at = alarm(Rise(bar=0.08), np.concatenate([errors(rng, good, 0.04), errors(rng, 400, 0.36)]), 0.005)
            assert at is not None and at > good
            found.append(at - good)
        return float(np.median(found))

    at_once, late = delay(0), delay(3000)
    assert at_once <= 60
    assert late <= 2 * at_once + 30


@pytest.mark.parametrize("rate", [0.04, 0.2])
def test_a_reference_that_was_lucky_does_not_make_a_false_alarm(rate):
    """The noise of 100 reference rows is inside alpha, even for a drop of next to nothing."""
    rng, runs, alpha = np.random.default_rng(24), 120, 0.1
    false = 0
    for _ in range(runs):
        test = Reference().add(errors(rng, 100, rate)).rise(drop=1e-4, alpha=alpha / 2, binary=True)
        false += alarm(test, errors(rng, 1500, rate), alpha / 2, look=25) is not None
    assert false <= runs * alpha + 3 * math.sqrt(runs * alpha * (1 - alpha))


def test_the_bar_is_the_reference_and_the_drop_when_the_reference_is_large():
    reference = Reference().add(np.repeat([1.0, 0.0], [4000, 96_000]))
    assert reference.rise(drop=0.03, alpha=0.005, binary=True).bar == pytest.approx(0.07)


def test_a_reference_of_errors_only_can_never_be_exceeded():
    test = Reference().add(np.ones(50)).rise(drop=0.03, alpha=0.005, binary=True)
    assert test.add(np.ones(500)).log_evidence() <= 0.0
    assert test.more_outcomes(0.01) is None


@given(cuts=st.lists(st.integers(0, 150), max_size=5), seed=st.integers(0, 500), floor=st.sampled_from([0.0, -1.0]))
@settings(max_examples=40, deadline=None)
def test_batches_of_any_size_give_the_evidence_that_row_by_row_gives(cuts, seed, floor):
    losses = np.random.default_rng(seed).exponential(size=150)
    edges = [0, *sorted(cuts), 150]
    whole, parts, rows = (Rise(bar=0.7, floor=floor) for _ in range(3))
    whole = whole.add(losses)
    for a, b in itertools.pairwise(edges):
        parts = parts.add(losses[a:b])
        parts = Rise.from_json(json.loads(json.dumps(parts.to_json(), allow_nan=False)))
    for loss in losses:
        rows = rows.add(np.array([loss]))
    assert parts.num == rows.num == whole.num == 150
    for other in (parts, rows):
        assert other.log_evidence() == pytest.approx(whole.log_evidence(), abs=1e-9)
        assert other.recent == pytest.approx(whole.recent, abs=1e-9)
        assert other.logs == pytest.approx(whole.logs, abs=1e-9)


def test_blocks_do_not_show_in_a_long_batch():
    losses = errors(np.random.default_rng(25), 10_000, 0.1)
    whole = Rise(bar=0.1).add(losses)
    halves = Rise(bar=0.1).add(losses[:5001]).add(losses[5001:])
    assert halves.log_evidence() == pytest.approx(whole.log_evidence(), abs=1e-9)


def test_the_number_of_rows_told_to_be_missing_is_about_what_it_takes():
    rng = np.random.default_rng(26)
    test = Rise(bar=0.08).add(errors(rng, 1000, 0.04)).add(errors(rng, 150, 0.25))
    told = test.more_outcomes(1e-12)
    assert told is not None
    taken = alarm(test, errors(rng, 2000, 0.25), 1e-12, look=5)
    assert taken is not None and told / 3 <= taken <= told * 3


def test_begun_again_it_remembers_the_bar_and_no_evidence():
    test = Rise(bar=0.1).add(np.ones(50))
    assert test.log_evidence() > 10
    assert test.again().log_evidence() == 0.0
    assert test.again().bar == test.bar


def test_counts_without_an_order_are_evidence_too():
    assert log_rate_above(0.01, num=100, events=20) > math.log(20)
    assert log_rate_above(0.01, num=1000, events=10) < math.log(20)
    assert log_rate_above(0.01, num=0, events=0) == pytest.approx(0.0)
