"""A connection that was closed is gone at once: closed ones that waited for the collector would look like a leak."""

from __future__ import annotations

import gc
import json
import socket
import struct
from collections.abc import Callable, Iterator

import grpc
import httpx
import pytest
from artefacts import graph, inputs
from served import Place, running, until

from tidemill.serving.grpc_messages import SERVICE, messages
from tidemill.serving.hot import HotProtocol
from tidemill.serving.http2 import Http2

BODY = json.dumps({"inputs": inputs()}).encode()
CALL = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
NUM = 10


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    place = Place(tmp_path_factory.mktemp("pets"))
    place.publish()
    place.route(stable=place.add(graph(1)))
    with running(place, grpc_at=("127.0.0.1", 0)) as started:
        yield started
    place.database.close()


@pytest.fixture
def count(client: httpx.Client) -> Iterator[Callable[[], int]]:
    """Count connections, open ones and those that nobody collected, in a process that collects nothing."""

    def counted() -> int:
        return sum(type(one) in (HotProtocol, Http2) for one in gc.get_objects())

    client._transport.close()  # its own connection

    def collected() -> bool:
        gc.collect()
        return not counted()

    until(collected)
    gc.disable()
    try:
        yield counted
    finally:
        gc.enable()


SENT = {
    "a call": CALL,
    "many calls": CALL * 5,
    "half a call": CALL[:-3],
    "half a head": CALL[:20],
    "a page": b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n",
    "a refused call": CALL.replace(b'"inputs"', b'"outlet"'),
    "no number": CALL.replace(b": 30", b": []"),
    "feedback of nothing": CALL.replace(b"/predict ", b"/feedback "),
    "no tensors": CALL.replace(b"/v1/predict ", b"/v2/models/pets/infer "),
    "no such model": CALL.replace(b"/v1/predict ", b"/v2/models/cats/infer "),
    "more than a call": CALL + b"x\r\n\r\n",
    "a call too large": b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n",
    "no HTTP": b"\x00\x01\x02\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("is_read", [True, False], ids=["read", "reset"])
@pytest.mark.parametrize("sent", SENT.values(), ids=SENT.keys())
def test_a_connection_that_was_closed_is_gone_at_once(
    client: httpx.Client, count: Callable[[], int], sent: bytes, is_read: bool
) -> None:
    for _ in range(NUM):
        with socket.create_connection(("127.0.0.1", client.base_url.port or 0), 20) as sock:
            sock.sendall(sent)
            if is_read:
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1 << 16):
                    pass
            else:  # with calls under way
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: not count())


def test_a_kept_connection_that_its_caller_closes_is_gone_at_once(
    client: httpx.Client, count: Callable[[], int]
) -> None:
    for _ in range(NUM):
        with httpx.Client(base_url=client.base_url) as caller:
            for path in ("/v1/predict", "/v1/predict", "/v1/feedback"):
                assert caller.post(path, content=BODY).status_code in (200, 422, 400)
            assert caller.get("/v2").status_code == 200
    until(lambda: not count())


@pytest.mark.parametrize("waits", [True, False], ids=["answered", "left"])
def test_a_connection_of_grpc_is_gone_at_once(client: httpx.Client, count: Callable[[], int], waits: bool) -> None:
    found = messages()
    for _ in range(NUM):
        with grpc.insecure_channel(f"127.0.0.1:{client.service.grpc_port}") as channel:  # type: ignore[attr-defined]
            for method in ("ServerLive", "ModelMetadata"):
                call = channel.unary_unary(
                    f"/{SERVICE}/{method}",
                    request_serializer=lambda request: request.SerializeToString(),
                    response_deserializer=found[f"{method}Response"].FromString,
                ).future(found[f"{method}Request"]())
                if waits:
                    call.exception(20)
    until(lambda: not count())
