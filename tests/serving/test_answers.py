"""What is answered is what the model says, whatever the load, and the log has it before the caller does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from artefacts import CLASSES, NAN, RAISES, expected, graph, inputs
from served import predict, running

from tidemill.clock import SystemClock, micros
from tidemill.manifest import Limits
from tidemill.policy import Policy
from tidemill.strategy.log import Sample


def ask_all(client: httpx.Client, rows: np.ndarray, num_callers: int = 16) -> list[httpx.Response]:
    """Send every row, many at a time, each caller on a connection of its own."""

    def ask(part: np.ndarray) -> list[httpx.Response]:
        with httpx.Client(base_url=client.base_url, timeout=30) as own:
            return [own.post("/v1/predict", json={"inputs": inputs(row), "unit": str(row[0])}) for row in part]

    with ThreadPoolExecutor(num_callers) as pool:
        return [reply for part in pool.map(ask, np.array_split(rows, num_callers)) for reply in part]


@pytest.mark.parametrize(("width", "runs_in"), [(0, "loop"), (256, "thread")])
def test_answers_under_concurrency_are_those_of_onnx_runtime(place, width, runs_in):
    place.publish()
    graphs = {place.add(graph(seed, width=width)): graph(seed, width=width) for seed in (1, 2)}
    place.route(stable=1, candidate=2, share=0.5, salt="s")
    rows = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
    with running(place) as client:
        where = {v["runs_in"] for v in client.get("/v1/models").json()["models"][0]["versions"]}
        replies = [reply.json() for reply in ask_all(client, rows)]
        batches = client.service.metrics.batch_size.values()
        num_batches, num_rows = sum(sum(h.counts) for h in batches), sum(h.total for h in batches)
    assert where == {runs_in}
    assert num_rows == 400 and num_batches < 400, "requests that arrive together share batches"
    assert {reply["version"] for reply in replies} == {1, 2}
    wanted = {version: expected(raw, rows) for version, raw in graphs.items()}
    for i, reply in enumerate(replies):
        scores = [reply["scores"][name] for name in CLASSES]
        np.testing.assert_allclose(scores, wanted[reply["version"]][i], rtol=1e-6, atol=1e-7)
        assert reply["decision"] == CLASSES[int(np.argmax(scores))]


def test_the_log_has_every_answer_with_all_that_later_stages_need(place):
    place.publish(unit="owner", policy=Policy(abstain_below=1.1))
    place.add(graph(1))
    route = place.route(stable=1, candidate=place.add(graph(2)), share=1.0, salt="pepper", rollout="r1", fallback=1)
    before = micros(SystemClock().now())
    with running(place) as client:
        reply = predict(client, unit="ann", subject="person-7", model="pets").json()
        (row,), _ = place.rows()
    assert before <= row.received_at <= micros(SystemClock().now())
    assert (row.request_id, row.decision, row.abstained) == (reply["request_id"], reply["decision"], True)
    assert row.scores == list(reply["scores"].values())
    assert (row.role, row.unit, row.subject) == ("answer", "ann", "person-7")
    assert (row.rollout, row.share, row.salt, row.route_revision) == ("r1", 1.0, "pepper", route.revision)
    assert (row.assigned_version, row.answered_version, row.fallback_reason, row.error) == (2, 2, None, None)
    assert row.tags == {"age": 30.0, "country": "nl"}
    assert row.inputs == {"x": np.array([0.1, 0.2, 0.3, 0.4], "<f4").tobytes()}
    assert (row.keep_probability, row.cached, row.policy_version) == (1.0, False, 1)
    assert 0 < row.latency_ms < 10_000


def test_a_request_without_a_unit_is_a_unit_of_its_own(place):
    place.publish()
    place.route(stable=place.add(graph(1)))
    with running(place) as client:
        replies = [predict(client).json() for _ in range(5)]
    rows, _ = place.rows()
    assert [row.unit for row in rows] == [row.request_id for row in rows] == [r["request_id"] for r in replies]
    assert len({row.request_id for row in rows}) == 5


def test_sampling_drops_inputs_by_the_stated_probability_and_never_the_thin_row(place):
    place.publish(log=Sample(0.3, by="country", rates={"is": 1.0}))
    place.route(stable=place.add(graph(1)))
    with running(place) as client:
        for i in range(300):
            predict(client, inputs=inputs(country="is" if i < 20 else "nl"))
    rows, _ = place.rows()
    assert len(rows) == 300
    assert all((row.inputs is None) <= (row.tags["country"] == "nl") for row in rows)
    common = [row for row in rows if row.tags["country"] == "nl"]
    assert {row.keep_probability for row in common} == {0.3}
    assert 0.15 < np.mean([row.inputs is not None for row in common]) < 0.45  # 280 draws: 5 standard errors


def test_one_bad_row_fails_alone_in_its_batch(place):
    """Rows that make the model raise or give NaN get 503, all others their answer."""
    place.publish()
    raw = graph(1, touchy=True)
    place.route(stable=place.add(raw))
    rows = np.random.default_rng(0).uniform(-1, NAN - 0.01, size=(300, 4)).astype(np.float32)
    rows[::10, 0], rows[5::10, 0] = RAISES + 0.5, (RAISES + NAN) / 2
    bad = rows[:, 0] > NAN
    with running(place) as client:
        replies = ask_all(client, rows)
    assert [reply.status_code for reply in replies] == [503 if failed else 200 for failed in bad]
    wanted = expected(raw, rows[~bad])
    for reply, scores in zip((r for r in replies if r.status_code == 200), wanted, strict=True):
        np.testing.assert_allclose(list(reply.json()["scores"].values()), scores, rtol=1e-6)
    logged, _ = place.rows()
    reasons = sorted(row.error.partition(":")[0] for row in logged if row.answered_version == 0)
    assert reasons == ["not_finite"] * 30 + ["raised"] * 30


def test_more_requests_than_may_wait_are_refused_at_once_with_retry_after(place):
    place.publish(limits=Limits(max_waiting=1, max_batch=1))
    place.route(stable=place.add(graph(1, width=768)))
    rows = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    with running(place) as client:
        replies = ask_all(client, rows, num_callers=32)
        again = predict(client)
    refused = [reply for reply in replies if reply.status_code == 503]
    assert refused and len(refused) < 64
    assert all(reply.headers["retry-after"] == "1" for reply in refused)
    assert all("too many requests wait" in reply.json()["detail"] for reply in refused)
    assert again.status_code == 200


def test_the_declared_model_is_described_in_the_words_of_the_open_inference_protocol(place):
    place.publish()
    place.route(stable=place.add(graph(1)))
    with running(place) as client:
        about = client.get("/v2/models/pets").json()
        assert (about["name"], about["versions"]) == ("pets", ["1"])
        assert {i["name"]: (i["datatype"], i["shape"]) for i in about["inputs"]} == {
            "x": ("FP32", [-1, 4]),
            "age": ("FP64", [-1]),
            "country": ("BYTES", [-1]),
        }
        assert about["outputs"][0] == {"name": "scores", "datatype": "FP32", "shape": [-1, 3]}
        assert client.get("/v2/models/pets/versions/1").json() == about
        for path in ("/v2/models/pets/ready", "/v2/models/pets/versions/1/ready"):
            assert client.get(path).json() == {"name": "pets", "ready": True}
        assert client.get("/v2/health/live").json() == {"live": True}
        assert client.head("/v2/health/live").content == b""


def test_metrics_count_what_was_answered(place):
    place.publish()
    place.route(stable=place.add(graph(1)))
    with running(place) as client:
        for _ in range(3):
            predict(client)
        page = client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    lines = page.text.splitlines()
    for line in (
        'tidemill_requests_total{project="pets",status="200",version="1"} 3.0',
        'tidemill_request_seconds_count{project="pets",version="1"} 3.0',
        'tidemill_batch_size_sum{project="pets",version="1"} 3.0',
        'request_predict_seconds_count{model_name="pets",model_version="1"} 3.0',
        'tidemill_route_revision{project="pets"} 1.0',
        "tidemill_log_failures_total 0.0",
    ):
        assert line in lines
