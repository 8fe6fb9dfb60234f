"""The loop looks at drift once a window, retrains where a trigger says so, and tells people where an alert does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from harness import CALM_S, START, Harness

from tidemill.records import Outcome

Make = Callable[..., Harness]
TRIGGER = 'trigger=(tm.trigger.Degraded("accuracy", drop=0.05, reference=100) & tm.trigger.Amount(20)).at_most("10m")'
MANUAL = {TRIGGER: "trigger=tm.trigger.Manual()"}
DRIFTS = 'tm.alert.Drifts(["x", "app", "decision"], window="10s", reference="30s", min_rows=100)'
DRIFT = 'trigger=tm.trigger.Drift(["x", "app"], window="10s", min_rows=100).at_most("10m")'


def test_an_alert_opens_when_requests_change_and_closes_when_they_are_usual_again(harness: Make) -> None:
    h = harness(edit={**MANUAL, "strategy=tm.Strategy(": f"alerts=[{DRIFTS}],\n    strategy=tm.Strategy("})
    h.seconds(31)
    assert h.app.world.alerts.standing(h.name) == []
    h.new_share = 0.5
    h.seconds(10)
    (one,) = h.app.world.alerts.standing(h.name)
    assert one.verdict.reason.startswith("app (")
    assert one.verdict.numbers["moved"] == "app"
    assert one.verdict.numbers["since"] == "2026-01-01T00:00Z"
    ids = str(one.verdict.numbers["examples"]).split()
    shown = h.app.world.log.lookup(h.name, ids, columns=["app", "received_at"])
    assert shown["app"].to_list() == ["v2"] * 5
    h.seconds(50)
    assert h.app.world.alerts.standing(h.name) == [], "half a minute of the new mixture is its reference by now"
    assert [v.outcome for v in h.verdicts("alerts")] == [Outcome.FIRE], "it is told once"


def test_a_trigger_opens_a_cycle_when_requests_are_unlike_the_training_data(harness: Make) -> None:
    h = harness(edit={TRIGGER: DRIFT})
    h.seconds(25)
    assert h.outcomes() == []
    watching = h.app.status().watching
    assert watching["outcome"] == "quiet" and "beside the training data" in watching["reason"]
    h.new_share = 0.4
    h.seconds(12)
    (cycle,) = h.app.world.journal.cycles(h.name)
    assert cycle.trigger.numbers["moved"] == "app"
    assert cycle.opened_at == START + timedelta(seconds=CALM_S + 35), "when the window was whole"


def test_each_whole_window_is_looked_at_once_also_by_a_process_that_starts_anew(harness: Make) -> None:
    h = harness(edit={TRIGGER: DRIFT})
    h.seconds(25)
    before = h.app.world.journal.state(h.name, "watch")
    assert list(before["looked"].values()) == [(int(START.timestamp()) + CALM_S + 25) * 1_000_000]
    again = Harness.open(h.folder, now=h.clock.now())
    again.seconds(3)
    after = again.app.world.journal.state(h.name, "watch")
    assert (after["looked"], after["trigger"]) == (before["looked"], before["trigger"])
    again.app.close()


def test_a_version_is_asked_again_what_it_served(harness: Make) -> None:
    h = harness(edit=MANUAL)
    h.seconds(5)
    found = h.app.skew()
    assert found is not None and found.num > 0
    rows = h.app.world.log.lookup(h.name, found.examples, columns=["scores"])
    assert found.share > 0.5, "the harness makes its answers up: the version would not have given them"
    assert rows["scores"].to_list(), "and the examples are requests of the log"
