"""What a caller may not do: be slow, send too much, hold too many connections. The others do not notice."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from artefacts import graph, inputs
from fuzzing import parse
from served import Place, predict, process, running, until

from tidemill.serving.patience import Patience

BODY = json.dumps({"inputs": inputs()}).encode()
Reply = tuple[int, dict[bytes, bytes], bytes]


@pytest.fixture
def pets(place: Place) -> Place:
    return with_a_version(place)


def with_a_version(place: Place) -> Place:
    place.publish()
    place.route(stable=place.add(graph(1)))
    return place


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A gateway as it is by default, for all tests that leave it as they found it."""
    place = with_a_version(Place(tmp_path_factory.mktemp("pets")))
    with running(place) as started:
        yield started
    place.database.close()


def post(body: bytes = BODY, path: str = "/v1/predict", headers: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


@contextlib.contextmanager
def connected(client: httpx.Client) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", client.base_url.port or 0), 20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock


def replies(sock: socket.socket, num: int | None = None) -> list[Reply]:
    """Return so many replies, or all until the gateway closes."""
    data = b""
    while num is None or len(parse(data)[0]) < num:
        more = sock.recv(1 << 16)
        if not more:
            break
        data += more
    found, left = parse(data)
    assert not left
    return found


def only(sock: socket.socket, status: int) -> dict[str, object]:
    """Return the problem that is told before the gateway closes."""
    ((found, headers, body),) = replies(sock)
    assert (found, headers[b"connection"], headers[b"content-type"]) == (status, b"close", b"application/problem+json")
    problem: dict[str, object] = json.loads(body)
    assert problem["status"] == status
    return problem


def drip(sock: socket.socket, data: bytes, stop: threading.Event) -> threading.Thread:
    """Send a byte every 20 ms until told to stop."""

    def run() -> None:
        with contextlib.suppress(OSError):
            for at in range(len(data)):
                sock.sendall(data[at : at + 1])
                if stop.wait(0.02):
                    return

    thread = threading.Thread(target=run)
    thread.start()
    return thread


# --- slow callers


@pytest.mark.parametrize("what", ["nothing", "a half", "drips"])
def test_headers_that_do_not_come_in_time_are_given_up(pets: Place, what: str) -> None:
    with running(pets, patience=Patience(head_s=0.5, idle_s=0.5)) as client, connected(client) as sock:
        stop = threading.Event()
        thread = None
        if what == "a half":
            sock.sendall(post()[:30])
        elif what == "drips":
            thread = drip(sock, b"POST /v1/predict HTTP/1.1\r\n" + b"x: y\r\n" * 1000, stop)
        if what == "nothing":
            assert replies(sock) == []
        else:
            assert "did not come within 0.5 s" in str(only(sock, 408)["detail"])
        stop.set()
        if thread is not None:
            thread.join()
        assert predict(client).status_code == 200


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/feedback", "/v2/models/pets/infer"])
def test_a_body_that_does_not_come_in_time_is_given_up(pets: Place, path: str) -> None:
    with running(pets, patience=Patience(head_s=0.3, body_s=0.5)) as client, connected(client) as sock:
        stop = threading.Event()
        thread = drip(sock, post(b" " * 5000, path), stop)
        sock.sendall(b"")
        problem = only(sock, 408)
        stop.set()
        thread.join()
        assert re.search(r"(body|headers) did not come within 0\.\d s", str(problem["detail"]))


def test_a_body_in_drips_that_is_quick_enough_is_answered(client: httpx.Client) -> None:
    with connected(client) as sock:
        for at in range(0, len(post()), 7):
            sock.sendall(post()[at : at + 7])
        ((status, _, body),) = replies(sock, 1)
        assert status == 200 and json.loads(body)["model"] == "pets"


def test_an_idle_connection_is_closed_and_a_busy_one_is_kept(pets: Place) -> None:
    with (
        running(pets, patience=Patience(idle_s=1.0, head_s=1.0)) as client,
        connected(client) as idle,
        connected(client) as busy,
    ):
        for sock in (idle, busy):
            sock.sendall(post())
            assert replies(sock, 1)[0][0] == 200
        for _ in range(8):
            time.sleep(0.25)
            busy.sendall(post())
            assert replies(busy, 1)[0][0] == 200
        assert replies(idle) == []


def test_a_caller_that_does_not_read_its_answers_is_dropped(pets: Place) -> None:
    with running(pets, patience=Patience(read_s=0.5, head_s=0.5)) as client:
        with connected(client) as sock:
            sock.settimeout(10)
            with pytest.raises(ConnectionError):
                for _ in range(100_000):
                    sock.sendall(post() * 20)
        assert predict(client).status_code == 200


# --- too much


def test_headers_without_end_are_refused(client: httpx.Client) -> None:
    for filler in (b"x: y\r\n" * 200, b"x: " + b"y" * 40_000, b"z" * 40_000):
        with connected(client) as sock:
            sock.sendall(b"POST /v1/predict HTTP/1.1\r\n")
            with contextlib.suppress(OSError):
                for _ in range(20):
                    sock.sendall(filler)
            assert only(sock, 431)["title"] == "Headers too large"


def test_a_whole_head_that_is_too_long_is_refused_too(client: httpx.Client) -> None:
    for headers in (f"x: {'y' * 40_000}\r\n", "".join(f"x{i}: y\r\n" for i in range(150))):
        with connected(client) as sock:
            sock.sendall(post(headers=headers))
            only(sock, 431)


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/feedback", "/v2/models/pets/infer"])
def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes(client: httpx.Client, path: str) -> None:
    for headers in (b"", b"expect: 100-continue\r\n"):
        with connected(client) as sock:
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {5 << 20}\r\n"
            sock.sendall(head.encode() + headers + b"\r\n")
            if not headers:
                assert "larger than 4194304 bytes" in str(only(sock, 413)["detail"])
            else:
                assert replies(sock, 1)[0][0] == 413, "no 100 Continue before it"


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/feedback", "/v2/models/pets/infer"])
def test_who_sends_a_large_body_all_the_same_still_reads_the_refusal(client: httpx.Client, path: str) -> None:
    with connected(client) as sock:
        sock.sendall(post(b" " * (5 << 20), path))
        assert replies(sock, 1)[0][0] == 413


@pytest.mark.parametrize("path", ["/v1/predict", "/v2/models/pets/infer"])
def test_chunks_without_end_are_refused(client: httpx.Client, path: str) -> None:
    with connected(client) as sock:
        sock.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        with contextlib.suppress(OSError):
            for _ in range(6):
                sock.sendall(b"100000\r\n" + b" " * (1 << 20) + b"\r\n")
        assert replies(sock, 1)[0][0] == 413


@pytest.mark.parametrize("tail", [b"0\r\n" + b"x: " + b"y" * (40 << 20), b"1;" + b"x" * (40 << 20)])
def test_trailers_and_chunk_extensions_without_end_are_refused(client: httpx.Client, tail: bytes) -> None:
    with connected(client) as sock:
        sock.sendall(b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            sock.sendall(tail)
        assert replies(sock, 1)[0][0] in (413, 431)
        assert predict(client).status_code == 200


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"inputs":' * 50_000, b'{"inputs": {"x": ' + b"[" * 5000 + b"]" * 5000]
)
def test_json_that_is_nested_too_deeply_is_malformed(client: httpx.Client, body: bytes) -> None:
    for path in ("/v1/predict", "/v1/feedback", "/v2/models/pets/infer"):
        reply = client.post(path, content=body)
        assert reply.status_code in (400, 422) and "detail" in reply.json()


@pytest.mark.parametrize("shape", [[2**62, 4], [2**31, 2**31, 4], [10**9, 4], [-1, 4], [0, 4]])
def test_a_tensor_that_says_it_is_huge_takes_no_memory(client: httpx.Client, shape: list[int]) -> None:
    x = {"name": "x", "datatype": "FP32", "shape": shape, "data": [0.5] * 4}
    reply = client.post("/v2/models/pets/infer", json={"inputs": [x]})
    assert reply.status_code in (400, 422), reply.text


# --- pipelining, and ends


def test_pipelined_requests_are_answered_in_order(client: httpx.Client) -> None:
    asked = ["predict", "live", "predict", "bad", "feedback", "predict", "models", "infer"] * 5
    parts = {
        "predict": post(),
        "live": b"GET /v2/health/live HTTP/1.1\r\n\r\n",
        "bad": post(b"{}"),
        "feedback": post(b'{"request_id": "x", "label": "cat"}', "/v1/feedback"),
        "models": b"GET /v1/models HTTP/1.1\r\n\r\n",
        "infer": post(b"{}", "/v2/models/pets/infer"),
    }
    marks = {"predict": b'"scores"', "live": b'"live"', "bad": b"inputs", "feedback": b"was not given by",
             "models": b'"route"', "infer": b"inputs"}  # fmt: skip
    with connected(client) as sock:
        sock.sendall(b"".join(parts[name] for name in asked))
        got = replies(sock, len(asked))
    assert [name for name, (_, _, body) in zip(asked, got, strict=True) if marks[name] not in body] == []


def test_what_comes_after_a_good_request_is_no_reason_not_to_answer_it(client: httpx.Client) -> None:
    with connected(client) as sock:
        sock.sendall(post() + post() + b"\0\1garbage\r\n\r\n")
        assert [status for status, _, _ in replies(sock)] == [200, 200, 400]


def test_requests_after_connection_close_are_not_answered(client: httpx.Client) -> None:
    with connected(client) as sock:
        sock.sendall(post() + post(headers="connection: close\r\n") + post())
        assert [status for status, _, _ in replies(sock)] == [200, 200]


@pytest.mark.parametrize("path", ["/v1/predict", "/v2/health/live"])
def test_a_caller_that_closed_its_half_is_answered(client: httpx.Client, path: str) -> None:
    with connected(client) as sock:
        request = post() if path == "/v1/predict" else b"GET /v2/health/live HTTP/1.1\r\n\r\n"
        sock.sendall(request * 3)
        sock.shutdown(socket.SHUT_WR)
        assert [status for status, _, _ in replies(sock)] == [200] * 3


def test_a_request_that_is_cut_off_leaves_nothing_behind(pets: Place) -> None:
    with running(pets) as client:
        for path in ("/v1/predict", "/v2/models/pets/infer"):
            for cut in (5, 60, len(post()) - 3):
                with connected(client) as sock:
                    sock.sendall(post(path=path)[:cut])
                    sock.shutdown(socket.SHUT_WR)
                    assert replies(sock) == []
        assert predict(client).status_code == 200
    assert len(pets.rows()[0]) == 1


def test_who_asks_for_another_protocol_is_answered_in_this_one(client: httpx.Client) -> None:
    for headers in ("connection: upgrade\r\nupgrade: websocket\r\n", "connection: upgrade\r\nupgrade: h2c\r\n"):
        with connected(client) as sock:
            sock.sendall(post(headers=headers) + post())
            assert [status for status, _, _ in replies(sock, 2)] == [200, 200]
    with connected(client) as sock:
        sock.sendall(b"CONNECT example.com:80 HTTP/1.1\r\nhost: x\r\n\r\n")
        only(sock, 400)


# --- too many


def test_connections_beyond_the_limit_are_told_so_at_once_and_others_go_on(pets: Place) -> None:
    with running(pets, patience=Patience(max_connections=50)) as client, contextlib.ExitStack() as stack:
        assert predict(client).status_code == 200  # holds one of them
        idle = [stack.enter_context(connected(client)) for _ in range(49)]
        for _ in range(20):
            with connected(client) as sock:
                assert "too many connections" in str(only(sock, 503)["detail"])
        assert predict(client).status_code == 200
        for sock in idle[:10]:
            sock.close()
        with connected(client) as sock:

            def answered() -> bool:
                with connected(client) as again:
                    again.sendall(post())
                    return replies(again, 1)[0][0] == 200

            until(answered)


def test_thousands_of_idle_connections_do_not_keep_a_caller_from_its_answer(pets: Place) -> None:
    with process(pets, max_connections=1000) as (_, address), httpx.Client(base_url=address, timeout=30) as client:
        assert predict(client).status_code == 200
        with contextlib.ExitStack() as stack:
            refused = 0
            for _ in range(2000):
                stack.enter_context(connected(client))
            assert predict(client).status_code == 200
            with connected(client) as sock:
                refused = len(replies(sock))
            assert refused <= 1  # told, or closed without a word
        until(lambda: httpx.get(f"{address}/v2/health/live").status_code == 200)


def test_on_sigterm_every_request_that_was_sent_is_answered(pets: Place) -> None:
    with process(pets) as (started, address):
        port = int(address.rpartition(":")[2])
        socks = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(20)]
        for sock in socks:
            sock.sendall(post() * 10)
        until(lambda: len(pets.rows()[0]) > 0)
        started.terminate()
        got = [reply for sock in socks for reply in replies(sock)]
        assert started.wait(30) == 0
        for sock in socks:
            sock.close()
    assert got and {status for status, _, _ in got} == {200}
    assert {json.loads(body)["request_id"] for _, _, body in got} == {row.request_id for row in pets.rows()[0]}
