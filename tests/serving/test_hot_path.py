"""Calls answered straight from the protocol are those that ASGI would answer, and no head outlives its token."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from artefacts import graph, inputs
from served import Place, predict, running, until

from tidemill.clock import SystemClock
from tidemill.manifest import Limits
from tidemill.serving.http import Http
from tidemill.stores.tokens import Scope, Tokens

# A header that sends a request the long way.
LONG_WAY = {"content-encoding": "identity"}


@pytest.fixture
def pets(place: Place) -> Place:
    place.publish()
    place.route(stable=place.add(graph(1)), candidate=place.add(graph(2)), share=0.5, salt="s")
    return place


@pytest.fixture
def asgi(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The paths that came the long way."""
    paths: list[str] = []
    whole = Http.__call__

    async def noted(self: Http, scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope.get("path", ""))
        await whole(self, scope, receive, send)

    monkeypatch.setattr(Http, "__call__", noted)
    yield paths


def tensors() -> dict[str, Any]:
    given = inputs()
    return {
        "inputs": [
            {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": list(map(float, given["x"]))},
            {"name": "age", "shape": [1], "datatype": "FP64", "data": [given["age"]]},
            {"name": "country", "shape": [1], "datatype": "BYTES", "data": [given["country"]]},
        ]
    }


BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/predict", {"inputs": inputs(), "unit": "ann"}),
    ("/v1/predict", {"inputs": inputs(), "version": 2}),
    ("/v1/predict", {"inputs": {**inputs(), "age": "old"}}),
    ("/v1/predict", {"inputs": inputs(), "version": 9}),
    ("/v1/predict", {"inputs": inputs(), "model": "cars"}),
    ("/v1/feedback", {"request_id": "nonsense", "label": "cat"}),
    ("/v2/models/pets/versions/2/infer", tensors()),
    ("/v2/models/pets/versions/9/infer", tensors()),
    ("/v2/models/pets/infer", {**tensors(), "parameters": {"unit": "ann"}, "id": "7"}),
    ("/v2/models/pets/infer", {"inputs": tensors()["inputs"][:1]}),
]


def told(reply: httpx.Response) -> Any:
    """What a reply says, but for what differs each time."""
    text = reply.text
    said = json.loads(text)
    request_id = said.get("request_id") or next(
        (o["data"][0] for o in said.get("outputs", ()) if o["name"] == "request_id"), "none"
    )
    return reply.status_code, text.replace(request_id, "ID")


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_a_call_is_answered_as_asgi_answers_it(pets: Place, asgi: list[str], path: str, body: Any) -> None:
    with running(pets) as client:
        hot = [client.post(path, json=body) for _ in range(2)]  # the second one's head is known
        assert path not in asgi
        slow = client.post(path, json=body, headers=LONG_WAY)
        assert path in asgi
    assert told(hot[0]) == told(hot[1]) == told(slow)
    kept = ("content-type", "retry-after")
    assert [hot[1].headers.get(name) for name in kept] == [slow.headers.get(name) for name in kept]


def test_a_pinned_version_answers_alone_and_no_rollout_counts_it(pets: Place) -> None:
    pets.route(stable=1, candidate=2, share=0.5, salt="s", rollout="r1")
    with running(pets) as client:
        replies = [predict(client, version=version) for version in (1, 2, 2, 9)]
        predict(client)
    assert [reply.status_code for reply in replies] == [200, 200, 200, 404]
    assert [reply.json().get("version") for reply in replies[:3]] == [1, 2, 2]
    assert "version 9 of 'pets' is not served" in replies[3].json()["detail"]
    rows, _ = pets.rows()
    assert [(row.answered_version, row.rollout, row.share) for row in rows[:3]] == [
        (1, None, 0.0),
        (2, None, 0.0),
        (2, None, 0.0),
    ]
    assert rows[3].rollout == "r1"


def test_a_head_that_is_known_is_no_longer_good_when_its_token_was_revoked(pets: Place) -> None:
    tokens = Tokens(pets.database)
    with pets.database.begin() as conn:
        secret = tokens.add(conn, "ann", scopes={Scope.PREDICT}, now=SystemClock().now(), by="test")
    body = json.dumps({"inputs": inputs()}).encode()
    head = f"POST /v1/predict HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\ncontent-length: {len(body)}\r\n"
    bare = f"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body

    def ask(sock: socket.socket, data: bytes) -> bytes:
        sock.sendall(data)
        return sock.recv(1 << 16).split(b" ", 2)[1]

    with running(pets) as client, socket.create_connection(("127.0.0.1", client.base_url.port or 0), 20) as sock:
        whole = head.encode() + b"\r\n" + body
        assert [ask(sock, whole) for _ in range(3)] == [b"200"] * 3
        assert ask(sock, bare) == b"401", "no token is not the one that was let in before"
        with pets.database.begin() as conn:
            tokens.revoke(conn, "ann", now=SystemClock().now())
        until(lambda: ask(sock, whole) == b"401")
        assert ask(sock, whole) == b"401"


def test_what_cannot_be_answered_in_the_time_that_is_left_is_refused_at_once(place: Place) -> None:
    """By what a row takes, not by how many wait alone: no more wait than the version can answer in that time."""
    place.publish(limits=Limits(max_wait_s=0.0, max_batch=1))
    place.route(stable=place.add(graph(1, width=768)))
    with running(place) as client:
        alone = [predict(client).status_code for _ in range(5)]
        body = json.dumps({"inputs": inputs()}).encode()
        piped = f"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
        with socket.create_connection(("127.0.0.1", client.base_url.port or 0), 20) as sock:
            sock.sendall(piped * 30)
            data = b""
            while data.count(b"HTTP/1.1 ") < 30:
                data += sock.recv(1 << 16)
    assert alone == [200] * 5, "who comes to an idle version is answered, whatever it takes"
    assert data.count(b"HTTP/1.1 200") >= 1
    assert data.count(b"HTTP/1.1 503") >= 20
    assert data.count(b"retry-after: 1") == data.count(b"HTTP/1.1 503")


def test_a_body_in_pieces_is_one_call_wherever_it_is_cut_and_so_is_what_comes_behind_it(pets: Place) -> None:
    body = json.dumps({"inputs": inputs(), "unit": "ann"}).encode()
    call = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    head = len(call) - len(body)
    with running(pets) as client, socket.create_connection((client.base_url.host, client.base_url.port or 80)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers = sock.makefile("rb")
        for pieces in ([call], [call], *([call[:at], call[at:]] for at in range(head - 2, head + 6))):
            assert answered_in_pieces(sock, answers, pieces) == 1
        assert answered_in_pieces(sock, answers, [call[:-9], call[-9:] + call[:-7], call[-7:]], 2) == 2
        assert answered_in_pieces(sock, answers, [call[:head], *(call[i : i + 1] for i in range(head, len(call)))]) == 1
        sock.sendall(call[:-5])
        time.sleep(0.05)
        sock.shutdown(socket.SHUT_WR)
        assert answers.read() == b"", "half a call has no answer"


def answered_in_pieces(sock: socket.socket, answers: Any, pieces: list[bytes], num: int = 1) -> int:
    """Send pieces, each as a packet of its own; return how many calls were answered with 200."""
    for piece in pieces:
        sock.sendall(piece)
        time.sleep(0.005)
    good = 0
    for _ in range(num):
        status = answers.readline()
        length = 0
        while (line := answers.readline().strip()) != b"":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        assert set(json.loads(answers.read(length))) >= {"request_id", "decision"}
        good += b" 200 " in status
    return good
