"""What can be taken away from the page: files that open from disk, CSV of every table, Python that runs."""

from __future__ import annotations

import csv
import html
import io
import os
import re
from pathlib import Path
from typing import Any

import pytest
from page_served import Served

from tidemill.dashboard.views import VIEWS

_PAGES = (
    "/", "/predictions", "/cohorts", "/cohorts/one?name=new_app", "/drift", "/models", "/models/2", "/report/2",
    "/rollout", "/datasets", "/datasets/1", "/backtests", "/strategy", "/strategy/1", "/alerts",
)  # fmt: skip
_PYTHON = re.compile(r'<details class="python">.*?<code>(.*?)</code>', re.DOTALL)
_PARTS = {"/": "/-/quality"}


@pytest.mark.parametrize("page", _PAGES)
def test_python_of_a_page_runs_as_it_stands(
    shared: Served, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = shared.measured(_PARTS[page]) if page in _PARTS else shared.client.get(page).text
    codes = _PYTHON.findall(text)
    if page == "/backtests":
        return  # there is none to read: the view's own test runs it
    assert codes
    monkeypatch.chdir(tmp_path)
    for code in codes:
        known: dict[str, Any] = {}
        exec(html.unescape(code), known)  # what people copy
        known["app"].close()


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.path)
def test_every_table_is_a_csv_file(shared: Served, view: Any) -> None:
    number = 2 if view.path == "/datasets" else 1
    example = shared.app.world.reservoir.index(shared.app.name)["id"][0]
    things = f"version=2&number={number}&with=1&id={example}"
    for name in view.tables:
        answer = shared.file(f"{view.path.rstrip('/')}/{name}.csv?{things}")
        if view.path == "/backtests" and name != "backtests":
            assert answer.status_code == 404  # there is no backtest here
            continue
        assert answer.status_code == 200, (name, answer.text)
        head, *rows = csv.reader(io.StringIO(answer.text))
        assert head and all(len(row) == len(head) for row in rows)


def test_a_table_below_a_version_links_to_the_file_of_that_version(shared: Served) -> None:
    assert 'href="/models/compared.csv?version=2"' in shared.client.get("/models/2").text


@pytest.mark.parametrize("path", ["/cohorts/-/file?name=new_app", "/report/-/file?version=2"])
def test_a_file_opens_from_disk_and_asks_nobody(shared: Served, tab: Any, tmp_path: Path, path: str) -> None:
    answer = shared.file(path)
    assert "attachment" in answer.headers["content-disposition"]
    file = tmp_path / "taken.html"
    file.write_bytes(answer.content)
    asked: list[str] = []
    tab.on("request", lambda sent: asked.append(sent.url))
    tab.goto(file.as_uri())
    assert tab.locator("h1").inner_text() and tab.locator("svg.plot").count()
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert tab.evaluate("window.hacked") is None
    tab.problems.clear()  # it counts a file from disk as another host


def test_a_cohorts_file_says_what_the_page_says(shared: Served) -> None:
    shared.measured("/cohorts/-/close?name=new_app")
    text = shared.client.get("/cohorts/-/file?name=new_app").text
    assert "Cohort new_app" in text and "Beside everyone else" in text and "Its worst requests" in text
    assert "<script>window.hacked" not in text and "data:image/png" in text
    assert os.fspath(shared.app.world.home.folder) not in text
