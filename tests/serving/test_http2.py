"""gRPC's HTTP/2: calls in whatever pieces are answered, and who breaks the rules or wastes time is shown out."""

from __future__ import annotations

import contextlib
import socket
import struct

import hpack
import numpy as np
import pytest
from artefacts import graph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import Place, running, until

from tidemill.serving.grpc_messages import SERVICE, messages
from tidemill.serving.http2_frames import PREFACE
from tidemill.serving.http2_stream import Allowance

DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, PRIORITISED = 1, 4, 8, 32
PATH = f"/{SERVICE}/ModelInfer"
LIVE = f"/{SERVICE}/ServerLive"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("http2"))
    place.publish()
    place.route(stable=place.add(graph(1)))
    with running(place, grpc_at=("127.0.0.1", 0)) as started:
        yield started
    place.database.close()


@pytest.fixture
def shared(client):
    """What the server's connections have in common; after each test it holds nothing."""
    found = client.service._grpc._connections
    before = found.allowance
    yield found
    found.allowance = before
    until(lambda: not found.connections)
    assert found.waiting_bytes == 0


@pytest.fixture
def peer(client, shared):
    with Peer(client.service.grpc_port) as connected:
        yield connected


class Peer:
    """The other end of a connection, which sends what it is told to."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.read = self.sock.makefile("rb")
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.send(PREFACE)
        self.frame(SETTINGS)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.read.close()
        self.sock.close()

    def send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # it may have shown us out
            self.sock.sendall(data)

    def frame(self, kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> None:
        self.send(frame(kind, flags, stream, payload))

    def head(self, path: str = PATH, **changes: str) -> bytes:
        fields = {":method": "POST", ":scheme": "http", ":path": path, "content-type": "application/grpc", **changes}
        return self.encoder.encode(fields.items())

    def call(self, stream: int, path: str = PATH, body: bytes | None = None, **changes: str) -> None:
        self.frame(HEADERS, END_HEADERS, stream, self.head(path, **changes))
        self.frame(DATA, END_STREAM, stream, BODY if body is None else body)

    def frames(self):
        while head := self.read.read(9):
            length, kind, flags, stream = (
                int.from_bytes(head[:3], "big"),
                head[3],
                head[4],
                int.from_bytes(head[5:], "big"),
            )
            yield kind, flags, stream, self.read.read(length)

    def reply(self, stream: int) -> tuple[dict[str, str], bytes]:
        """All headers and trailers of a stream, and its data."""
        fields, data = {}, b""
        for kind, flags, number, payload in self.frames():
            if kind == GOAWAY and int.from_bytes(payload[4:8], "big"):
                pytest.fail(f"shown out: {payload[8:]!r}")
            if kind == HEADERS:
                found = dict(self.decoder.decode(payload))
                fields |= found if number == stream else {}
            if number == stream and kind == DATA:
                data += payload
            if number == stream and kind in (DATA, HEADERS) and flags & END_STREAM:
                return fields, data
        pytest.fail("closed without a reply")

    def shown_out(self) -> int:
        """Read to the end of the connection; return the code of its GOAWAY."""
        code = None
        with contextlib.suppress(ConnectionError):
            for kind, _, _, payload in self.frames():
                if kind == GOAWAY:
                    code = int.from_bytes(payload[4:8], "big")
        return code


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def message(**changes) -> bytes:
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [1, 4]},
        {"name": "age", "datatype": "FP64", "shape": [1]},
        {"name": "country", "datatype": "BYTES", "shape": [1]},
    ]
    raw = [np.zeros(4, "<f4").tobytes(), struct.pack("<d", 30.0), b"\x02\0\0\0nl"]
    fields = {"model_name": "pets", "inputs": inputs, "raw_input_contents": raw, **changes}
    return prefixed(messages()["ModelInferRequest"](**fields).SerializeToString())


def prefixed(raw: bytes) -> bytes:
    return b"\0" + len(raw).to_bytes(4, "big") + raw


BODY = message()


def scores(data: bytes) -> list[float]:
    assert data[0] == 0 and int.from_bytes(data[1:5], "big") == len(data) - 5
    reply = messages()["ModelInferResponse"].FromString(data[5:])
    return np.frombuffer(reply.raw_output_contents[0], "<f4").tolist()


# --- calls


def test_a_call_is_answered_with_a_status_in_its_trailers(peer):
    peer.call(1)
    fields, data = peer.reply(1)
    assert fields == {":status": "200", "content-type": "application/grpc", "grpc-status": "0"}
    assert scores(data) == pytest.approx([1 / 3] * 3)


def test_a_call_may_come_in_any_pieces(peer):
    block = peer.head(**{"x-long": "v" * 300})
    peer.frame(HEADERS, PADDED | PRIORITISED, 1, b"\x03" + b"\0" * 5 + block[:10] + b"\0" * 3)
    for at in range(10, len(block), 100):
        last = at + 100 >= len(block)
        peer.frame(CONTINUATION, END_HEADERS if last else 0, 1, block[at : at + 100])
    for at in range(len(BODY)):
        peer.frame(DATA, PADDED, 1, b"\x02" + BODY[at : at + 1] + b"\0\0")
        peer.frame(PRIORITY, 0, 1, b"\0" * 5)
    peer.frame(DATA, END_STREAM, 1)
    assert scores(peer.reply(1)[1]) == pytest.approx([1 / 3] * 3)


def test_the_stream_may_end_by_trailers(peer):
    peer.frame(HEADERS, END_HEADERS, 1, peer.head())
    peer.frame(DATA, 0, 1, BODY)
    peer.frame(HEADERS, END_HEADERS | END_STREAM, 1, peer.encoder.encode([("x-trailer", "1")]))
    assert peer.reply(1)[0]["grpc-status"] == "0"


def test_a_reply_waits_for_the_window_that_the_caller_gives(peer):
    peer.frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 10))
    peer.call(1)
    peer.call(3)
    begun = {1: b"", 3: b""}
    while min(map(len, begun.values())) < 10:
        kind, _, number, payload = next(peer.frames())
        if kind == HEADERS:
            peer.decoder.decode(payload)
        if kind == DATA:
            begun[number] += payload
    assert [len(data) for data in begun.values()] == [10, 10]
    peer.frame(WINDOW, 0, 1, (7).to_bytes(4, "big"))
    kind, _, number, payload = next(f for f in peer.frames() if f[0] == DATA)
    assert (number, len(payload)) == (1, 7)
    peer.frame(WINDOW, 0, 1, (50_000).to_bytes(4, "big"))
    assert scores(begun[1] + payload + peer.reply(1)[1]) == pytest.approx([1 / 3] * 3)
    peer.frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 50_000))
    assert scores(begun[3] + peer.reply(3)[1]) == pytest.approx([1 / 3] * 3)


def test_many_calls_of_a_connection_are_each_answered(peer):
    for number in range(1, 401, 2):
        peer.call(number)
    answered = set()
    for kind, flags, number, _ in peer.frames():
        answered |= {number} if kind == HEADERS and flags & END_STREAM else set()
        if len(answered) == 200:
            break
    assert answered == set(range(1, 401, 2))


@pytest.mark.parametrize(
    ("body", "changes", "status"),
    [
        (b"", {}, "3"),
        (b"\0\0", {}, "3"),
        (BODY + BODY, {}, "3"),
        (BODY[:-1], {}, "3"),
        (b"\x01" + BODY[1:], {"grpc-encoding": "gzip"}, "12"),
        (prefixed(b"\xff"), {}, "3"),
        (b"\0" + (1 << 30).to_bytes(4, "big"), {}, "3"),
        (BODY, {":path": "/inference.GRPCInferenceService/ModelConfig"}, "12"),
        (BODY, {":path": "/x"}, "12"),
    ],
)
def test_a_body_that_is_no_message_is_refused_alone(peer, body, changes, status):
    peer.call(1, body=body, **changes)
    fields, data = peer.reply(1)
    assert (fields["grpc-status"], data) == (status, b"")
    assert "Next:" in fields["grpc-message"]
    peer.call(3)
    assert peer.reply(3)[0]["grpc-status"] == "0"


@pytest.mark.parametrize("changes", [{":method": "GET"}, {"content-type": "text/plain"}])
def test_what_is_no_grpc_is_told_so(peer, changes):
    peer.call(1, **changes)
    assert peer.reply(1)[0] == {":status": "415"}


def test_a_message_that_says_it_is_too_large_is_refused_before_it_comes(peer, shared):
    peer.frame(HEADERS, END_HEADERS, 1, peer.head())
    peer.frame(DATA, 0, 1, b"\0" + (shared.allowance.max_bytes + 1).to_bytes(4, "big") + b"abc")
    assert peer.reply(1)[0]["grpc-status"] == "8"
    peer.frame(DATA, END_STREAM, 1, b"more")
    peer.call(3)
    assert peer.reply(3)[0]["grpc-status"] == "0"


def test_messages_that_are_never_whole_hold_no_more_than_is_allowed(client, shared):
    shared.allowance = Allowance(max_bytes=1 << 20, max_waiting_bytes=50_000)
    with Peer(client.service.grpc_port) as peer:
        for number in range(1, 9, 2):
            peer.frame(HEADERS, END_HEADERS, number, peer.head())
            peer.frame(DATA, 0, number, b"\0" + (1 << 19).to_bytes(4, "big") + b"0" * 15_000)
        assert peer.reply(7)[0]["grpc-status"] == "8"
        assert 0 < shared.waiting_bytes <= 50_000


def test_a_message_that_does_not_come_is_not_waited_for(client, shared):
    shared.allowance = Allowance(max_bytes=1 << 20, call_s=0.2, look_s=0.05)
    with Peer(client.service.grpc_port) as peer:
        peer.frame(HEADERS, END_HEADERS, 1, peer.head())
        peer.frame(DATA, 0, 1, BODY[:20])
        assert peer.reply(1)[0]["grpc-status"] == "4"


def test_a_connection_without_a_call_is_closed(client, shared):
    shared.allowance = Allowance(max_bytes=1 << 20, call_s=0.2, look_s=0.05)
    with Peer(client.service.grpc_port) as peer:
        assert peer.shown_out() == 0


def test_a_call_that_is_given_up_is_not_replied_to(peer):
    peer.frame(HEADERS, END_HEADERS, 1, peer.head())
    peer.frame(DATA, 0, 1, BODY)
    peer.frame(RST, 0, 1, (8).to_bytes(4, "big"))
    peer.call(3)
    for kind, flags, number, _ in peer.frames():
        assert number != 1
        if number == 3 and kind == HEADERS and flags & END_STREAM:
            break


def test_one_stream_too_many_is_refused_alone(client, shared):
    shared.allowance = Allowance(max_bytes=1 << 20, max_streams=3)
    with Peer(client.service.grpc_port) as peer:
        for number in (1, 3, 5, 7):
            peer.frame(HEADERS, END_HEADERS, number, peer.head())
        refused = next(f for f in peer.frames() if f[0] == RST)
        assert (refused[2], int.from_bytes(refused[3], "big")) == (7, 7)
        peer.frame(DATA, END_STREAM, 1, BODY)
        assert peer.reply(1)[0]["grpc-status"] == "0"


def test_one_connection_too_many_is_closed(client, shared):
    shared.allowance = Allowance(max_bytes=1 << 20, max_connections=1)
    with Peer(client.service.grpc_port) as first:
        first.call(1)
        first.reply(1)
        with Peer(client.service.grpc_port) as second:
            assert second.shown_out() == 0xB
        first.call(3)
        assert first.reply(3)[0]["grpc-status"] == "0"


# --- who breaks the rules


def opened(peer: Peer) -> None:
    peer.frame(HEADERS, END_HEADERS, 1, peer.head())


def flood(peer: Peer, kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", num: int = 2_000) -> None:
    peer.send(frame(kind, flags, stream, payload) * num)


def give_up(peer: Peer) -> None:
    for number in range(1, 4_001, 2):
        peer.frame(HEADERS, END_HEADERS, number, peer.head())
        peer.frame(RST, 0, number, b"\0\0\0\x08")


WRONG = {
    "a frame that is too large": (lambda p: p.send(frame(DATA, 0, 1, b"0" * 16_385)), 6),
    "an even stream": (lambda p: p.frame(HEADERS, END_HEADERS, 2, p.head()), 1),
    "a stream of number 0": (lambda p: p.frame(HEADERS, END_HEADERS, 0, p.head()), 1),
    "data of no stream": (lambda p: p.frame(DATA, 0, 5, b"x"), 1),
    "a continuation of nothing": (lambda p: p.frame(CONTINUATION, 4, 1, b""), 1),
    "headers that are interrupted": (lambda p: (p.frame(HEADERS, 0, 1, p.head()), p.frame(PING, 0, 0, b"0" * 8)), 1),
    "headers in the middle": (lambda p: (opened(p), p.frame(HEADERS, END_HEADERS, 1, p.head())), 1),
    "headers of a past stream": (lambda p: (p.call(3), p.frame(HEADERS, END_HEADERS, 1, p.head())), 1),
    "headers that cannot be decoded": (lambda p: p.frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff"), 9),
    "headers that are too long": (lambda p: p.frame(HEADERS, 4, 1, p.encoder.encode([("x", "v" * 3_000)]) +
                                                    b"\xbe" * 12_000), 9),
    "padding beyond the frame": (lambda p: (opened(p), p.frame(DATA, PADDED, 1, b"\x09abc")), 1),
    "headers with padding beyond": (lambda p: p.frame(HEADERS, PADDED | 4, 1, b"\x09abc"), 1),
    "a push": (lambda p: p.frame(PUSH, 4, 1, b"\0" * 4), 1),
    "settings of a stream": (lambda p: p.frame(SETTINGS, 0, 1), 1),
    "settings cut short": (lambda p: p.frame(SETTINGS, 0, 0, b"12345"), 1),
    "a window that cannot be": (lambda p: p.frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 31)), 3),
    "a frame size that cannot be": (lambda p: p.frame(SETTINGS, 0, 0, struct.pack(">HI", 5, 1)), 1),
    "a window that overflows": (lambda p: p.frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"), 3),
    "a window of nothing": (lambda p: p.frame(WINDOW, 0, 0, b"\0" * 4), 3),
    "a window cut short": (lambda p: p.frame(WINDOW, 0, 0, b"\0"), 6),
    "a window of no stream": (lambda p: p.frame(WINDOW, 0, 9, b"\0\0\0\x01"), 1),
    "a ping cut short": (lambda p: p.frame(PING, 0, 0, b"\0"), 6),
    "a reset of nothing": (lambda p: p.frame(RST, 0, 9, b"\0" * 4), 1),
    "pings without end": (lambda p: flood(p, PING, 0, 0, b"0" * 8), 0xB),
    "settings without end": (lambda p: flood(p, SETTINGS), 0xB),
    "empty data without end": (lambda p: (opened(p), flood(p, DATA, 0, 1)), 0xB),
    "unknown frames without end": (lambda p: flood(p, 0x77), 0xB),
    "priorities without end": (lambda p: flood(p, PRIORITY, 0, 1, b"0" * 5), 0xB),
    "windows without end": (lambda p: flood(p, WINDOW, 0, 0, b"\0\0\0\x01"), 0xB),
    "continuations without end": (lambda p: (p.frame(HEADERS, 0, 1, p.head()), flood(p, CONTINUATION, 0, 1)), 0xB),
    "long continuations": (lambda p: (p.frame(HEADERS, 0, 1), flood(p, CONTINUATION, 0, 1, b"0" * 9_000, 9)), 0xB),
    "calls that are given up at once": (give_up, 0xB),
}  # fmt: skip


@pytest.mark.parametrize("does", WRONG)
def test_who_breaks_the_rules_is_shown_out(client, peer, does):
    act, code = WRONG[does]
    act(peer)
    assert peer.shown_out() == code
    with Peer(client.service.grpc_port) as other:
        other.call(1)
        assert other.reply(1)[0]["grpc-status"] == "0"


@pytest.mark.parametrize(
    "begins", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + b"0" * 50, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX"]
)
def test_what_is_no_http2_is_closed(client, shared, begins):
    with socket.create_connection(("127.0.0.1", client.service.grpc_port), timeout=20) as sock:
        sock.sendall(begins)
        with contextlib.suppress(ConnectionError):
            while sock.recv(1 << 16):
                pass


CALLED = hpack.Encoder().encode([(":method", "POST"), (":path", PATH), ("content-type", "application/grpc")])
STREAMS = st.sampled_from([0, 1, 1, 3, 5, 2, 2**31 - 1])
PIECES = st.one_of(
    st.builds(frame, st.integers(0, 11), st.integers(0, 255), STREAMS, st.binary(max_size=40)),
    st.sampled_from([
        frame(HEADERS, END_HEADERS, 1, CALLED), frame(DATA, END_STREAM, 1, BODY), frame(DATA, 0, 1, BODY[:7]),
        frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 3)),
    ]),
    st.binary(max_size=30),
)  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(pieces=st.lists(PIECES, min_size=1, max_size=12), cut=st.integers(1, 200))
def test_nothing_that_is_sent_harms_others(client, pieces, cut):
    sent = b"".join(pieces)
    address = ("127.0.0.1", client.service.grpc_port)
    with socket.create_connection(address, timeout=20) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(PREFACE + frame(SETTINGS) + sent[:cut])
        sock.sendall(sent[cut:])
    with Peer(client.service.grpc_port) as other:
        other.call(1, LIVE, prefixed(b""))
        assert other.reply(1)[0]["grpc-status"] == "0"
    found = client.service._grpc._connections
    until(lambda: not found.connections)
    assert found.waiting_bytes == 0
