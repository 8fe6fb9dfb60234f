"""A policy turns scores into decisions: thresholds, abstention the k best; for a row alone as in a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import ProjectError
from tidemill.policy import Policy
from tidemill.schema import Classes, Value

PETS = Classes(("cat", "dog", "fish"))
SCORES = np.array([[0.9, 0.1, 0.0], [0.35, 0.6, 0.05], [0.5, 0.0, 0.5]], dtype=np.float32)

LEVEL = st.floats(0, 1, width=32)
POLICIES = st.builds(
    Policy,
    thresholds=st.dictionaries(st.sampled_from(PETS.names), LEVEL),
    abstain_below=st.none() | LEVEL,
    top=st.integers(1, 3),
)
ROWS = st.lists(st.tuples(LEVEL, LEVEL, LEVEL), min_size=1, max_size=9)


def test_by_default_the_highest_score_decides_and_nothing_is_abstained() -> None:
    assert Policy().decide(PETS, SCORES) == (["cat", "dog", "cat"], [False, False, False], None)


def test_a_decision_whose_score_is_below_the_level_is_abstained() -> None:
    decided = Policy(abstain_below=0.6).decide(PETS, SCORES)
    assert decided == (["cat", "dog", "cat"], [False, False, True], None)  # float32 0.6 is not below 0.6


def test_a_class_below_its_threshold_gives_way_to_the_next() -> None:
    decided = Policy(thresholds={"dog": 0.7, "cat": 0.5}).decide(PETS, SCORES)
    assert decided.decisions == ["cat", "fish", "cat"]  # of the second row neither dog nor cat is reached
    assert decided.abstained == [False, False, False]


def test_where_no_class_is_reached_the_best_is_decided_but_abstained() -> None:
    decided = Policy(thresholds={"cat": 0.95, "dog": 0.95, "fish": 0.95}).decide(PETS, SCORES)
    assert decided == (["cat", "dog", "cat"], [True, True, True], None)


def test_the_best_classes_are_told_with_the_decision_first() -> None:
    policy = Policy(thresholds={"dog": 0.7}, top=2)
    assert policy.decide(PETS, SCORES).top_k == [["cat", "fish"], ["cat", "fish"], ["cat", "fish"]]
    assert Policy(top=3).decide(PETS, SCORES).top_k == [
        ["cat", "dog", "fish"], ["dog", "cat", "fish"], ["cat", "fish", "dog"],
    ]  # fmt: skip


def test_an_output_without_classes_decides_by_itself() -> None:
    scores = np.array([[1.5], [2.0]], dtype=np.float32)
    assert Policy(abstain_below=1.75).decide(Value(), scores) == ([1.5, 2.0], [True, False], None)


@given(POLICIES, ROWS)
def test_a_row_is_decided_as_if_it_were_alone_and_by_the_rule_as_written(policy: Policy, rows: Any) -> None:
    scores = np.array(rows, dtype=np.float32)
    decided = policy.decide(PETS, scores)
    for i, row in enumerate(scores):
        alone = policy.decide(PETS, row[None])
        assert (alone.decisions[0], alone.abstained[0]) == (decided.decisions[i], decided.abstained[i])
        reached = [n for n, s in zip(PETS.names, row, strict=True) if s >= np.float32(policy.thresholds.get(n, 0))]
        best = max(reached or PETS.names, key=lambda name: row[PETS.names.index(name)])
        assert decided.decisions[i] == best
        unsure = policy.abstain_below is not None and row[PETS.names.index(best)] < np.float32(policy.abstain_below)
        assert decided.abstained[i] == (not reached or unsure)
        if decided.top_k is not None:
            assert decided.top_k[i][0] == best and len(set(decided.top_k[i])) == policy.top


@given(POLICIES)
def test_a_policy_comes_back_from_json_equal(policy: Policy) -> None:
    assert Policy.from_json(policy.to_json()) == policy


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"abstain_below": float("nan")}, "level for 'abstain_below' is nan"),
        ({"thresholds": {"cat": "high"}}, "level for 'cat' is 'high'"),
        ({"top": 0}, "top is 0"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ProjectError, match=said):
        Policy(**given)


@pytest.mark.parametrize(
    ("policy", "output", "said"),
    [
        (Policy(thresholds={"bird": 0.5}), PETS, "threshold for 'bird', which is no class. Next: there is cat, dog"),
        (Policy(thresholds={"cat": 0.5}), Value(), "there is none, because the output is no tm.Classes"),
        (Policy(top=4), PETS, "tells the best 4 of 3 classes"),
    ],
)
def test_a_policy_that_does_not_fit_the_output_is_refused(policy: Policy, output: Any, said: str) -> None:
    with pytest.raises(ProjectError, match=said):
        policy.check(output)
