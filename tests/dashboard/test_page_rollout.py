"""The rollout view: where the candidate is, what the guards have seen, and the controls."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from itertools import pairwise
from typing import Any

from page_served import Served
from sqlalchemy import update

from tidemill.app import App
from tidemill.dashboard.views.rollout import way
from tidemill.monitor.rollouts import plan, rollout
from tidemill.stores.tables import cycles
from tidemill.stores.tokens import Scope
from tidemill.strategy import guard, online


def test_the_plan_is_read_from_the_strategy_whatever_it_is_made_of() -> None:
    stage = online.Shadow(requests=40) >> online.Gradual((0.05, 0.5, 1.0), guards=(guard.Errors(),)) >> online.Bake()
    assert [stop.name for stop in plan(stage.to_json())] == ["shadow", "5 %", "50 %", "bake at 95 %", "promoted"]
    assert [stop.name for stop in plan(online.Now().to_json())] == ["promoted"]


def test_a_boundary_is_one_and_no_evidence_is_zero() -> None:
    assert way(20.0, 20.0) == 1.0
    assert way(1.0, 20.0) == 0.0
    assert way(0.0, 20.0) == -1.0
    assert way(1e30, 20.0) == 1.5


def test_the_page_says_where_the_candidate_is_and_what_each_guard_has_seen(shared: Served) -> None:
    text = shared.client.get("/rollout").text
    assert 'aria-current="step"' in text and "● here now" in text
    assert "version 3" in text and "Errors()" in text and "SampleRatio()" in text
    app = shared.app
    cycle = app.journal.cycle(app.name)
    assert cycle is not None
    found = rollout(app.name, cycle, catalog=app.catalog, journal=app.journal)
    assert [stop.place for stop in found.stops] == ["done", "now", "ahead"]
    assert found.watches and all(side.wanted > 1 for watch in found.watches for side in watch.sides)


def test_evidence_over_time_has_a_point_for_each_look_that_brought_news(shared: Served) -> None:
    app = shared.app
    first = app.journal.cycles(app.name)[0]
    looks = rollout(app.name, first, catalog=app.catalog, journal=app.journal).looks
    assert len(looks) > 2
    assert [look.at for look in looks] == sorted(look.at for look in looks)
    assert all(before.evidence != after.evidence or before.step != after.step
               for before, after in pairwise(looks))  # fmt: skip


def test_a_rollout_that_is_over_shows_how_it_ended(shared: Served) -> None:
    text = shared.client.get("/rollout?cycle=1").text
    assert "promoted" in text and "● here now" not in text
    assert shared.client.get("/rollout?cycle=99").status_code == 404


def test_the_history_of_the_route_is_a_csv_file_with_the_whole_reasons(shared: Served) -> None:
    rows = list(csv.DictReader(io.StringIO(shared.client.get("/rollout/routes.csv").text)))
    app = shared.app
    assert [row["reason"] for row in rows] == [change.reason for change in app.catalog.history(app.name)[::-1]]


def test_roll_back_takes_the_candidate_out_at_once_and_is_in_the_audit_log(home: App, serve: Any) -> None:
    served = serve(home)
    assert served.press("/rollout/-/rollback", reason="").status_code == 422
    assert "answers all traffic" in served.press("/rollout/-/rollback", reason="users complain").text
    route = home.catalog.route(home.name)
    assert route is not None and route.candidate is None and route.share == 0
    assert "users complain" in served.client.get("/rollout").text


def test_a_word_about_a_candidate_that_is_no_longer_the_one_is_refused(home: App, serve: Any) -> None:
    answer = serve(home).press("/rollout/-/reject", version="2", reason="it is worse")
    assert answer.status_code == 409 and "version 3 is under way by now" in answer.text
    assert home.journal.waiting(home.name) == []


def test_pause_is_shown_and_resume_takes_its_place(home: App, serve: Any) -> None:
    served = serve(home)
    served.press("/rollout/-/pause", reason="a release of our own")
    text = served.client.get("/rollout").text
    assert "/rollout/-/resume" in text and "/rollout/-/pause" not in text
    served.press("/rollout/-/resume", reason="it is done")
    assert home.catalog.paused_at(home.name) is None


def test_a_control_that_cannot_be_used_says_why(shared: Served) -> None:
    assert "it is past the gate" in shared.client.get("/rollout").text


def test_a_training_is_ended_as_by_the_command_line(home: App, serve: Any) -> None:
    with home.db.begin() as conn:
        conn.execute(update(cycles).where(cycles.c.number == 2).values(candidate=None, step="train"))
    served = serve(home)
    text = served.client.get("/rollout").text
    assert "End cycle 2 before its candidate is trained?" in text and "Cycle 2 is in step train" in text
    late = served.press("/rollout/-/reject", version="", cycle="1", reason="the labels were wrong")
    gone = served.press("/rollout/-/reject", version="3", reason="the labels were wrong")
    assert (late.status_code, gone.status_code) == (409, 409) and home.journal.waiting(home.name) == []
    answer = served.press("/rollout/-/reject", version="", cycle="2", reason="the labels were wrong")
    assert answer.status_code == 200 and "Asked to end cycle 2" in answer.text
    [asked] = home.journal.waiting(home.name)
    assert (asked.verb, asked.args, asked.by) == ("reject", {"reason": "the labels were wrong"}, "ann")


def test_a_viewer_may_look_but_not_touch(home: App, serve: Any, token: Any) -> None:
    served = serve(home, token=token(home, Scope.VIEW))
    assert "needs the role operator" in served.client.get("/rollout").text
    assert served.press("/rollout/-/rollback", reason="I want to").status_code == 403
    route = home.catalog.route(home.name)
    assert route is not None and route.candidate == 3


def test_a_person_rejects_the_candidate_in_the_browser(home: App, serve: Any, tab: Any) -> None:
    served = serve(home)
    tab.goto(f"{served.url}/rollout")
    tab.get_by_role("button", name="Reject").click()
    dialog = tab.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("it is worse")
    with home.db.begin() as conn:  # the loop looks again meanwhile: what is being written stays
        home.journal.put_state(conn, home.name, "release.9", {}, home.clock.now() + timedelta(seconds=1))
    served.site.live.look()
    tab.locator("[data-missed]").wait_for(state="attached")
    dialog.get_by_label("Reason").press_sequentially(" for our best customers")
    dialog.get_by_role("button", name="Reject").click()
    tab.get_by_text("Asked to reject version 3;").wait_for()
    [asked] = home.journal.waiting(home.name)
    assert (asked.verb, asked.args["version"], asked.by) == ("reject", 3, "ann")
    assert asked.args["reason"] == "it is worse for our best customers"
    tab.get_by_text("ann asked to reject version 3").wait_for()
