"""The gate before traffic: what its tests say of a report, and how they count together."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import ProjectError
from tidemill.records import Outcome, Verdict
from tidemill.strategy.evidence import Calibration, Cell, Evidence, Forgotten, Word
from tidemill.strategy.gate import Offline, gate, needs
from tidemill.strategy.offline import (
    Approval,
    AtLeast,
    BeatsBaseline,
    Calibrated,
    Forgets,
    Human,
    Latency,
    Linear,
    Majority,
    NoWorse,
    Previous,
    Rule,
    Size,
)

PASS, FAIL, INCONCLUSIVE, UNKNOWN = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.UNKNOWN
GOOD = Cell(
    metric="accuracy", cohort="all", n=1000, live=0.9, candidate=0.92, baselines={"Majority()": 0.6},
    gain=0.02, low=0.01, high=0.03,
)  # fmt: skip
WORSE = replace(GOOD, cohort="new_app", n=120, candidate=0.75, gain=-0.15, low=-0.22, high=-0.08)
OPEN = replace(GOOD, cohort="old_app", n=60, candidate=0.89, gain=-0.01, low=-0.08, high=0.06)
THIN = replace(WORSE, cohort="rare", n=7)


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def seen(*cells: Cell, live: int | None = 1, p99: float | None = 10.0, **more: Any) -> Evidence:
    return Evidence(
        cells=cells, candidate=2, live=live, now=NOW, latency_ms_p50=2.0, latency_ms_p99=p99, **more
    )  # fmt: skip


def test_a_cell_reads_as_a_sentence():
    cell = Cell(metric="accuracy", cohort="new_app", n=120, live=0.66, candidate=0.96, gain=0.3, low=0.24, high=0.36)
    assert str(cell) == "accuracy on new_app: .66 -> .96 (+.30, .24 to .36, n 120)"
    loss = Cell(
        metric="mean_absolute_error", cohort="all", n=9, live=12.5, candidate=12.504, gain=-0.004, low=-1, high=1
    )
    assert str(loss) == "mean_absolute_error on all: 12.50 -> 12.50 (-.004, -1.00 to 1.00, n 9)"
    assert str(Cell(metric="f1_toxic", cohort="all", n=9, candidate=0.5)) == "f1_toxic on all: .50 (n 9)"
    assert str(replace(cell, low=None, high=None, n=1)) == "accuracy on new_app: .66 -> .96 (+.30, n 1)"


@pytest.mark.parametrize(
    ("low", "gain", "high", "outcome"),
    [
        (-0.02, 0.0, 0.02, PASS),  # a loss beyond the margin is excluded
        (-0.015, -0.01, -0.005, PASS),  # surely worse, and surely by less than is tolerated
        (-0.12, -0.08, -0.04, FAIL),  # surely worse, and by more than is tolerated
        (-0.03, -0.015, -0.001, INCONCLUSIVE),  # surely worse, perhaps by less than is tolerated
        (-0.10, -0.04, 0.02, INCONCLUSIVE),  # may be worse, may be better
        (None, -0.04, None, INCONCLUSIVE),  # a single row has no interval
    ],
)
def test_no_worse_fails_on_evidence_passes_on_evidence_and_else_does_not_know(
    low: float | None, gain: float, high: float | None, outcome: Outcome
):
    verdict = NoWorse("accuracy", margin=0.02).judge(seen(replace(GOOD, low=low, gain=gain, high=high)))
    assert verdict.outcome is outcome


@given(st.floats(-0.5, 0.5), st.floats(0, 0.2), st.floats(0, 0.2), st.floats(0, 0.1))
def test_a_candidate_that_gains_never_fails(gain: float, below: float, above: float, margin: float):
    cell = replace(GOOD, gain=gain, low=gain - below, high=gain + above)
    verdict = NoWorse("accuracy", margin=margin).judge(seen(cell))
    assert verdict.outcome is not FAIL or (gain < -margin and gain + above < 0)


def test_one_cohort_that_is_worse_blocks_a_candidate_that_is_better_overall():
    evidence = seen(GOOD, WORSE, OPEN)
    assert NoWorse("accuracy").judge(evidence).outcome is PASS
    verdict = NoWorse("accuracy", by="cohort").judge(evidence)
    assert verdict.outcome is FAIL
    assert verdict.reason == "worse: accuracy on new_app: .90 -> .75 (-.15, -.22 to -.08, n 120)"
    assert verdict.back_to == "data"
    assert verdict.numbers["cohort"] == "new_app"
    assert NoWorse("accuracy").judge(seen(replace(WORSE, cohort="all"))).back_to == "training"


def test_cohorts_with_too_few_rows_do_not_block_and_are_named():
    verdict = NoWorse("accuracy", by="cohort").judge(seen(GOOD, THIN))
    assert verdict.outcome is PASS
    assert "too few rows to judge rare (n 7)" in verdict.reason
    only = NoWorse("accuracy", by="cohort").judge(seen(replace(THIN, cohort="all")))
    assert only.outcome is INCONCLUSIVE
    assert "all (n 7)" in only.reason


def test_what_an_inconclusive_cohort_means_is_for_the_strategy_to_say():
    evidence = seen(GOOD, OPEN)
    for inconclusive, outcome in (("pass", PASS), ("fail", FAIL)):
        member = NoWorse("accuracy", by="cohort", inconclusive=inconclusive)
        assert member.judge(evidence).outcome is INCONCLUSIVE
        verdict = gate([member], evidence)
        assert verdict.outcome is outcome
        assert verdict.parts[0].outcome is INCONCLUSIVE  # what was found is not lost
        assert "old_app: .90 -> .89" in verdict.reason


PRICE = Cell(
    metric="mean_absolute_error", cohort="all", n=300, live=2000.0, candidate=2040.0, higher_is_better=False,
    gain=-40.0, low=-90.0, high=10.0, ratio=1.02, ratio_low=0.995, ratio_high=1.045,
)  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "outcome"),
    [
        ({}, PASS),  # a ratio beyond 1.05 is excluded
        ({"ratio_high": 1.051}, INCONCLUSIVE),
        ({"ratio_high": None}, INCONCLUSIVE),
        ({"gain": -110.0, "high": -5.0, "ratio_high": 1.09}, FAIL),  # worse, and by more than 100 of 2,000
        ({"gain": -90.0, "high": -5.0, "ratio_high": 1.09}, INCONCLUSIVE),  # worse, perhaps by less
        ({"higher_is_better": True, "ratio_low": 0.951}, PASS),
        ({"higher_is_better": True, "ratio_low": 0.949}, INCONCLUSIVE),
        ({"low": None, "high": None}, INCONCLUSIVE),  # a single row has no interval
        ({"live": 0.0, "gain": 0.0, "low": 0.0, "high": 0.0, "ratio": None, "ratio_high": None}, INCONCLUSIVE),
        ({"live": 0.0, "gain": -0.3, "low": -0.5, "high": -0.1, "ratio": None, "ratio_high": None}, FAIL),
        ({"live": 0.0, "gain": 0.3, "low": 0.1, "high": 0.5, "ratio": None, "ratio_high": None}, PASS),
        ({"live": -10.0, "gain": -0.4, "low": -0.6, "high": -0.2, "ratio": None, "ratio_high": None}, INCONCLUSIVE),
    ],
)
def test_a_share_of_the_live_value_is_tolerated_in_the_direction_of_the_metric(cell: dict[str, Any], outcome: Outcome):
    verdict = NoWorse("mean_absolute_error", relative=0.05).judge(seen(replace(PRICE, **cell)))
    assert verdict.outcome is outcome


def test_a_verdict_on_a_share_says_the_ratio_in_words_and_in_numbers():
    member = NoWorse("mean_absolute_error", relative=0.05)
    verdict = member.judge(seen(PRICE))
    assert verdict.reason == (
        "no worse by more than 5 % of the live version's value: "
        "mean_absolute_error on all: 2000.00 -> 2040.00 (×1.020, 0.995 to 1.045, n 300)"
    )
    wanted = {"ratio": 1.02, "ratio_low": 0.995, "ratio_high": 1.045, "relative": 0.05}
    assert verdict.numbers.items() >= wanted.items()
    zero = replace(PRICE, live=0.0, candidate=0.0, gain=0.0, low=0.0, high=0.0, ratio=None)
    assert member.judge(seen(zero)).reason == (
        "these rows do not exclude a loss beyond 5 % of the live version's value: "
        "mean_absolute_error on all: .00 -> .00 (there is no share of .00: name a margin, n 300)"
    )


def test_by_cohort_a_share_is_of_each_cohort_s_own_value_and_thin_cohorts_are_named():
    worse = replace(
        PRICE, cohort="new_app", live=100.0, candidate=120.0, gain=-20.0, low=-30.0, high=-9.0, ratio_high=1.3
    )
    thin = replace(worse, cohort="rare", n=7)
    verdict = NoWorse("mean_absolute_error", by="cohort", relative=0.05).judge(seen(PRICE, worse, thin))
    assert (verdict.outcome, verdict.back_to, verdict.numbers["cohort"]) == (FAIL, "data", "new_app")
    assert verdict.reason.startswith("worse by more than 5 % of the live version's value: ")
    assert verdict.reason.endswith("too few rows to judge rare (n 7)")


def test_a_share_changes_no_digest_of_a_strategy_that_says_none():
    params = {"metric": "accuracy", "by": "cohort", "margin": 0.02, "min_rows": 30, "inconclusive": "pass"}
    member = NoWorse("accuracy", by="cohort")
    assert member.to_json()["params"] == params
    assert member.digest() == NoWorse("accuracy", by="cohort", margin=0.02).digest()
    shares = NoWorse("accuracy", by="cohort", relative=0.05)
    assert shares.to_json()["params"] == {**{k: v for k, v in params.items() if k != "margin"}, "relative": 0.05}
    assert pickle.loads(pickle.dumps(shares)) == replace(shares, min_rows=30) == shares
    assert (str(member), str(shares)) == (
        "NoWorse('accuracy', by='cohort')",
        "NoWorse('accuracy', by='cohort', relative=0.05)",
    )


def test_before_there_is_a_live_version_nothing_can_be_worse():
    assert NoWorse("accuracy", by="cohort").judge(seen(live=None)).outcome is PASS


def test_a_metric_is_found_by_its_first_word_when_there_is_one():
    f1 = replace(GOOD, metric="f1_toxic")
    assert NoWorse("f1").judge(seen(GOOD, f1)).numbers["metric"] == "f1_toxic"
    assert NoWorse().judge(seen(GOOD, f1)).numbers["metric"] == "accuracy"  # the first
    with pytest.raises(ProjectError, match="'f1' means several metrics"):
        NoWorse("f1").judge(seen(f1, replace(GOOD, metric="f1_ok")))


def test_at_least_compares_the_estimate_the_way_the_metric_points():
    loss = replace(GOOD, metric="log_loss", candidate=0.4, higher_is_better=False)
    evidence = seen(GOOD, WORSE, loss)
    assert AtLeast("accuracy", 0.92).judge(evidence).outcome is PASS
    assert AtLeast("accuracy", 0.93).judge(evidence).outcome is FAIL
    assert AtLeast("log_loss", 0.4).judge(evidence).outcome is PASS
    assert AtLeast("log_loss", 0.39).judge(evidence).reason == "log_loss on all is .40, wanted at most .39 (n 1000)"
    cohort = AtLeast("accuracy", 0.8, cohort="new_app").judge(evidence)
    assert cohort.reason == "accuracy on new_app is .75, wanted at least .80 (n 120)"
    assert cohort.outcome is FAIL


def test_a_bar_that_cannot_be_measured_is_not_met():
    member = AtLeast("accuracy", 0.5, cohort="nobody")
    assert member.judge(seen(GOOD)).outcome is INCONCLUSIVE
    assert gate([member], seen(GOOD)).outcome is FAIL


def test_a_candidate_must_beat_the_constant_answer():
    assert BeatsBaseline().judge(seen(GOOD)).outcome is PASS
    verdict = BeatsBaseline(Majority()).judge(seen(replace(GOOD, candidate=0.6)))
    assert (verdict.outcome, verdict.reason) == (FAIL, "accuracy is .60, Majority() has .60 (n 1000)")
    assert BeatsBaseline().judge(seen(replace(GOOD, baselines={}))).outcome is INCONCLUSIVE
    worse = replace(GOOD, metric="log_loss", candidate=0.7, higher_is_better=False)
    assert BeatsBaseline().judge(seen(worse)).outcome is FAIL


def rule(inputs: Mapping[str, Any]) -> str:
    return "a"


def test_a_baseline_is_found_by_what_it_is():
    cell = replace(GOOD, baselines={"Majority()": 0.6, "Linear()": 0.95, "Rule(rule)": 0.5})
    assert BeatsBaseline(Linear()).judge(seen(cell)).outcome is FAIL
    assert BeatsBaseline(Rule(rule)).judge(seen(cell)).outcome is PASS
    assert BeatsBaseline(Human(0.93)).judge(seen(cell)).reason == "accuracy is .92, Human(0.93) has .93 (n 1000)"
    assert BeatsBaseline(Human(0.91)).judge(seen(cell)).outcome is PASS


def test_the_previous_version_is_a_baseline_once_there_is_one():
    assert BeatsBaseline(Previous()).judge(seen(GOOD)).outcome is PASS
    assert BeatsBaseline(Previous()).judge(seen(replace(GOOD, candidate=0.9))).outcome is FAIL
    assert BeatsBaseline(Previous()).judge(seen(replace(GOOD, live=None), live=None)).outcome is PASS


KEPT = Forgotten(cohort="all", n=900, lost=9, share=0.01, low=0.003, high=0.02)
LOST = Forgotten(cohort="old_app", n=200, lost=40, share=0.2, low=0.13, high=0.27)


def test_a_candidate_that_forgets_is_stopped_on_evidence_and_the_cohort_is_named():
    assert Forgets(0.05).judge(seen(forgotten=(KEPT,))).outcome is PASS
    verdict = Forgets(0.05).judge(seen(forgotten=(KEPT, LOST)))
    assert (verdict.outcome, verdict.back_to) == (FAIL, "data")
    assert verdict.reason == "forgets 40 of 200 on old_app (.20), wanted at most .05"
    assert Forgets(0.2).judge(seen(forgotten=(KEPT, LOST))).outcome is INCONCLUSIVE
    assert Forgets(0.3).judge(seen(forgotten=(KEPT, LOST))).outcome is PASS


def test_what_there_is_too_little_of_cannot_be_forgotten():
    assert Forgets().judge(seen(forgotten=(replace(LOST, n=29),))).outcome is INCONCLUSIVE
    assert Forgets().judge(seen(live=None)).outcome is PASS


@pytest.mark.parametrize(
    ("low", "high", "outcome"), [(0.06, 0.1, FAIL), (0.01, 0.05, PASS), (0.03, 0.08, INCONCLUSIVE)]
)
def test_the_interval_of_the_calibration_error_decides(low: float, high: float, outcome: Outcome):
    found = Calibration(error=0.05, low=low, high=high, n=500)
    assert Calibrated(0.05).judge(seen(calibration=found)).outcome is outcome
    assert Calibrated(0.05).judge(seen()).outcome is INCONCLUSIVE


def test_an_artefact_may_be_too_large():
    assert Size(50).judge(seen(size_mb=50.0)).outcome is PASS
    verdict = Size(50).judge(seen(size_mb=123.4))
    assert (verdict.outcome, verdict.reason) == (FAIL, "the artefact takes 123 MB, wanted at most 50 MB")
    assert Size(50).judge(seen()).outcome is INCONCLUSIVE


def test_cells_of_a_period_are_there_to_be_looked_at_and_judged_by_nobody():
    bad = replace(WORSE, cohort="all", period="2026-01")
    assert NoWorse("accuracy", by="cohort").judge(seen(GOOD, bad)).outcome is PASS


def test_latency_is_compared_at_the_99th_percentile():
    assert Latency(10).judge(seen(p99=10.0)).outcome is PASS
    verdict = Latency(10).judge(seen(p99=34.2))
    assert (verdict.outcome, verdict.reason) == (FAIL, "p99 latency is 34.2 ms, wanted at most 10 ms")
    assert Latency(10).judge(seen(p99=None)).outcome is INCONCLUSIVE


def test_an_approval_waits_for_a_person_and_keeps_their_words():
    assert Approval().judge(seen(GOOD)).outcome is UNKNOWN
    yes = Approval().judge(seen(GOOD, approval=Word(approved=True, by="ann", at=NOW)))
    assert (yes.outcome, yes.reason) == (PASS, "version 2 was approved by ann")
    assert yes.numbers == {"by": "ann", "at": "2026-01-01T00:00:00+00:00"}
    no = Approval().judge(seen(GOOD, approval=Word(approved=False, by="bob", at=NOW, reason="not on a Friday")))
    assert (no.outcome, no.reason) == (FAIL, "version 2 was rejected by bob: not on a Friday")


def waited(member: Approval, days: float) -> Verdict:
    return member.judge(seen(GOOD, asked_at=NOW - timedelta(days=days)))


def test_while_nobody_speaks_the_reminders_that_are_due_are_counted():
    assert [waited(Approval(), days).numbers["reminders"] for days in (0, 0.9, 1, 6.5)] == [0, 0, 1, 6]
    assert waited(Approval(remind_every="6h"), 1).numbers["reminders"] == 4
    assert waited(Approval(), 2).reason == (
        "version 2 waits for a person to approve or reject it, since 2 days, 0:00:00"
    )


@pytest.mark.parametrize(("on_timeout", "outcome"), [("wait", UNKNOWN), ("reject", FAIL), ("approve", PASS)])
def test_after_the_timeout_the_strategy_says_what_silence_means(on_timeout: str, outcome: Outcome):
    member = Approval(timeout="7d", on_timeout=on_timeout)
    assert waited(member, 6.9).outcome is UNKNOWN
    late = waited(member, 7)
    assert late.outcome is outcome
    assert "7d" in late.reason
    assert (
        member.judge(
            seen(GOOD, asked_at=NOW - timedelta(days=9), approval=Word(approved=True, by="ann", at=NOW))
        ).outcome
        is PASS
    )  # a word counts for more than the silence before it


def test_nobody_is_asked_to_approve_what_the_tests_refuse():
    evidence = seen(replace(WORSE, cohort="all"))
    verdict = gate([NoWorse("accuracy"), Approval()], evidence)
    assert verdict.outcome is FAIL
    assert verdict.back_to == "training"
    assert gate([NoWorse("accuracy"), Approval()], seen(GOOD)).outcome is UNKNOWN


outcomes = st.sampled_from([PASS, FAIL, INCONCLUSIVE, UNKNOWN])


class Says(Offline):
    def __init__(self, outcome: Outcome, inconclusive: str) -> None:
        object.__setattr__(self, "outcome", outcome)
        object.__setattr__(self, "inconclusive", inconclusive)

    def judge(self, evidence: Evidence) -> Verdict:
        return Verdict(outcome=self.outcome, by="says", reason="so")  # type: ignore[attr-defined]


@given(st.lists(st.tuples(outcomes, st.sampled_from(["pass", "fail"])), max_size=5))
def test_any_failure_fails_any_waiting_waits_and_only_passes_pass(said: list[tuple[Outcome, str]]):
    verdict = gate([Says(outcome, rule) for outcome, rule in said], seen(GOOD))
    counted = [Outcome(rule) if outcome is INCONCLUSIVE else outcome for outcome, rule in said]
    expected = FAIL if FAIL in counted else UNKNOWN if UNKNOWN in counted else PASS
    assert verdict.outcome is expected
    assert len(verdict.parts) == len(said)
    assert verdict.reason


def test_needs_are_what_all_members_need():
    wanted = needs([NoWorse("accuracy", by="cohort"), AtLeast("f1", 0.8), NoWorse("f1"), BeatsBaseline(), Latency(5)])
    assert wanted.metrics == ("accuracy", "f1")
    assert wanted.compared == ("accuracy", "f1")
    assert wanted.by_cohort == ("accuracy",)
    assert (wanted.cohorts, wanted.latency) == (True, True)
    assert wanted.baselines == ((Majority(), None),)
    assert wanted.margins == (("accuracy", 0.02), ("f1", 0.02))
    share = needs([NoWorse("accuracy", relative=0.1)])
    assert (share.margins, share.relatives) == ((), (("accuracy", 0.1),))
    assert needs([Approval()]) == needs([])


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: NoWorse(by="user"), "by is 'user'"),
        (lambda: NoWorse(margin=-0.1), "margin is -0.1"),
        (lambda: NoWorse(relative=0.0), "relative is 0.0"),
        (lambda: NoWorse(relative=1.0), "relative is 1.0"),
        (lambda: NoWorse(relative=float("nan")), "relative is nan"),
        (lambda: NoWorse(margin=0.02, relative=0.05), "margin is 0.02 and relative is 0.05"),
        (lambda: NoWorse(min_rows=0), "min_rows is 0"),
        (lambda: NoWorse(inconclusive="shrug"), "inconclusive is 'shrug'"),
        (lambda: BeatsBaseline("majority"), "'majority' is no baseline"),  # type: ignore[arg-type]
        (lambda: BeatsBaseline(Rule("short")), "'short' is no function"),  # type: ignore[arg-type]
        (lambda: BeatsBaseline(Linear(0)), "max_rows is 0"),
        (lambda: Forgets(at_most=1.5), "at_most is 1.5"),
        (lambda: Forgets(inconclusive="shrug"), "inconclusive is 'shrug'"),
        (lambda: Calibrated(at_most=0), "at_most is 0"),
        (lambda: Size(0), "max_mb is 0"),
        (lambda: Approval(on_timeout="panic"), "on_timeout is 'panic'"),
        (lambda: Approval(timeout="0s"), "timeout is 0"),
    ],
)
def test_parameters_that_make_no_sense_are_refused_by_name(make: object, problem: str):
    with pytest.raises(ProjectError, match=problem):
        make()  # type: ignore[operator]
