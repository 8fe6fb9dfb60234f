"""The report and the gate as the loop makes them: what stands in the report, whose labels judge, who is waited for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import Harness, edit

from tidemill.clock import micros
from tidemill.records import Outcome
from tidemill.review.report import Report

Make = Callable[..., Harness]
GATE = "tm.offline.NoWorse('accuracy', by='cohort')"
MEMBERS = (
    "tm.offline.BeatsBaseline(tm.offline.Linear()), tm.offline.BeatsBaseline(tm.offline.Rule(shy)), tm.offline.Size(1),"
    "tm.offline.Forgets(0.5), tm.offline.Calibrated(0.5), tm.offline.BeatsBaseline(tm.offline.Human(0.2))"
)
RULE = """
def shy(inputs):
    return "low"

project = tm.Project("""


def report(h: Harness, version: int = 2) -> Report:
    stored = h.app.world.catalog.report(h.name, version)
    assert stored is not None
    return Report.from_json(stored)


def test_the_report_holds_everything_that_a_gate_with_every_test_reads_and_each_ones_verdict(harness: Make) -> None:
    h = harness("tried", edit={GATE: MEMBERS, "\nproject = tm.Project(": RULE})
    h.second()
    found = report(h)
    whole = next(c for c in found.cells if c.cohort == "all" and not c.period)
    assert found.baselines == ("Majority()", "Linear()", "Rule(shy)", "Human(0.2)")
    assert whole.baselines["Linear()"] > 0.9 > whole.baselines["Rule(shy)"]
    assert found.size_mb is not None and 0 < found.size_mb < 1
    assert found.calibration is not None and {f.cohort for f in found.forgotten} >= {"all", "old_app"}
    assert {c.cohort for c in found.cells} >= {"all", "old_app", "new_app", "newest"}
    assert any(c.period for c in found.cells)
    assert {change.name for change in found.changes} == {"label", "x", "y", "app"}
    app = next(change for change in found.changes if change.name == "app")
    assert app.distance > app.chance and app.before == "v1 100.0%"  # version 1 knew the old app only
    gate, *each = found.verdicts
    assert gate.by == "gate" and len(each) == 6
    assert [v.outcome for v in each if "Linear" not in v.by].count(Outcome.FAIL) == 0


def test_the_evaluation_set_has_a_version_and_grows(harness: Make) -> None:
    h = harness("tried")
    h.second()
    first, second = report(h, 1).evaluation, report(h, 2).evaluation
    assert first is not None and second is not None
    assert first.version != second.version
    assert (second.since, second.num_gone) == (first.dataset, 0)
    assert second.num_new == second.num_rows - first.num_rows > 0
    again = h.app.world.datasets.test_rows(h.name, report(h, 1).dataset)
    assert len(again) == first.num_rows  # what version 1 was judged by is still there


def test_version_1_is_judged_too_though_nobody_is_waited_for(harness: Make) -> None:
    verdicts = report(harness(), 1).verdicts
    assert [v.outcome for v in verdicts] == [Outcome.PASS]


def test_labels_that_are_trusted_less_than_the_strategy_says_judge_nobody(harness: Make) -> None:
    h = harness("tried", edit={"offline=[": "test_trust='truth', offline=["})
    h.second()
    assert report(h).trust == "truth"
    imported = report(h, 1).evaluation
    whole = next(c for c in report(h).cells if c.cohort == "all")
    assert imported is not None and whole.n == imported.num_rows  # what people labelled since is left out
    index = h.app.world.reservoir.index(h.name)
    assert len(index.filter((index["split"] == "test") & (index["trust"] == "people"))) > 0


def waiting(harness: Make, approval: str) -> Harness:
    h = harness("tried", edit={GATE: f"tm.offline.Approval({approval})"})
    h.second()
    return h


def test_a_person_who_is_waited_for_is_reminded_once_each_time(harness: Make) -> None:
    h = waiting(harness, "remind_every='10m', timeout='1h'")
    for _ in range(3):
        h.clock.sleep(600)
        h.turn()
        h.turn()
    said = [v.reason for v in h.verdicts("test")]
    assert [("since" in reason) for reason in said] == [False, True, True, True]
    assert "since 0:30:00" in said[-1]
    shown = [v.verdict.reason for v in h.app.status().verdicts]
    assert said[-1] in shown
    h.clock.sleep(3600)
    h.turn()
    assert "longer than 1h" in h.verdicts("test")[-1].reason
    assert h.outcomes() == [None]


def test_a_test_that_is_declared_while_a_person_is_waited_for_has_what_it_reads(harness: Make) -> None:
    h = waiting(harness, "")
    assert report(h).cells[0].ratio is None
    before = h.app.world.catalog.report(h.name, 2)
    h.turn()
    assert h.app.world.catalog.report(h.name, 2) == before, "it is measured once"
    edit(h, {"tm.offline.Approval()": "tm.offline.NoWorse('accuracy', relative=0.05), tm.offline.Approval()"})
    h.seconds(5)
    whole = report(h).cells[0]
    assert whole.ratio is not None
    h.app.ask("approve", by="ann", version=2, reason="looked at the report")
    h.second()
    said = next(part for part in h.verdicts("test")[-1].parts if part.by.startswith("NoWorse"))
    assert (said.numbers["relative"], said.numbers["ratio"]) == (0.05, whole.ratio)


def test_who_approved_and_when_is_kept(harness: Make) -> None:
    h = waiting(harness, "")
    h.clock.sleep(60)
    at = h.clock.now()
    h.app.ask("approve", by="ann", version=2, reason="looked at the report")
    h.second()
    verdict = next(v for v in report(h).verdicts if v.by.startswith("Approval"))
    assert verdict.reason == "version 2 was approved by ann: looked at the report"
    assert verdict.numbers == {"by": "ann", "at": at.isoformat()}
    assert h.verdicts("test")[-1].parts[0] == verdict


def test_who_rejected_and_when_is_kept(harness: Make) -> None:
    h = waiting(harness, "")
    h.app.ask("reject", by="bob", version=2, reason="it is Friday")
    h.until_closed()
    said = h.verdicts("test")[-1]
    assert (said.outcome, said.numbers["by"]) == (Outcome.FAIL, "bob")
    assert report(h).verdicts[0] == said


@pytest.mark.parametrize(
    ("on_timeout", "outcome", "ended"), [("reject", Outcome.FAIL, "rejected"), ("approve", Outcome.PASS, None)]
)
def test_silence_counts_as_the_strategy_says_after_the_timeout(
    harness: Make, on_timeout: str, outcome: Outcome, ended: str | None
) -> None:
    h = waiting(harness, f"timeout='1h', on_timeout='{on_timeout}'")
    asked = h.clock.now()
    h.clock.sleep(3599)
    h.turn()
    assert h.outcomes() == [None]
    h.clock.sleep(1)
    h.turn()
    said = [v for v in h.verdicts("test") if "nobody spoke within 1h" in v.reason]
    assert [v.outcome for v in said] == [outcome]
    assert h.outcomes()[0] == ended
    waited = h.app.world.journal.step(h.name, 1, "test.waiting")
    assert waited is not None and waited["asked_at"] == micros(asked)
