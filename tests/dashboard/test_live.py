"""Open pages are told which topics changed, from one look at the stores for all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import httpx
import pytest
from page_served import Serve, Served

from tidemill.app import App
from tidemill.dashboard import session
from tidemill.errors import StoreError
from tidemill.stores.revisions import Revisions
from tidemill.stores.tokens import Scope, Token, Tokens


def events(served: Served, **headers: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield what a page is told."""
    cookies = served.client.cookies
    with httpx.stream("GET", f"{served.url}/-/live", timeout=20, cookies=cookies, headers=headers) as answer:
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
    home: App, serve: Serve, token: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_TOKENS_S", 0.0)  # how long tokens are remembered
    served = serve(home, token=token(home, Scope.VIEW, name="bob"))
    told = events(served)
    assert next(told)[0] == "hello"
    with home.db.begin() as conn:
        Tokens(home.db).revoke(conn, "bob", now=home.clock.now())
    home.ask("retrain", by="ann", reason="because")
    later = [topics for _, data in told for topics in data["topics"]]  # type: ignore[attr-defined]
    assert "commands" not in later


@pytest.mark.parametrize("what", ["the token is revoked", "the database is lost"])
def test_a_stream_of_somebody_with_a_token_in_a_header_ends_without_an_error(
    home: App, serve: Serve, token: Callable[..., str], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    secret, served = token(home, Scope.VIEW, name="bob"), serve(home)
    told = events(served, Authorization=f"Bearer {secret}")
    assert next(told)[0] == "hello"
    if what == "the token is revoked":
        with home.db.begin() as conn:
            Tokens(home.db).revoke(conn, "bob", now=home.clock.now())
    else:
        monkeypatch.setattr(Tokens, "all", lost)
    home.ask("retrain", by="ann", reason="because")
    assert list(told) == [], "an answer that breaks off raises here"


def lost(_: Tokens) -> list[Token]:
    raise StoreError("the database does not answer.", "look at it")
