"""Once there is a token, a gateway answers only who shows one that is live, for that project and that call."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import httpx
import pytest
from artefacts import graph
from served import Place, predict, process, running, until

from tidemill.clock import SystemClock
from tidemill.errors import Forbidden, TidemillError, Unauthorized
from tidemill.records import Trust
from tidemill.serving.listening import is_loopback
from tidemill.serving.serve import run
from tidemill.serving.tokens import TokenTable
from tidemill.stores.tokens import Scope, Tokens


@pytest.fixture
def pets(place: Place) -> Place:
    """Two projects with a version each."""
    for name in ("pets", "cars"):
        place.publish(name)
        place.route(name, stable=place.add(graph(1), name))
    return place


def token(place: Place, name: str, *scopes: Scope, lives_s: float | None = None, **settings: Any) -> str:
    now = SystemClock().now()
    ends = None if lives_s is None else now + timedelta(seconds=lives_s)
    with place.database.begin() as conn:
        return Tokens(place.database).add(
            conn, name, scopes=scopes or tuple(Scope), now=now, by="ann", expires_at=ends, **settings
        )


def revoke(place: Place, name: str) -> None:
    with place.database.begin() as conn:
        Tokens(place.database).revoke(conn, name, now=SystemClock().now())


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def ask(client: httpx.Client, secret: str | None, **body: Any) -> httpx.Response:
    client.headers.pop("authorization", None)
    client.headers.update({} if secret is None else bearer(secret))
    return predict(client, **{"model": "pets", **body})


# --- without tokens


def test_without_a_token_in_the_store_everybody_on_this_machine_is_answered(pets: Place) -> None:
    with running(pets) as client:
        assert ask(client, None).status_code == 200
        assert ask(client, "whatever").status_code == 200


def test_the_first_token_closes_the_gateway_within_a_second_and_revoking_it_does_not_open_it(pets: Place) -> None:
    with running(pets, poll_s=0.5) as client:
        assert ask(client, None).status_code == 200
        secret = token(pets, "web")
        time.sleep(1)
        assert ask(client, None).status_code == 401
        assert ask(client, secret).status_code == 200
        revoke(pets, "web")
        time.sleep(1)
        assert ask(client, secret).status_code == 401
        assert ask(client, None).status_code == 401


# --- with tokens


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Basic dXNlcjpwdw==", "Bearer tm_", "Bearer " + "x" * 46, "Bearer " + "x" * 4096],
)
def test_who_shows_no_token_or_a_wrong_one_is_asked_for_one(pets: Place, header: str | None) -> None:
    secret = token(pets, "web")
    headers = {} if header is None else {"authorization": header}
    with running(pets) as client:
        for path in ("/v1/predict", "/v1/feedback"):
            reply = client.post(path, json={}, headers=headers)
            assert reply.status_code == 401
            assert reply.headers["www-authenticate"] == 'Bearer realm="tidemill"'
            assert reply.headers["content-type"] == "application/problem+json"
            assert reply.json()["title"] == "Unauthorized" and "tidemill token add" in reply.json()["hint"]
        for path in ("/v1/models", "/v2/models/pets"):
            assert client.get(path, headers=headers).status_code == 401
        assert ask(client, secret).status_code == 200
        assert secret not in client.get("/metrics").text
    assert len(pets.rows()[0]) == 1


def test_the_scheme_is_read_in_any_case(pets: Place) -> None:
    secret = token(pets, "web")
    with running(pets) as client:
        for scheme in ("bearer", "BEARER"):
            assert predict(client, model="pets").status_code == 401
            client.headers["authorization"] = f"{scheme} {secret}"
            assert predict(client, model="pets").status_code == 200
            del client.headers["authorization"]


def test_a_token_is_good_for_its_scopes_only(pets: Place) -> None:
    asker, teller = token(pets, "asker", Scope.PREDICT), token(pets, "teller", Scope.FEEDBACK)
    with running(pets) as client:
        request_id = ask(client, asker).json()["request_id"]
        said = {"request_id": request_id, "thumbs": "up"}
        refused = client.post("/v1/feedback", json=said)
        assert (refused.status_code, refused.json()["title"]) == (403, "Forbidden")
        assert "may not feedback" in refused.json()["detail"]
        assert ask(client, teller).status_code == 403
        assert client.post("/v1/feedback", json=said).status_code == 202


def test_a_token_for_a_project_sees_and_asks_that_one_only(pets: Place) -> None:
    mine, every = token(pets, "mine", project="pets"), token(pets, "every")
    with running(pets) as client:
        assert ask(client, mine).json()["model"] == "pets"
        assert ask(client, mine, model=None).json()["model"] == "pets", "its project need not be named"
        refused = ask(client, mine, model="cars")
        assert refused.status_code == 403 and "for 'pets' only" in refused.json()["hint"]
        assert ask(client, mine, model="planes").status_code == 403
        assert [m["name"] for m in client.get("/v1/models").json()["models"]] == ["pets"]
        assert client.get("/v2/models/cars").status_code == 403
        of_cars = ask(client, every, model="cars").json()["request_id"]
        ask(client, mine)
        reply = client.post("/v1/feedback", json={"request_id": of_cars, "thumbs": "up"})
        assert reply.status_code == 404, "not even that the id exists is told"


def test_feedback_has_the_name_and_the_trust_of_its_token(pets: Place) -> None:
    vet, web = token(pets, "vet", trust=Trust.TRUTH), token(pets, "web")
    with running(pets) as client:
        for secret in (vet, web):
            request_id = ask(client, secret).json()["request_id"]
            client.post("/v1/feedback", json={"request_id": request_id, "thumbs": "up"})
    assert [(row.source, row.trust) for row in pets.rows()[1]] == [("vet", "truth"), ("web", "crowd")]


def test_a_token_stops_working_when_it_expires(pets: Place) -> None:
    token(pets, "long")
    with running(pets) as client:
        secret = token(pets, "short", lives_s=3)
        until(lambda: ask(client, secret).status_code == 200)
        until(lambda: ask(client, secret).status_code == 401)


# --- health and metrics


def test_health_needs_no_token(pets: Place) -> None:
    token(pets, "web")
    with running(pets) as client:
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/pets/ready", "/metrics"):
            assert client.get(path).status_code == 200


def test_where_others_reach_it_metrics_and_the_details_of_health_are_for_operators(pets: Place) -> None:
    web, operator = token(pets, "web", Scope.PREDICT), token(pets, "ops", Scope.OPERATE)
    with running(pets, beyond_loopback=True) as client:
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers=bearer(web)).status_code == 403
        assert "tidemill_requests" in client.get("/metrics", headers=bearer(operator)).text
        for headers in ({}, bearer(web), bearer("wrong")):
            assert client.get("/v2/health/ready", headers=headers).json() == {"ready": True}
        assert "log" in client.get("/v2/health/ready", headers=bearer(operator)).json()


# --- beyond this machine


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.com", ""])
def test_whoever_is_not_this_machine_is_beyond_it(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.0.1", "::1"])
def test_this_machine_is_not(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("made", [False, True])
def test_a_host_that_others_can_reach_is_refused_without_a_live_token(pets: Place, made: bool) -> None:
    if made:
        token(pets, "web")
        revoke(pets, "web")
    with pytest.raises(TidemillError, match=r"there is no token, and others.*tidemill token add"):
        run(pets.home, host="0.0.0.0", port=0)


def test_with_a_token_it_serves_others_too(pets: Place) -> None:
    secret = token(pets, "web")
    with (
        process(pets, host="0.0.0.0") as (_, address),
        httpx.Client(base_url=address.replace("0.0.0.0", "127.0.0.1"), timeout=30) as client,
    ):
        assert ask(client, None).status_code == 401
        assert ask(client, secret).status_code == 200


# --- the table


def test_a_table_that_was_never_read_lets_nobody_in(pets: Place) -> None:
    table = TokenTable(Tokens(pets.database), SystemClock().now)
    with pytest.raises(Unauthorized):
        table.caller(None)
    table.refresh()
    assert table.is_open and table.caller(None).name == ""


def test_the_revision_grows_with_every_change_and_only_then(pets: Place) -> None:
    now = [SystemClock().now()]
    table = TokenTable(Tokens(pets.database), lambda: now[0])
    seen = []
    for change in (
        lambda: None,
        lambda: token(pets, "web", lives_s=60),
        lambda: None,
        lambda: now.append(now.pop() + timedelta(minutes=2)),
        lambda: token(pets, "app"),
        lambda: revoke(pets, "app"),
    ):
        change()
        table.refresh()
        seen.append(table.revision)
    assert seen == [1, 2, 2, 3, 4, 5]


def test_a_store_that_cannot_be_read_keeps_what_was_known_but_lets_it_expire(pets: Place) -> None:
    header = b"Bearer " + token(pets, "web", lives_s=60).encode()
    now = [SystemClock().now()]

    class Store(Tokens):
        """A store that is there for a while."""

        away = False

        def all(self) -> Any:
            if self.away:
                raise TidemillError("the database is away.")
            return super().all()

    store = Store(pets.database)
    table = TokenTable(store, lambda: now[0])
    table.refresh()
    store.away = True
    with pytest.raises(TidemillError, match="away"):
        table.refresh()
    assert table.check(header, "pets", Scope.PREDICT).name == "web"
    now[0] += timedelta(minutes=2)
    with pytest.raises(TidemillError, match="away"):
        table.refresh()
    with pytest.raises(Unauthorized):
        table.check(header, "pets", Scope.PREDICT)


def test_a_check_says_what_is_missing(pets: Place) -> None:
    header = b"Bearer " + token(pets, "web", Scope.PREDICT, project="pets").encode()
    table = TokenTable(Tokens(pets.database), SystemClock().now)
    table.refresh()
    assert table.check(header, "pets", Scope.PREDICT).project == "pets"
    assert table.check(header, "pets", None).scopes == {Scope.PREDICT}
    with pytest.raises(Forbidden, match=r"may not operate.*it has predict"):
        table.check(header, "pets", Scope.OPERATE)
    with pytest.raises(Forbidden, match="not for the project 'cars'"):
        table.check(header, "cars", Scope.PREDICT)
