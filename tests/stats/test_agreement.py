"""Agreement against published values, suspicion and label models against planted errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.stats.agreement import cohen_kappa, krippendorff_alpha
from tidemill.stats.confident import label_suspicion
from tidemill.stats.label_model import label_model, majority

_ = None
OBSERVERS = [  # Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]


def test_alpha_is_what_krippendorff_computes_by_hand():
    units = list(zip(*OBSERVERS, strict=True))
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(units, numeric=True) == pytest.approx(0.849, abs=5e-4)


def test_kappa_is_that_of_the_textbook_table():
    counts = {("yes", "yes"): 20, ("yes", "no"): 5, ("no", "yes"): 10, ("no", "no"): 15}
    pairs = [pair for pair, num in counts.items() for _i in range(num)]
    assert cohen_kappa([a for a, _b in pairs], [b for _a, b in pairs]) == pytest.approx(0.4)


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=30).filter(lambda some: len(set(some)) > 1))
def test_who_agrees_always_agrees_fully(labels: list[str]):
    assert cohen_kappa(labels, labels) == pytest.approx(1.0)
    assert krippendorff_alpha([[one, one] for one in labels]) == pytest.approx(1.0)


def test_what_nobody_labelled_twice_says_nothing():
    assert math.isnan(krippendorff_alpha([["a", None], [None, "b"]]))
    assert math.isnan(cohen_kappa(["a", None], [None, "b"]))


def test_labels_drawn_by_chance_agree_by_chance():
    rng = np.random.default_rng(0)
    drawn = rng.choice(["a", "b", "c"], size=(5_000, 3), p=[0.7, 0.2, 0.1]).tolist()
    assert abs(krippendorff_alpha(drawn)) < 0.03
    assert abs(cohen_kappa([one[0] for one in drawn], [one[1] for one in drawn])) < 0.05


def test_wrong_labels_are_suspect_and_right_ones_seldom():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, size=4_000)
    scores = rng.dirichlet([1.0] * 4, size=4_000) * 0.4
    scores[np.arange(4_000), truth] += 0.6
    wrong = rng.random(4_000) < 0.05
    labels = np.where(wrong, (truth + rng.integers(1, 4, size=4_000)) % 4, truth)
    suspect = label_suspicion(scores, labels)
    assert (suspect[wrong] > 0).mean() > 0.5  # a score below the class's mean is not likely enough
    assert (suspect[~wrong] > 0).mean() < 0.01
    assert wrong[np.argsort(-suspect)[:100]].mean() > 0.95


def test_a_class_that_scores_are_always_low_for_is_suspected_by_its_own_measure():
    """With one level for all classes a rare class would never be likely."""
    scores = np.array([[0.9, 0.1]] * 20 + [[0.6, 0.4]] * 5 + [[0.6, 0.4]])
    labels = np.array([0] * 20 + [1] * 5 + [0])
    assert label_suspicion(scores, labels)[-1] > 0
    assert not label_suspicion(scores, labels)[:20].any()


def test_missing_scores_suspect_nobody():
    assert label_suspicion(np.full((3, 2), np.nan), np.zeros(3, dtype=np.int64)).tolist() == [0, 0, 0]


def voted(rng: np.random.Generator, num: int, accuracy: list[float]) -> tuple[np.ndarray, np.ndarray]:
    truth = rng.integers(0, 3, size=num)
    wrong = rng.random((num, len(accuracy))) > np.array(accuracy)
    votes = np.where(wrong, (truth[:, None] + rng.integers(1, 3, size=wrong.shape)) % 3, truth[:, None])
    votes[rng.random(votes.shape) < 0.2] = -1
    return truth, votes


def test_the_label_model_beats_the_majority_where_sources_differ_and_knows_how_good_they_are():
    accuracy = [0.95, 0.5, 0.5, 0.5]
    truth, votes = voted(np.random.default_rng(0), 4_000, accuracy)
    found = label_model(votes, 3)
    assert np.abs(found.accuracy - accuracy).max() < 0.05
    by_model, by_count = (c.argmax(axis=1) == truth for c in (found.chances, majority(votes, 3)))
    assert by_model.mean() > by_count.mean() + 0.1


def test_the_chance_of_a_label_is_how_often_it_is_right():
    truth, votes = voted(np.random.default_rng(1), 20_000, [0.8, 0.7, 0.65])
    chances = label_model(votes, 3).chances
    best, sure = chances.argmax(axis=1), chances.max(axis=1)
    for low in (0.5, 0.7, 0.9):
        some = (sure >= low) & (sure < low + 0.1)
        assert (best[some] == truth[some]).mean() == pytest.approx(sure[some].mean(), abs=0.05)


def test_without_a_vote_every_class_is_as_likely_in_the_majority():
    assert majority(np.full((1, 2), -1), 4).tolist() == [[0.25] * 4]
