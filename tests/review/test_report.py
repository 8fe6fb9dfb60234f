"""The report holds what the gate needs, and the gate blocks what is worse and seldom what is not: by simulation."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.errors import ProjectError
from tidemill.records import Outcome, Trust, Verdict
from tidemill.review.build import HeldOut, build_report
from tidemill.review.compare import num_testable
from tidemill.review.constant import majority
from tidemill.review.population import UNSAMPLED, population
from tidemill.review.report import EvaluationSet, Report, evidence
from tidemill.stats.metrics import F1, Accuracy, EventRate, Judged, LogLoss, MeanAbsoluteError, Metric
from tidemill.strategy.evidence import ALL, Cell, Word
from tidemill.strategy.gate import OfflineNeeds, gate, needs
from tidemill.strategy.offline import AtLeast, BeatsBaseline, Human, Latency, NoWorse

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = 86_400_000_000
CLASSES = ("a", "b")


def answers(right: np.ndarray) -> Judged:
    """Return decisions that are right where it is said; every third row is of class b."""
    targets = (np.arange(len(right)) % 3 == 0).astype(np.int64)
    decided = np.where(right, targets, 1 - targets)
    names = np.array(CLASSES, dtype=object)
    return Judged(
        decisions=names[decided],
        labels=names[targets],
        scores=np.where(decided[:, None] == np.arange(2), 0.8, 0.2),
        targets=targets,
        classes=CLASSES,
    )


def report(
    candidate: np.ndarray, live: np.ndarray | None = None, metrics: tuple[Metric, ...] = (Accuracy(),), **given_
):
    given_.setdefault("rng", np.random.default_rng(0))
    held = {name: given_.pop(name) for name in ("cohorts", "probabilities", "received_at", "old") if name in given_}
    return build_report(
        rows=HeldOut(**held),
        candidate=2,
        live=None if live is None else 1,
        dataset="d1",
        metrics=metrics,
        candidate_judged=answers(candidate),
        live_judged=None if live is None else answers(live),
        **given_,
    )


def cell(report_: Report, cohort: str = ALL, metric: str = "accuracy") -> Cell:
    return next(c for c in report_.cells if (c.metric, c.cohort) == (metric, cohort))


def judge(report_: Report, member: NoWorse) -> Verdict:
    return member.judge(evidence(report_, approval=None, now=NOW))


def fifths(num: int) -> dict[str, np.ndarray]:
    return {f"cohort_{k}": np.arange(num) // (num // 5) == k for k in range(5)}


# ---------------------------------------------------------------- the gate's guarantee


BY_COHORT = NoWorse("accuracy", by="cohort")


def two_versions(rng: np.random.Generator, *, num: int, differ: float, lost: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return who is right: 90 % each, not alike on a share of rows; of the first 100 the candidate then loses some."""
    live = rng.random(num) < 0.9
    flips = rng.random(num)
    candidate = np.where(live, flips >= differ / 2 / 0.9, flips < differ / 2 / 0.1)
    broken = rng.choice(np.flatnonzero(candidate[:100]), size=lost, replace=False)
    candidate[broken] = False
    return candidate, live


@pytest.mark.parametrize(("num_cohorts", "differ"), [(5, 0.02), (5, 0.1), (20, 0.05), (20, 0.15)])
def test_an_equal_candidate_is_blocked_in_at_most_one_case_in_twenty_over_all_cohorts(num_cohorts: int, differ: float):
    rng, num, runs = np.random.default_rng(7), 100 * num_cohorts, 400
    cohorts = {f"c{k}": np.arange(num) // 100 == k for k in range(num_cohorts)} | {"newest": np.arange(num) > 0.7 * num}
    blocked = 0
    for _ in range(runs):
        candidate, live = two_versions(rng, num=num, differ=differ)
        verdict = judge(report(candidate, live, cohorts=cohorts, needs=needs([BY_COHORT])), BY_COHORT)
        blocked += verdict.outcome is Outcome.FAIL
    assert blocked / runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def blocked_share(*, lost: int, differ: float, runs: int = 200) -> float:
    rng, blocked = np.random.default_rng(8), 0
    for _ in range(runs):
        candidate, live = two_versions(rng, num=500, differ=differ, lost=lost)
        built = report(candidate, live, cohorts=fifths(500), needs=needs([BY_COHORT]))
        blocked += judge(built, BY_COHORT).outcome is Outcome.FAIL
    return blocked / runs


def test_a_candidate_that_loses_10_rows_of_a_cohort_of_100_is_blocked_nearly_always():
    assert blocked_share(lost=10, differ=0.0) == 1.0
    assert blocked_share(lost=10, differ=0.02) >= 0.95
    assert blocked_share(lost=15, differ=0.05) >= 0.95


def test_what_cannot_be_seen_in_100_rows_is_called_inconclusive_and_not_passed():
    """A loss of 5 points in a cohort of 100: rarely proved, never waved through as shown to be harmless."""
    rng = np.random.default_rng(9)
    for _ in range(30):
        candidate, live = two_versions(rng, num=500, differ=0.05, lost=5)
        built = report(candidate, live, cohorts=fifths(500))
        assert judge(built, BY_COHORT).outcome is not Outcome.PASS
        assert judge(built, replace(BY_COHORT, margin=0.3)).outcome is Outcome.PASS


def test_with_many_rows_a_better_candidate_passes_and_a_worse_one_fails_on_all_rows():
    rng = np.random.default_rng(10)
    worse, live = rng.random(5000) < 0.85, rng.random(5000) < 0.9
    assert judge(report(live, live), NoWorse("accuracy")).outcome is Outcome.PASS
    assert judge(report(live, worse), NoWorse("accuracy")).outcome is Outcome.PASS
    verdict = judge(report(worse, live), NoWorse("accuracy"))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.reason.startswith("worse: accuracy on all: .90 -> .8")
    assert verdict.back_to == "training"


def test_the_error_probability_is_shared_among_the_cohorts_only_where_the_gate_looks_at_them():
    rng = np.random.default_rng(11)
    candidate, live = two_versions(rng, num=500, differ=0.3)
    alone = report(candidate, live, cohorts=fifths(500), needs=needs([NoWorse("accuracy")]))
    shared = report(candidate, live, cohorts=fifths(500), needs=needs([BY_COHORT]))
    assert cell(alone).high == cell(shared).high  # all rows have half of it, however many cohorts there are
    for cohort in fifths(500):
        assert cell(alone, cohort).high < cell(shared, cohort).high
        assert cell(alone, cohort).low == cell(shared, cohort).low
    two = needs([NoWorse("accuracy"), NoWorse("log_loss")])
    halved = report(candidate, live, metrics=(Accuracy(), LogLoss(), LogLoss()), needs=two)
    assert cell(halved).high == cell(alone).high  # .05 for two metrics is the usual .025 each


def test_cohorts_that_cannot_reach_any_level_cost_the_others_nothing():
    few, many = np.array([1.0, -1.0] + [0.0] * 98), np.array([1.0, -1.0] * 20)
    assert num_testable([many], 0.05) == 1
    assert num_testable([many, few, few, few, few], 0.05) == 1
    assert num_testable([many] * 4, 0.05) == 4
    assert num_testable([np.random.default_rng(0).normal(size=5)] * 3, 0.05) == 3  # a loss could always show


# ---------------------------------------------------------------- what the cells hold


def test_candidate_live_and_baseline_are_judged_on_the_same_rows():
    right = np.array([True, True, False, True] * 25)
    live = np.array([True, False, False, True] * 25)
    built = report(right, live, train_targets=np.array([0, 0, 1]))
    assert cell(built).n == 100
    assert (cell(built).candidate, cell(built).live) == (0.75, 0.5)
    assert cell(built).baselines["Majority()"] == pytest.approx(0.66)  # two thirds of the rows are of class a
    assert cell(built).gain == pytest.approx(0.25)
    assert built.baselines == ("Majority()",)


def test_a_row_that_one_version_did_not_answer_is_left_out_for_all():
    right = np.ones(50, dtype=bool)
    silent = answers(right)
    silent.decisions[:10] = None
    built = build_report(
        candidate=2, live=1, dataset="d1", metrics=[Accuracy()], candidate_judged=silent,
        live_judged=answers(np.arange(50) >= 10), rng=np.random.default_rng(0),
    )  # fmt: skip
    assert (cell(built).n, cell(built).live, cell(built).gain) == (40, 1.0, 0.0)


def test_positive_is_better_whichever_way_the_metric_points():
    better, worse = np.ones(60, dtype=bool), np.arange(60) % 2 == 0
    built = report(better, worse, metrics=(Accuracy(), LogLoss(), F1("b")))
    for name in ("accuracy", "log_loss", "f1_b"):
        assert cell(built, metric=name).gain > 0
    assert not cell(built, metric="log_loss").higher_is_better
    assert cell(built, metric="log_loss").candidate < cell(built, metric="log_loss").live


def test_f1_is_compared_by_a_bootstrap_that_the_given_generator_draws():
    rng = np.random.default_rng(12)
    candidate, live = rng.random(300) < 0.9, rng.random(300) < 0.6
    one, two = (report(candidate, live, metrics=(F1("b"),), rng=np.random.default_rng(5)) for _ in range(2))
    assert one == two
    found = cell(one, metric="f1_b")
    assert 0 < found.low < found.gain < found.high
    assert judge(report(live, candidate, metrics=(F1("b"),)), NoWorse("f1")).outcome is Outcome.FAIL


def test_numbers_are_reported_like_classes():
    rng = np.random.default_rng(13)
    true = rng.normal(size=200)

    def said(noise: float) -> Judged:
        numbers = true + noise * rng.normal(size=200)
        return Judged(decisions=numbers, labels=true, scores=numbers[:, None], targets=true)

    built = build_report(
        candidate=2, live=1, dataset="d1", metrics=[MeanAbsoluteError()], candidate_judged=said(0.1),
        live_judged=said(0.5), train_targets=np.array([0.0, 0.1, 5.0]), rng=np.random.default_rng(0),
    )  # fmt: skip
    found = cell(built, metric="mean_absolute_error")
    assert found.gain == pytest.approx(found.live - found.candidate)
    assert found.low > 0
    assert found.baselines["Majority()"] == pytest.approx(
        np.abs(true - 0.1).mean()
    )  # the median, which a far value does not move


def test_before_there_is_a_live_version_the_candidate_stands_beside_the_baseline_alone():
    built = report(np.ones(50, dtype=bool), train_targets=np.array([0, 0, 1]))
    assert built.live is None
    assert (cell(built).live, cell(built).gain, cell(built).low) == (None, None, None)
    verdict = gate(
        [NoWorse("accuracy", by="cohort"), BeatsBaseline(), AtLeast("accuracy", 0.9)],
        evidence(built, approval=None, now=NOW),
    )
    assert verdict.outcome is Outcome.PASS


def test_no_test_rows_leave_the_gate_without_a_word_on_quality():
    none = np.zeros(0, dtype=bool)
    built = report(none, none, cohorts={"new": none}, train_targets=np.array([0, 1]))
    assert cell(built).n == 0
    assert judge(built, BY_COHORT).outcome is Outcome.INCONCLUSIVE
    assert json.loads(json.dumps(built.to_json(), allow_nan=False)) == built.to_json()


def test_what_only_an_answer_can_cause_is_not_measured_on_a_candidate():
    right = np.ones(40, dtype=bool)
    built = report(right, right, metrics=(Accuracy(), EventRate("appeal")), cohorts={"new": right})
    assert [c.cohort for c in built.cells if c.metric == "event_rate_appeal"] == [ALL]
    assert cell(built, metric="event_rate_appeal").candidate is None


def test_without_training_labels_there_is_no_majority():
    with pytest.raises(ProjectError, match="no training labels"):
        majority(answers(np.ones(3, dtype=bool)), np.zeros(0, dtype=np.int64))


def test_every_cell_says_what_its_gain_shows():
    rng = np.random.default_rng(15)
    live = rng.random(3000) < 0.9
    few = np.arange(3000) < 20
    candidate = np.where(np.arange(3000) < 1000, rng.random(3000) < 0.8, live)
    built = report(
        candidate, live, cohorts={"worse": np.arange(3000) < 1000, "same": np.arange(3000) >= 1000, "few": few}
    )
    said = {c.cohort: (c.outcome, c.reason) for c in built.cells}
    assert said["worse"] == (Outcome.FAIL, "worse than the live version, beyond .02")
    assert said["same"] == (Outcome.PASS, "a loss beyond .02 is excluded")
    assert said["few"] == (Outcome.INCONCLUSIVE, "20 rows are too few to judge")
    better = report(live, candidate)
    assert cell(better).reason == "better than the live version"
    assert cell(report(live)).outcome == Outcome.UNKNOWN


def test_the_first_metric_is_shown_by_period_and_cohort_the_others_by_period():
    right = np.ones(120, dtype=bool)
    built = report(
        right, right, metrics=(Accuracy(), LogLoss()), cohorts={"even": np.arange(120) % 2 == 0},
        received_at=DAY * np.arange(120),
    )  # fmt: skip
    shown = {(c.metric, c.cohort) for c in built.cells if c.period == "1970-02"}
    assert shown == {("accuracy", ALL), ("accuracy", "even"), ("log_loss", ALL)}
    february = next(c for c in built.cells if c.period == "1970-02" and c.cohort == ALL and c.metric == "accuracy")
    assert february.n == 28
    assert evidence(built, approval=None, now=NOW).cell("accuracy").n == 120


def test_people_are_declared_on_the_metric_that_they_were_measured_by():
    right = np.arange(200) % 10 > 0
    wanted = [BeatsBaseline(Human(0.95), "accuracy"), BeatsBaseline(Human(0.3), "log_loss")]
    built = report(right, metrics=(Accuracy(), LogLoss()), cohorts={"even": right}, needs=needs(wanted))
    assert cell(built).baselines == {"Human(0.95)": 0.95}
    assert cell(built, metric="log_loss").baselines == {"Human(0.3)": 0.3}
    assert cell(built, "even").baselines == {}
    verdicts = [member.judge(evidence(built, approval=None, now=NOW)) for member in wanted]
    assert [v.outcome for v in verdicts] == [Outcome.FAIL, Outcome.FAIL]


def test_f1_of_many_rows_has_the_interval_that_resampling_gives():
    rng = np.random.default_rng(16)
    candidate, live = rng.random(2001) < 0.9, rng.random(2001) < 0.85
    cut = np.arange(2001) < 2000
    built = report(candidate, live, metrics=(F1("b"),), cohorts={"resampled": cut}, needs=OfflineNeeds())
    many, few = cell(built, metric="f1_b"), cell(built, "resampled", "f1_b")
    assert many.low == pytest.approx(few.low, abs=0.005)
    assert many.high == pytest.approx(few.high, abs=0.005)
    assert many.candidate_low < many.candidate < many.candidate_high


# ---------------------------------------------------------------- what the rows stand for


def test_rows_count_by_one_over_their_inclusion_probability():
    """40 hard rows were all labelled, 60 of 600 easy ones: the estimate is of all 640 requests."""
    hard = np.arange(100) < 40
    right = ~hard
    built = report(right, right, probabilities=np.where(hard, 1.0, 0.1), cohorts={"hard": hard})
    assert cell(built).candidate == pytest.approx(600 / 640)
    assert cell(built, "hard").candidate == 0.0
    assert built.notes == ()


def test_rows_of_unknown_probability_are_judged_apart_and_the_report_says_so():
    known = np.arange(100) < 60
    right = known.copy()
    built = report(right, right, probabilities=np.where(known, 0.5, np.nan), cohorts={"even": np.arange(100) % 2 == 0})
    assert (cell(built).n, cell(built).candidate) == (60, 1.0)
    assert (cell(built, UNSAMPLED).n, cell(built, UNSAMPLED).candidate) == (40, 0.0)
    assert cell(built, "even").n == 30
    assert "40 of 100 test rows have no known inclusion probability" in built.notes[0]


def test_a_candidate_that_forgets_the_imported_rows_is_blocked():
    known = np.arange(400) < 200
    live = np.ones(400, dtype=bool)
    candidate = known | (np.arange(400) % 2 == 0)
    built = report(candidate, live, probabilities=np.where(known, 0.5, np.nan))
    verdict = judge(built, BY_COHORT)
    assert verdict.outcome is Outcome.FAIL
    assert f"accuracy on {UNSAMPLED}" in verdict.reason


def test_too_few_sampled_rows_give_way_to_all_rows_and_the_report_says_so():
    known = np.arange(100) < 5
    right = np.arange(100) < 50
    built = report(right, right, probabilities=np.where(known, 0.5, np.nan))
    assert (cell(built).n, cell(built).candidate) == (100, 0.5)
    assert "all rows count alike there" in built.notes[0]
    assert UNSAMPLED not in {c.cohort for c in built.cells}


def test_a_cohort_of_unsampled_rows_only_is_still_judged_and_named_in_the_notes():
    known = np.arange(100) < 60
    right = np.ones(100, dtype=bool)
    built = report(right, right, probabilities=np.where(known, 0.5, np.nan), cohorts={"imported": ~known})
    assert cell(built, "imported").n == 40
    assert any("in imported:" in note for note in built.notes)


@given(st.integers(0, 200), st.floats(0, 1), st.floats(0, 1), st.integers(0, 100))
@settings(deadline=None)
def test_no_row_is_lost_and_no_weight_is_made_up(num: int, unknown: float, in_cohort: float, seed: int):
    rng = np.random.default_rng(seed)
    chance = np.where(rng.random(num) < unknown, np.nan, rng.uniform(0.01, 1.0, size=num))
    mask = rng.random(num) < in_cohort
    rows, _ = population(num, {"some": mask}, chance)
    by = {r.cohort: r for r in rows}
    assert set(by["some"].index) <= set(np.flatnonzero(mask))
    apart = by[UNSAMPLED].index.tolist() if UNSAMPLED in by else []
    assert sorted([*by[ALL].index.tolist(), *apart]) == list(range(num))
    for r in rows:
        alike = (r.weights == 1.0).all()
        assert alike or r.weights == pytest.approx(1 / chance[r.index])


# ---------------------------------------------------------------- as a value


def full() -> Report:
    rng = np.random.default_rng(14)
    candidate, live = rng.random(200) < 0.9, rng.random(200) < 0.7
    built = report(
        candidate, live, metrics=(Accuracy(), F1("b")), cohorts={"newest": np.arange(200) > 150},
        train_targets=np.array([0, 1, 0]), trust=Trust.TRUTH, needs=OfflineNeeds(),
        received_at=DAY * np.arange(200),
    )  # fmt: skip
    tested = EvaluationSet(version="3fa9", dataset=5, num_rows=200, since=4, num_new=30, num_gone=0)
    built = replace(built, latency_ms_p50=2.0, latency_ms_p99=9.5, size_mb=1.5, evaluation=tested)
    verdict = gate([NoWorse("accuracy"), Latency(5)], evidence(built, approval=None, now=NOW))
    return replace(built, verdicts=(verdict,), notes=("served as a Python model",))


def test_a_report_comes_back_from_json_as_it_was():
    built = full()
    data = json.loads(json.dumps(built.to_json(), allow_nan=False))
    assert Report.from_json(data) == built
    assert Report.from_json(data).to_json() == data


def test_a_report_of_an_earlier_release_is_still_read():
    old = {
        "candidate": 2, "live": 1, "dataset": "d1", "baseline": "Majority", "latency_ms_p50": 1.0, "trust": "people",
        "latency_ms_p99": 2.0, "notes": [], "verdicts": [],
        "cells": [{"metric": "accuracy", "cohort": "all", "suite": "", "n": 9, "candidate": 0.5, "live": None,
                   "baseline": 0.4, "gain": None, "low": None, "high": None, "higher_is_better": True}],
    }  # fmt: skip
    found = Report.from_json(old)
    assert (found.cells[0].candidate, found.latency_ms_p99, found.evaluation) == (0.5, 2.0, None)


def test_the_gate_sees_what_the_report_says():
    built = full()
    word = Word(approved=True, by="ann", at=NOW)
    seen = evidence(built, approval=word, now=NOW)
    assert (seen.cells, seen.candidate, seen.live, seen.latency_ms_p99) == (built.cells, 2, 1, 9.5)
    assert (seen.approval, seen.trust, seen.now) == (word, "truth", NOW)
    assert Latency(5).judge(seen).outcome is Outcome.FAIL
