"""The cohorts view: the worst first with n, interval and trend; one close up; its requests to the label queue."""

from __future__ import annotations

import csv
import io
import threading
from typing import Any

import pytest
from page_served import Serve, Served

from tidemill.app import App


def test_the_worst_cohort_comes_first_with_n_and_interval(shared: Served) -> None:
    rows = list(csv.DictReader(io.StringIO(shared.file("/cohorts/cohorts.csv").text)))
    declared = [row for row in rows if row["kind"].startswith("declared")]
    assert [row["cohort"] for row in declared] == ["new_app", "old_app"]
    assert rows[0]["cohort"] == "new_app" and int(rows[0]["quality_n"]) > 30
    assert float(rows[0]["quality_low"]) < float(rows[0]["quality"]) < float(rows[0]["quality_high"])
    gaps = [float(row["gap"]) for row in rows if int(row["quality_n"]) >= 30]
    assert gaps == sorted(gaps, reverse=True)


def test_a_view_never_waits_for_the_measure(home: App, serve: Serve) -> None:
    served = serve(home)
    assert 'class="measuring"' in served.client.get("/cohorts/-/slices").text
    text = served.measured("/cohorts/-/slices")
    assert "new_app" in text and "measured" in text and "app = &#39;v2&#39;" in text


def test_a_cohort_and_a_condition_are_shown_close_up(shared: Served) -> None:
    for name in ("new_app", "x > 0.5"):
        text = shared.measured(f"/cohorts/-/close?name={name}")
        assert "Beside everyone else" in text and "/predictions/-/row?id=" in text
    assert "Elsewhere" in text


def test_what_is_no_condition_is_said_where_the_figures_would_be(shared: Served) -> None:
    text = shared.measured("/cohorts/-/close?name=<script>window.hacked = 1</script>")
    assert 'role="alert"' in text and "<script>" not in text


def test_requests_of_a_cohort_are_sent_to_label(home: App, serve: Serve) -> None:
    served = serve(home)
    assert served.press("/cohorts/-/curate", name="new_app", num="0", reason="to know more").status_code >= 400
    said = served.press("/cohorts/-/curate", name="new_app", num="5", wrong="1", reason="to know more")
    assert said.status_code == 200 and "wait for a label" in said.text
    assert home.queue(limit=1)[0].reason == "asked: new_app"


def test_the_list_leads_to_a_cohort_and_its_worst_request(shared: Served, tab: Any) -> None:
    tab.goto(f"{shared.url}/cohorts")
    tab.get_by_role("link", name="new_app").click()
    tab.get_by_role("heading", name="new_app").wait_for()
    tab.locator("[data-chart] canvas").wait_for()
    tab.get_by_role("table", name="Its worst requests").locator("a[data-drawer]").first.click()
    tab.locator("#drawer").get_by_text("wrong").first.wait_for()


@pytest.mark.parametrize(
    "path",
    [
        "/cohorts/cohorts.csv",
        "/cohorts/-/file?name=new_app",
        "/cohorts.csv",
        "/drift/features.csv",
        "/strategy/ledger.csv",
    ],
)
def test_a_file_of_what_is_not_measured_yet_says_so_at_once_and_when_to_come_back(
    home: App, serve: Serve, path: str
) -> None:
    served, held = serve(home), threading.Event()
    served.site.measured.ask("another measure", lambda: held.wait(20))  # it is under way, and this one waits for it
    answer = served.client.get(path)
    held.set()
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1
    assert "being measured" in answer.text
    assert served.file(path).status_code == 200
