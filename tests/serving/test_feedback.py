"""Feedback is acknowledged once it is in the log, in canonical form, with the trust the manifest gives its source."""

from __future__ import annotations

import pytest
from artefacts import graph
from served import predict, running

from tidemill.records import Trust


@pytest.fixture
def client(place):
    place.publish(feedback=Trust.PEOPLE)
    place.route(stable=place.add(graph(1)))
    with running(place) as started:
        yield started


@pytest.mark.parametrize(
    ("said", "kind", "value"),
    [
        ({"label": "dog"}, "label", "dog"),
        ({"confirm": True}, "confirm", True),
        ({"correct": "dog"}, "correct", "dog"),
        ({"override": "fish"}, "override", "fish"),
        ({"rating": 4}, "rating", 4.0),
        ({"thumbs": "down"}, "thumbs", False),
        ({"thumbs": True}, "thumbs", True),
        ({"event": "click"}, "click", None),
        ({"event": "buy", "value": 9.5}, "buy", 9.5),
        ({"event": "buy", "value": "card"}, "buy", "card"),
        ({"event": "click", "value": False}, "click", False),
    ],
)
def test_each_kind_of_feedback_is_written_in_canonical_form(place, client, said, kind, value):
    request_id = predict(client).json()["request_id"]
    reply = client.post("/v1/feedback", json={"request_id": request_id.upper(), **said})
    assert (reply.status_code, reply.json()) == (202, {"accepted": 1})
    (prediction,), (row,) = place.rows()
    assert (row.request_id, row.kind, row.value, row.source, row.trust) == (request_id, kind, value, "http", "people")
    assert row.received_at >= prediction.received_at


@pytest.mark.parametrize(
    ("said", "status", "field"),
    [
        ({"confirm": False}, 422, "confirm"),
        ({"confirm": "yes"}, 422, "confirm"),
        ({"correct": "cow"}, 422, "correct"),
        ({"override": 3}, 422, "override"),
        ({"event": "override", "value": "dog"}, 422, "event"),
        ({"confirm": True, "label": "dog"}, 400, None),
        ({"correct": "dog", "value": 1}, 400, None),
    ],
)
def test_a_word_on_the_decision_that_makes_no_sense_is_refused(place, client, said, status, field):
    reply = client.post("/v1/feedback", json={"request_id": predict(client).json()["request_id"], **said})
    assert (reply.status_code, reply.json().get("field")) == (status, field)
    assert place.rows()[1] == []


def test_the_same_feedback_twice_is_accepted_twice_and_says_the_same(place, client):
    body = {"request_id": predict(client).json()["request_id"], "label": "cat"}
    assert [client.post("/v1/feedback", json=body).status_code for _ in range(2)] == [202, 202]
    _, (one, other) = place.rows()
    assert [one.request_id, one.kind, one.value, one.source] == [
        other.request_id,
        other.kind,
        other.value,
        other.source,
    ]


def test_a_list_is_written_whole_or_not_at_all(place, client):
    ids = [predict(client).json()["request_id"] for _ in range(3)]
    good = [{"request_id": i, "label": "cat"} for i in ids]
    assert client.post("/v1/feedback", json=[*good, {"request_id": ids[0], "label": "cow"}]).status_code == 422
    assert place.rows()[1] == []
    reply = client.post("/v1/feedback", json=good)
    assert (reply.status_code, reply.json()) == (202, {"accepted": 3})
    assert [row.request_id for row in place.rows()[1]] == ids
    assert client.post("/v1/feedback", json=[]).json() == {"accepted": 0}
    assert 'tidemill_feedback_total{kind="label",project="pets"} 3.0' in client.get("/metrics").text


def test_feedback_finds_its_project_by_the_request_id_alone(place, client):
    place.publish("other", feedback=Trust.CROWD)
    place.route("other", stable=place.add(graph(2), "other"))
    ids = {}
    for name in ("pets", "other"):
        while name not in ids:  # until the route watch has found it
            reply = predict(client, model=name)
            if reply.status_code == 200:
                ids[name] = reply.json()["request_id"]
    items = [{"request_id": request_id, "thumbs": "up"} for request_id in ids.values()]
    assert client.post("/v1/feedback", json=items).json() == {"accepted": 2}
    assert {row.request_id: row.trust for row in place.rows()[1]} == {ids["pets"]: "people", ids["other"]: "crowd"}


def test_feedback_for_what_an_earlier_process_answered_is_taken(place):
    place.publish()
    place.route(stable=place.add(graph(1)))
    with running(place) as client:
        request_id = predict(client).json()["request_id"]
    with running(place) as client:
        assert client.post("/v1/feedback", json={"request_id": request_id, "label": "cat"}).status_code == 202
