"""`tritonclient[http]` works as it is: what it sends is answered, logged, and read back by it."""

from __future__ import annotations

import json

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from artefacts import expected, graph
from served import metric, running, until
from tritonclient.utils import InferenceServerException

from tidemill import __version__
from tidemill.manifest import Limits


@pytest.fixture
def client(place):
    place.publish(limits=Limits(max_body_bytes=100_000))
    place.route(stable=place.add(graph(1)))
    with running(place) as started:
        yield started


@pytest.fixture
def triton_client(client):
    found = triton.InferenceServerClient(f"{client.base_url.host}:{client.base_url.port}")
    yield found
    found.close()


def given(x, *, binary=True, country="nl", x_kind="FP32", **columns):
    num = len(x)
    made = [
        ("x", x_kind, x),
        ("age", "FP64", np.full(num, 30.0)),
        ("country", "BYTES", np.array([country] * num, dtype=object)),
        *((name, "BYTES", np.array(values, dtype=object)) for name, values in columns.items()),
    ]
    inputs = []
    for name, kind, values in made:
        inputs.append(triton.InferInput(name, list(values.shape), kind))
        inputs[-1].set_data_from_numpy(values, binary_data=binary)
    return inputs


X = np.array([[0.1, 0.2, 0.3, 0.4], [-1, 0, 1, 0], [2, 1, 0, 3]], np.float32)


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [None, True, False])
def test_rows_are_answered_each_with_an_id_of_its_own_and_logged(place, triton_client, binary_in, binary_out):
    names = ["scores", "decision", "abstained", "request_id", "version"]
    outputs = None if binary_out is None else [triton.InferRequestedOutput(n, binary_data=binary_out) for n in names]
    reply = triton_client.infer("pets", given(X, binary=binary_in), outputs=outputs, request_id="mine")
    scores = reply.as_numpy("scores")
    np.testing.assert_allclose(scores, expected(graph(1), X), rtol=1e-5)
    decisions = [d.decode() if isinstance(d, bytes) else d for d in reply.as_numpy("decision").tolist()]
    assert decisions == [("cat", "dog", "fish")[i] for i in scores.argmax(axis=1)]
    assert reply.as_numpy("abstained").tolist() == [False] * 3
    assert reply.as_numpy("version").tolist() == [1] * 3
    told = reply.get_response()
    assert (told["id"], told["model_name"], told["model_version"]) == ("mine", "pets", "1")
    ids = [i.decode() if isinstance(i, bytes) else i for i in reply.as_numpy("request_id").tolist()]
    rows = {row.request_id: row for row in place.rows()[0]}
    assert len(set(ids)) == 3 and set(ids) == set(rows)
    for i, row in enumerate(rows[i] for i in ids):
        assert row.inputs == {"x": X[i].tobytes()}
        assert (row.tags, row.decision) == ({"age": 30.0, "country": "nl"}, decisions[i])


def test_units_and_subjects_are_those_of_the_parameters_or_of_each_row(place, triton_client):
    triton_client.infer("pets", given(X[:1]), parameters={"unit": "ann", "subject": "s-1"})
    triton_client.infer("pets", given(X[:2], unit=["bob", "cid"]), parameters={"unit": "ann"})
    assert sorted((row.unit, row.subject) for row in place.rows()[0]) == [("ann", "s-1"), ("bob", None), ("cid", None)]


def test_a_version_is_pinned_whatever_the_route_says(place, triton_client):
    place.route(stable=1, candidate=place.add(graph(2)), share=0.0, salt="s")
    until(lambda: triton_client.is_model_ready("pets", "2"))
    for version, seed in (("2", 2), ("1", 1), ("", 1)):
        reply = triton_client.infer("pets", given(X), model_version=version)
        np.testing.assert_allclose(reply.as_numpy("scores"), expected(graph(seed), X), rtol=1e-5)
        assert reply.as_numpy("version").tolist() == [int(version or 1)] * 3


def test_a_bad_row_refuses_the_request_and_nothing_of_it_is_predicted(place, client, triton_client):
    bad = X.copy()
    bad[1, 2] = np.nan
    with pytest.raises(InferenceServerException, match="row 1: input 'x' holds NaN") as caught:
        triton_client.infer("pets", given(bad))
    assert caught.value.status() == "400"
    assert place.rows()[0] == []
    page = client.get("/metrics").text
    assert metric(page, 'tidemill_requests_total{project="pets",status="400",version="none"}') == 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda c: c.infer("pets", given(X)[:2]), "'country' is missing"),
        (lambda c: c.infer("pets", given(X.astype(str).astype(object), x_kind="BYTES")), "'x' has datatype 'BYTES'"),
        (lambda c: c.infer("cats", given(X)), "no model 'cats'"),
        (lambda c: c.infer("pets", given(X), model_version="7"), "version '?7'?"),
        (
            lambda c: c.infer("pets", given(X), outputs=[triton.InferRequestedOutput("scores", class_count=2)]),
            "classif",
        ),
        (lambda c: c.infer("pets", given(np.zeros((900, 4), np.float32), country="n" * 100)), "larger than 100000"),
        (lambda c: c.get_model_metadata("cats"), "no model 'cats'"),
        (lambda c: c.get_model_config("pets"), "there is nothing at"),
    ],
)
def test_the_client_hears_why_it_was_refused(triton_client, call, says):
    with pytest.raises(InferenceServerException, match=says):
        call(triton_client)


def test_the_client_hears_what_is_served(triton_client):
    assert triton_client.is_server_live() and triton_client.is_server_ready()
    assert triton_client.is_model_ready("pets") and triton_client.is_model_ready("pets", "1")
    assert not triton_client.is_model_ready("cats")
    about = triton_client.get_server_metadata()
    assert about == {"name": "tidemill", "version": __version__, "extensions": ["binary_tensor_data"]}
    model = triton_client.get_model_metadata("pets")
    assert {i["name"]: (i["datatype"], i["shape"]) for i in model["inputs"]} == {
        "x": ("FP32", [-1, 4]),
        "age": ("FP64", [-1]),
        "country": ("BYTES", [-1]),
    }
    assert triton_client.get_model_metadata("pets", "1") == model


def test_a_reply_as_json_needs_no_client(client):
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": X[0].tolist()},
        {"name": "age", "datatype": "INT32", "shape": [1, 1], "data": [[30]]},
        {"name": "country", "datatype": "BYTES", "shape": [1], "data": ["nl"]},
    ]
    reply = client.post("/v2/models/pets/infer", json={"inputs": inputs})
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    assert "inference-header-content-length" not in reply.headers
    assert [o["name"] for o in reply.json()["outputs"]] == ["scores", "decision", "abstained", "request_id", "version"]
    refused = client.post("/v2/models/pets/infer", json={"inputs": inputs[:1]})
    problem = refused.json()
    assert (refused.status_code, refused.headers["content-type"]) == (400, "application/problem+json")
    assert problem["error"].startswith(problem["detail"]) and problem["field"] == "age"


@pytest.mark.parametrize("length", ["", "x", "-1", "1.0", "9" * 30, "99999"])
def test_a_header_that_is_no_length_is_refused(client, length):
    headers = {"Inference-Header-Content-Length": length}
    reply = client.post("/v2/models/pets/infer", content=json.dumps({"inputs": []}), headers=headers)
    assert reply.status_code == 400


def test_inference_takes_post_only(client: httpx.Client):
    reply = client.get("/v2/models/pets/infer")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert client.post("/v2/models/pets/versions/x/infer").status_code == 400
