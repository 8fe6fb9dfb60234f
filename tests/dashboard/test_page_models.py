"""The models view: what became of each version, where it came from, and how it stands beside the live one."""

from __future__ import annotations

import csv
import dataclasses
import io
from datetime import timedelta
from typing import Any

from page_served import Served

from tidemill.app import App
from tidemill.dashboard.views.models import role_of
from tidemill.records import Route


def test_the_list_has_every_version_with_what_it_is_now(shared: Served) -> None:
    rows = list(csv.DictReader(io.StringIO(shared.client.get("/models/models.csv").text)))
    assert [(row["version"], row["status"]) for row in rows] == [
        ("version 3", "candidate"), ("version 2", "live"), ("version 1", "retired"),
    ]  # fmt: skip
    assert rows[1]["gain"] and rows[1]["dataset"]


def test_the_list_is_filtered_by_status_in_the_address(shared: Served) -> None:
    text = shared.client.get("/models?status=retired").text
    assert "/models/1" in text and "/models/2" not in text


def test_many_versions_come_in_pages(home: App, serve: Any) -> None:
    first = home.catalog.model(home.name, 1)
    with home.db.begin() as conn:
        for i in range(120):
            made = first.created_at + timedelta(seconds=i)
            home.catalog.add_model(conn, home.name, dataclasses.replace(first, run=f"more-{i}", created_at=made))
    client = serve(home).client
    assert "/models/123" in (text := client.get("/models").text) and "50 of 123" in text
    assert "/models/73" in client.get("/models?after=50").text
    assert "/models/123" not in client.get("/models?after=50").text


def test_a_version_has_its_lineage_its_training_and_its_place_beside_the_live_one(shared: Served) -> None:
    text = shared.client.get("/models/2").text
    for part in ("/datasets/2", "/strategy/1", "/report/2", "cycle-1-attempt-1", "Candidate against", "new_app"):
        assert part in text, part
    assert shared.client.get("/models/99").status_code == 404


def test_the_alias_history_says_since_when_a_version_was_what(shared: Served) -> None:
    rows = list(csv.DictReader(io.StringIO(shared.client.get("/models/roles.csv?version=2").text)))
    assert [row["role"] for row in rows][::-1] == ["shadow", "candidate at 25%", "live"]


def test_a_route_has_one_role_for_a_version() -> None:
    route = Route(revision=1, stable=2, fallback=1, candidate=3, share=0.25, shadows=(4,))
    assert [role_of(route, v) for v in (1, 2, 3, 4, 5)] == ["fallback", "live", "candidate at 25%", "shadow", ""]


def test_the_progress_of_a_training_is_shown(shared: Served) -> None:
    text = shared.client.get("/models/-/training?version=2").text
    assert "reports of progress" in text and "exporting" in text


def test_a_release_is_refused_while_a_cycle_is_under_way(home: App, serve: Any) -> None:
    served = serve(home)
    answer = served.press("/models/-/promote", version="1", reason="it was better")
    assert answer.status_code == 422 and "cycle 2 is under way" in answer.text
    assert home.journal.waiting(home.name) == []


def test_a_version_is_released_at_once_in_the_browser(home: App, serve: Any, tab: Any) -> None:
    served = serve(home)
    tab.goto(f"{served.url}/models")
    tab.get_by_role("link", name="version 1", exact=True).click()
    tab.get_by_role("button", name="Release at once").click()
    tab.get_by_label("Reason").fill("the old one was better")
    tab.get_by_role("dialog").get_by_role("button", name="Release at once").click()
    tab.get_by_text("Version 1 answers all traffic").wait_for()
    route = home.catalog.route(home.name)
    assert route is not None and route.stable == 1


def test_no_view_of_versions_is_wider_than_a_narrow_screen(shared: Served, tab: Any) -> None:
    tab.set_viewport_size({"width": 400, "height": 800})
    tab.emulate_media(color_scheme="dark")
    for path in (
        "/models",
        "/models/2",
        "/report/2",
        "/rollout",
        "/datasets",
        "/datasets/2",
        "/strategy",
        "/strategy/1",
    ):
        tab.goto(f"{shared.url}{path}")
        tab.locator("h1").wait_for()
        assert tab.evaluate("document.documentElement.scrollWidth") <= 400, path


def test_a_version_whose_artefact_was_deleted_says_so_and_is_not_released(home: App, serve: Any) -> None:
    with home.db.begin() as conn:
        home.catalog.retire(conn, home.name, [1], now=home.clock.now())
    served = serve(home)
    rows = list(csv.DictReader(io.StringIO(served.client.get("/models/models.csv").text)))
    assert {row["version"]: row["artefact"] for row in rows}["version 1"] == "artefact deleted"
    assert {row["deleted_at"] for row in rows} == {"", home.clock.now().isoformat()}
    text = served.client.get("/models/1").text
    assert "artefact deleted" in text and "its artefact was deleted on 2026-01-01" in text
    assert "world.load" not in text and "world.load" in served.client.get("/models/2").text
    for path in ("/models/-/promote", "/rollout/-/promote"):
        answer = served.press(path, version="1", reason="it was better")
        assert answer.status_code == 409 and "was deleted on 2026-01-01" in answer.text
    assert home.journal.waiting(home.name) == []
