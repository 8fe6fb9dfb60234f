"""The page over HTTP: what every answer carries, what it weighs, and what an error looks like."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from datetime import timedelta

import httpx
import pytest
from page_served import Serve, Served

from tidemill.app import App
from tidemill.dashboard.page import Site
from tidemill.dashboard.session import Settings
from tidemill.dashboard.static_files import FOLDER
from tidemill.dashboard.view import Action, Asked, Done, Fragment, Page, View
from tidemill.dashboard.views import VIEWS

FIRST_VIEW_BYTES = 100_000


def assets(text: str) -> list[str]:
    """Return the addresses of the scripts, styles and pictures that a page names."""
    return re.findall(r'(?:src|href)="(/static/[^"#]+)', text)


def test_the_overview_shows_who_answers_the_cycle_and_what_waits(shared: Served) -> None:
    text = shared.client.get("/").text
    assert "version 2" in text and "25% to v3" in text and "examples wait for a label" in text


def test_the_overview_says_when_no_loop_turns_and_what_starts_one(home: App, serve: Serve) -> None:
    served, name = serve(home), f"loop/{home.name}"
    said = ["No loop turns" in served.client.get(path).text for path in ("/", "/-/standing")]
    assert said == [True, True]
    lease = home.journal.acquire(name, "host/1", now=home.clock.now(), ttl=timedelta(seconds=10))
    assert lease is not None
    served.site.live._look()
    assert not any("No loop turns" in served.client.get(path).text for path in ("/", "/-/standing"))
    home.clock.sleep(11)  # it was killed: its lease runs out
    served.site.live._look()
    text = served.client.get("/-/standing").text
    assert "No loop turns" in text and "<code>tidemill loop</code>" in text


def test_every_answer_keeps_strangers_scripts_frames_and_caches_out(shared: Served) -> None:
    for path in ("/", "/cohorts.csv", "/-/standing", "/nowhere", "/sign-in"):
        headers = shared.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"


def test_no_page_holds_a_script_a_style_or_a_handler_of_its_own(shared: Served) -> None:
    for view in VIEWS:
        text = shared.client.get(view.path).text
        scripts = re.findall(r"<script(?![^>]*(?:src=|application/json))", text)
        assert not scripts and "<style" not in text and not re.findall(r"<[^>]+\s(?:style|on\w+)=", text)


def test_the_first_view_is_at_most_100_kb_over_the_wire(shared: Served) -> None:
    packed = {"Accept-Encoding": "gzip"}
    with shared.client.stream("GET", "/", headers=packed) as answer:
        total = len(b"".join(answer.iter_raw()))
        text = gzip.decompress(b"") if total == 0 else shared.client.get("/").text
    for path in {*assets(text), *(shared.site_static(name) for name in ("chart.js", "uplot.min.js", "uplot.min.css"))}:
        with shared.client.stream("GET", path, headers=packed) as answer:
            total += len(b"".join(answer.iter_raw()))
    assert total <= FIRST_VIEW_BYTES


def test_static_files_are_kept_for_ever_under_an_address_of_their_content(shared: Served) -> None:
    path = assets(shared.client.get("/").text)[0]
    first = shared.client.get(path)
    assert "immutable" in first.headers["cache-control"]
    assert shared.client.get(path, headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    assert shared.client.get("/static/0/../../page.py").status_code == 404


def test_every_template_compiles_and_what_is_vendored_has_its_licence_beside_it(shared: Served) -> None:
    shared.site.rendered.warm()
    kept = {path.name.partition(".")[0] for path in FOLDER.glob("*.min.js")}
    assert {path.name.partition("-")[0] for path in (FOLDER / "LICENSES").iterdir()} == kept == {"htmx", "uplot"}


def test_views_have_a_path_and_an_icon_of_their_own() -> None:
    icons = set(re.findall(r'symbol id="(\w+)"', (FOLDER / "icons.svg").read_text()))
    assert len({view.path for view in VIEWS}) == len(VIEWS) and {view.icon for view in VIEWS} <= icons


def test_what_is_not_there_is_a_page_with_a_way_on(shared: Served) -> None:
    answer = shared.client.get("/nowhere")
    assert answer.status_code == 404 and "no page" in answer.text and 'href="/"' in answer.text


def test_a_failing_view_tells_no_trace_and_a_wrong_word_in_the_address_is_explained(
    shared_app: App, serve_site: Callable[[Site], httpx.Client], caplog: pytest.LogCaptureFixture
) -> None:
    def fails(asked: Asked) -> Page:
        raise RuntimeError("secret inside")

    view = View(path="/", name="Bad", group="", icon="alert", show=fails, fragments={"part": Fragment(show=fails)})
    client = serve_site(Site(shared_app, Settings(), (view,)))
    for path in ("/", "/-/part"):
        answer = client.get(path)
        assert answer.status_code == 500 and "secret" not in answer.text and "Traceback" not in answer.text
    assert "secret inside" in caplog.text


def test_a_wrong_period_is_refused_in_words(shared: Served) -> None:
    answer = shared.client.get("/-/quality?period=soon", headers={"HX-Request": "true"})
    assert "period is &#39;soon&#39;" in answer.text and "<html" not in answer.text


def test_quality_is_measured_behind_the_page_and_told_with_its_interval(shared: Served) -> None:
    text = shared.measured("/-/quality")
    assert "new_app" in text and "n 398" not in text.split("new_app")[0]
    assert re.search(r"measured .*now|ago", text)


def test_a_table_is_a_csv_file_too(shared: Served) -> None:
    answer = shared.file("/cohorts.csv")
    lines = answer.text.splitlines()
    assert answer.headers["content-disposition"] == 'attachment; filename="waves-cohorts.csv"'
    assert lines[0] == "cohort,value,value_low,value_high,value_n"
    assert {line.split(",")[0] for line in lines[1:]} == {"all requests", "old_app", "new_app"}


def test_a_body_that_is_too_large_is_refused(home: App, serve: Serve) -> None:
    served = serve(home)
    answer = served.client.post("/-/pause", content=b"reason=" + b"x" * (9 << 20), headers={"X-CSRF-Token": "0"})
    assert answer.status_code == 413


def test_parts_drawn_once_are_kept_until_something_changes(
    shared_app: App, serve_site: Callable[[Site], httpx.Client]
) -> None:
    drawn: list[str] = []

    def part(asked: Asked) -> Page:
        drawn.append(asked.path)
        return Page(template="_problem.html", data={"message": "here", "hint": ""})

    view = View(
        path="/", name="Parts", group="", icon="alert", show=part,
        fragments={"kept": Fragment(show=part, topics=("route",)), "fresh": Fragment(show=part)},
        actions={"act": Action(do=lambda posted: Done(said="done"), verb="act")},
    )  # fmt: skip
    client = serve_site(Site(shared_app, Settings(), (view,)))
    for _ in range(3):
        assert "here" in client.get("/-/kept").text and "here" in client.get("/-/fresh").text
    assert drawn.count("/-/kept") == 1 and drawn.count("/-/fresh") == 3


@pytest.mark.parametrize(
    ("path", "status"),
    [(f"/{view}/{digits}", status) for view in ("models", "report", "datasets", "strategy")
     for digits, status in (("9" * 30, 404), ("9" * 5000, 414))],
)  # fmt: skip
def test_a_number_too_large_for_any_store_is_no_page(shared: Served, path: str, status: int) -> None:
    answer = shared.client.get(path)
    assert answer.status_code == status and "Traceback" not in answer.text


@pytest.mark.parametrize(
    "path", ["/models/99", "/models/-/training?version=99", "/report/99", "/report/cells.csv?version=99"]
)
def test_a_version_that_was_never_made_is_not_found(shared: Served, path: str) -> None:
    assert shared.client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/models/-/promote", {"version": "9" * 30}), ("/alerts/-/silence", {"alert": "1", "long": "99999999d"}),
        ("/alerts/-/unsilence", {"alert": "9" * 30}),
        ("/tokens/-/make", {"name": "ann", "scope": "view", "expires": "99999999d"}),
    ],
)  # fmt: skip
def test_a_field_that_no_store_could_hold_is_refused_in_words(
    home: App, serve: Serve, path: str, fields: dict[str, str]
) -> None:
    answer = serve(home).press(path, reason="to break it", **fields)
    assert answer.status_code == 422 and "failed" not in answer.text
