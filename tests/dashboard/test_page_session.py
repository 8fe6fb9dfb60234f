"""Who may do what on the page: tokens, roles, cookies, forms of other sites, other names for this host."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_served import Serve, Served

from tidemill.app import App
from tidemill.clock import ManualClock
from tidemill.dashboard import session
from tidemill.dashboard.session import LASTS, Sessions, Settings, check_host
from tidemill.dashboard.view import Refused, Role
from tidemill.stores.audit import Audit
from tidemill.stores.tokens import Scope, Tokens

MakeToken = Callable[..., str]


def test_without_any_token_the_page_is_open_on_this_machine(home: App, serve: Serve) -> None:
    served = serve(home, settings=Settings(user="ann"))
    text = served.client.get("/").text
    assert "ann" in text and "operator" in text


def test_once_there_is_a_token_everybody_signs_in(home: App, serve: Serve, token: MakeToken) -> None:
    token(home, Scope.OPERATE)
    served = serve(home)
    answer = served.client.get("/?period=1h")
    assert answer.status_code == 303 and answer.headers["location"] == "/sign-in?next=%2F%3Fperiod%3D1h"
    assert served.client.get("/-/standing").status_code == 401
    assert served.client.get("/-/live").status_code == 401
    assert served.client.get("/cohorts.csv").status_code == 303


def test_revoking_the_last_token_lets_nobody_in_rather_than_everybody(
    home: App, serve: Serve, token: MakeToken
) -> None:
    secret = token(home, Scope.OPERATE, name="ann")
    served = serve(home, token=secret)
    assert served.client.get("/").status_code == 200
    with home.db.begin() as conn:
        Tokens(home.db).revoke(conn, "ann", now=home.clock.now())
    again = serve(home)
    again.client.cookies = served.client.cookies
    assert again.client.get("/").status_code == 303


@pytest.mark.parametrize(
    ("scope", "status"), [(Scope.VIEW, 403), (Scope.LABEL, 403), (Scope.OPERATE, 200)], ids=["view", "label", "operate"]
)
def test_only_an_operator_pauses_and_a_refusal_is_written_down(
    home: App, serve: Serve, token: MakeToken, scope: Scope, status: int
) -> None:
    served = serve(home, token=token(home, scope, name="bob"))
    answer = served.press("/-/pause", reason="the labels look odd")
    assert answer.status_code == status
    assert (home.catalog.paused_at(home.name) is not None) == (status == 200)
    act = Audit(home.db).acts(home.name)[0]
    assert (act.by, act.verb, act.via) == ("bob", "pause", "page")
    assert act.reason == "the labels look odd" and act.result.startswith("refused: ") == (status == 403)


def test_a_viewer_sees_the_button_with_the_reason_why_it_cannot_be_pressed(
    home: App, serve: Serve, token: MakeToken
) -> None:
    text = serve(home, token=token(home, Scope.VIEW)).client.get("/").text
    assert "needs the role operator" in text and 'hx-post="/-/pause"' not in text


@pytest.mark.parametrize("scopes", [(Scope.PREDICT,), (Scope.FEEDBACK, Scope.PREDICT)])
def test_a_token_for_the_gateway_does_not_open_the_page(
    home: App, serve: Serve, token: MakeToken, scopes: tuple[Scope, ...]
) -> None:
    served = serve(home)
    secret = token(home, *scopes)
    answer = served.client.get("/", headers={"Authorization": f"Bearer {secret}"})
    assert answer.status_code == 403 and "does not open this page" in answer.text


def test_a_token_in_a_header_reads_and_never_presses(home: App, serve: Serve, token: MakeToken) -> None:
    served = serve(home)
    header = {"Authorization": f"Bearer {token(home, Scope.OPERATE)}"}
    assert served.client.get("/audit/acts.csv", headers=header).status_code == 200
    assert served.client.post("/-/pause", data={"reason": "because"}, headers=header).status_code == 401


def test_a_wrong_token_is_told_so_and_leads_nowhere_else(home: App, serve: Serve, token: MakeToken) -> None:
    token(home, Scope.VIEW)
    served = serve(home)
    proof = served.client.get("/sign-in").text.partition('name="csrf" value="')[2].partition('"')[0]
    answer = served.client.post("/sign-in", data={"csrf": proof, "token": "tm_wrong", "next": "/"})
    assert answer.status_code == 401 and "unknown, expired or revoked" in answer.text


@pytest.mark.parametrize("goto", ["https://evil.example", "//evil.example", "/\\evil.example", "/a\r\nSet-Cookie: b"])
def test_signing_in_never_leads_to_another_site(home: App, serve: Serve, token: MakeToken, goto: str) -> None:
    served, secret = serve(home), token(home, Scope.VIEW)
    proof = served.client.get("/sign-in").text.partition('name="csrf" value="')[2].partition('"')[0]
    answer = served.client.post("/sign-in", data={"csrf": proof, "token": secret, "next": goto})
    assert answer.status_code == 303 and answer.headers["location"] == "/"


def test_signing_out_ends_it(home: App, serve: Serve, token: MakeToken) -> None:
    served = serve(home, token=token(home, Scope.VIEW))
    assert served.client.post("/sign-out", data={"csrf": served.proof()}).status_code == 303
    assert served.client.get("/").status_code == 303


def test_the_cookie_is_for_this_site_and_no_script(shared_app: App, serve: Serve) -> None:
    cookie = serve(shared_app).client.get("/").headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie


@pytest.mark.parametrize("proof", ["", "00", "zz", "00" * 24])
def test_a_form_that_is_not_the_pages_own_does_nothing(shared: Served, proof: str) -> None:
    served, home = shared, shared.app
    served.client.get("/")
    answer = served.client.post("/-/pause", data={"reason": "because"}, headers={"X-CSRF-Token": proof})
    assert answer.status_code == 403 and "not the page&#39;s own" in answer.text
    assert home.catalog.paused_at(home.name) is None


def test_the_proof_of_another_session_does_nothing(shared: Served, serve: Serve) -> None:
    one, other = shared, serve(shared.app)
    other.client.get("/")
    answer = other.client.post("/-/pause", data={"reason": "because"}, headers={"X-CSRF-Token": one.proof()})
    assert answer.status_code == 403


@pytest.mark.parametrize("reason", ["", "  ", "ab", "x" * 1001])
def test_an_action_takes_a_reason_of_a_sensible_length(home: App, serve: Serve, reason: str) -> None:
    answer = serve(home).press("/-/pause", reason=reason)
    assert answer.status_code == 422 and home.catalog.paused_at(home.name) is None


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8010", "localhost.evil.example", ""])
def test_a_name_that_somebody_else_bound_to_this_machine_reads_nothing(shared: Served, host: str) -> None:
    answer = shared.client.get("/", headers={"Host": host})
    assert answer.status_code == 403 and "waves" not in answer.text


def test_another_sites_form_is_refused_by_where_it_comes_from(shared: Served) -> None:
    headers = {"X-CSRF-Token": shared.proof(), "Origin": "https://evil.example"}
    assert shared.client.post("/-/pause", data={"reason": "because"}, headers=headers).status_code == 403


@pytest.mark.parametrize(
    ("host", "settings", "passes"),
    [
        ("localhost:8010", Settings(), True),
        ("[::1]:8010", Settings(), True),
        ("LOCALHOST", Settings(), True),
        ("mill.example:8010", Settings(), False),
        ("mill.example:8010", Settings(hosts=("mill.example",)), True),
        ("mill.example", Settings(beyond_loopback=True), True),
        ("other.example", Settings(beyond_loopback=True, hosts=("mill.example",)), False),
    ],
)
def test_hosts_are_those_of_this_machine_and_those_allowed(host: str, settings: Settings, passes: bool) -> None:
    if passes:
        check_host(host, None, settings)
    else:
        with pytest.raises(Refused):
            check_host(host, None, settings)


@given(cookie=st.one_of(st.text(max_size=200), st.binary(max_size=200).map(bytes.hex)))
def test_no_cookie_but_our_own_is_a_session(shared_app: App, cookie: str) -> None:
    assert Sessions(shared_app, Settings()).read(cookie) is None


def test_a_session_ends_by_itself(home: App) -> None:
    sessions = Sessions(home, Settings())
    cookie = sessions.write(sessions.anybody())
    assert sessions.read(cookie) is not None
    assert isinstance(home.clock, ManualClock)
    home.clock.sleep((LASTS + timedelta(seconds=1)).total_seconds())
    assert sessions.read(cookie) is None


def test_roles_include_those_before_them() -> None:
    assert Role.VIEWER < Role.LABELLER < Role.OPERATOR and str(Role.LABELLER) == "labeller"


def test_a_copy_of_the_cookie_of_a_session_that_was_signed_out_of_lets_nobody_in(
    home: App, serve: Serve, token: MakeToken
) -> None:
    secret = token(home, Scope.OPERATE)
    served, other = serve(home, token=secret), serve(home, token=secret)
    copy, proof = dict(served.client.cookies), served.proof()
    assert served.client.post("/sign-out", data={"csrf": proof}).status_code == 303
    headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in copy.items()), "X-CSRF-Token": proof}
    again = serve(home)  # a page that was started anew, with no memory of its own
    for page in (served, again):
        page.client.cookies.clear()
        assert page.client.get("/", headers=headers).status_code == 303
        assert page.client.post("/-/pause", data={"reason": "because"}, headers=headers).status_code == 401
    assert other.client.get("/").status_code == 200, "another session of the same token goes on"


def test_signing_out_keeps_nobody_waiting_while_the_database_does(
    home: App, token: MakeToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody signs out, and the database makes them wait; whoever asks meanwhile is answered."""
    sessions, secret, under_way, gate = Sessions(home, Settings()), token(home, Scope.VIEW), threading.Event(), []
    mine, other, lock = sessions.sign_in(secret), sessions.sign_in(secret), session.lock_project
    gate.append(threading.Event())

    def slowly(*args: Any) -> None:
        under_way.set()
        gate[0].wait(20)
        lock(*args)

    monkeypatch.setattr(session, "lock_project", slowly)
    leaving = threading.Thread(target=sessions.end, args=(mine,))
    leaving.start()
    assert under_way.wait(20)
    asked: list[object] = []
    asking = threading.Thread(target=lambda: asked.append(sessions.who(other)))
    asking.start()
    asking.join(10)
    assert asked != [], "who asks waits for who leaves"
    gate[0].set()
    leaving.join()
    assert sessions.who(mine) is None and sessions.who(other) is not None


def test_sessions_that_were_ended_are_forgotten_once_they_would_have_ended_by_themselves(
    home: App, token: MakeToken
) -> None:
    sessions, clock = Sessions(home, Settings()), home.clock
    assert isinstance(clock, ManualClock)
    secret = token(home, Scope.VIEW)
    sessions.end(sessions.sign_in(secret))
    clock.sleep(LASTS.total_seconds() + 1)
    sessions.end(sessions.sign_in(secret))
    kept = home.journal.state(home.name, "page.ended")
    assert kept is not None and len(kept) == 1
