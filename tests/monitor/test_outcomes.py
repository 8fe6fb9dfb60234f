"""What became of requests: matured rows with the label that counts, turned into losses where higher is worse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from log_rows import Mill
from mail import HORIZON_S, everything, mail, row, tell

import tidemill as tm
from tidemill.clock import from_micros
from tidemill.monitor.outcomes import (
    Window,
    answered_frame,
    failures,
    horizon,
    judge,
    judged,
    loss,
    matured_frame,
    outcomes,
    past_losses,
)
from tidemill.monitor.pairs import pair_outcomes, pair_requests, shadow_pairs
from tidemill.project import Project
from tidemill.records import Trust
from tidemill.strategy.outcomes import Outcomes

METRICS = ("accuracy", "log_loss", "event_rate_undo")


def matured(mill: Mill, project: Project, trust: Trust = Trust.CROWD, **window: Any) -> Any:
    return matured_frame(mill.log, project, Window(**window) if window else everything(mill), trust=trust)


def facts(mill: Mill, project: Project | None = None, **asked: Any) -> Outcomes:
    project = project or mail()
    return outcomes(project, matured(mill, project), candidate=asked.pop("candidate", None), metrics=METRICS, **asked)


def test_losses_are_higher_where_things_are_worse(mill: Mill) -> None:
    mill.put(
        row(mill, 1), row(mill, 2), row(mill, 3), tell(mill, 1, 1, "ham"), tell(mill, 2, 1, "spam"), project="mail"
    )
    mill.put(tell(mill, 2, 2, None, kind="undo"), project="mail")
    found = facts(mill)
    np.testing.assert_array_equal(found.values["accuracy"], [0.0, 1.0, math.nan])
    np.testing.assert_allclose(found.values["log_loss"], [-math.log(0.75), -math.log(0.25), math.nan])
    np.testing.assert_array_equal(found.values["event_rate_undo"], [0.0, 1.0, 0.0])


def test_the_past_of_units_is_the_same_however_many_rows_are_read_at_a_time(mill: Mill) -> None:
    rows = [row(mill, i, second=i, unit=f"u{i % 3}") for i in range(40)]
    told = [tell(mill, i, i + 0.5, "ham" if i % 4 else "spam") for i in range(40) if i % 3 != 2]
    mill.put(*rows, *told, project="mail")
    asked: Any = {"metrics": METRICS, "trust": Trust.CROWD}
    whole = past_losses(mill.log, mail(), everything(mill), **asked)
    parts = past_losses(mill.log, mail(), everything(mill), **asked, at_most=5)
    assert {name: set(units) for name, units in whole.items()} == {name: set(units) for name, units in parts.items()}
    assert whole["accuracy"] == {"u0": 4 / 14, "u1": 3 / 13} and set(whole["event_rate_undo"]) == {"u0", "u1", "u2"}
    for name, units in whole.items():
        assert units == pytest.approx(parts[name])


def test_a_metric_without_bounds_is_turned_round_when_higher_is_better() -> None:
    class Gain(tm.metrics.MeanAbsoluteError):
        name = "gain"
        higher_is_better = True

    rows = judged(tm.Value(), scores=np.array([[3.0]]), labels=[1.0])
    assert loss(Gain(), rows).tolist() == [-2.0]
    assert loss(tm.metrics.MeanAbsoluteError(), rows).tolist() == [2.0]


def test_a_metric_without_a_value_per_row_is_refused() -> None:
    with pytest.raises(ValueError, match="f1_spam"):
        loss(tm.metrics.F1("spam"), judged(mail().output, scores=np.zeros((1, 2)), labels=["ham"]))


@pytest.mark.parametrize(("second", "counts"), [(HORIZON_S, True), (HORIZON_S + 0.001, False)])
def test_a_label_counts_inside_the_horizon_of_its_request_and_no_longer(
    mill: Mill, second: float, counts: bool
) -> None:
    mill.put(row(mill, 1), tell(mill, 1, second, "spam"), project="mail")
    assert (
        facts(mill).values["accuracy"].tolist() == [1.0] if counts else np.isnan(facts(mill).values["accuracy"]).all()
    )
    assert horizon(mail()).total_seconds() == HORIZON_S


def test_labels_of_less_trust_than_asked_do_not_count_and_the_highest_trust_wins(mill: Mill) -> None:
    mill.put(row(mill, 1), row(mill, 2), project="mail")
    mill.put(
        tell(mill, 1, 1, "spam"), tell(mill, 2, 9, "spam"), tell(mill, 2, 1, "ham", trust="people"), project="mail"
    )
    assert matured(mill, mail(), Trust.CROWD)["label"].to_list() == ["spam", "ham"]
    assert matured(mill, mail(), Trust.PEOPLE)["label"].to_list() == [None, "ham"]
    assert matured(mill, mail(), Trust.TRUTH)["label"].to_list() == [None, None]


def test_a_window_is_open_at_its_beginning_and_closed_at_its_end(mill: Mill) -> None:
    mill.put(*(row(mill, i, second=i) for i in range(4)), project="mail")
    bounds = {"after": from_micros(mill.at(1)), "until": from_micros(mill.at(3))}
    for frame in (matured(mill, mail(), **bounds), answered_frame(mill.log, mail(), Window(**bounds))):
        assert frame["request_id"].to_list() == ["r2", "r3"]


def test_an_answer_from_memory_says_nothing_about_how_quick_the_version_is(mill: Mill) -> None:
    mill.put(row(mill, 1, second=4, cached=True, latency_ms=0.1), row(mill, 2, second=5), project="mail")
    found = facts(mill)
    assert np.isnan(found.latency_ms).tolist() == [True, False] and found.failed.tolist() == [False, False]


def test_rows_carry_who_was_assigned_at_what_share_to_whom_and_when(mill: Mill) -> None:
    mill.put(
        row(mill, 1, second=5, assigned_version=2, answered_version=2, share=0.25, rollout="mail-1"),
        row(mill, 2, second=4, share=0.25, rollout="mail-1", latency_ms=7.0),
        project="mail",
    )
    found = facts(mill, candidate=2)
    assert found.received_at.tolist() == [mill.at(4), mill.at(5)] and found.unit.tolist() == ["u2", "u1"]
    assert found.version.tolist() == [1, 2] and found.candidate.tolist() == [False, True]
    assert found.share.tolist() == [0.25, 0.25] and found.latency_ms.tolist() == [7.0, 2.0]
    assert {name: mask.tolist() for name, mask in found.cohorts.items()} == {
        "dutch": [True, True], "young": [False, False], "linked": [False, False]
    }  # fmt: skip
    assert not facts(mill).candidate.any()


def test_a_failure_counts_against_the_assigned_version_and_says_nothing_of_its_decisions(mill: Mill) -> None:
    mill.put(
        row(mill, 1, assigned_version=2, answered_version=1, fallback_reason="raised"),
        row(mill, 2, assigned_version=2, answered_version=0, error="raised: boom", decision=None, scores=None),
        row(mill, 3, assigned_version=2, answered_version=2),
        *(tell(mill, i, 1, "spam") for i in (1, 2, 3)),
        project="mail",
    )
    found = facts(mill, candidate=2)
    assert found.failed.tolist() == [True, True, False] and found.version.tolist() == [2, 2, 2]
    for name in METRICS:
        assert np.isnan(found.values[name][:2]).all(), name
    assert found.values["accuracy"][2] == 1.0
    assert failures(matured(mill, mail())).tolist() == [True, True, False]


def test_an_answered_frame_has_rows_that_nobody_judged_yet(mill: Mill) -> None:
    mill.put(row(mill, 1), project="mail")
    found = outcomes(mail(), answered_frame(mill.log, mail(), everything(mill)), candidate=None)
    assert len(found) == 1 and found.values == {}


def test_no_rows_are_no_outcomes(mill: Mill) -> None:
    assert len(facts(mill)) == 0
    mill.put(row(mill, 1), project="another")
    assert len(facts(mill)) == 0


def test_all_inputs_are_there_when_asked_for(mill: Mill) -> None:
    mill.put(row(mill, 1), project="mail")
    frame = matured_frame(mill.log, mail(), everything(mill), trust=Trust.CROWD, inputs=True)
    assert frame.select(list(mail().inputs)).rows(named=True) == [
        {"text": "hi", "num_links": 0.0, "logo": bytes(4), "country": "NL", "age": 40.0}
    ]
    assert "text" not in matured(mill, mail()).columns


def test_shadows_stand_beside_what_the_user_got(mill: Mill) -> None:
    shadow = {"role": "shadow", "assigned_version": 2, "answered_version": 2, "rollout": "mail-1", "inputs": None}
    mill.put(
        row(mill, 1), row(mill, 1, **shadow, decision="spam"),
        row(mill, 2), row(mill, 2, **shadow),
        row(mill, 3, **{**shadow, "answered_version": 0}, error="raised", decision=None, scores=None),
        project="mail",
    )  # fmt: skip
    pairs = shadow_pairs(mill.log, mail(), everything(mill), "mail-1")
    said = zip(pairs.mine["request_id"], pairs.mine["decision"], pairs.theirs["decision"], strict=True)
    assert list(said) == [("r1", "spam", "ham"), ("r2", "ham", "ham"), ("r3", None, None)]
    assert failures(pairs.mine).tolist() == [False, False, True]
    rows = pair_requests(mail(), pairs)
    assert rows.candidate.tolist() == [True, False] * 3
    np.testing.assert_array_equal(rows.values["disagreement"][::2], [1.0, 0.0, np.nan])
    mill.put(tell(mill, 1, 4, "ham"), tell(mill, 2, 4, "spam"), project="mail")
    labelled = pair_outcomes(mill.log, mail(), everything(mill), "mail-1", metrics=("accuracy",), trust=Trust.CROWD)
    only_the_shadow, both_wrong, unknown = [1.0, 0.0], [0.0, 0.0], [np.nan, np.nan]
    np.testing.assert_array_equal(labelled.values["accuracy"], [*only_the_shadow, *both_wrong, *unknown])
    assert len(answered_frame(mill.log, mail(), everything(mill))) == 2


def test_numbers_are_judged_by_their_distance(mill: Mill) -> None:
    project = mail(output=tm.Value(), metrics=())
    mill.put(
        row(mill, 1, decision=3.0, scores=[3.0]), row(mill, 2, decision=1.0, scores=[1.0]),
        row(mill, 3, decision=None, scores=None),
        tell(mill, 1, 1, 5.0), project="mail",
    )  # fmt: skip
    found = outcomes(project, matured(mill, project), candidate=None, metrics=["mean_absolute_error"])
    np.testing.assert_array_equal(found.values["mean_absolute_error"], [2.0, math.nan, math.nan])


def test_answers_and_labels_of_classes_that_are_no_more_are_unknown(mill: Mill) -> None:
    project = mail(output=tm.Classes(["ham", "spam", "news"]))
    mill.put(
        row(mill, 1), row(mill, 2, scores=[0.1, 0.2, 0.7], decision="news"), row(mill, 3), row(mill, 4),
        tell(mill, 1, 1, "ham"), tell(mill, 2, 1, "news"), tell(mill, 3, 1, "ads"), project="mail",
    )  # fmt: skip
    rows = judge(project, matured(mill, project))
    assert rows.labels.tolist() == ["ham", "news", None, None] and rows.targets.tolist() == [0, 2, -1, -1]
    assert np.isnan(rows.scores).all(axis=1).tolist() == [True, False, True, True]
    assert rows.known.tolist() == [True, True, False, False]
