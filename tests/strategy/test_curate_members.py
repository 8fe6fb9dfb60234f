"""What each member of curation looks for, and that estimates stay unbiased whatever is looked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tidemill.errors import ProjectError
from tidemill.stats.vectors import Vectors
from tidemill.strategy.curate import (
    Candidates,
    Curate,
    CurateContext,
    Disagreement,
    Diverse,
    ExpectedError,
    Judgements,
    Novel,
    Projected,
    Random,
    Representative,
    Similar,
    Uncertain,
)
from tidemill.testing import facts
from tidemill.testing.facts import NOW


def there(num: int = 200, seed: int = 0) -> Candidates:
    """Candidates of which none repeats another."""
    made = facts.candidates(np.random.default_rng(seed), num, ["country"])
    return replace(made, repeated=None)


def positions(stage: Curate, candidates: Candidates, budget: int, seed: int = 1, **known: object) -> list[int]:
    context = CurateContext(now=NOW, **known)  # type: ignore[arg-type]
    picks = stage.pick(candidates, context, budget, np.random.default_rng(seed))
    return [int(id_[1:]) for id_ in picks.ids]


def test_similar_picks_what_points_the_same_way():
    candidates = there()
    assert candidates.vectors is not None
    wanted = 3.0 * candidates.vectors.base[[17, 42]]
    assert set(positions(Similar(to="new"), candidates, 2, targets={"new": wanted})) == {17, 42}


def test_similar_picks_nothing_while_there_is_nothing_to_be_like():
    nothing = np.zeros((0, 8), dtype=np.float32)
    assert positions(Similar(to="new"), there(), 5, targets={"new": nothing}) == []


def test_novel_picks_what_is_far_from_the_training_examples():
    candidates = there()
    assert candidates.vectors is not None
    base = candidates.vectors.base.copy()
    base[[5, 6]] += 50.0
    far = replace(candidates, vectors=Vectors(base))
    assert set(positions(Novel(), far, 2, training=base[10:60])) == {5, 6}
    assert positions(Novel(), far, 2) == []


def test_diverse_takes_one_of_each_clump_where_training_has_none():
    rng = np.random.default_rng(0)
    clumps = np.repeat(np.arange(5), 40)
    base = (20 * np.eye(8)[clumps] + rng.normal(size=(200, 8))).astype(np.float32)
    picked = positions(Diverse(), replace(there(), vectors=Vectors(base)), 4, training=base[:20])
    assert sorted(clumps[picked].tolist()) == [1, 2, 3, 4]


def test_representative_takes_of_each_clump_its_share_within_one_at_pi_n_over_N():
    clumps = np.repeat(np.arange(2), [150, 50])
    base = (100 * np.eye(8)[clumps] + np.random.default_rng(0).normal(size=(200, 8))).astype(np.float32)
    candidates = replace(there(), vectors=Vectors(base))
    for seed in range(20):
        picks = Representative().pick(candidates, CurateContext(now=NOW), 20, np.random.default_rng(seed))
        assert abs(sum(clumps[int(id_[1:])] == 0 for id_ in picks.ids) - 15) <= 1
        assert set(picks.probabilities) == {0.1}


def test_projected_draws_where_it_is_true_and_never_where_it_is_missing():
    column = np.array([True, False, None, 1.0, 0.0, float("nan"), "yes", True], dtype=object)
    candidates = replace(there(8), columns={"flag": column})
    assert set(positions(Projected(name="flag"), candidates, 8)) == {0, 3, 7}
    picks = Projected(name="flag").pick(candidates, CurateContext(now=NOW), 1, np.random.default_rng(0))
    assert picks.probabilities == (pytest.approx(1 / 3),)


@pytest.mark.parametrize(("extreme", "wanted"), [("high", {4}), ("low", {0}), ("both", {4})])
def test_projected_chooses_the_extremes(extreme: str, wanted: set[int]):
    column = np.array([-3.0, 1.0, 2.0, 3.0, 100.0, None], dtype=object)
    candidates = replace(there(6), columns={"length": column})
    assert set(positions(Projected(name="length", extreme=extreme), candidates, 1)) == wanted


def test_disagreement_draws_only_where_the_shadow_says_otherwise():
    candidates = replace(there(6), decisions=("a", "a", "b", 1.0, 1.0, "a"), shadow=("a", "b", None, 1.0005, 1.1, "a"))
    assert set(positions(Disagreement(), candidates, 6)) == {1, 4}
    assert positions(Disagreement(), replace(candidates, shadow=None), 6) == []


def judged(rng: np.random.Generator, num: int) -> Judgements:
    """Requests of which those with the tag `new` are answered with confidence, and wrongly."""
    country = rng.choice(["old", "new"], size=num, p=[0.9, 0.1])
    scores = rng.dirichlet([20.0, 1.0, 1.0], size=num)
    wrong = np.where(country == "new", rng.random(num) < 0.8, rng.random(num) < 0.02)
    return Judgements(
        scores=scores, decisions=("a",) * num, columns={"country": country.astype(object)},
        losses=wrong.astype(np.float64),
    )  # fmt: skip


def test_expected_error_finds_what_the_model_is_sure_of_and_wrong():
    rng = np.random.default_rng(0)
    known, fresh = judged(rng, 1_000), judged(rng, 300)
    candidates = replace(there(300), scores=fresh.scores, decisions=fresh.decisions, columns=fresh.columns)
    errors = fresh.losses
    found = errors[positions(ExpectedError(), candidates, 30, judged=known)].mean()
    assert found > 0.6
    assert found > 3 * errors[positions(Uncertain(), candidates, 30)].mean()


def test_expected_error_waits_for_feedback():
    rng = np.random.default_rng(0)
    candidates = replace(there(), columns={"country": np.full(200, "old", dtype=object)})
    assert positions(ExpectedError(), candidates, 10) == []
    assert positions(ExpectedError(), candidates, 10, judged=judged(rng, 30)) == []


def test_near_duplicates_are_not_chosen_but_may_be_drawn():
    candidates = replace(there(40), repeated=np.arange(40) % 2 == 1)
    assert all(at % 2 == 0 for at in positions(Uncertain(), candidates, 40))
    assert len(positions(Random(), candidates, 40)) == 40
    mixed = (Uncertain(0.5) + Random(0.5)).pick(candidates, CurateContext(now=NOW), 20, np.random.default_rng(0))
    chosen = [int(id_[1:]) for id_, why in zip(mixed.ids, mixed.reasons, strict=True) if why.startswith("uncertain")]
    assert chosen
    assert all(at % 2 == 0 for at in chosen)


def test_one_over_pi_counts_every_request_once_whatever_is_preferred():
    stage = Uncertain(0.2) + Novel(0.1) + Projected(0.2, name="flag") + Disagreement(0.1) + Representative(0.1)
    rng = np.random.default_rng(0)
    candidates = replace(
        there(120), columns={"flag": (rng.random(120) < 0.3).astype(object)}, repeated=rng.random(120) < 0.2
    )
    assert candidates.vectors is not None
    context = CurateContext(now=NOW, training=candidates.vectors.base[:10])
    picks = [stage.pick(candidates, context, 40, np.random.default_rng(seed)) for seed in range(400)]
    totals = [sum(1 / p for p in some.probabilities if p is not None) for some in picks]
    assert abs(np.mean(totals) - 120) < 4 * np.std(totals) / np.sqrt(len(totals)) + 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        Similar,
        Projected,
        lambda: Projected(name="x", extreme="middle"),
        lambda: ExpectedError(by="country"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(wrong: object):
    with pytest.raises(ProjectError):
        wrong()  # type: ignore[operator]
