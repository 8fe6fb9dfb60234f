"""The strategies view: versions, what changed, and what was expected beside what came true."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from page_served import Served

from tidemill.app import App
from tidemill.dashboard.views.strategies import came_true, ledger_table, releases_table
from tidemill.monitor.gains import Gain, Release
from tidemill.monitor.ledger import StrategyPeriod
from tidemill.strategy import trigger

_AT = datetime(2026, 1, 1, tzinfo=UTC)
_PERIOD = StrategyPeriod(
    number=2, digest="d", since=_AT, until=_AT + timedelta(days=2), quality=0.9, num_judged=500, num_cycles=1,
    num_promoted=1, num_labels=40,
)  # fmt: skip


@pytest.mark.parametrize(
    ("expected", "said"),
    [([0.91, 0.88, 0.94], "pass"), ([0.95, 0.93, 0.97], "fail"), ([None, None, None], None)],
)
def test_it_came_true_where_the_interval_holds_what_users_got(expected: list[Any], said: str | None) -> None:
    assert came_true(replace(_PERIOD, expected={"quality": expected})) == said
    assert came_true(_PERIOD) is None


def test_what_a_backtest_foretold_a_day_is_told_for_the_time_in_force(shared: Served) -> None:
    told = {"quality": [0.9, 0.8, 1.0], "retrainings": [1.0, 0.5, 1.5], "labels": [20.0, 10.0, 30.0]}
    [row] = ledger_table(shared.app, [replace(_PERIOD, expected=told)]).rows
    assert row.cells["foretold"] == "retrainings 1 to 3; labels 20 to 60"


def test_a_release_shows_its_offline_gain_beside_its_online_gain() -> None:
    gain = Gain(value=0.1, low=0.05, high=0.15, n=100)
    release = Release(cycle=1, version=2, strategy="d", closed_at=_AT, outcome="promoted", offline=gain, online=gain)
    [row] = releases_table([release]).rows
    assert row.cells["agrees"] == "pass"
    assert releases_table([]).command


def test_what_the_strategies_brought_is_measured_behind_the_page(shared: Served) -> None:
    text = shared.measured("/strategy/-/brought")
    assert "What they brought" in text and "Did offline gains come true?" in text
    assert "cycle" in shared.client.get("/strategy/releases.csv").text


def test_a_version_shows_its_stages_as_people_write_them(shared: Served) -> None:
    text = shared.client.get("/strategy/1").text
    assert "Shadow(requests=40) &gt;&gt; Gradual(" in text
    assert "at_most(&#39;10m&#39;)" in text
    assert shared.client.get("/strategy/9").status_code == 404


def test_the_diff_of_two_versions_names_each_change_in_the_browser(home: App, serve: Any, tab: Any) -> None:
    changed = replace(home.project.strategy, trigger=trigger.Every("7d"))
    manifest = home.project.compile().to_json()
    with home.db.begin() as conn:
        home.catalog.publish(conn, manifest, changed.to_json(), file="waves_project.py", now=home.clock.now())
    served = serve(home)
    tab.goto(f"{served.url}/strategy")
    tab.get_by_role("link", name="strategy 2", exact=True).first.click()
    tab.get_by_role("region", name="Changes").get_by_text("Every").wait_for()
    assert "in force" in tab.content()
    assert "trigger" in served.client.get("/strategy/changes.csv?number=2&with=1").text
