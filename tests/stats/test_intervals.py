"""Intervals hold the truth as often as they say: by simulation with fixed seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tidemill.stats.intervals import (
    clopper_pearson,
    effective_size,
    mean,
    paired_bootstrap,
    paired_mean,
    weighted_share,
    wilson,
)

RUNS = 1000
NOISE = 3 * math.sqrt(0.05 * 0.95 / RUNS)  # three standard errors of a miss rate of 5 %


def misses(intervals: list, truth: float) -> tuple[float, float]:
    """Return how often the truth lies below and above."""
    return np.mean([i.low > truth for i in intervals]), np.mean([i.high < truth for i in intervals])


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_is_scipys_and_stays_within_0_and_1(n: int, share: float):
    k = round(n * share)
    interval = wilson(k, n)
    theirs = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1


def test_wilson_of_nothing_is_everything():
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40))
def test_the_mean_interval_without_weights_is_students(values: list[float]):
    array = np.array(values)
    interval = mean(array)
    if array.std() > 1e-6:
        error = array.std(ddof=1) / math.sqrt(len(values))
        theirs = stats.t.interval(0.95, len(values) - 1, array.mean(), error)
        assert (interval.low, interval.high) == pytest.approx(theirs, rel=1e-6, abs=1e-9)
    assert interval.n == len(values)


def test_a_mean_of_fewer_than_two_rows_excludes_nothing():
    for values in ([], [1.0], [np.nan, 2.0]):
        interval = mean(np.array(values))
        assert (interval.low, interval.high) == (-math.inf, math.inf)
    alone = mean(np.array([1.0, 5.0]), np.array([1.0, 1e-12]))
    assert alone.high - alone.low > 100 or alone.high == math.inf


def test_a_weighted_mean_covers_the_traffic_that_the_sample_was_bent_away_from():
    """Hard cases are drawn ten times as often; 1 / probability undoes it, and the interval knows what that costs."""
    rng, drawn = np.random.default_rng(0), []
    for _ in range(RUNS):
        hard = rng.random(2000) < 0.2
        chance = np.where(hard, 0.5, 0.05)
        picked = rng.random(2000) < chance
        right = rng.random(2000) < np.where(hard, 0.5, 0.9)
        drawn.append(mean(right[picked].astype(float), 1 / chance[picked]))
    below, above = misses(drawn, 0.2 * 0.5 + 0.8 * 0.9)
    assert below + above < 0.05 + NOISE
    assert np.mean([i.estimate for i in drawn]) == pytest.approx(0.82, abs=0.005)


@pytest.mark.parametrize(
    ("n", "worse", "better"),
    [(30, 0.02, 0.02), (100, 0.02, 0.02), (100, 0.1, 0.1), (100, 0.1, 0.02), (300, 0.05, 0.05), (100, 0.2, 0.1)],
)
def test_paired_gains_are_within_the_interval_as_often_as_it_says(n: int, worse: float, better: float):
    rng = np.random.default_rng(1)
    gains = rng.choice([-1.0, 1.0, 0.0], p=[worse, better, 1 - worse - better], size=(RUNS, n))
    below, above = misses([paired_mean(row) for row in gains], better - worse)
    assert below < 0.025 + NOISE
    assert above < 0.025 + NOISE + 0.01  # half a row is added on this side: as good as mid-p, no better
    assert below + above < 0.05 + NOISE


def test_an_equal_candidate_is_rarely_seen_as_worse_however_strict_the_level():
    rng = np.random.default_rng(2)
    for tail in (0.025, 0.01, 0.0025):
        for discordant in (0.01, 0.05, 0.2):
            p = [discordant / 2, discordant / 2, 1 - discordant]
            gains = rng.choice([-1.0, 1.0, 0.0], p=p, size=(RUNS, 100))
            blocked = np.mean([paired_mean(row, tails=(0.025, tail)).high < 0 for row in gains])
            assert blocked <= tail + 3 * math.sqrt(tail / RUNS)


def test_rows_that_all_agree_do_not_make_an_interval_of_no_width():
    interval = paired_mean(np.zeros(50))
    assert interval.low < -0.02
    assert interval.high > 0.01


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=60), st.floats(0.1, 10))
def test_the_estimate_lies_within_and_the_scale_of_the_weights_does_not_matter(gains: list[float], scale: float):
    array = np.array(gains)
    weights = np.linspace(1, 3, len(gains))
    one, two = paired_mean(array, weights), paired_mean(array, scale * weights)
    assert -1 <= one.low <= one.estimate <= one.high <= 1
    assert (one.low, one.high) == pytest.approx((two.low, two.high))


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=2, max_size=60))
def test_equal_weights_are_no_weights(gains: list[float]):
    assert paired_mean(np.array(gains), np.full(len(gains), 7.0)).low == pytest.approx(paired_mean(np.array(gains)).low)


def test_weighted_paired_gains_hold_their_level_when_the_weights_go_with_the_gains():
    rng, drawn = np.random.default_rng(3), []
    for _ in range(RUNS):
        rare = rng.random(300) < 0.1
        p = np.where(rare, 0.3, 0.02)
        gains = np.where(rng.random(300) < p, rng.choice([-1.0, 1.0], size=300), 0.0)
        drawn.append(paired_mean(gains, np.where(rare, 8.0, 1.0)))
    below, above = misses(drawn, 0.0)
    assert below < 0.025 + NOISE
    assert above < 0.025 + NOISE


def test_paired_differences_of_a_loss_get_students_interval():
    rng = np.random.default_rng(4)
    differences = rng.normal(0.1, 1.0, size=50)
    assert paired_mean(differences) == mean(differences)


def f1(hits: np.ndarray, misses_: np.ndarray, weights: np.ndarray) -> float:
    tp, wrong = (weights * hits).sum(), (weights * misses_).sum()
    return 2 * tp / (2 * tp + wrong) if 2 * tp + wrong else math.nan


def test_the_bootstrap_covers_a_gain_of_f1():
    """Two models of equal F1, which disagree on some rows: 0 lies within as often as the interval says."""
    rng, drawn = np.random.default_rng(5), []
    for _ in range(300):
        true = rng.random(200) < 0.4
        said = [np.where(rng.random(200) < 0.15, ~true, true) for _ in range(2)]
        hits, wrong = [s & true for s in said], [s ^ true for s in said]

        def gain(w: np.ndarray, hits: list = hits, wrong: list = wrong) -> float:
            return f1(hits[0], wrong[0], w) - f1(hits[1], wrong[1], w)

        drawn.append(paired_bootstrap(gain, np.ones(200), rng, num_resamples=100, span=1.0))
    below, above = misses(drawn, 0.0)
    assert below + above < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_the_bootstrap_draws_from_the_generator_it_is_given_and_from_nothing_else():
    def gain(w: np.ndarray) -> float:
        return float(w @ np.arange(30.0) / w.sum())

    one, two, other = (paired_bootstrap(gain, np.ones(30), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == two
    assert one.low != other.low


def test_the_bootstrap_of_rows_that_all_agree_still_has_a_width():
    interval = paired_bootstrap(lambda w: 0.0, np.ones(48), np.random.default_rng(0), span=1.0)
    assert interval.low == pytest.approx(-1.96 * math.sqrt(2) / 50, rel=1e-3)


def test_the_bootstrap_of_no_rows_excludes_nothing():
    interval = paired_bootstrap(lambda w: math.nan, np.ones(0), np.random.default_rng(0))
    assert (interval.low, interval.high, interval.n) == (-math.inf, math.inf, 0)


def test_weights_cost_rows():
    assert effective_size(np.ones(10)) == pytest.approx(10)
    assert effective_size(np.array([1.0, 0.0])) == pytest.approx(1)
    assert effective_size(np.zeros(3)) == 0


# ---------------------------------------------------------------- weighted shares


@given(st.integers(0, 60), st.integers(1, 60))
def test_a_share_of_rows_that_weigh_alike_has_wilsons_interval(right: int, wrong: int):
    values = np.array([1.0] * right + [0.0] * wrong)
    found, known = weighted_share(values, np.full(len(values), 7.0)), wilson(right, right + wrong)
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=1e-9)


def test_few_heavy_rows_that_are_all_right_do_not_hide_that_others_like_them_may_be_wrong():
    """200 certain rows and 20 that stand for 100 each: no spread is seen in these, and they decide the estimate."""
    values = np.array([1.0, 0.0] * 100 + [1.0] * 20)
    weights = np.array([1.0] * 200 + [100.0] * 20)
    assert weighted_share(values, weights).low < 0.9 < mean(values, weights).low


def test_the_interval_of_a_curated_sample_holds_the_share_of_the_population():
    """Hard cases are all taken, of the rest one in 30: what the estimate of all is asked for."""
    rng, runs, held = np.random.default_rng(20), 400, 0
    for _ in range(runs):
        hard = rng.random(3000) < 0.05
        right = rng.random(3000) < np.where(hard, 0.55, 0.97)
        chance = np.where(hard, 1.0, 1 / 30)
        taken = rng.random(3000) < chance
        found = weighted_share(right[taken].astype(float), 1 / chance[taken])
        held += found.low <= 0.05 * 0.55 + 0.95 * 0.97 <= found.high
    assert held / runs >= 0.93


@given(st.integers(0, 40), st.integers(0, 40))
def test_exact_bounds_hold_the_share_and_meet_the_tail(right: int, wrong: int):
    if right + wrong:
        low, high = clopper_pearson(right, right + wrong, tails=(0.01, 0.025))
        assert 0.0 <= low <= right / (right + wrong) <= high <= 1.0
        if right:
            assert stats.binom.sf(right - 1, right + wrong, low) == pytest.approx(0.01)
        if wrong:
            assert stats.binom.cdf(right, right + wrong, high) == pytest.approx(0.025)
