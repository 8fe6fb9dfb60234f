"""A request whose scores are remembered is answered without its model, decided as any other, and logged as cached."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from artefacts import NAN, graph, inputs, onnx_artefact
from served import Place, metric, predict, running, until

from tidemill.clock import SystemClock
from tidemill.policy import Policy


def batches(page: str, version: int = 1) -> float:
    """How often the version's model ran."""
    return metric(page, f'tidemill_batch_size_count{{project="pets",version="{version}"}}')


def test_the_same_input_is_answered_from_memory_and_its_row_says_so(place: Place) -> None:
    place.publish(cache_bytes=1 << 20)
    place.route(stable=place.add(graph(1)))
    with running(place) as client:
        first = predict(client, unit="ann").json()
        # Another unit and another tag: the model reads neither.
        second = predict(client, unit="bob", inputs=inputs(age=77)).json()
        other = predict(client, inputs=inputs((1, 2, 3, 4))).json()
        page = client.get("/metrics").text
    assert second["scores"] == first["scores"] != other["scores"]
    assert second["request_id"] != first["request_id"] and second["decision"] == first["decision"]
    rows = {row.request_id: row for row in place.rows()[0]}
    assert [rows[reply["request_id"]].cached for reply in (first, second, other)] == [False, True, False]
    row = rows[second["request_id"]]
    assert (row.unit, row.tags["age"], row.scores) == ("bob", 77.0, rows[first["request_id"]].scores)
    assert batches(page) == 2
    assert metric(page, 'tidemill_cache_hits_total{project="pets",version="1"}') == 1
    assert 0 < metric(page, 'tidemill_cache_bytes{project="pets"}') < 1000


def test_without_a_size_nothing_is_remembered(place: Place) -> None:
    place.publish()
    place.route(stable=place.add(graph(1)))
    with running(place) as client:
        for _ in range(3):
            predict(client)
        assert batches(client.get("/metrics").text) == 3
    assert not any(row.cached for row in place.rows()[0])


def test_remembered_scores_are_decided_by_the_policy_in_force_now(place: Place) -> None:
    place.publish(cache_bytes=1 << 20)
    place.route(stable=place.add(graph(1)))
    with running(place) as client:
        before = predict(client).json()
        route, now = place.catalog.route("pets"), SystemClock().now()
        assert route is not None
        with place.database.begin() as conn:
            policy = Policy(thresholds={before["decision"]: 1.1})
            place.catalog.add_policy(conn, "pets", policy, now=now, by="ann", reason="")
            place.catalog.set_route(conn, "pets", replace(route, policy_version=2), now=now, by="ann", reason="")
        after = until(lambda: r if (r := predict(client).json())["policy"] == 2 else None)
        assert batches(client.get("/metrics").text) == 1
    assert after["decision"] != before["decision"] and after["scores"] == before["scores"]


def test_versions_do_not_see_each_others_scores(place: Place) -> None:
    place.publish(cache_bytes=1 << 20)
    place.add(graph(1))
    place.add(graph(2))
    place.route(stable=1, candidate=2, share=0.5, salt="s", rollout="r")
    with running(place) as client:
        replies = [predict(client, unit=f"u{n}").json() for n in range(40)]
    scores = {reply["version"]: reply["scores"] for reply in replies}
    assert set(scores) == {1, 2} and scores[1] != scores[2]
    assert all(reply["scores"] == scores[reply["version"]] for reply in replies)
    assert sum(not row.cached for row in place.rows()[0]) == 2


def test_neither_a_failure_nor_what_another_version_said_instead_is_remembered(place: Place) -> None:
    place.publish(cache_bytes=1 << 20)
    old = place.add(graph(1))
    place.route(stable=place.add(graph(2, touchy=True)), fallback=old)
    with running(place) as client:
        replies = [predict(client, inputs=inputs((NAN + 0.1, 0, 0, 0))).json() for _ in range(3)]
    assert [(reply["version"], reply["fallback"]) for reply in replies] == [(old, "not_finite")] * 3
    assert not any(row.cached for row in place.rows()[0])


def test_a_remembered_outlier_is_flagged_every_time(place: Place, tmp_path: Path) -> None:
    place.publish(cache_bytes=1 << 20)
    ranges = {"x": {"low": 0.0, "high": 0.1}}
    place.route(stable=place.add(onnx_artefact(tmp_path / "a", graph(1), ranges=ranges)))
    with running(place) as client:
        for _ in range(2):
            predict(client)
    assert [(row.cached, row.outlier) for row in place.rows()[0]] == [(False, ["x"]), (True, ["x"])]


def test_shadows_run_for_remembered_answers_too(place: Place) -> None:
    place.publish(cache_bytes=1 << 20)
    place.add(graph(1))
    place.add(graph(2))
    place.route(stable=1, shadows=(2,), rollout="r")
    with running(place) as client:
        for _ in range(2):
            predict(client)
        until(lambda: len(place.rows()[0]) == 4)
    assert [row.cached for row in place.rows()[0] if row.role == "shadow"] == [False, False]


@pytest.mark.parametrize("size", [700, 0])
def test_memory_is_bounded_and_given_back_when_the_project_says_so(place: Place, size: int) -> None:
    place.publish(cache_bytes=100_000)
    place.route(stable=place.add(graph(1)))
    with running(place) as client:
        service = client.service  # type: ignore[attr-defined]
        for n in range(10):
            predict(client, inputs=inputs((n, 0, 0, 0)))
        cache = service.gateway.deployments["pets"]._cache
        assert len(cache) == 10
        place.publish(cache_bytes=size)
        until(lambda: cache.num_bytes <= size)
        assert predict(client).status_code == 200
