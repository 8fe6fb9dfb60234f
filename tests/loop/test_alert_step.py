"""Alerts open once with evidence, close by themselves, and roll back where they say so."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from harness import Harness

from tidemill.records import Outcome
from tidemill.stores.alerts import Alerts

Make = Callable[..., Harness]
FIRES = 'trigger=(tm.trigger.Degraded("accuracy", drop=0.05, reference=100) & tm.trigger.Amount(20)).at_most("10m")'
HELD = {FIRES: "trigger=tm.trigger.Manual()"}


def alerting(harness: Make, alerts: str) -> Harness:
    return harness(edit={**HELD, "strategy=tm.Strategy(": f"alerts=[{alerts}],\n    strategy=tm.Strategy("})


def opened(h: Harness) -> list[str]:
    return [one.name for one in h.app.world.alerts.standing(h.name)]


FALLS = 'tm.alert.Falls("accuracy", cohort="new_app", drop=0.05, reference=100, quiet_for="20s"'


def test_a_fall_in_a_cohort_opens_one_alert_that_closes_when_it_is_over(harness: Make) -> None:
    h = alerting(harness, FALLS + ")")
    h.new_share, h.accuracy = 0.6, {}
    h.seconds(25)
    assert opened(h) == []
    h.accuracy = {(1, "v2"): 0.4}
    h.seconds(20)
    (one,) = h.app.world.alerts.standing(h.name)
    assert one.cohort == "new_app"
    assert "in cohort new_app: accuracy: loss 0." in one.verdict.reason
    assert [v.outcome for v in h.verdicts("alerts")] == [Outcome.FIRE], "it is told once"
    assert h.app.status().alerts[0].id == one.id
    h.accuracy = {}
    h.seconds(60)
    assert opened(h) == []
    assert h.app.world.alerts.history(h.name)[0].closed_at is not None


def test_an_alert_that_says_so_rolls_the_live_version_back(harness: Make) -> None:
    h = alerting(harness, FALLS + ', then="rollback")')
    h.accuracy, h.new_share = {(1, "v2"): 0.9}, 0.6
    h.app.ask("retrain", by="ann")
    h.until_closed()
    assert (h.outcomes(), h.route.stable) == (["promoted"], 2)
    h.seconds(25)
    h.accuracy = {(2, "v2"): 0.3}
    for _ in range(40):
        h.second()
        if h.route.stable == 1:
            break
    assert h.route.stable == 1
    change = h.app.catalog.history(h.name)[-1]
    assert change.by.startswith("alert Falls(")
    assert [m.status for m in h.app.catalog.models(h.name)] == ["live", "rolled back"]


def test_silence_and_staleness_are_told_and_end_with_the_next_request_or_version(harness: Make) -> None:
    h = alerting(harness, 'tm.alert.Silent("1m"), tm.alert.Stale("5m")')
    h.seconds(2)
    assert opened(h) == []
    h.clock.sleep(120)
    h.turn()
    assert opened(h) == ["Silent('1m')"]
    h.clock.sleep(300)
    h.turn()
    assert sorted(opened(h)) == ["Silent('1m')", "Stale('5m')"]
    h.seconds(3)
    assert opened(h) == ["Stale('5m')"]


def test_an_alert_that_is_silenced_stays_so_when_it_opens_again(harness: Make) -> None:
    h = alerting(harness, 'tm.alert.Silent("1m")')
    h.clock.sleep(120)
    h.turn()
    (one,) = h.app.world.alerts.standing(h.name)
    with h.app.db.begin() as conn:
        Alerts(h.app.db).silence(conn, h.name, one.id, h.clock.now() + timedelta(hours=1))
    h.seconds(3)
    h.clock.sleep(120)
    h.turn()
    (again,) = h.app.world.alerts.standing(h.name)
    assert again.id != one.id
    assert again.is_silent(h.clock.now())


def test_a_declaration_that_is_gone_takes_its_alert_along(harness: Make) -> None:
    h = alerting(harness, 'tm.alert.Silent("1m"), tm.alert.Silent("2m")')
    h.clock.sleep(180)
    h.turn()
    assert len(opened(h)) == 2
    file = h.folder / "waves_project.py"
    file.write_text(file.read_text().replace(', tm.alert.Silent("2m")', ""))
    changed = Harness.open(h.folder, now=h.clock.now())
    changed.turn()
    assert opened(changed) == ["Silent('1m')"]
    changed.app.close()


def test_an_alert_stands_while_what_is_seen_is_still_bad_however_quiet_the_test(harness: Make) -> None:
    h = alerting(harness, FALLS.replace('quiet_for="20s"', 'quiet_for="1s"') + ")")
    h.new_share, h.accuracy = 0.6, {}
    h.seconds(25)
    h.accuracy = {(1, "v2"): 0.4}
    h.seconds(40)
    (one,) = h.app.world.alerts.history(h.name)
    assert one.is_open and one.fired_at > one.opened_at
    assert one.verdict.numbers.get("worst") is None, "the cohort is the worst there is"
