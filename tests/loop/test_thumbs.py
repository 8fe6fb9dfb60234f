"""What users think of answers, in thumbs and ratings, guards rollouts and raises alarms as labels do."""

from __future__ import annotations

from collections.abc import Callable

from harness import Harness

from tidemill.records import Outcome

Make = Callable[..., Harness]
FIRES = 'trigger=(tm.trigger.Degraded("accuracy", drop=0.05, reference=100) & tm.trigger.Amount(20)).at_most("10m")'
ALERTS = """alerts=[
        tm.alert.Falls("thumbs", cohort="new_app", drop=0.05, reference=100),
        tm.alert.Below("rating", 4.0, cohort="new_app"),
        tm.alert.Falls("rating", drop=0.2, reference=100, binary=False),
    ],
    strategy=tm.Strategy("""
EDIT = {
    "metrics=[tm.metrics.Accuracy()]": "metrics=[tm.metrics.Accuracy(), tm.metrics.Thumbs(), tm.metrics.Rating()]",
    FIRES: 'trigger=tm.trigger.Degraded("thumbs", drop=0.05, reference=100) & tm.trigger.Amount(10**6)',
    "strategy=tm.Strategy(": ALERTS,
}


def test_a_fall_in_thumbs_and_ratings_is_told_by_cohort_in_alerts_trigger_and_status(harness: Make) -> None:
    h = harness(edit=EDIT)
    h.thumbs, h.new_share = True, 0.6
    h.seconds(15)
    assert h.app.world.alerts.standing(h.name) == []
    h.accuracy = {(1, "v2"): 0.4}
    h.seconds(20)
    told = {one.name.split("'")[1]: one for one in h.app.world.alerts.standing(h.name)}
    assert set(told) == {"thumbs", "rating"} and len(h.app.world.alerts.standing(h.name)) == 3
    degraded = h.app.world.journal.state(h.name, "watch")["verdict"]["parts"][0]
    assert degraded["outcome"] == str(Outcome.FIRE) and degraded["reason"].startswith("thumbs: loss 0.")
    seen = {(q.metric, q.cohort): q for q in h.app.status().quality}
    assert seen["thumbs", "new_app"].value < 0.8 < seen["thumbs", "old_app"].value  # type: ignore[operator]
    assert seen["rating", "new_app"].value < seen["rating", "old_app"].value  # type: ignore[operator]


def test_a_candidate_that_users_dislike_is_rolled_back(harness: Make) -> None:
    guards = 'guards=[tm.guard.Errors(), tm.guard.NoWorse("accuracy", trust="crowd")]'
    disliked = 'guards=[tm.guard.NoWorse("thumbs", trust="crowd"), tm.guard.Difference("rating", 0.2, trust="crowd")]'
    h = harness(edit={**EDIT, guards: disliked})
    h.thumbs, h.accuracy = True, {(2, "v1"): 0.3}
    h.app.ask("retrain", by="ann")
    h.until_closed()
    assert h.outcomes() == ["rolled back"]
    worst = h.verdicts("release")[-1]
    assert "thumbs: losses are ×" in worst.reason or "rating" in worst.reason
