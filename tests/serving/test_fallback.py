"""When a version cannot answer, another one does, and the log says who was meant and why."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from artefacts import NAN, RAISES, graph, inputs, python_artefact
from python_models import CRASHES, HANGS
from python_models import RAISES as TOLD_TO_RAISE
from served import predict, running, until

from tidemill.manifest import Limits

NAN_ROW, RAISING_ROW = [(RAISES + NAN) / 2, 0, 0, 0], [RAISES + 1, 0, 0, 0]


def ask(client, row, **body):
    return predict(client, inputs=inputs(row), **body)


@pytest.mark.parametrize(("row", "reason"), [(NAN_ROW, "not_finite"), (RAISING_ROW, "raised")])
@pytest.mark.parametrize("failing", ["stable", "candidate"])
def test_the_fallback_or_for_a_candidate_the_stable_version_answers(place, row, reason, failing):
    place.publish()
    touchy, steady = place.add(graph(1, touchy=True)), place.add(graph(2))
    if failing == "stable":
        place.route(stable=touchy, fallback=steady)
    else:
        place.route(stable=steady, candidate=touchy, share=1.0)
    with running(place) as client:
        reply = ask(client, row)
        assert reply.status_code == 200
        assert (reply.json()["version"], reply.json()["fallback"]) == (steady, reason)
        page = client.get("/metrics").text
        versions = client.get("/v1/models").json()["models"][0]["versions"]
    (logged,), _ = place.rows()
    assert (logged.assigned_version, logged.answered_version) == (touchy, steady)
    assert (logged.fallback_reason, logged.error) == (reason, None)
    assert f'tidemill_fallbacks_total{{project="pets",reason="{reason}",version="{touchy}"}} 1.0' in page
    assert {v["version"]: bool(v["last_error"]) for v in versions} == {touchy: True, steady: False}


def test_when_nobody_can_answer_the_log_has_the_request_and_the_caller_its_id(place):
    place.publish()
    place.route(stable=place.add(graph(1, touchy=True)), fallback=place.add(graph(2, touchy=True)))
    with running(place) as client:
        reply = ask(client, RAISING_ROW, unit="ann")
    assert reply.status_code == 503
    assert reply.headers["content-type"] == "application/problem+json"
    (row,), _ = place.rows()
    assert (row.assigned_version, row.answered_version, row.scores, row.decision) == (1, 0, None, None)
    assert row.error.startswith("raised: the model raised")
    assert reply.json()["request_id"] == row.request_id


def test_a_stable_version_that_does_not_load_leaves_its_predecessor_at_work(place):
    place.publish()
    place.route(stable=place.add(graph(1)))
    with running(place) as client:
        assert predict(client).json()["version"] == 1
        place.route(stable=place.add("f" * 64))
        until(lambda: predict(client).json()["fallback"] == "not_loaded")
        reply = predict(client).json()
        ready = client.get("/v2/health/ready")
        assert (reply["version"], reply["fallback"]) == (1, "not_loaded")
        assert ready.status_code == 200, "somebody answers"
        assert "version 2 is not loaded" in ready.json()["warnings"][0]
        assert client.get("/v2/models/pets/versions/2/ready").status_code == 503
        assert 'tidemill_load_failures_total{project="pets",version="2"} 1.0' in client.get("/metrics").text
        place.route(stable=1)
        until(lambda: predict(client).json()["fallback"] is None)
    rows, _ = place.rows()
    assert (rows[-2].assigned_version, rows[-2].answered_version) in {(2, 1), (1, 1)}
    assert any((row.assigned_version, row.answered_version) == (2, 1) for row in rows)


def test_a_candidate_that_does_not_load_counts_against_itself_alone(place):
    place.publish()
    place.route(stable=place.add(graph(1)), candidate=place.add("e" * 64), share=0.5, salt="s")
    with running(place) as client:
        replies = [predict(client, unit=str(i)).json() for i in range(40)]
    assert {reply["version"] for reply in replies} == {1}
    rows, _ = place.rows()
    assert {(row.assigned_version, row.fallback_reason) for row in rows} == {(1, None), (2, "not_loaded")}


def test_a_project_none_of_whose_versions_loads_is_not_ready_and_says_why(place):
    place.publish()
    place.route(stable=place.add("d" * 64))
    with running(place) as client:
        ready = client.get("/v2/health/ready")
        reply = predict(client)
    assert (ready.status_code, reply.status_code) == (503, 503)
    assert "d" * 64 in ready.json()["problems"][0]
    assert "not_loaded" in reply.json()["detail"]


def test_a_project_without_a_route_is_unavailable_until_it_has_one(place):
    place.publish()
    with running(place) as client:
        assert client.get("/v2/health/ready").status_code == 503
        reply = predict(client)
        assert (reply.status_code, reply.json()["hint"]) == (503, "make one with `tidemill train DATA`")
        place.route(stable=place.add(graph(1)))
        until(lambda: predict(client).status_code == 200)
        ready = client.get("/v2/health/ready").json()
        assert (ready["ready"], ready["problems"], ready["warnings"]) == (True, [], [])


@pytest.fixture
def fickle(place, tmp_path):
    """A Python model as candidate for everybody, with three seconds to answer, and another project beside it."""
    for name in ("pets", "other"):
        place.publish(name, limits=Limits(timeout_s=3.0))
    place.add(graph(1))
    place.add(python_artefact(tmp_path / "fickle", "Fickle"))
    place.route(stable=1, candidate=2, share=1.0)
    place.route("other", stable=place.add(graph(3), "other"))
    with running(place) as client:
        yield client


def test_a_python_model_answers_and_what_it_raises_falls_back(place, fickle):
    good, bad = (
        ask(fickle, [0, 0, 0, 0], model="pets").json(),
        ask(fickle, [TOLD_TO_RAISE, 0, 0, 0], model="pets").json(),
    )
    assert (good["version"], good["fallback"]) == (2, None)
    assert (bad["version"], bad["fallback"]) == (1, "raised")


def test_a_worker_that_crashes_is_replaced_and_the_request_falls_back(place, fickle):
    crashed = ask(fickle, [CRASHES, 0, 0, 0], model="pets").json()
    assert (crashed["version"], crashed["fallback"]) == (1, "raised")
    until(lambda: ask(fickle, [0, 0, 0, 0], model="pets").json()["version"] == 2)


def test_while_a_worker_hangs_other_requests_go_on_and_afterwards_it_is_replaced(place, fickle):
    with ThreadPoolExecutor(1) as pool:
        begun = time.monotonic()
        hanging = pool.submit(ask, fickle, [HANGS, 0, 0, 0], model="pets")
        time.sleep(0.2)
        for _ in range(20):
            at = time.monotonic()
            assert ask(fickle, [0, 0, 0, 0], model="other").json()["version"] == 1
            assert time.monotonic() - at < 1.2
        reply = hanging.result().json()
        assert time.monotonic() - begun < 3.0, "half of the time is kept for the version that stands in"
    assert (reply["version"], reply["fallback"]) == (1, "timeout")
    until(lambda: ask(fickle, [0, 0, 0, 0], model="pets").json()["version"] == 2)
