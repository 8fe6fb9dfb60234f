"""When no version can answer, the declared default does, and every reply and row of it says that it is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from artefacts import CLASSES, RAISES, graph, inputs, onnx_artefact
from served import Place, metric, predict, running

BAD = inputs((RAISES + 1, 0, 0, 0))


def test_the_default_is_answered_when_all_versions_fail_and_recorded_as_such(place: Place) -> None:
    place.publish(default="fish")
    old = place.add(graph(1, touchy=True))
    place.route(stable=place.add(graph(2, touchy=True)), fallback=old)
    with running(place) as client:
        reply = predict(client, inputs=BAD, unit="ann")
        good = predict(client)
        page = client.get("/metrics").text
    body = reply.json()
    assert reply.status_code == 200
    assert (body["decision"], body["version"], body["fallback"]) == ("fish", 0, "default: raised")
    assert (body["scores"], body["abstained"]) == (dict.fromkeys(CLASSES, 0.0), False)
    assert good.json()["version"] == 2
    rows = {row.request_id: row for row in place.rows()[0]}
    row = rows[body["request_id"]]
    assert (row.assigned_version, row.answered_version, row.decision, row.scores) == (2, 0, "fish", None)
    assert row.fallback_reason == "raised" and row.error is not None and row.error.startswith("raised: ")
    assert row.unit == "ann" and row.keep_probability == 1.0
    assert metric(page, 'tidemill_fallbacks_total{project="pets",reason="raised",version="2"}') == 1
    assert metric(page, 'tidemill_requests_total{project="pets",status="200",version="0"}') == 1


def test_without_a_default_nobody_answers(place: Place) -> None:
    place.publish()
    place.route(stable=place.add(graph(1, touchy=True)))
    with running(place) as client:
        reply = predict(client, inputs=BAD)
    assert reply.status_code == 503
    assert [(row.answered_version, row.decision) for row in place.rows()[0]] == [(0, None)]


def test_a_version_that_does_not_load_leaves_the_default(place: Place, tmp_path: Path) -> None:
    place.publish(default="cat")
    place.route(stable=place.add(onnx_artefact(tmp_path / "a", graph(1), scores=np.zeros((2, 3)))))
    with running(place) as client:
        body = predict(client).json()
    assert (body["decision"], body["version"], body["fallback"]) == ("cat", 0, "default: not_loaded")


def test_what_is_wrong_with_a_request_is_no_reason_for_a_default(place: Place) -> None:
    place.publish(default="cat")
    place.route(stable=place.add(graph(1)))
    with running(place) as client:
        assert predict(client, inputs={"x": "no"}).status_code == 422
