"""Whatever is sent, a gateway answers it well-formed, without a fault of its own, and goes on as before.

A thousand cases of `fuzzing`, always the same; `benchmarks/fuzz.py` sends as many as you like.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator

import httpx
import psutil
import pytest
from artefacts import graph
from fuzzing import Caller, Tally, make
from fuzzing_grpc import GrpcCaller
from served import Place, predict, process, until


@contextlib.contextmanager
def running_grpc(place: Place) -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with process(place, grpc_port=port) as (started, address):
        yield started, address, port


@pytest.fixture
def pets(place: Place) -> Place:
    place.publish()
    place.route(stable=place.add(graph(1)))
    return place


def test_a_gateway_outlives_what_nobody_should_send(pets: Place) -> None:
    tally = Tally()
    with running_grpc(pets) as (started, address, grpc_port), httpx.Client(base_url=address, timeout=30) as client:
        assert predict(client).status_code == 200
        gateway = psutil.Process(started.pid)
        before = len(gateway.net_connections())
        caller = Caller("127.0.0.1", int(address.rpartition(":")[2]), tally)
        for index in range(1000):
            caller.run(f"case {index}", make(7, index, tally.ids[:1]))
        caller.close()
        other = GrpcCaller("127.0.0.1", grpc_port, tally)
        for index in range(300):
            other.run(7, index)
        other.close()
        assert not tally.problems, "\n".join(tally.problems[:20])
        assert predict(client).status_code == 200
        until(lambda: len(gateway.net_connections()) <= before)
    kinds = {
        "grpc",
        "http2",
        "predict",
        "feedback",
        "infer",
        "binary",
        "get",
        "pipelined",
        "edge",
    }  # what is cut off has no reply
    assert {kind.split()[0] for kind in tally.statuses} == kinds
    assert sum(count for kind, count in tally.statuses.items() if kind.endswith(" 200")) > 100
