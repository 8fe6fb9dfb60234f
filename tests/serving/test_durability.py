"""What was acknowledged is in the log: after kill -9, after SIGTERM, and when the disk takes no more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from artefacts import graph, inputs, python_artefact
from python_models import DAWDLES
from served import predict, process, running, until

from tidemill.clock import SystemClock, micros
from tidemill.errors import StoreError, TidemillError
from tidemill.serving.serve import run
from tidemill.stores.frames import read_frames
from tidemill.stores.home import Home
from tidemill.stores.segments import Segments, decode


class Callers:
    """Callers who remember every request id they were given, and every feedback that was acknowledged."""

    def __init__(self, address: str, num: int = 8) -> None:
        self.answered: set[str] = set()
        self.acknowledged: set[str] = set()
        self.statuses: set[int] = set()
        self._threads = [threading.Thread(target=self._ask, args=(address,)) for _ in range(num)]
        for thread in self._threads:
            thread.start()

    def _ask(self, address: str) -> None:
        with httpx.Client(base_url=address, timeout=10) as client:
            try:
                while True:
                    reply = predict(client)
                    self.statuses.add(reply.status_code)
                    request_id = reply.json()["request_id"]
                    self.answered.add(request_id)
                    said = client.post("/v1/feedback", json={"request_id": request_id, "label": "cat"})
                    self.statuses.add(said.status_code)
                    self.acknowledged.add(request_id)
            except httpx.HTTPError:
                return  # the gateway is gone

    def join(self) -> None:
        for thread in self._threads:
            thread.join(20)


@pytest.fixture
def pets(place):
    place.publish()
    place.route(stable=place.add(graph(1)))
    return place


def test_kill_9_under_load_loses_nothing_that_was_acknowledged(pets):
    with process(pets) as (started, address):
        callers = Callers(address)
        until(lambda: len(callers.acknowledged) > 500)
        started.kill()
        callers.join()
    assert callers.statuses == {200, 202}
    predictions, feedback = pets.rows()
    assert callers.answered <= {row.request_id for row in predictions}
    assert callers.acknowledged <= {row.request_id for row in feedback}
    assert Segments(pets.home.segments).seal_dead(), "its open segment is found to be a dead gateway's"


def test_sigterm_answers_what_was_asked_seals_the_log_and_exits_0(pets):
    with process(pets) as (started, address):
        callers = Callers(address)
        until(lambda: len(callers.acknowledged) > 200)
        started.send_signal(signal.SIGTERM)
        assert started.wait(20) == 0
        callers.join()
    predictions, feedback = pets.rows()
    assert callers.answered <= {row.request_id for row in predictions}
    assert callers.acknowledged <= {row.request_id for row in feedback}
    assert all(segment.sealed for segment in Segments(pets.home.segments).present())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_that_is_running_when_the_signal_comes_is_answered(place, tmp_path, number):
    place.publish()
    place.route(stable=place.add(python_artefact(tmp_path / "a", "Fickle")))
    with process(place) as (started, address), httpx.Client(base_url=address, timeout=10) as client:
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(predict, client, inputs=inputs([DAWDLES, 0, 0, 0]))
            time.sleep(0.3)
            started.send_signal(number)
            reply = slow.result()
        assert (reply.status_code, reply.json()["version"]) == (200, 1)
        assert started.wait(20) == 0
    assert [row.request_id for row in place.rows()[0]] == [reply.json()["request_id"]]


def test_while_the_log_cannot_be_written_nothing_is_acknowledged_and_health_says_so(pets):
    with process(pets) as (started, address), httpx.Client(base_url=address, timeout=10) as client:
        request_id = predict(client).json()["request_id"]
        gateway = psutil.Process(started.pid)
        _, hard = gateway.rlimit(psutil.RLIMIT_FSIZE)
        until(lambda: len([s for s in Segments(pets.home.segments).present() if s.sealed]) == 1)
        gateway.rlimit(psutil.RLIMIT_FSIZE, (16, hard))  # a segment's header, and no more
        refused = predict(client)
        assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
        assert "the log cannot be written" in refused.json()["detail"]
        assert client.post("/v1/feedback", json={"request_id": request_id, "label": "cat"}).status_code == 503
        ready = client.get("/v2/health/ready")
        assert (ready.status_code, "the log cannot be written" in ready.json()["problems"][0]) == (503, True)
        assert "tidemill_log_failures_total 0.0" not in client.get("/metrics").text
        gateway.rlimit(psutil.RLIMIT_FSIZE, (hard, hard))
        until(lambda: client.get("/v2/health/ready").status_code == 200)  # by itself, without a request
        assert predict(client).status_code == 200
    predictions, feedback = pets.rows()
    assert (len(predictions), feedback) == (2, [])


def test_a_gateway_told_to_answer_regardless_does_but_takes_no_feedback(pets):
    with process(pets, on_log_failure="answer") as (started, address), httpx.Client(base_url=address) as client:
        request_id = predict(client).json()["request_id"]
        psutil.Process(started.pid).rlimit(psutil.RLIMIT_FSIZE, (16, psutil.RLIM_INFINITY))
        assert predict(client).status_code == 200
        assert client.post("/v1/feedback", json={"request_id": request_id, "label": "cat"}).status_code == 503
        ready = client.get("/v2/health/ready")
        assert (ready.status_code, "the log cannot be written" in ready.json()["warnings"][0]) == (200, True)


def test_segments_are_sealed_within_their_age_and_an_idle_gateway_says_how_far_the_log_is_complete(pets):
    segments = Segments(pets.home.segments)
    with running(pets) as client:
        predict(client)
        until(lambda: [s.sealed for s in segments.present()].count(True) == 1, seconds=10)
        for _ in range(3):
            asked = micros(SystemClock().now())
            until(lambda asked=asked: min(s.low_at for s in segments.present() if not s.sealed) > asked, seconds=10)
        predict(client)
        predict(client)
        lows = {s.name: s.low_at for s in segments.present()}
    rows, _ = pets.rows()
    assert min(lows.values()) <= min(row.received_at for row in rows)


def test_no_segment_holds_a_row_received_before_the_time_in_its_header(pets):
    with process(pets, segment_age_s=0.01) as (started, address):
        callers = Callers(address)
        until(lambda: len(callers.acknowledged) > 300)
        started.send_signal(signal.SIGTERM)
        assert started.wait(20) == 0
        callers.join()
    found = Segments(pets.home.segments).present()
    assert len(found) > 2
    for segment in found:
        for payload in read_frames(segment.path).payloads:
            batch = decode(payload, name=segment.name)
            assert all(row.received_at >= segment.low_at for row in [*batch.predictions, *batch.feedback])


def test_with_durability_power_answers_are_logged_too(pets):
    with process(pets, durability="power") as (started, address), httpx.Client(base_url=address, timeout=30) as client:
        request_id = predict(client).json()["request_id"]
        started.kill()
    assert [row.request_id for row in pets.rows()[0]] == [request_id]


def test_a_port_that_is_taken_and_a_home_without_a_catalog_are_told(pets, tmp_path):
    with (
        running(pets) as client,
        pytest.raises(TidemillError, match=f"cannot listen on 127.0.0.1:{client.base_url.port}"),
    ):
        run(pets.home, port=client.base_url.port)
    with pytest.raises(StoreError, match="there is no database"):
        run(Home(tmp_path / "empty").make(), port=0)


def test_the_gateway_imports_neither_the_project_file_nor_what_is_heavy():
    """Its memory and its start are those of NumPy and ONNX Runtime; a fault in a user's file cannot reach it."""
    code = (
        "import sys, tidemill.serving.serve;"
        "print(*{m.partition('.')[0] for m in sys.modules}, *[m for m in sys.modules if m.startswith('tidemill.')])"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    modules = set(loaded.stdout.split())
    assert "tidemill.serving.http" in modules
    forbidden = {"duckdb", "polars", "pyarrow", "pandas", "sklearn", "scipy", "torch", "alembic", "starlette"}
    assert not modules & forbidden
    assert not modules & {"tidemill.project", "tidemill.app", "tidemill.loop", "tidemill.training"}
    strategy = {m for m in modules if m.startswith("tidemill.strategy.")}
    assert strategy == {"tidemill.strategy.log", "tidemill.strategy.member"}


def test_a_gateway_starts_listening_only_when_it_can_answer(pets):
    begun = time.monotonic()
    with process(pets) as (_, address), httpx.Client(base_url=address) as client:
        assert predict(client).status_code == 200
    assert time.monotonic() - begun < 20
