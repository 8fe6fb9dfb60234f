"""A whole trip round the loop, and each way in which it can end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from harness import Harness
from sqlalchemy import text

from tidemill.errors import Conflict, NotFound
from tidemill.loop import engine
from tidemill.records import Outcome

Make = Callable[..., Harness]
GATE = "tm.offline.NoWorse('accuracy', by='cohort')"


def quality(h: Harness, seconds: float) -> dict[str, float]:
    found = h.app.status(period=timedelta(seconds=seconds)).quality
    return {q.cohort: q.value for q in found if q.value is not None}


def test_a_fall_is_noticed_retrained_and_released_step_by_step(harness: Make) -> None:
    h = harness()
    h.accuracy, h.new_share = {(1, "v2"): 0.3, (2, "v1"): 0.97, (2, "v2"): 0.97}, 0.6
    h.seconds(10)
    fell = quality(h, 4)
    h.until_closed()
    h.seconds(20)
    assert fell["new_app"] < 0.6
    assert quality(h, 10)["new_app"] > 0.85
    assert h.outcomes() == ["promoted"]
    assert (h.route.stable, h.route.fallback, h.route.candidate) == (2, 1, None)
    shares = [c.route.share for c in h.app.world.catalog.history(h.name) if c.route.candidate == 2]
    assert shares == [0.25]
    fired = h.verdicts("watch")[0]
    assert fired.outcome is Outcome.FIRE and "accuracy" in fired.reason
    assert h.verdicts("test")[0].outcome is Outcome.PASS
    assert [m.status for m in h.app.world.catalog.models(h.name)] == ["retired", "live"]


def test_every_verdict_says_why(harness: Make) -> None:
    h = harness("tried")
    h.until_closed()
    for given in h.app.world.journal.verdicts(h.name, limit=100):
        assert len(given.verdict.reason) > 10, given


def test_a_candidate_that_learnt_from_lies_is_stopped_by_the_gate_that_reads_trusted_labels(harness: Make) -> None:
    h = harness(edit={"tm.dataset.Everything()": "tm.dataset.Window('20s')"})
    h.lie, h.labels_people, h.feedback_share = True, False, 1.0
    h.app.pause(paused=True)
    h.seconds(40)
    h.app.ask("retrain", by="test")
    h.app.pause(paused=False)
    h.until_closed()
    assert h.outcomes() == ["rejected"]
    verdict = h.verdicts("test")[-1]
    assert verdict.outcome is Outcome.FAIL and "accuracy" in verdict.reason and verdict.back_to
    assert h.route.stable == 1 and h.app.world.catalog.model(h.name, 2).status == "rejected"


def test_a_rejected_version_that_a_person_lets_through_is_rolled_back_at_its_first_share(harness: Make) -> None:
    h = harness()
    h.app.ask("retrain", by="test")
    h.seconds(1)
    h.app.ask("reject", by="test", version=2, reason="a feeling")
    h.until_closed()
    h.accuracy = {(2, "v1"): 0.3, (2, "v2"): 0.3}
    h.app.ask("promote", by="test", version=2)
    h.until_closed(len(h.outcomes()) + 1)
    assert h.outcomes()[-1] == "rolled back"
    changes = h.app.world.catalog.history(h.name)
    assert max(c.route.share for c in changes) == 0.25 and h.route.stable == 1 and h.route.candidate is None
    assert h.app.world.catalog.model(h.name, 2).status == "rolled back"


def test_a_candidate_that_fails_requests_is_rolled_back_by_the_errors_guard(harness: Make) -> None:
    h = harness("tried")
    h.failing = frozenset({2})
    h.until_closed()
    assert h.outcomes() == ["rolled back"]
    assert "fail" in h.verdicts("release")[-1].reason.lower() or "error" in h.verdicts("release")[-1].reason.lower()


def test_an_approval_waits_for_a_person_and_then_goes_on(harness: Make) -> None:
    h = harness("tried", edit={GATE: "tm.offline.Approval()"})
    h.second()
    h.seconds(5)
    cycle = h.app.world.journal.cycle(h.name)
    assert cycle is not None and cycle.step == "test"
    assert [v.outcome for v in h.verdicts("test")] == [Outcome.UNKNOWN]
    h.app.ask("approve", by="ann", version=h.app.waiting_candidate())
    h.until_closed()
    assert h.outcomes() == ["promoted"]


def test_a_rejection_ends_the_cycle_with_the_persons_reason(harness: Make) -> None:
    h = harness("tried", edit={GATE: "tm.offline.Approval()"})
    h.second()
    h.app.ask("reject", by="ann", version=h.app.waiting_candidate(), reason="it is Friday")
    h.until_closed()
    assert h.outcomes() == ["rejected"] and "it is Friday" in h.verdicts("test")[-1].reason


def test_a_rollback_by_hand_in_the_middle_of_a_rollout_takes_effect_without_the_loop_and_ends_the_cycle(
    harness: Make,
) -> None:
    h = harness("tried")
    for _ in range(100):
        h.second()
        if h.route.candidate is not None:
            break
    assert h.route.candidate == 2
    h.app.rollback(by="ann", reason="a customer called")
    assert h.route.candidate is None and h.route.stable == 1
    h.until_closed()
    assert h.outcomes() == ["rolled back"]
    assert "a customer called" in h.verdicts("release")[-1].reason


def test_a_rollback_after_promotion_returns_to_the_version_before(harness: Make) -> None:
    h = harness("tried")
    h.until_closed()
    h.app.rollback(by="ann", reason="second thoughts")
    assert h.route.stable == 1
    assert {m.version: m.status for m in h.app.world.catalog.models(h.name)} == {1: "live", 2: "rolled back"}


def test_while_paused_no_cycle_opens_and_after_resuming_one_does(harness: Make) -> None:
    h = harness()
    h.app.pause(paused=True)
    h.app.ask("retrain", by="test")
    h.seconds(3)
    assert h.outcomes() == []
    h.app.pause(paused=False)
    h.second()
    assert len(h.outcomes()) == 1


def test_while_paused_a_candidate_keeps_its_share_and_goes_on_after_resuming(harness: Make) -> None:
    h = harness("tried")
    while h.route.candidate is None:
        h.second()
    h.app.pause(paused=True)
    h.seconds(15)
    assert (h.route.candidate, h.route.share, h.outcomes()) == (2, 0.25, [None])
    h.app.pause(paused=False)
    h.until_closed()
    assert h.outcomes() == ["promoted"]


def test_without_labels_the_cycle_fails_with_the_step_to_go_back_to(harness: Make) -> None:
    h = harness()
    with h.app.world.db.begin() as conn:
        conn.execute(text("UPDATE examples SET label = NULL, trust = NULL, labelled_at = NULL"))
    h.app.ask("retrain", by="test")
    h.until_closed(limit_s=10)
    assert h.outcomes() == ["failed"]
    assert h.verdicts("form")[-1].back_to == "labels"


def test_a_stale_word_is_answered_and_not_kept_for_the_next_candidate(harness: Make) -> None:
    h = harness()
    h.app.ask("approve", by="ann", version=7)
    h.app.ask("promote", by="ann", version=9)
    h.app.ask("promote", by="ann", version=1)
    h.seconds(2)
    answers = [c.result for c in h.app.world.journal.commands(h.name, 10)]
    assert all(answer and answer.startswith("refused") for answer in answers), answers
    assert h.app.world.journal.waiting(h.name) == []


def test_what_a_step_raises_is_shown_and_the_other_steps_go_on(
    harness: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    h = harness("tried")

    def broken(turn: object) -> bool:
        raise RuntimeError("the labels page burnt down")

    monkeypatch.setattr(engine, "STANDING", {**engine.STANDING, "label": broken})
    h.until_closed()
    assert h.outcomes() == ["promoted"]
    trouble = h.app.status().trouble["label"]
    assert "burnt down" in trouble["error"] and trouble["times"] >= 2
    told = [r for r in caplog.records if r.getMessage().startswith("step label failed: RuntimeError: the labels page")]
    assert len(told) == trouble["times"], "the loop's log tells it too"
    assert [bool(r.exc_info) for r in told] == [True] + [False] * (len(told) - 1), "where it came from, once"


def test_only_one_of_two_loops_turns_and_the_other_takes_over_when_it_lets_go(harness: Make) -> None:
    h = harness()
    first, second = h.app.engine(), h.app.engine()
    first.turn()
    h.app.ask("retrain", by="test")
    second.turn()
    assert h.app.world.journal.cycles(h.name) == []
    first.drain()
    second.turn()
    assert len(h.app.world.journal.cycles(h.name)) == 1
    second.drain()


def test_a_changed_online_stage_begins_the_rollout_anew_with_its_own_evidence(harness: Make) -> None:
    h = harness("tried")
    while h.route.candidate is None:
        h.second()
    file = h.folder / "waves_project.py"
    file.write_text(file.read_text().replace("tm.online.Shadow(requests=40) >> ", ""))
    changed = Harness.open(h.folder, now=h.clock.now())
    changed.accuracy, changed.new_share = h.accuracy, h.new_share
    changed.app.publish()
    changed.until_closed()
    assert changed.outcomes() == ["promoted"]
    assert len(changed.app.world.catalog.strategies(changed.name)) == 2
    changed.app.close()


def test_a_unit_counts_once_in_a_rollout_however_often_it_comes(harness: Make) -> None:
    h = harness("tried")
    h.num_units = 20
    h.accuracy = {(1, "v2"): 0.97, (2, "v1"): 0.88, (2, "v2"): 0.88}
    h.seconds(40)
    last = h.verdicts("release")[-1]
    assert h.outcomes() == [None], "twenty units cannot be evidence enough, however many requests they send"
    assert last.outcome is Outcome.INCONCLUSIVE


def test_while_paused_no_candidate_enters_traffic(harness: Make) -> None:
    h = harness("tried")
    h.app.pause(paused=True)
    h.seconds(4)
    assert h.route.rollout is None and h.outcomes() == [None]
    h.app.ask("promote", by="ann", version=1)
    h.app.pause(paused=False)
    h.until_closed()
    assert h.outcomes() == ["promoted"]


def test_a_candidate_that_a_person_made_live_is_not_tried_against_itself(harness: Make) -> None:
    h = harness("tried", edit={GATE: "tm.offline.Approval()"})
    h.second()
    h.app.promote_now(2, by="ann", reason="now")
    h.app.ask("reject", by="bob", version=2)
    h.seconds(3)
    assert h.outcomes() == ["promoted"] and h.route.stable == 2
    assert h.app.world.catalog.model(h.name, 2).status == "live"


def test_a_rejection_that_names_no_version_means_the_candidate_in_traffic(harness: Make) -> None:
    h = harness("tried")
    while h.route.candidate is None:
        h.second()
    h.app.ask("reject", by="ann", reason="a feeling")
    h.seconds(3)
    assert h.outcomes() == ["rolled back"] and h.route.candidate is None


def test_a_rejection_while_the_candidate_is_trained_ends_the_training(harness: Make) -> None:
    h = harness()
    h.accuracy, h.new_share = {(1, "v2"): 0.3}, 0.6
    catalog, turning = h.app.world.catalog, h.app.engine()
    h.engine = turning
    for _ in range(200):
        h.clock.sleep(1)
        h.users()
        h.people()
        while not h.is_training() and turning.turn():
            pass
        if h.is_training():
            break
    assert h.app.candidate_in_making() is None
    h.app.ask("reject", by="ann", reason="wrong data")
    h.turn()
    assert h.outcomes() == ["rejected"] and "wrong data" in h.verdicts("train")[-1].reason
    assert [m.version for m in catalog.models(h.name)] == [1]
    assert [run.status for run in catalog.runs(h.name)][-1] != "running"
    with pytest.raises(NotFound, match="no cycle is open"):
        h.app.candidate_in_making()


def test_a_rollback_said_twice_does_not_leave_the_live_version_too(harness: Make) -> None:
    h = harness("tried")
    while h.route.candidate is None:
        h.second()
    h.app.rollback(by="ann", reason="first")
    with pytest.raises(Conflict, match="already"):
        h.app.rollback(by="ann", reason="a double click")
    assert h.route.stable == 1


def test_asked_for_three_times_it_is_one_retraining(harness: Make) -> None:
    h = harness()
    for _ in range(3):
        h.app.ask("retrain", by="ann")
    h.until_closed()
    h.seconds(3)
    assert len(h.outcomes()) == 1
    assert h.app.world.journal.waiting(h.name) == []


def test_a_step_that_fails_for_good_ends_its_cycle_and_the_live_version_stays(
    harness: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    h = harness("tried")

    def broken(turn: object, cycle: object) -> bool:
        raise RuntimeError("the artefact does not load")

    monkeypatch.setattr(engine, "CYCLE", {**engine.CYCLE, "test": broken})
    h.until_closed(limit_s=200)
    assert h.outcomes() == ["failed"] and h.route.stable == 1
    closed = h.app.world.journal.cycles(h.name)[0]
    assert "does not load" in closed.reason


def test_what_people_label_reaches_quality_and_guards(harness: Make) -> None:
    h = harness(edit={"tm.label.Queue(daily_budget=86_400)": "tm.label.Queue(daily_budget=864_000, horizon='20s')"})
    h.feedback_share = 0.0
    h.seconds(45)
    log = h.app.world.log.feedback(h.name, after=None, until=h.clock.now(), kinds=["label"])
    assert (log["trust"] == "people").sum() > 50
    assert {q.cohort: q.num for q in h.app.status(period=timedelta(seconds=60)).quality}["all"] > 0
