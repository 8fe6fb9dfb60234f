"""The alerts view: what stands and why, silence with a reason, a test of the webhook, and what was not delivered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from page_served import Serve
from story import HOSTILE

from tidemill.app import App
from tidemill.loop.webhook import Webhook
from tidemill.records import Outcome, Verdict
from tidemill.stores.alerts import Alerts
from tidemill.stores.audit import Audit

NAME = "Falls('accuracy', cohort='new_app')"
SECRET = "sixteen letters or more"


@pytest.fixture
def standing(home: App) -> tuple[App, int]:
    """A home with an open alert whose reason is hostile, and which could not be told."""
    example = home.queue(limit=1)[0].request_id
    verdict = Verdict(
        outcome=Outcome.FIRE, by=NAME, reason=HOSTILE[1], numbers={"recent": 0.5, "examples": f"{example}"}
    )
    now = home.clock.now()
    with home.db.begin() as conn:
        alerts = Alerts(home.db)
        id_ = alerts.open(conn, home.name, NAME, cohort="new_app", verdict=verdict, now=now - timedelta(hours=2))
        alerts.told(conn, id_, now, problem="hooks.example.com answered 500")
    return home, id_


@pytest.fixture
def hook() -> Iterator[tuple[str, list[bytes]]]:
    """A receiver of webhooks: its address, and what it got."""
    got: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", got
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_alert_is_silenced_with_a_reason_and_still_shown(standing: tuple[App, int], serve: Serve, tab: Any) -> None:
    app, id_ = standing
    tab.goto(f"{serve(app).url}/alerts")
    tab.get_by_text(HOSTILE[1]).first.wait_for()
    tab.get_by_text("hooks.example.com answered 500").first.wait_for()
    tab.get_by_role("button", name="Silence", exact=True).click()
    dialog = tab.get_by_role("dialog", name="Tell nobody of it, nor of its next ones?")
    dialog.get_by_label("Reason").fill("we know, a fix is under way")
    dialog.get_by_role("button", name="Silence").click()
    tab.get_by_role("button", name="End the silence").wait_for()
    one = app.world.alerts.history(app.name)[0]
    assert one.id == id_ and one.is_open and one.is_silent(app.clock.now())
    assert Audit(app.db).acts(app.name)[0].reason == "we know, a fix is under way"
    assert tab.evaluate("window.hacked") is None


def test_what_shows_an_alert_opens_at_the_side(standing: tuple[App, int], serve: Serve, tab: Any) -> None:
    tab.goto(f"{serve(standing[0]).url}/alerts")
    tab.locator(".alert-card a[data-drawer]").first.click()
    tab.locator("#drawer").get_by_text("Its life").wait_for()


def test_rules_and_history_are_files_too(standing: tuple[App, int], serve: Serve) -> None:
    client = serve(standing[0]).client
    assert NAME in client.get("/alerts/rules.csv").text.replace('""', '"')
    assert ",open," in client.get("/alerts/history.csv").text


def test_silence_takes_a_reason_and_an_alert_that_is_there(standing: tuple[App, int], serve: Serve) -> None:
    served = serve(standing[0])
    assert served.press("/alerts/-/silence", alert=str(standing[1]), long="1d", reason="").status_code == 422
    assert served.press("/alerts/-/silence", alert="999", long="1d", reason="because").status_code >= 400


def test_a_test_goes_to_the_webhook_and_without_one_the_button_says_why(
    home: App, serve: Serve, hook: tuple[str, list[bytes]]
) -> None:
    assert "started without --webhook" in serve(home).client.get("/alerts").text
    assert serve(home).press("/alerts/-/test").status_code >= 400
    told = home.with_webhook(Webhook(url=hook[0], secret=SECRET, private=True))
    assert "took the sample" in serve(told).press("/alerts/-/test").text
    assert b'"event":"test"' in hook[1][0].replace(b" ", b"")
