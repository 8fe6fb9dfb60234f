"""Several gateways behind one port: one that is killed takes nothing with it, and all do what the routes say."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil
import pytest
from artefacts import graph, inputs, python_artefact
from crews import Crew, crew, runs, total, workers_told
from served import Place, until

from tidemill.clock import SystemClock
from tidemill.errors import TidemillError
from tidemill.manifest import Limits
from tidemill.runtime.threads import cores, share
from tidemill.serving.supervisor import Supervisor
from tidemill.stores.home import Home
from tidemill.stores.tokens import Scope, Tokens

BODY = json.dumps({"inputs": inputs()}).encode()


@pytest.fixture
def pets(place: Place) -> Place:
    place.publish()
    place.route(stable=place.add(graph(1)))
    return place


class Load:
    """Clients that ask all the time, each a few times per connection, and remember what was acknowledged."""

    def __init__(self, at: Crew, num: int = 4) -> None:
        self.acknowledged: list[str] = []
        self.broken = 0
        self._at, self._stop = at, threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(num)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def has_more(self, than: int, by: int = 50) -> bool:
        return len(self.acknowledged) > than + by

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.closing(socket.socket()) as sock:
                try:
                    sock.connect((self._at.host, self._at.port))
                    for _ in range(5):
                        self.acknowledged.append(_exchange(sock))
                except OSError:
                    self.broken += 1
                    time.sleep(0.01)


def _exchange(sock: socket.socket) -> str:
    """Ask once; an answer that is not whole, or is no answer, raises."""
    sock.settimeout(30)
    sock.sendall(b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY)
    reply = b""
    while b"\r\n\r\n" not in reply or len(reply) < _end(reply):
        data = sock.recv(1 << 16)
        if not data:
            raise ConnectionResetError
        reply += data
    assert reply.startswith(b"HTTP/1.1 200 "), reply
    return str(json.loads(reply.partition(b"\r\n\r\n")[2])["request_id"])


def _end(reply: bytes) -> int:
    found = re.search(rb"content-length: (\d+)", reply, re.IGNORECASE)
    assert found is not None
    return reply.index(b"\r\n\r\n") + 4 + int(found[1])


# --- death


def test_a_killed_worker_loses_no_acknowledged_answer_and_the_other_goes_on(pets: Place) -> None:
    with crew(pets) as at, Load(at) as load:
        until(lambda: load.has_more(0))
        first, other = at.workers
        os.kill(first, signal.SIGKILL)
        seen = len(load.acknowledged)
        until(lambda: load.has_more(seen))
        until(lambda: other in at.workers and len(at.workers) == 2 and first not in at.workers)
        until(lambda: total(at.page(), "tidemill_workers") == 2)
        seen = len(load.acknowledged)
        until(lambda: load.has_more(seen))
        broken = load.broken
    assert broken <= 64, "only what was on the killed worker's connections"
    logged = Counter(row.request_id for row in pets.rows()[0])
    assert len(load.acknowledged) == len(set(load.acknowledged))
    assert set(load.acknowledged) <= set(logged), "acknowledged, and not in the log"
    assert set(logged.values()) == {1}


def test_a_worker_that_dies_takes_no_count_with_it(pets: Place) -> None:
    with crew(pets) as at:
        for _ in range(20):
            at.ask()
        until(lambda: total(at.page(), "tidemill_requests_total") == 20)
        for pid in at.workers:
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: pid not in at.workers and len(at.workers) == 2)
            until(lambda: workers_told(at) == 2)
        page = at.page()
        assert total(page, "tidemill_requests_total") == 20
        assert total(page, "tidemill_request_seconds_count") == 20
        assert total(page, "tidemill_worker_starts_total") == 4
        assert total(page, "tidemill_log_writable") == 1
        assert len(re.findall(r"^process_resident_memory_bytes\{worker=", page, re.MULTILINE)) == 2


def test_when_the_supervisor_is_killed_its_workers_end_and_leave_the_port(pets: Place) -> None:
    with crew(pets) as at, Load(at) as load:
        until(lambda: load.has_more(0))
        workers = at.workers
        at.process.kill()
        until(lambda: not any(map(runs, workers)))
    with contextlib.closing(socket.socket()) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((at.host, at.port))
    assert set(load.acknowledged) <= {row.request_id for row in pets.rows()[0]}


# --- the end


def test_on_sigterm_all_answer_what_was_asked_and_lose_nothing(pets: Place) -> None:
    with crew(pets) as at:
        with Load(at) as load:
            until(lambda: load.has_more(0))
            at.process.terminate()
            assert at.process.wait(30) == 0
        assert not list(pets.home.segments.glob("*.open")), "every segment is sealed"
        assert load.acknowledged and set(load.acknowledged) <= {row.request_id for row in pets.rows()[0]}


# --- one for all


def test_a_route_is_in_force_in_all_workers_within_a_second(pets: Place) -> None:
    second = pets.add(graph(2))
    with crew(pets, 3) as at:
        assert {at.ask().json()["version"] for _ in range(20)} == {1}
        pets.route(stable=second, fallback=1)
        time.sleep(1)
        assert {at.ask().json()["version"] for _ in range(30)} == {2}


def test_a_revoked_token_is_refused_by_all_workers_within_a_second(pets: Place) -> None:
    now = SystemClock().now()
    with pets.database.begin() as conn:
        secret = Tokens(pets.database).add(conn, "web", scopes=(Scope.PREDICT,), now=now, by="ann")

    def ask() -> int:
        headers = {"authorization": f"Bearer {secret}"}
        return httpx.post(f"{at.address}/v1/predict", json={"inputs": inputs()}, headers=headers).status_code

    with crew(pets, 3) as at:
        assert {ask() for _ in range(20)} == {200}
        with pets.database.begin() as conn:
            Tokens(pets.database).revoke(conn, "web", now=now)
        time.sleep(1)
        assert {ask() for _ in range(30)} == {401}


def test_where_a_port_cannot_be_shared_all_take_connections_from_one_socket(pets: Place) -> None:
    with crew(pets, share=False) as at, Load(at) as load:
        until(lambda: load.has_more(0))
        os.kill(at.workers[0], signal.SIGKILL)
        seen = len(load.acknowledged)
        until(lambda: load.has_more(seen))
        until(lambda: total(at.page(), "tidemill_workers") == 2)
    assert set(load.acknowledged) <= {row.request_id for row in pets.rows()[0]}


@pytest.mark.parametrize(("own", "asked", "threads"), [(None, None, None), (None, "5", 5), (3, "5", 3)])
def test_workers_share_the_cores_unless_somebody_said_how_many_threads(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: int | None,
    asked: str | None,
    threads: int | None,
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    place.publish(limits=Limits(threads=own))
    place.route(stable=place.add(python_artefact(tmp_path / "a", "Fickle")))
    with crew(place, 2) as at:
        below = psutil.Process(at.process.pid).children(recursive=True)
        models = [one.environ()["OMP_NUM_THREADS"] for one in below if "tidemill.runtime.worker" in one.cmdline()]
    assert models == [str(threads or share(cores(), workers=2, copies=1))] * 2


# --- what cannot start


def test_workers_that_cannot_serve_are_told_of_as_one_gateway_would_be(tmp_path: Path) -> None:
    settings = {"host": "127.0.0.1", "port": 0}
    with pytest.raises(TidemillError, match=r"there is no database"):
        Supervisor(Home(tmp_path).make(), settings, 2).run()


def test_a_port_that_others_have_is_refused(pets: Place) -> None:
    with crew(pets) as at, pytest.raises(TidemillError, match=f"cannot listen on 127.0.0.1:{at.port}"):
        Supervisor(pets.home, {"host": at.host, "port": at.port}, 2).run()
