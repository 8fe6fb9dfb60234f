"""Routes change under load without a failed request, and versions come and go with them."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import httpx
import numpy as np
import psutil
from artefacts import graph, inputs, onnx_artefact, python_artefact
from served import predict, running, until
from sqlalchemy import text

from tidemill.clock import SystemClock
from tidemill.manifest import Limits
from tidemill.policy import Policy
from tidemill.schema import Classes, Number, Schema, Tensor


class Load:
    """Callers that never stop asking; `replies` has (version, fallback, status) of each answer in turn."""

    def __init__(self, address, num_callers=4) -> None:
        self.replies = []
        self._stop = threading.Event()
        self._address = address
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(num_callers)]

    def _ask(self, caller) -> None:
        with httpx.Client(base_url=self._address, timeout=30) as client:
            num = 0
            while not self._stop.is_set():
                reply = predict(client, unit=f"{caller}-{num}")
                num += 1
                said = reply.json()
                self.replies.append((said.get("version"), said.get("fallback"), reply.status_code))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_route_changes_under_load_without_a_failed_request(place):
    place.publish()
    place.route(stable=place.add(graph(1)))
    with running(place) as client, Load(client.base_url) as load:
        for step in (
            {"stable": 1, "candidate": place.add(graph(2)), "share": 0.5, "salt": "a"},
            {"stable": 2, "fallback": 1},
            {"stable": place.add(graph(3, width=256)), "fallback": 2},
            {"stable": 1},
        ):
            wanted = step.get("candidate") or step["stable"]
            place.route(**step)
            seen = len(load.replies)
            until(lambda seen=seen, wanted=wanted: any(v == wanted for v, _, _ in load.replies[seen:]))
    assert {(fallback, status) for _, fallback, status in load.replies} == {(None, 200)}
    assert {version for version, _, _ in load.replies} == {1, 2, 3}
    rows, _ = place.rows()
    assert len(rows) == len(load.replies)
    assert all(row.assigned_version == row.answered_version for row in rows)


def test_a_route_waits_until_its_versions_are_loaded(place, tmp_path):
    """A Python model takes a moment to start; until then the old route answers, and no row falls back."""
    place.publish()
    place.route(stable=place.add(graph(1)))
    with running(place) as client, Load(client.base_url, num_callers=1) as load:
        place.route(stable=place.add(python_artefact(tmp_path / "a", "Fickle")))
        until(lambda: any(version == 2 for version, _, _ in load.replies))
        children = psutil.Process().children(recursive=True)
        workers = [child for child in children if "tidemill.runtime.worker" in child.cmdline()]
        assert workers
        place.route(stable=1)
        until(lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers))
    assert {(fallback, status) for _, fallback, status in load.replies} == {(None, 200)}


def test_a_version_that_stays_in_the_route_keeps_its_process(place, tmp_path):
    place.publish()
    place.route(stable=place.add(python_artefact(tmp_path / "a", "Fickle")))
    with running(place) as client:
        workers = psutil.Process().children(recursive=True)
        place.route(stable=1, candidate=place.add(graph(2)), share=0.5, salt="s")
        until(lambda: predict(client).json()["version"] == 2)
        replies = [predict(client, unit=str(i)).json() for i in range(20)]
        assert {(reply["version"], reply["fallback"]) for reply in replies} == {(1, None), (2, None)}
        assert psutil.Process().children(recursive=True) == workers


def test_a_candidate_whose_watcher_is_gone_loses_its_share(place):
    def renew(seconds: float) -> None:
        with place.database.begin() as conn:
            place.catalog.renew(conn, "pets", "r", SystemClock().now() + timedelta(seconds=seconds))

    place.publish()
    place.add(graph(1))
    lapses_at = SystemClock().now() + timedelta(seconds=60)
    place.route(stable=1, candidate=place.add(graph(2)), share=1.0, lapses_at=lapses_at, rollout="r")
    with running(place) as client:
        assert predict(client).json()["version"] == 2
        renew(0.2)
        until(lambda: predict(client).json()["version"] == 1)
        renew(60)  # the loop is back
        until(lambda: predict(client).json()["version"] == 2)
    rows, _ = place.rows()
    assert {(row.assigned_version, row.share) for row in rows} == {(2, 1.0), (1, 0.0)}
    assert {row.route_revision for row in rows} == {1}


def test_a_changed_declaration_takes_effect_and_an_old_version_that_no_longer_fits_is_refused(place):
    place.publish(policy=Policy())
    place.route(stable=place.add(graph(1)))
    with running(place) as client:
        assert predict(client).json()["abstained"] is False
        place.publish(policy=Policy(abstain_below=1.1), limits=Limits(max_batch=3))
        until(lambda: predict(client).json()["abstained"])
        place.publish(schema=Schema({"x": Tensor((4,)), "age": Number(tag=True)}, Classes(("cat", "dog", "fish"))))
        narrower = {"x": inputs()["x"], "age": 3}
        until(lambda: predict(client, inputs=narrower).status_code == 200)  # it does not read what is gone
        place.publish(schema=Schema({"x": Tensor((2, 2))}, Classes(("cat", "dog", "fish"))))
        square = {"x": [[1, 2], [3, 4]]}
        reply = until(lambda: r if (r := predict(client, inputs=square)).status_code == 503 else None)
        assert "not_loaded" in reply.json()["detail"]
        assert "input 'x' declared otherwise than now" in client.get("/v2/health/ready").json()["problems"][0]


def test_a_version_and_its_schema_come_together_or_not_at_all(place, tmp_path):
    """One that does not load leaves what answers; one that does takes over without anybody being left unanswered."""
    manifest, square = place.publish(), Schema({"x": Tensor((2, 2))}, Classes(("cat", "dog", "fish")))
    place.route(stable=place.add(graph(1)))
    wrong = np.full((2, 3), 1 / 3, np.float32)
    versions = [
        place.add(onnx_artefact(tmp_path / "broken", graph(2), schema=square, scores=wrong)),
        place.add(onnx_artefact(tmp_path / "whole", graph(2), schema=square)),
    ]

    def promote(version) -> None:
        route = replace(place.catalog.route("pets"), stable=version, fallback=1)
        with place.database.begin() as conn:
            place.catalog.declare(conn, manifest.under(square).to_json(), now=SystemClock().now())
            place.catalog.set_route(conn, "pets", route, now=SystemClock().now(), by="test", reason="promoted")

    with running(place) as client, Load(client.base_url) as load:
        promote(versions[0])
        until(lambda: 'load_failures_total{project="pets",version="2"} 1.0' in client.get("/metrics").text)
        seen = len(load.replies)
        until(lambda: len(load.replies) > seen + 50)
        assert {status for _, _, status in load.replies} == {200}
        promote(versions[1])
        until(lambda: predict(client, inputs={"x": [[1, 2], [3, 4]]}).status_code == 200)
        until(lambda: load.replies[-1][2] == 422)
        ready = client.get("/v2/health/ready").json()
        assert (ready["ready"], ready["warnings"]) == (True, []), "the version before is as it should be"
    assert {status for _, _, status in load.replies} == {200, 422}


def test_when_the_catalog_cannot_be_read_the_routes_in_force_stay(place):
    place.publish()
    place.route(stable=place.add(graph(1)))
    with running(place) as client:
        with place.database.begin() as conn:
            conn.execute(text("ALTER TABLE routes RENAME TO gone"))
        warned = until(lambda: client.get("/v2/health/ready").json()["warnings"])
        assert "the routes cannot be read" in warned[0]
        assert (predict(client).status_code, client.get("/v2/health/ready").status_code) == (200, 200)
        with place.database.begin() as conn:
            conn.execute(text("ALTER TABLE gone RENAME TO routes"))
        until(lambda: not client.get("/v2/health/ready").json()["warnings"])
        place.route(stable=place.add(graph(2)))
        until(lambda: predict(client).json()["version"] == 2)
