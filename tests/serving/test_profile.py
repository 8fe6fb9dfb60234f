"""A device's profile is acknowledged once it is in the log, byte for byte; what is none is refused."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from artefacts import graph
from served import predict, running

from tidemill.clock import micros
from tidemill.stats.profile import Profile
from tidemill.stores.frames import read_frames
from tidemill.stores.segments import Segments, decode
from tidemill.strategy import log

SEEN = Profile().add({"age": np.arange(30.0)}).to_bytes()


@pytest.fixture
def client(place):
    place.publish(log=log.Profile())
    place.route(stable=place.add(graph(1)))
    with running(place) as started:
        yield started


def said(**changes):
    now = datetime.now(UTC)  # noqa: TID251 - the gateway compares with its own clock
    usual = {
        "device": "phone-1", "after": (now - timedelta(hours=1)).isoformat(), "until": now.isoformat(),
        "profile": base64.b64encode(SEEN).decode(),
    }  # fmt: skip
    return {**usual, **changes}


def posted(place):
    return [
        profile
        for segment in Segments(place.home.segments).present()
        for payload in read_frames(segment.path).payloads
        for profile in decode(payload, name=segment.name).profiles
    ]


def test_a_profile_is_written_as_it_came(place, client):
    body = said()
    reply = client.post("/v1/profile", json=body)
    assert (reply.status_code, reply.json()) == (202, {"accepted": 1})
    (row,) = posted(place)
    assert (row.device, row.body) == ("phone-1", SEEN)
    assert row.until == micros(datetime.fromisoformat(body["until"]))
    assert Profile.from_bytes(row.body).num_rows == 30


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"device": ""}, 422, "device"),
        ({"after": "2999-01-01T00:00:00Z", "until": "2999-01-01T01:00:00Z"}, 422, "until"),
        ({"after": "2020-01-01T00:00:00Z"}, 422, "until"),
        ({"after": "2026-01-01T00:00:00"}, 422, "after"),
        ({"profile": base64.b64encode(b"nothing").decode()}, 422, "profile"),
        ({"profile": "?"}, 400, None),
        ({"rows": []}, 400, None),
        ({"model": "cars"}, 404, None),
    ],
)
def test_what_is_no_profile_is_refused_and_nothing_is_written(place, client, change, status, field):
    reply = client.post("/v1/profile", json=said(**change))
    assert (reply.status_code, reply.json().get("field")) == (status, field)
    assert posted(place) == []


def test_a_project_that_keeps_rows_takes_no_profiles(place):
    place.publish()
    place.route(stable=place.add(graph(1)))
    with running(place) as client:
        assert client.post("/v1/profile", json=said()).status_code == 422
    assert posted(place) == []


def test_inputs_of_what_the_gateway_answers_are_not_written(place, client):
    assert predict(client).status_code == 200
    (row,), _ = place.rows()
    assert row.inputs is None and row.keep_probability == 0.0 and row.scores is not None
