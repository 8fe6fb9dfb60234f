"""The ratio of two arms' mean losses, for losses that are not just 0 and 1."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.stats.loss_ratio import FEWEST, LossRatio


def rows(rng: np.random.Generator, num: int, *, share: float, ratio: float):
    candidate = rng.random(num) < share
    loss = rng.exponential(size=num) * np.where(candidate, ratio, 1.0)
    return {"share": np.full(num, share), "candidate": candidate, "event": loss}


def ever(rng: np.random.Generator, *, share: float, ratio: float, alpha: float, worse: bool, looks: int) -> bool:
    test = LossRatio()
    for _ in range(looks):
        test = test.add(**rows(rng, 50, share=share, ratio=ratio))
        if (test.log_worse(1.25) if worse else test.log_no_worse(1.25)) >= -math.log(alpha):
            return True
    return False


@pytest.mark.parametrize("worse", [True, False])
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_candidate_exactly_at_the_margin_is_misjudged_about_alpha_of_the_time_at_most(share, worse):
    """Asymptotic, so measured: 120 runs of 3,000 rows at alpha .1, looked at every 50."""
    rng, runs, alpha = np.random.default_rng(31), 120, 0.1
    wrong = sum(ever(rng, share=share, ratio=1.25, alpha=alpha, worse=worse, looks=60) for _ in range(runs))
    assert wrong <= runs * alpha + 3 * math.sqrt(runs * alpha * (1 - alpha))


@pytest.mark.parametrize(("ratio", "worse"), [(2.0, True), (0.8, False)])
def test_a_clear_difference_is_found(ratio, worse):
    rng = np.random.default_rng(32)
    assert all(ever(rng, share=0.5, ratio=ratio, alpha=0.05, worse=worse, looks=60) for _ in range(20))


def test_nothing_counts_before_there_are_enough_losses_in_each_arm():
    few = {"share": np.full(500, 0.5), "candidate": np.arange(500) < FEWEST - 1, "event": np.linspace(0, 9, 500)}
    assert LossRatio().add(**few).log_no_worse(1.25) == 0.0
    assert LossRatio().log_worse(1.25) == 0.0
    assert LossRatio().ratio == 1.0
    assert LossRatio().more_outcomes(share=0.5, margin=2.0, alpha=0.05, worse=False) is None


def test_losses_that_never_vary_are_no_evidence_and_no_division_by_zero():
    test = LossRatio().add(share=np.full(200, 0.5), candidate=np.arange(200) < 100, event=np.zeros(200))
    assert test.log_worse(1.25) == 0.0
    assert test.ratio == 1.0


@given(cuts=st.lists(st.integers(0, 300), max_size=5), seed=st.integers(0, 300))
@settings(max_examples=30, deadline=None)
def test_batches_of_any_size_give_the_evidence_of_one(cuts, seed):
    rng = np.random.default_rng(seed)
    new = rows(rng, 300, share=0.5, ratio=1.3)
    new["event"][rng.random(300) < 0.1] = math.nan
    new["share"] = np.where(np.arange(300) < 150, 0.25, 0.5)
    whole = LossRatio().add(**new)
    parts = LossRatio()
    edges = [0, *sorted(cuts), 300]
    for a, b in itertools.pairwise(edges):
        parts = parts.add(**{name: column[a:b] for name, column in new.items()})
        parts = LossRatio.from_json(json.loads(json.dumps(parts.to_json(), allow_nan=False)))
    assert parts.num_candidate == whole.num_candidate
    assert parts.log_worse(1.25) == pytest.approx(whole.log_worse(1.25), abs=1e-7)
    assert parts.log_no_worse(1.25) == pytest.approx(whole.log_no_worse(1.25), abs=1e-7)
    assert parts.ratio == pytest.approx(whole.ratio)


def test_the_number_of_rows_told_to_be_missing_is_about_what_it_takes():
    rng = np.random.default_rng(33)
    test = LossRatio().add(**rows(rng, 400, share=0.5, ratio=1.0))
    told = test.more_outcomes(share=0.5, margin=1.25, alpha=1e-4, worse=False)
    assert told is not None and told > 0
    start = test.num_candidate + test.num_stable
    while test.log_no_worse(1.25) < -math.log(1e-4):
        test = test.add(**rows(rng, 50, share=0.5, ratio=1.0))
    assert told / 4 <= test.num_candidate + test.num_stable - start <= told * 4
    assert test.more_outcomes(share=0.5, margin=1.25, alpha=1e-4, worse=False) == 0.0
