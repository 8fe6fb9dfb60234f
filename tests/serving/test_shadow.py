"""Shadow versions see what is answered, are logged as shadows, and never delay or fail an answer."""

from __future__ import annotations

import time

import numpy as np
from artefacts import RAISES, expected, graph, inputs, python_artefact
from python_models import HANGS
from served import predict, running, until

from tidemill.manifest import Limits
from tidemill.policy import Policy


def by_role(place, role):
    return {row.request_id: row for row in place.rows()[0] if row.role == role}


def test_every_answer_is_shadowed_with_the_same_inputs(place):
    place.publish(policy=Policy(abstain_below=1.1))
    place.add(graph(1))
    raw = graph(2)
    place.route(stable=1, shadows=(place.add(raw),), rollout="r", salt="s")
    rows = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    with running(place) as client:
        for row in rows:
            assert predict(client, inputs=inputs(row), unit="u").json()["version"] == 1
        until(lambda: len(by_role(place, "shadow")) == 50)
    answers, shadows = by_role(place, "answer"), by_role(place, "shadow")
    assert answers.keys() == shadows.keys()
    for request_id, scores in zip(answers, expected(raw, rows), strict=True):
        answer, shadow = answers[request_id], shadows[request_id]
        np.testing.assert_allclose(shadow.scores, scores, rtol=1e-6)
        assert (shadow.assigned_version, shadow.answered_version, shadow.abstained) == (2, 2, True)
        assert (shadow.received_at, shadow.unit, shadow.tags) == (answer.received_at, "u", answer.tags)
        assert (shadow.inputs, answer.inputs is not None) == (None, True)
        assert shadow.latency_ms > 0


def test_a_shadow_that_raises_is_logged_as_failed_and_the_answer_is_untouched(place):
    place.publish()
    place.route(stable=place.add(graph(1)), shadows=(place.add(graph(2, touchy=True)), place.add("f" * 64)))
    with running(place) as client:
        reply = predict(client, inputs=inputs([RAISES + 1, 0, 0, 0])).json()
        assert (reply["version"], reply["fallback"]) == (1, None)
        failed = until(
            lambda: [row for row in place.rows()[0] if row.role == "shadow"] if len(place.rows()[0]) == 3 else None
        )
    assert {(row.assigned_version, row.answered_version, row.error.partition(":")[0]) for row in failed} == {
        (2, 0, "raised"),
        (3, 0, "not_loaded"),
    }


def test_a_shadow_that_hangs_delays_nobody_and_is_dropped(place, tmp_path):
    place.publish(limits=Limits(timeout_s=2.0, max_batch=2))
    place.route(stable=place.add(graph(1)), shadows=(place.add(python_artefact(tmp_path / "a", "Fickle")),))
    with running(place) as client:
        slowest = 0.0
        for i in range(30):
            begun = time.monotonic()
            reply = predict(client, inputs=inputs([HANGS if i == 0 else 0, 0, 0, 0]))
            slowest = max(slowest, time.monotonic() - begun)
            assert (reply.status_code, reply.json()["fallback"]) == (200, None)
        assert slowest < 1.8
        page = client.get("/metrics").text
        dropped = next(line for line in page.splitlines() if line.startswith("tidemill_shadows_dropped_total{"))
        assert float(dropped.split()[-1]) >= 30 - 2 - 8 - 1  # a batch of 2 at work, 4 batches waiting
        until(lambda: client.service.gateway.deployments["pets"].num_waiting == 0)
        failed = [row for row in by_role(place, "shadow").values() if row.error]
        assert 1 <= len(failed) <= 4, "what it had begun counts against the version, what waited behind does not"


def test_the_version_that_answered_does_not_shadow_itself(place):
    place.publish()
    place.add(graph(1))
    place.route(stable=1, candidate=place.add(graph(2)), share=0.5, salt="s", shadows=(2,))
    with running(place) as client:
        versions = {r["request_id"]: r["version"] for r in (predict(client, unit=str(i)).json() for i in range(40))}
        until(lambda: len(by_role(place, "shadow")) >= list(versions.values()).count(1))
    assert set(versions.values()) == {1, 2}
    assert by_role(place, "shadow").keys() == {key for key, version in versions.items() if version == 1}
