"""A request that belongs to a trace gets a span of its own, which the reply names; W3C Trace Context."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from artefacts import graph, inputs
from hypothesis import given
from hypothesis import strategies as st
from served import Place, running

from tidemill.serving.trace import child

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    place = Place(tmp_path_factory.mktemp("pets"))
    place.publish()
    place.route(stable=place.add(graph(1)))
    with running(place) as started:
        yield started
    place.database.close()


def asked(client: httpx.Client, path: str, traceparent: str | None) -> httpx.Response:
    headers = {} if traceparent is None else {"traceparent": traceparent, "tracestate": "a=b"}
    if path == "/v1/predict":
        return client.post(path, json={"inputs": inputs()}, headers=headers)
    if path == "/v1/feedback":
        return client.post(path, json={}, headers=headers)
    return client.get(path, headers=headers)


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/feedback", "/v1/models", "/nowhere"])
def test_the_reply_names_the_trace_and_a_span_of_its_own(client: httpx.Client, path: str) -> None:
    told = [asked(client, path, f"00-{TRACE}-{PARENT}-01").headers["traceresponse"] for _ in range(3)]
    found = [re.fullmatch(rf"00-{TRACE}-([0-9a-f]{{16}})-01", header) for header in told]
    spans = {match[1] for match in found if match is not None}
    assert len(spans) == 3 and PARENT not in spans
    assert "traceresponse" not in asked(client, path, None).headers


@pytest.mark.parametrize(
    "header",
    [
        f"00-{TRACE}-{PARENT}", f"00-{TRACE}-{PARENT}-01-more", f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE.upper()}-{PARENT}-01", f"00-{TRACE[1:]}-{PARENT}-01", "", "00",
        "x" * 300,
    ],
)  # fmt: skip
def test_what_is_no_trace_is_ignored(client: httpx.Client, header: str) -> None:
    for path in ("/v1/predict", "/v1/models"):
        reply = asked(client, path, header)
        assert reply.status_code == 200 and "traceresponse" not in reply.headers


def test_a_newer_version_may_say_more() -> None:
    span = child(f"01-{TRACE}-{PARENT}-00-what-comes-then".encode())
    assert span is not None and span.trace_id == TRACE.encode() and span.flags == b"00"
    assert str(span).startswith(f"trace {TRACE} span ")


@given(st.binary(max_size=80))
def test_any_bytes_are_a_trace_or_are_not(header: bytes) -> None:
    span = child(header)
    assert span is None or span.header[3:35] == header[3:35]
