"""What is picked for labelling, and with what probability."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.errors import ProjectError
from tidemill.strategy.curate import (
    Candidates,
    Curate,
    CurateContext,
    FeedbackDriven,
    Mix,
    Picks,
    Random,
    Stratified,
    Uncertain,
)
from tidemill.testing import facts

CONTEXT = CurateContext(now=datetime(2026, 1, 1, tzinfo=UTC))
MIXED = Uncertain(0.4) + FeedbackDriven(0.2) + Stratified(0.2, by="country")


def pick(stage: Curate, num: int, budget: int, seed: int) -> tuple[Candidates, Picks]:
    there = facts.candidates(np.random.default_rng(seed), num, ["country"])
    return there, stage.pick(there, CONTEXT, budget, np.random.default_rng(seed + 1))


stages = st.sampled_from(
    [Random(), Uncertain(), FeedbackDriven(), Stratified(by="country"), MIXED, Random(0.5) + Uncertain(0.5),
     FeedbackDriven(0.8) + Stratified(by="country")]
)  # fmt: skip


@given(stages, st.integers(0, 80), st.integers(0, 100), st.integers(0, 10_000))
@settings(deadline=None)
def test_no_request_is_picked_twice_and_the_budget_is_never_exceeded(stage: Curate, num: int, budget: int, seed: int):
    there, picks = pick(stage, num, budget, seed)
    assert len(set(picks.ids)) == len(picks.ids) <= budget
    assert set(picks.ids) <= set(there.ids)
    assert picks.places is not None
    assert tuple(there.ids[place] for place in picks.places) == picks.ids
    assert replace(picks, ids=picks.ids[::-1]).places is None, "whoever reorders them does not know of it"
    assert all(p is None or 0 < p <= 1 for p in picks.probabilities)


@given(st.integers(1, 60), st.integers(1, 100), st.integers(0, 10_000))
@settings(deadline=None)
def test_random_spends_the_whole_budget_at_probability_n_over_N(num: int, budget: int, seed: int):
    _, picks = pick(Random(), num, budget, seed)
    assert len(picks) == min(num, budget)
    assert set(picks.probabilities) == {min(num, budget) / num}
    assert set(picks.reasons) == {"random"}


@given(st.integers(1, 80), st.integers(0, 100), st.integers(0, 10_000))
@settings(deadline=None)
def test_a_mix_leaves_no_budget_unused_while_requests_are_left(num: int, budget: int, seed: int):
    _, picks = pick(Uncertain(0.5) + Uncertain(0.2, by="entropy"), num, budget, seed)
    assert len(picks) == min(num, budget)


@given(st.integers(0, 10_000))
@settings(deadline=None)
def test_only_what_is_found_twice_saves_budget(seed: int):
    _, picks = pick(Stratified(0.5, by="country") + Random(0.5), 60, 20, seed)
    assert len(picks) <= 20
    drawn_twice = 20 - len(picks)
    assert drawn_twice <= 10
    assert len(set(picks.probabilities)) <= 3  # one for each country, whoever drew the request


def test_what_one_member_leaves_goes_to_the_next():
    there = facts.candidates(np.random.default_rng(0), 50, ["country"])
    num_negative = int(there.negative.sum())
    picks = (FeedbackDriven(0.8) + Uncertain(0.1) + Random(0.1)).pick(there, CONTEXT, 40, np.random.default_rng(0))
    by = Counter(picks.reasons)
    assert by["uncertain: margin"] >= 40 * 0.8 - num_negative  # its own tenth, and what feedback left
    assert by["feedback"] <= num_negative


@pytest.mark.parametrize(
    ("members", "shares"),
    [
        ((Uncertain(0.6), Random(0.4)), (0.6, 0.4)),
        ((Uncertain(0.6), FeedbackDriven(0.2)), (0.6, 0.2, 0.2)),
        ((Uncertain(), FeedbackDriven()), (0.45, 0.45, 0.1)),
        ((Uncertain(1.0),), (0.9, 0.1)),
        ((Random(0.2), Uncertain()), (0.8, 0.2)),
        ((Random(),), (1.0,)),
    ],
)
def test_random_is_always_there_with_a_tenth_unless_told(members: tuple[Curate, ...], shares: tuple[float, ...]):
    mix = Mix(members)
    assert isinstance(mix.members[-1], Random)
    assert mix.shares == pytest.approx(shares)


def test_a_small_budget_is_shared_too():
    """At one pick a time, each member gets its share of the picks in the long run."""
    stage, num_random = Uncertain(0.7) + Random(0.3), 0
    for seed in range(400):
        _, picks = pick(stage, 30, 1, seed)
        num_random += picks.reasons == ("random",)
    assert num_random == pytest.approx(400 * 0.3, abs=4 * np.sqrt(400 * 0.3 * 0.7))


@pytest.mark.parametrize(
    "stage",
    [
        Random(),
        Stratified(by="country"),
        Uncertain(0.5) + Random(0.5),
        Uncertain(0.4) + Stratified(0.4, by="country") + Random(0.2),
        Uncertain(0.3) + FeedbackDriven(0.3) + Random(0.4),
        MIXED,
    ],
    ids=str,
)
def test_dividing_by_the_inclusion_probability_counts_every_request_once(stage: Curate):
    """Horvitz-Thompson: totals over the picks with a known probability are unbiased, whatever the members prefer."""
    rng = np.random.default_rng(5)
    there = facts.candidates(rng, 120, ["country"])
    hard = 1.0 - np.nan_to_num(there.scores.max(axis=1), nan=0.5)
    values = {id_: float(v) for id_, v in zip(there.ids, hard + there.negative + 0.5, strict=True)}
    totals, sizes = [], []
    for seed in range(1500):
        picks = stage.pick(there, CONTEXT, 24, np.random.default_rng(seed))
        known = [(values[i], p) for i, p in zip(picks.ids, picks.probabilities, strict=True) if p is not None]
        totals.append(sum(v / p for v, p in known))
        sizes.append(sum(1 / p for _, p in known))
    for drawn, true in ((totals, sum(values.values())), (sizes, 120.0)):
        assert np.mean(drawn) == pytest.approx(true, abs=4 * np.std(drawn) / np.sqrt(len(drawn)) + 1e-6)


def test_uncertain_takes_the_least_sure_answers_with_certainty():
    scores = np.array([[0.9, 0.1, 0.0], [0.4, 0.35, 0.25], [np.nan] * 3, [0.5, 0.5, 0.0], [0.34, 0.33, 0.33]])
    there = Candidates(
        ids=("sure", "unsure", "failed", "tie", "lost"),
        scores=scores,
        decisions=("a",) * 5,
        columns={},
        negative=np.zeros(5, dtype=bool),
    )
    rng = np.random.default_rng(0)
    wanted = {
        "margin": ("tie", "lost", "unsure", "sure"),
        "entropy": ("lost", "unsure", "tie", "sure"),
        "least_confidence": ("lost", "unsure", "tie", "sure"),
    }
    for by, order in wanted.items():
        picks = Uncertain(by=by).pick(there, CONTEXT, 10, rng)
        assert picks.ids == order  # a request that nobody answered has no uncertainty
        assert picks.probabilities == (1.0,) * 4
    assert Uncertain().pick(there, CONTEXT, 1, rng).ids == ("tie",)


def test_a_single_score_has_no_uncertainty_and_leaves_the_budget_to_random():
    there = Candidates(
        ids=tuple("abcdef"), scores=np.ones((6, 1)), decisions=(1.0,) * 6, columns={}, negative=np.zeros(6, dtype=bool)
    )
    picks = (Uncertain(0.9) + Random(0.1)).pick(there, CONTEXT, 3, np.random.default_rng(0))
    assert picks.reasons == ("random",) * 3
    assert picks.probabilities == (0.5,) * 3


def test_stratified_gives_rare_values_as_many_picks_as_common_ones():
    country = np.array(["se"] * 90 + ["no"] * 8 + ["dk"] * 2, dtype=object)
    there = Candidates(
        ids=tuple(map(str, range(100))), scores=np.ones((100, 2)), decisions=("a",) * 100,
        columns={"country": country}, negative=np.zeros(100, dtype=bool),
    )  # fmt: skip
    picks = Stratified(by="country").pick(there, CONTEXT, 14, np.random.default_rng(0))
    by = Counter(country[int(i)] for i in picks.ids)
    assert by == {"se": 6, "no": 6, "dk": 2}
    chance = {country[int(i)]: p for i, p in zip(picks.ids, picks.probabilities, strict=True)}
    assert chance == pytest.approx({"se": 6 / 90, "no": 6 / 8, "dk": 1.0})


def test_stratified_shares_out_what_does_not_divide_by_lot():
    """Two picks among three values: each value has two chances in three."""
    _, picks = pick(Stratified(by="country"), 60, 2, 3)
    there = facts.candidates(np.random.default_rng(3), 60, ["country"])
    sizes = Counter(there.columns["country"].tolist())
    for id_, p in zip(picks.ids, picks.probabilities, strict=True):
        assert p == pytest.approx(2 / 3 / sizes[there.columns["country"][int(id_[1:])]])


def test_feedback_picks_are_complaints_and_have_no_known_probability():
    there, picks = pick(FeedbackDriven(), 60, 5, 1)
    assert len(picks) == 5
    assert all(there.negative[int(i[1:])] for i in picks.ids)
    assert picks.probabilities == (None,) * 5
    assert set(picks.reasons) == {"feedback"}


def test_chance_may_find_a_complaint_again_and_then_knows_its_probability():
    there = Candidates(
        ids=tuple("abcd"), scores=np.ones((4, 2)), decisions=("a",) * 4, columns={}, negative=np.ones(4, dtype=bool)
    )
    stage = FeedbackDriven(0.5) + Random(0.5)
    for seed in range(20):
        picks = stage.pick(there, CONTEXT, 4, np.random.default_rng(seed))
        by = dict(zip(picks.reasons, picks.probabilities, strict=True))
        assert by["random"] == 0.5  # 2 of all 4, not of the 2 that the complaints left
        assert Counter(picks.reasons)["random"] == 2


def test_needs_are_what_the_members_need():
    assert MIXED.needs().columns == ("country",)
    assert MIXED.needs().feedback
    assert not Random().needs().feedback


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Uncertain(0.7) + Random(0.4), "the shares sum to 1.1"),
        (lambda: Uncertain(0.95) + FeedbackDriven(), "no share is left for FeedbackDriven"),
        (lambda: Uncertain(1.5), "share is 1.5"),
        (lambda: Uncertain(0), "share is 0"),
        (lambda: Uncertain(by="vibes"), "by is 'vibes'"),
        (lambda: Stratified(0.5), "by is missing"),
        (lambda: Mix(("random",)), "random is no curation stage"),  # type: ignore[arg-type]
    ],
)
def test_parameters_that_make_no_sense_are_refused_by_name(make: object, problem: str):
    with pytest.raises(ProjectError, match=problem):
        make()  # type: ignore[operator]


def test_a_column_that_was_not_handed_over_is_named():
    there = facts.candidates(np.random.default_rng(0), 5)
    with pytest.raises(ProjectError, match="'country', which was not handed over"):
        Stratified(by="country").pick(there, CONTEXT, 2, np.random.default_rng(0))


def test_sums_are_flat_and_in_order():
    assert (Uncertain() + FeedbackDriven()) + Random() == Uncertain() + (FeedbackDriven() + Random())
    assert str(Uncertain(0.6) + Random(0.2) + Stratified(0.1, by="plan")) == (
        "Uncertain(0.6) + Stratified(0.1, by='plan') + Random(0.2)"
    )
