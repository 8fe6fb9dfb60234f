"""The difference of two arms' means, with and without what was known of each unit beforehand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.stats.mean_difference import FEWEST, MeanDifference


def rows(rng: np.random.Generator, num: int, *, share: float, lift: float, correlation: float = 0.7):
    """Values with a standard deviation of 1, and a covariate that is unknown for a fifth of them."""
    candidate = rng.random(num) < share
    x = rng.standard_normal(num)
    y = correlation * x + math.sqrt(1 - correlation**2) * rng.standard_normal(num) + 5 + lift * candidate
    before = np.where(rng.random(num) < 0.2, np.nan, x)
    return {"share": np.full(num, share), "candidate": candidate, "value": y, "before": before}


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_interval_misses_the_truth_at_some_look_alpha_of_the_time_at_most(share):
    """Asymptotic, so measured: 120 runs of 6,000 rows at alpha .1, looked at every 100."""
    rng, runs, alpha, lift = np.random.default_rng(41), 120, 0.1, 0.3
    missed = 0
    for _ in range(runs):
        test = MeanDifference()
        for _ in range(60):
            test = test.add(**rows(rng, 100, share=share, lift=lift))
            low, high = test.interval(alpha)
            if not low <= lift <= high:
                missed += 1
                break
    assert missed <= runs * alpha + 3 * math.sqrt(runs * alpha * (1 - alpha))


def looks_until_found(seed: int, *, cuped: bool) -> int:
    rng, test = np.random.default_rng(seed), MeanDifference()
    for look in range(1, 400):
        more = rows(rng, 200, share=0.5, lift=0.1, correlation=0.8)
        test = test.add(**{**more, "before": more["before"] if cuped else None})
        if test.interval(0.05)[0] > 0:
            return look
    raise AssertionError("never found")


def test_what_was_known_beforehand_makes_a_difference_show_sooner():
    ratios = [looks_until_found(seed, cuped=False) / looks_until_found(seed, cuped=True) for seed in range(15)]
    assert np.median(ratios) > 1.4


def test_the_estimate_is_the_difference_and_the_covariate_takes_its_part_of_the_variance():
    test = MeanDifference().add(**rows(np.random.default_rng(42), 40_000, share=0.5, lift=0.2))
    assert test.estimate == pytest.approx(0.2, abs=0.03)
    assert test.variance_left == pytest.approx(1 - 0.8 * 0.7**2, abs=0.03)  # known for 4 of 5
    assert test.log_above(0.1) > math.log(20)
    assert test.log_below(0.3) > math.log(20)
    assert test.log_above(0.3) < math.log(20)


def test_nothing_is_said_before_each_arm_has_enough_rows():
    few = rows(np.random.default_rng(43), 2000, share=0.5, lift=1.0)
    few["candidate"] = np.arange(2000) < FEWEST - 1
    test = MeanDifference().add(**few)
    assert test.interval(0.05) == (-math.inf, math.inf)
    assert math.isnan(test.estimate)
    assert test.log_above(0.0) == 0.0
    assert test.more_outcomes(share=0.5, margin=0.0, alpha=0.05, above=True) is None


def test_a_level_that_moved_between_shares_is_no_difference():
    rng = np.random.default_rng(44)
    quiet, busy = rows(rng, 4000, share=0.05, lift=0.0), rows(rng, 4000, share=0.5, lift=0.0)
    busy["value"] = busy["value"] + 3
    test = MeanDifference().add(**quiet).add(**busy)
    assert abs(test.estimate) < 0.1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 399))
def test_batches_of_any_size_give_the_same(seed: int, cut: int):
    whole = rows(np.random.default_rng(seed), 400, share=0.5, lift=0.1)
    parts = [{k: v[:cut] for k, v in whole.items()}, {k: v[cut:] for k, v in whole.items()}]
    at_once, in_parts = MeanDifference().add(**whole), MeanDifference().add(**parts[0]).add(**parts[1])
    np.testing.assert_allclose(at_once.to_json(), in_parts.to_json(), rtol=1e-9)
    assert MeanDifference.from_json(json.loads(json.dumps(at_once.to_json()))) == at_once


def test_how_many_more_rows_it_takes_is_about_right():
    rng = np.random.default_rng(45)
    test = MeanDifference().add(**rows(rng, 1000, share=0.5, lift=0.15))
    ahead = test.more_outcomes(share=0.5, margin=0.0, alpha=0.05, above=True)
    assert ahead is not None
    for _ in range(40):
        if test.log_above(0.0) >= math.log(20):
            break
        test = test.add(**rows(rng, 250, share=0.5, lift=0.15))
    assert (test.num_candidate + test.num_stable - 1000) == pytest.approx(ahead, abs=max(3 * ahead, 1500))
