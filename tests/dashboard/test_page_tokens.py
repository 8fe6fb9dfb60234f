"""The views of tokens and of the audit log: a token is shown once, and every action is written down."""

from __future__ import annotations

import re
from typing import Any

from page_served import Serve

from tidemill.app import App
from tidemill.stores.tokens import Scope, Tokens

MADE = re.compile(r"<code>(tm_[\w-]+)</code>")


def test_a_token_is_shown_once_opens_what_it_is_for_and_is_revoked(home: App, serve: Serve, token: Any) -> None:
    boss = serve(home, token=token(home, Scope.OPERATE, name="boss"))
    answer = boss.press("/tokens/-/make", name="ann", scope=["label"], reason="she labels", expires="90d")
    (secret,) = MADE.findall(answer.text)
    assert secret not in boss.client.get("/tokens").text
    ann = serve(home, token=secret)
    assert ann.client.get("/label").status_code == 200
    assert ann.client.get("/tokens").status_code == 403
    (made,) = [one for one in Tokens(home.db).all() if one.name == "ann"]
    assert made.project == home.name
    assert boss.press("/tokens/-/revoke", id=str(made.id), reason="").status_code == 422
    assert "Revoked ann" in boss.press("/tokens/-/revoke", id=str(made.id), reason="she left").text
    log = boss.client.get("/audit?by=boss").text
    for word in ("make token", "she labels", "revoke token", "she left", "refused: "):
        assert word in log
    rows = boss.client.get("/audit/acts.csv?verb=make token").text.splitlines()
    assert [row for row in rows if "she labels" in row]
    assert not [row for row in rows if "revoke" in row]


def test_a_token_of_one_project_makes_and_revokes_none_for_others(home: App, serve: Serve, token: Any) -> None:
    token(home, Scope.OPERATE, name="everywhere")
    with home.db.begin() as conn:
        mine = Tokens(home.db).add(
            conn, "mine", scopes=[Scope.OPERATE], project=home.name, now=home.clock.now(), by="test"
        )
    served = serve(home, token=mine)
    refused = served.press("/tokens/-/make", name="bob", scope=["operate"], reason="for all", **{"for": "all"})
    assert refused.status_code == 403
    foreign = next(one for one in Tokens(home.db).all() if one.name == "everywhere")
    assert served.press("/tokens/-/revoke", id=str(foreign.id), reason="not mine").status_code == 403
    with home.db.begin() as conn:
        Tokens(home.db).add(conn, "theirs", scopes=[Scope.VIEW], project="other", now=home.clock.now(), by="test")
    shown = served.client.get("/tokens").text + served.client.get("/tokens/tokens.csv").text
    assert "mine" in shown and "everywhere" in shown and "theirs" not in shown
    assert {one.name for one in Tokens(home.db).all()} == {"everywhere", "mine", "theirs"}
    assert foreign.revoked_at is None


def test_the_first_token_is_made_in_the_browser_and_the_page_asks_for_it_from_then_on(
    home: App, serve: Serve, tab: Any
) -> None:
    served = serve(home)
    tab.goto(f"{served.url}/tokens")
    tab.fill("[name=name]", "ann")
    tab.check("[value=operate]")
    tab.fill("form[hx-post] > label [name=reason]", "the first")
    tab.get_by_role("button", name="Make it").click()
    tab.get_by_text("It is shown only now.").wait_for()
    secret = tab.inner_text(".token-made code")
    tab.wait_for_timeout(1100)  # tokens are remembered for a second
    tab.goto(f"{served.url}/tokens")
    tab.fill("[name=token]", secret)
    tab.keyboard.press("Enter")
    tab.get_by_role("cell", name="live").wait_for()
    assert secret not in tab.content()
