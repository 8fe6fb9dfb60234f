"""The policy takes the output's decision and marks the unsure ones."""

from __future__ import annotations

import numpy as np

from tidemill.runtime.policy import Policy
from tidemill.schema import Classes, Value

SCORES = np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]], dtype=np.float32)


def test_without_a_level_nothing_is_abstained():
    assert Policy().decide(Classes(("a", "b")), SCORES) == (["a", "b", "a"], [False, False, False])


def test_a_decision_whose_highest_score_is_below_the_level_is_abstained():
    decisions, abstained = Policy(2, abstain_below=0.6).decide(Classes(("a", "b")), SCORES)
    assert (decisions, abstained) == (["a", "b", "a"], [False, False, True])  # float32 0.6 is not below 0.6


def test_an_output_without_classes_is_decided_all_the_same():
    assert Policy().decide(Value(), np.array([[1.5], [2.0]], dtype=np.float32)) == ([1.5, 2.0], [False, False])
