"""The quotient of two metrics on the same rows lies within its interval as often as it says: simulated, fixed seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.stats.intervals import Interval, paired_mean
from tidemill.stats.quotient import quotient_of_means, quotient_of_ratios, resampled_quotient

RUNS = 1000
NOISE = 3 * math.sqrt(0.025 * 0.975 / RUNS)  # three standard errors of a miss rate of 2.5 %
losses = st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.1, 100)), min_size=2, max_size=40)


def misses(intervals: list[Interval], truth: float) -> tuple[float, float]:
    """Return how often the truth lies below and above."""
    return np.mean([i.low > truth for i in intervals]), np.mean([i.high < truth for i in intervals])


def errors(rng: np.random.Generator, num: int, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the absolute errors of a candidate and a live version, which err on the same rows."""
    own = rng.normal(size=(3, num))
    scale = rng.lognormal(0, 0.5, num)
    return ratio * scale * np.abs(0.8 * own[0] + 0.6 * own[1]), scale * np.abs(0.8 * own[0] + 0.6 * own[2])


@pytest.mark.parametrize("num", [30, 100, 1000])
@pytest.mark.parametrize("ratio", [0.9, 1.05, 1.5])
def test_the_ratio_of_mean_errors_is_missed_no_more_often_than_said_on_either_side(num: int, ratio: float):
    rng = np.random.default_rng(1)
    below, above = misses([quotient_of_means(*errors(rng, num, ratio), np.ones(num)) for _ in range(RUNS)], ratio)
    assert max(below, above) < 0.025 + NOISE


def test_a_stricter_tail_holds_on_its_own_side():
    rng = np.random.default_rng(2)
    drawn = [quotient_of_means(*errors(rng, 100, 1.05), np.ones(100), tails=(0.2, 0.005)) for _ in range(RUNS)]
    below, above = misses(drawn, 1.05)
    assert below == pytest.approx(0.2, abs=3 * math.sqrt(0.16 / RUNS))
    assert above < 0.005 + 3 * math.sqrt(0.005 / RUNS)


def test_rows_that_count_by_their_probability_speak_of_the_traffic():
    """Rows on which the candidate is twice as bad are picked nine times as often."""
    rng, drawn = np.random.default_rng(3), []
    for _ in range(RUNS):
        hard = rng.random(2000) < 0.1
        picked = rng.random(2000) < np.where(hard, 0.45, 0.05)
        mine, live = errors(rng, 2000, 1.0)
        mine = np.where(hard, 2.0, 1.0) * mine
        drawn.append(quotient_of_means(mine[picked], live[picked], np.where(hard, 1.0, 9.0)[picked]))
    assert max(misses(drawn, 1.1)) < 0.025 + NOISE


@pytest.mark.parametrize(("num", "right", "ratio"), [(100, 0.9, 0.95), (1000, 0.9, 0.95), (300, 0.1, 1.05)])
def test_shares_that_go_together_hold_the_level(num: int, right: float, ratio: float):
    rng, drawn = np.random.default_rng(4), []
    for _ in range(RUNS):
        one, two = rng.random((2, num))
        same = rng.random(num) < 0.8
        mine, live = np.where(same, one, two) < ratio * right, one < right
        drawn.append(quotient_of_means(mine.astype(float), live.astype(float), np.ones(num)))
    assert max(misses(drawn, ratio)) < 0.025 + NOISE


def root(weights: np.ndarray, errors_: np.ndarray) -> float:
    return math.sqrt(weights @ errors_**2 / weights.sum())


def test_the_ratio_of_roots_of_mean_squares_is_held_by_resampling():
    rng, runs, drawn = np.random.default_rng(5), 300, []
    for _ in range(runs):
        mine, live = errors(rng, 400, 1.05)

        def both(w: np.ndarray, mine: np.ndarray = mine, live: np.ndarray = live) -> tuple[float, float]:
            return root(w, mine), root(w, live)

        drawn.append(resampled_quotient(both, np.ones(400), rng, num_resamples=100))
    assert sum(misses(drawn, 1.05)) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize("num", [60, 300])
def test_the_ratio_of_two_f1_is_held(num: int):
    rng, drawn = np.random.default_rng(6), []
    for _ in range(RUNS):
        true = rng.random(num) < 0.4
        parts = []
        for wrong in (0.15, 0.1):
            said = np.where(rng.random(num) < wrong, ~true, true)
            parts.append((2.0 * (said & true), 2.0 * (said & true) + (said ^ true)))
        drawn.append(quotient_of_ratios(parts[0], parts[1], np.ones(num), span=1.0))
    f1 = [2 * 0.4 * (1 - wrong) / (2 * 0.4 * (1 - wrong) + wrong) for wrong in (0.15, 0.1)]
    below, above = misses(drawn, f1[0] / f1[1])
    assert below + above < 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)


@given(losses, st.floats(0.05, 20))
def test_the_scale_of_metric_and_of_weights_does_not_matter(rows: list[tuple[float, float]], scale: float):
    mine, live = np.array(rows).T
    weights = np.linspace(1, 3, len(rows))
    one, two = (quotient_of_means(mine * s, live * s, weights * s) for s in (1.0, scale))
    assert one.low <= one.estimate <= one.high
    assert one.estimate == pytest.approx(two.estimate)
    if math.isfinite(one.high) and math.isfinite(two.high):
        assert (one.low, one.high) == pytest.approx((two.low, two.high), rel=1e-3)


@given(losses)
def test_the_quotient_leaves_1_out_just_when_the_difference_leaves_0_out(rows: list[tuple[float, float]]):
    mine, live = np.array(rows).T
    of_both, apart = quotient_of_means(mine, live, np.ones(len(rows))), paired_mean(mine - live)
    clear = np.isfinite([of_both.low, of_both.high]).all() and not np.isin(mine - live, (-1.0, 0.0, 1.0)).all()
    if clear and min(abs(apart.low), abs(apart.high), abs(of_both.low - 1), abs(of_both.high - 1)) > 1e-6:
        assert (of_both.low > 1) == (apart.low > 0)
        assert (of_both.high < 1) == (apart.high < 0)


def test_where_the_live_value_is_not_told_from_0_the_ratio_has_no_bound():
    rare = np.zeros(100)
    rare[0] = 50.0
    found = quotient_of_means(np.full(100, 0.5), rare, np.ones(100))
    assert (found.estimate, found.high) == (1.0, math.inf)


@pytest.mark.parametrize("live", [np.zeros(50), np.full(50, -1.0), np.ones(50)[:0]])
def test_of_a_live_value_of_0_or_less_there_is_no_ratio(live: np.ndarray):
    found = quotient_of_means(np.full(len(live), 0.25), live, np.ones(len(live)))
    assert math.isnan(found.estimate)
    assert (found.low, found.high, found.n) == (-math.inf, math.inf, len(live))
    none = resampled_quotient(lambda w: (1.0, 0.0), np.ones(50), np.random.default_rng(0))
    assert math.isnan(none.estimate)


def test_two_models_that_are_right_everywhere_are_not_equal_for_sure():
    found = quotient_of_means(np.ones(60), np.ones(60), np.ones(60))
    assert found.low < 0.96 < found.estimate == 1.0
    one_row = quotient_of_means(np.array([2.0]), np.array([1.0]), np.ones(1))
    assert (one_row.low, one_row.high) == (-math.inf, math.inf)
