"""Open pages are told which topics changed, from one look at the stores for all of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from page_served import Serve, Served

from tidemill.app import App
from tidemill.stores.revisions import Revisions
from tidemill.stores.tokens import Scope, Tokens


def events(served: Served) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield what a page is told."""
    with httpx.stream("GET", f"{served.url}/-/live", timeout=20, cookies=served.client.cookies) as answer:
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))


def test_a_page_is_told_what_changed_and_how_much_waits(home: App, serve: Serve) -> None:
    served = serve(home)
    told = events(served)
    name, counts = next(told)
    assert name == "hello" and counts["queue"] == home.world.reservoir.num_waiting(home.name)
    home.ask("retrain", by="bob", reason="because")
    name, data = next(told)
    assert name == "changed" and {"commands", "audit"} <= set(data["topics"])  # type: ignore[arg-type]
    told.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("topic", "change"),
    [
        ("route", lambda app: app.rollback(by="a", reason="r")),
        ("route", lambda app: app.pause(paused=True, by="a", reason="r")),
        ("commands", lambda app: app.ask("retrain", by="a", reason="r")),
        ("queue", lambda app: app.answer([(app.queue(1)[0].id, "low")], by="a")),
        ("audit", lambda app: app.ask("retrain", by="a", reason="r")),
    ],
)
def test_a_topic_has_another_revision_after_a_change_and_the_same_without(
    home: App, topic: str, change: object
) -> None:
    revisions = Revisions(home.db)
    before = revisions.read(home.name)
    assert revisions.read(home.name) == before
    change(home)  # type: ignore[operator]
    assert revisions.read(home.name).topics[topic] != before.topics[topic]


def test_a_stream_tells_nothing_more_once_its_token_is_revoked(
    home: App, serve: Serve, token: Callable[..., str]
) -> None:
    served = serve(home, token=token(home, Scope.VIEW, name="bob"))
    told = events(served)
    assert next(told)[0] == "hello"
    with home.db.begin() as conn:
        Tokens(home.db).revoke(conn, "bob", now=home.clock.now())
    time.sleep(1.1)  # tokens are remembered for a second
    home.ask("retrain", by="ann", reason="because")
    later = [topics for _, data in told for topics in data["topics"]]  # type: ignore[attr-defined]
    assert "commands" not in later
