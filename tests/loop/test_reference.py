"""A version is held to its own first outcomes: after a rollback, an edit of the strategy, or a late declaration too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest
from harness import Harness, WatchedLog

from tidemill.monitor.outcomes import Window, matured_frame
from tidemill.records import Json, Outcome, Route, Trust, Verdict

Make = Callable[..., Harness]
FIRES = 'trigger=(tm.trigger.Degraded("accuracy", drop=0.05, reference=100) & tm.trigger.Amount(20)).at_most("10m")'
# Says what it sees, and opens no cycle.
WATCHES = {FIRES: 'trigger=tm.trigger.Degraded("accuracy", drop=0.05, reference=100) & tm.trigger.Amount(10**6)'}
COHORTS = "cohorts={"
PART = 100  # rows, of about 800
UPPER = """cohorts={"upper": "y > 0", """


def memory(h: Harness) -> Json:
    return h.app.world.journal.state(h.name, "watch")["trigger"][0]


def reference(h: Harness, stream: str = "all") -> list[float]:
    """How many outcomes a stream is held to, their losses and the squares of these."""
    found: list[float] = memory(h)["streams"][stream]["reference"]
    return found


def said(h: Harness) -> Verdict:
    return Verdict.from_json(h.app.world.journal.state(h.name, "watch")["verdict"]).parts[0]


def first_losses(h: Harness, version: int, since: datetime, where: pl.Expr | bool = True) -> list[float]:
    """The same of the first hundred labelled answers of a version since a time, read from the log."""
    window = Window(after=since, until=h.clock.now())
    frame = matured_frame(h.app.world.log, h.app.project, window, trust=Trust.CROWD, inputs=True)
    frame = frame.filter((pl.col("assigned_version") == version) & pl.col("label").is_not_null() & where)
    wrong = float(frame.head(100).select((pl.col("label") != pl.col("decision")).sum()).item())
    return [100, wrong, wrong]


def move(h: Harness, **wanted: Any) -> datetime:
    """Set the route; return when."""
    with h.app.db.begin() as conn:
        new = Route(revision=h.route.revision, policy_version=h.route.policy_version, **wanted)
        h.app.catalog.set_route(conn, h.name, new, now=h.clock.now(), by="test", reason="test")
    return h.clock.now()


def second_version(h: Harness) -> None:
    """Put another version into the catalog."""
    first = h.app.catalog.model(h.name, 1)
    with h.app.db.begin() as conn:
        h.app.catalog.start_run(conn, h.name, "again", None, {}, h.clock.now())
        h.app.catalog.add_model(conn, h.name, replace(first, version=0, run="again", status="ready"))


def test_after_a_rollback_a_version_is_held_to_what_it_was_and_not_to_what_it_has_become(harness: Make) -> None:
    h = harness(edit=WATCHES)
    began = h.app.catalog.history(h.name)[0].at
    h.seconds(2)
    was = reference(h)
    assert was == first_losses(h, 1, began)
    second_version(h)
    move(h, stable=1, fallback=None, candidate=2, share=0.5, rollout="r", salt="r",
         lapses_at=h.clock.now() + timedelta(hours=1))  # fmt: skip
    h.accuracy = {(1, "v1"): 0.6, (2, "v1"): 0.8}
    h.seconds(3)
    promoted_at = move(h, stable=2, fallback=1)
    h.seconds(13)
    assert reference(h) == first_losses(h, 2, promoted_at), "answers of its rollout do not count: it was chosen by them"
    move(h, stable=1, fallback=None)
    h.seconds(13)
    assert reference(h) == was
    assert said(h).outcome is Outcome.FIRE, "the first version is still as bad as it had become"


def test_another_trigger_holds_the_version_to_its_first_outcomes_too(harness: Make) -> None:
    h = harness(edit=WATCHES)
    h.accuracy = {(1, "v1"): 0.6}
    h.seconds(12)
    file = h.folder / "waves_project.py"
    file.write_text(file.read_text().replace("drop=0.05, reference=100", "drop=0.1, reference=120"))
    h.seconds(8)
    assert memory(h)["streams"]["all"]["test"]["bar"] < 0.25
    assert said(h).outcome is Outcome.FIRE


def test_a_cohort_that_is_declared_late_is_held_to_its_own_first_outcomes(harness: Make) -> None:
    strategy = "strategy=tm.Strategy("
    h = harness(edit=WATCHES)
    began = h.app.catalog.history(h.name)[0].at
    h.accuracy = {(1, "v1"): 0.5}
    h.seconds(12)
    file = h.folder / "waves_project.py"
    alert = 'alerts=[tm.alert.Falls("accuracy", cohort="upper", drop=0.05, reference=100)],\n    '
    text = file.read_text().replace(COHORTS, UPPER).replace(strategy, alert + strategy)
    file.write_text(text)
    h.rate = 0
    h.seconds(2)
    (told,) = h.app.world.alerts.standing(h.name)
    assert "in cohort upper: accuracy: loss 0." in told.verdict.reason, "what came before is looked through at once"
    h.rate = 40
    h.seconds(9)
    own = first_losses(h, 1, began, pl.col("y") > 0)
    assert reference(h, "upper") == own != reference(h)
    part = next(part for part in said(h).parts if "cohort upper" in part.reason)
    assert part.outcome is Outcome.FIRE


def test_a_long_past_is_read_over_several_turns_to_the_same_reference(
    harness: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidemill.loop.reference._FIRST_LOOK", timedelta(seconds=1))
    h = harness(edit=WATCHES)
    began = h.app.catalog.history(h.name)[0].at
    h.accuracy = {(1, "v1"): 0.7}
    h.seconds(12)
    file = h.folder / "waves_project.py"
    file.write_text(file.read_text().replace(COHORTS, COHORTS + '"top": "y > 0.5", '))
    assert h.engine is not None
    h.engine.most_rows = 20
    h.seconds(10)
    own = first_losses(h, 1, began, pl.col("y") > 0.5)
    assert reference(h, "top") == own != reference(h)


def test_a_long_past_is_read_in_bounded_parts_and_to_its_end_though_nobody_asks_any_more(harness: Make) -> None:
    h = harness(edit=WATCHES)
    began = h.app.catalog.history(h.name)[0].at
    h.seconds(5)
    h.rate = 0
    h.seconds(7)  # all that came has matured
    file = h.folder / "waves_project.py"
    file.write_text(file.read_text().replace(COHORTS, COHORTS + '"top": "y > 0.6", '))
    back = Harness.open(h.folder, now=h.clock.now())
    log, back.rate = WatchedLog(back.app.world.log), 0
    back.engine = replace(back.app.engine(), most_rows=PART)
    back.engine.world = replace(back.engine.world, log=log)
    back.second()
    kept = back.app.world.journal.state(h.name, "reference.1")
    assert first_losses(h, 1, began, pl.col("y") > 0.6) in [one["losses"] for one in kept.values()]
    assert log.most["predictions"] <= PART * 1.2
    back.app.close()
