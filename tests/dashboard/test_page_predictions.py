"""The predictions view: filters in the address, pages by cursor, one close up, what can be done with it."""

from __future__ import annotations

import ast
import csv
import html
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from page_served import Serve, Served
from story import HOSTILE, PROJECT, Story, end_of

from tidemill.app import App
from tidemill.stores.audit import Audit

SUITE = "    alerts=[tm.alert"
WITH_SUITE = '    suites=[tm.suites.Cases("bugs", "bugs.jsonl")],\n    alerts=[tm.alert'


def rows(served: Served, query: str = "") -> list[dict[str, str]]:
    answer = served.client.get(f"/predictions/predictions.csv{query}")
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text)))


def newest(app: App, role: str = "answer") -> str:
    found = app.world.log.newest(
        app.name, after=None, until=app.clock.now(), limit=1, at_most=10_000, role=role, columns=["request_id"]
    )
    return str(found.rows["request_id"][0])


def test_the_newest_come_first_and_pages_follow_each_other_without_gap(shared: Served) -> None:
    everything = [row["request"] for row in rows(shared)]
    seen, path = [], "/predictions?period=1d"
    for _ in range(3):
        text = shared.client.get(path).text
        seen += re.findall(r'data-key="([^"]+)"', text)
        path = re.findall(r'rel="next" href="([^"]+)"', text)[0].replace("&amp;", "&")
    assert seen == everything[:150]
    times = [row["at"] for row in rows(shared)]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize(
    ("query", "is_so"),
    [
        ("?decision=high", lambda row: row["decision"] == "high"),
        ("?version=1", lambda row: row["version"] == "v1"),
        ("?cohort=new_app", lambda row: row["input.app"] == "v2"),
        ("?where=x > 1 AND app = 'v1'", lambda row: float(row["input.x"]) > 0.99 and row["input.app"] == "v1"),
        ("?cohort=new_app&decision=low", lambda row: (row["input.app"], row["decision"]) == ("v2", "low")),
        ("?abstained=no&fallback=no", lambda row: True),
    ],
)
def test_a_filter_of_the_address_gives_those_rows_and_some(shared: Served, query: str, is_so: Any) -> None:
    found = rows(shared, query)
    assert 0 < len(found) <= len(rows(shared)) and all(is_so(row) for row in found)


def test_a_unit_and_an_id_give_what_is_theirs_alone(shared: Served) -> None:
    first = rows(shared)[0]
    assert [row["request"] for row in rows(shared, f"?id={first['request']}")] == [first["request"]]
    assert {row["unit"] for row in rows(shared, f"?unit={first['unit']}")} == {first["unit"]}
    assert rows(shared, "?unit=nobody") == [] and rows(shared, "?abstained=yes") == []


@pytest.mark.parametrize(
    "query",
    [
        "?where=read_text('/etc/passwd') = ''", "?where=app > 1 AND", "?cohort=none", "?after=x",
        "?after=-9223372036854775809.1.x", f"?after=1.{'9' * 5000}.x", "?until=soon", "?until=9999-12-31T23:59",
        "?until=0001-01-01T00:00:00%2B23:00", "?period=soon", "?period=10000000d", f"?version={'9' * 30}",
    ],
)  # fmt: skip
def test_what_is_no_filter_is_refused_with_the_next_move(shared: Served, query: str) -> None:
    answer = shared.client.get(f"/predictions{query}")
    assert answer.status_code == 422 and "Traceback" not in answer.text
    assert "error-page" in answer.text


def test_one_prediction_is_shown_with_all_that_is_known_of_it(shared: Served) -> None:
    id_ = newest(shared.app, role="shadow")
    for path in (f"/predictions/{id_}", f"/predictions/-/row?id={id_}"):
        text = shared.client.get(path).text
        for part in ("data:image/png;base64,", "Scores", "Shadow answers", "routed", "policy 1", "with its inputs"):
            assert part in text, part
        assert re.search(r'href="/models/\d+">version \d+', text), "the shadow's answer"
    assert shared.client.get("/predictions/nothing").status_code in (404, 409)


def test_similar_examples_are_found_by_the_picture(shared: Served) -> None:
    text = shared.measured(f"/predictions/-/similar?id={newest(shared.app)}")
    assert "Like it by photo" in text and "/predictions/" in text


def test_ticked_requests_wait_for_a_label_and_the_audit_log_says_why(home: App, serve: Serve) -> None:
    served = serve(home)
    ids = [row["request"] for row in rows(served)[:3]]
    assert served.press("/predictions/-/label", id=ids, reason="").status_code == 422
    before = home.world.reservoir.num_waiting(home.name)
    assert served.press("/predictions/-/label", id=ids, reason="they look odd").status_code == 200
    assert home.world.reservoir.num_waiting(home.name) >= before + 1
    asked = home.queue(limit=3)
    assert {example.request_id for example in asked} == set(ids)
    assert "asked: they look odd" in {example.reason for example in asked}
    assert Audit(home.db).acts(home.name)[0].verb == "send to label"
    assert "waits for a label" in served.client.get(f"/predictions/{ids[0]}").text


def test_a_prediction_becomes_a_case_of_a_suite(told: Path, tmp_path: Path, serve: Serve) -> None:
    shutil.copytree(told, tmp_path / "copy")
    (tmp_path / "copy" / "waves_project.py").write_text(PROJECT.replace(SUITE, WITH_SUITE))
    app = Story.open(tmp_path / "copy", now=end_of(told)).app
    served, id_ = serve(app), newest(app)
    said = served.press("/predictions/-/suite", id=id_, suite="bugs", label="high", reason="a past bug")
    assert said.status_code == 200, said.text
    case = json.loads((tmp_path / "copy" / "bugs.jsonl").read_text())
    assert case["label"] == "high" and case["note"] == "a past bug" and case["from"]["request_id"] == id_
    act = Audit(app.db).acts(app.name)[0]
    assert (act.thing, act.result) == (f"prediction {id_}", f"1 case: {id_}"), "no inputs stay in the audit log"
    app.close()


def test_the_drawer_opens_and_hostile_inputs_are_text(shared: Served, tab: Any) -> None:
    """What an attacker wrote into a note stands in the table and close up as it was written."""
    tab.goto(f"{shared.url}/predictions?where=contains(note, 'onerror')")
    tab.get_by_text(HOSTILE[1]).first.wait_for()
    tab.locator("td a[data-drawer]").first.click()
    drawer = tab.locator("#drawer")
    drawer.get_by_text(HOSTILE[1]).wait_for()
    drawer.get_by_role("img", name="Scores").wait_for()
    drawer.get_by_role("button", name="Show similar").click()
    drawer.get_by_role("table", name="Like it by photo").wait_for()
    assert tab.evaluate("window.hacked") is None


def test_filters_are_chosen_with_the_keyboard_and_stand_in_the_address(shared: Served, tab: Any) -> None:
    tab.goto(f"{shared.url}/predictions")
    tab.get_by_label("Decision").select_option("high")
    tab.wait_for_url("**/predictions?*decision=high*")
    assert tab.get_by_label("Decision").input_value() == "high"
    tab.set_viewport_size({"width": 400, "height": 800})
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert tab.evaluate(wide) <= 0


def test_no_link_puts_code_of_its_own_into_the_lines_to_copy(shared: Served) -> None:
    hostile = "app = '" + '"' * 3 + " + hacked() + " + '"' * 3 + "' OR app = '\\'"
    given = {"where": hostile, "unit": '"' * 3 + "); hacked() #"}
    text = html.unescape(shared.client.get("/predictions", params=given).text)
    tree = ast.parse(text.partition("import tidemill as tm")[2].partition("</")[0])
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert called == {"tm.App.open", "app.sql"}
    (query,) = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and "SELECT" in str(node.value)]
    assert f"({hostile})" in str(query)
