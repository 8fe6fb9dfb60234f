"""Every kind of bad request is refused with its own status and a problem that names the field and the next move."""

from __future__ import annotations

import json

import httpx
import pytest
from artefacts import graph, inputs
from served import Place, predict, running

from tidemill.manifest import Limits
from tidemill.runtime.ids import IdMaker

LIMIT = 20_000
DEEP = b'{"inputs":' + b"[" * 5_000 + b"]" * 5_000 + b"}"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("bad"))
    for name in ("pets", "other"):
        place.publish(name, limits=Limits(max_body_bytes=LIMIT))
        place.route(name, stable=place.add(graph(1), name))
    with running(place) as started:
        yield started
    place.database.close()


def changed(**fields):
    return {"model": "pets", "inputs": {**inputs(), **fields}}


def without(name):
    return {"model": "pets", "inputs": {key: value for key, value in inputs().items() if key != name}}


PREDICT = {
    "unknown field": (changed(colour="red"), 422, "colour", "'colour' is not declared"),
    "missing field": (without("x"), 422, "x", "'x' is missing"),
    "text for a number": (changed(age="30"), 422, "age", "'age' is '30', not a number"),
    "true for a number": (changed(age=True), 422, "age", "not a number"),
    "number for text": (changed(country=3), 422, "country", "not a string"),
    "out of range": (changed(age=-1), 422, "age", "'age' is -1"),
    "number beyond floats": (changed(age=10**400), 422, "age", "too large"),
    "wrong shape": (changed(x=[1, 2, 3]), 422, "x", "shape [3], not [4]"),
    "ragged": (changed(x=[[1], [2, 3]]), 422, "x", "not a regular array"),
    "text in a tensor": (changed(x=["1", "2", "3", "4"]), 422, "x", "not a regular array"),
    "null in a tensor": (changed(x=[1, 2, 3, None]), 422, "x", "not a regular array"),
    "integer in a tensor beyond floats": (changed(x=[10**400, 0, 0, 0]), 422, "x", "not a regular array"),
    "null": (changed(x=None), 422, "x", "'x'"),
    "object for a tensor": (changed(x={"a": 1}), 422, "x", "not a regular array"),
    "beyond float32": (changed(x=[1e39, 0, 0, 0]), 422, "x", "beyond float32"),
    "NaN": (changed(x=[float("nan"), 0, 0, 0]), 422, "x", "NaN"),
    "infinity": (changed(age=float("inf")), 422, "age", "not finite"),
    "number beyond JSON's": (b'{"model":"pets","inputs":{"x":[1e999],"age":1,"country":""}}', 422, "x", "shape [1]"),
    "integer of 5,000 digits": (
        b'{"model":"pets","inputs":{"age":1' + b"0" * 5_000 + b"}}",
        400,
        "",
        "the body is not",
    ),
    "integer of 4,200 digits": (changed(age=10**4_200), 422, "age", "too large"),
    "integer of 4,200 digits as text": (changed(country=10**4_200), 422, "country", "not a string"),
    "base64 of another size": (changed(x="AAAA"), 422, "x", "bytes, not 16"),
    "inputs are no object": ({"model": "pets", "inputs": [1]}, 422, "inputs", "not an object"),
    "empty unit": ({**changed(), "unit": ""}, 422, "unit", "0 characters"),
    "long subject": ({**changed(), "subject": "s" * 300}, 422, "subject", "300 characters"),
    "unit is a number": ({**changed(), "unit": 3}, 400, "", "$.unit"),
    "unknown envelope field": ({**changed(), "units": "a"}, 400, "", "unknown field `units`"),
    "no inputs": ({"model": "pets"}, 400, "", "missing required field `inputs`"),
    "unknown model": ({**changed(), "model": "cars"}, 404, "", "no model 'cars' is served here"),
    "no model named of two": ({"inputs": inputs()}, 400, "", "names no model"),
    "too large": (changed(country="x" * LIMIT), 413, "", f"larger than {LIMIT} bytes"),
    "not JSON": (b"{'inputs': 1}", 400, "", "not JSON"),
    "cut off": (b'{"inputs": {"x": [1', 400, "", "not JSON"),
    "empty": (b"", 400, "", "not JSON"),
    "not UTF-8": (b'{"model":"pets","inputs":{"country":"\xff"}}', 400, "", "not JSON"),
    "half a surrogate pair": (b'{"model":"pets","inputs":{"country":"\\ud800"}}', 400, "", "not JSON"),
    "nested too deeply": (DEEP, 400, "", "nested too deeply"),
    "a list": (b"[]", 400, "", "not as expected"),
}


def assert_problem(reply: httpx.Response, status: int, field: str, says: str) -> None:
    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/problem+json")
    problem = reply.json()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:tidemill:problem:")
    assert problem["title"]
    assert says in problem["detail"]
    assert problem["hint"]
    assert problem.get("field", "") == field
    assert "Traceback" not in reply.text


@pytest.mark.parametrize("case", PREDICT)
def test_a_bad_prediction_is_refused(client, case):
    body, status, field, says = PREDICT[case]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert_problem(client.post("/v1/predict", content=content), status, field, says)


def test_after_all_these_a_good_request_is_answered(client):
    assert predict(client, model="pets").status_code == 200


def test_a_streamed_body_without_a_length_is_cut_off_at_the_limit(client):
    chunks = (b"x" * 1_000 for _ in range(100))
    assert_problem(client.post("/v1/predict", content=chunks), 413, "", f"larger than {LIMIT} bytes")


def test_a_compressed_body_is_refused(client):
    reply = client.post("/v1/predict", content=b"x", headers={"content-encoding": "gzip"})
    assert_problem(reply, 415, "", "compressed")


def given_id(client):
    return predict(client, model="pets").json()["request_id"]


FEEDBACK = {
    "unknown class": ({"label": "cow"}, 422, "label", "'cow' is no class"),
    "label of another type": ({"label": 1}, 422, "label", "is no class"),
    "undeclared event": ({"event": "share"}, 422, "event", "'share' is not declared"),
    "rating is text": ({"rating": "good"}, 422, "rating", "not a finite number"),
    "rating is null": ({"rating": None}, 422, "rating", "not a finite number"),
    "rating beyond floats": ({"rating": 10**400}, 422, "rating", "not a finite number"),
    "rating of 4,200 digits": ({"rating": 10**4_200}, 422, "rating", "not a finite number"),
    "thumbs of 4,200 digits": ({"thumbs": 10**4_200}, 422, "thumbs", "is"),
    "thumbs sideways": ({"thumbs": "sideways"}, 422, "thumbs", "'sideways'"),
    "value is a list": ({"event": "buy", "value": [1]}, 422, "value", "[1]"),
    "value too long": ({"event": "buy", "value": "x" * 1_001}, 422, "value", "xxx"),
    "nothing said": ({}, 400, "", "says nothing"),
    "two things said": ({"label": "cat", "thumbs": "up"}, 400, "", "label and thumbs"),
    "value without an event": ({"label": "cat", "value": 1}, 400, "", '"value" goes with "event"'),
    "unknown field": ({"label": "cat", "note": "x"}, 400, "", "unknown field `note`"),
}


@pytest.mark.parametrize("case", FEEDBACK)
def test_bad_feedback_is_refused(client, case):
    said, status, field, says = FEEDBACK[case]
    reply = client.post("/v1/feedback", content=json.dumps({"request_id": given_id(client), **said}))
    assert_problem(reply, status, field, says)


@pytest.mark.parametrize(
    "request_id",
    ["", "nonsense", "01900000-0000-7000-8000-000000000000", IdMaker(b"elsewhere", nonce=7, counter=7).new(1)],
)
def test_feedback_for_a_request_id_that_was_not_given_here_is_not_found(client, request_id):
    reply = client.post("/v1/feedback", json={"request_id": request_id, "label": "cat"})
    assert_problem(reply, 404, "", "was not given by this deployment")


def test_a_list_with_one_bad_item_is_refused_whole_and_the_item_named(client):
    items = [{"request_id": given_id(client), "label": label} for label in ("cat", "dog", "cow", "fish")]
    assert_problem(client.post("/v1/feedback", json=items), 422, "[2].label", "item 2: label 'cow' is no class")
    items[2] = {"request_id": "nonsense", "label": "cat"}
    assert_problem(client.post("/v1/feedback", json=items), 422, "[2].request_id", "item 2: request id 'nonsense'")


def test_a_list_of_too_many_items_is_refused(client):
    items = b"[" + b",".join([b'{"request_id":"a"}'] * 1_001) + b"]"
    assert_problem(client.post("/v1/feedback", content=items), 422, "", "1001 items")


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/v1/predict", 405, "takes POST"),
        ("POST", "/metrics", 405, "takes GET"),
        ("DELETE", "/v1/models", 405, "takes GET"),
        ("GET", "/", 404, "there is nothing at"),
        ("GET", "/v2/health/well", 404, "there is nothing at"),
        ("GET", "/v2/models/cars", 404, "no model 'cars'"),
        ("GET", "/v2/models/pets/versions/7", 404, "version '7' of 'pets' is not served"),
        ("GET", "/v2/models/pets/versions/x", 404, "version 'x' of 'pets' is not served"),
        ("GET", "/v2/models/pets/rename", 404, "there is nothing at"),
    ],
)
def test_a_wrong_path_or_method_is_told_what_there_is(client, method, path, status, says):
    reply = client.request(method, path)
    assert_problem(reply, status, "", says)
    if status == 405:
        assert reply.headers["allow"] in says


def test_refusals_are_counted_by_status(client):
    client.post("/v1/predict", json=changed(age="30"))
    client.post("/v1/predict", content=b"cars")
    page = client.get("/metrics").text
    assert 'tidemill_requests_total{project="pets",status="422",version="none"}' in page
    assert 'tidemill_requests_total{project="",status="400",version="none"}' in page
    assert "cars" not in page  # what callers send makes no label
