"""gRPC that no honest caller sends: messages that are no messages, and HTTP/2 that is none. See `fuzzing`."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import Any
from urllib.parse import unquote

import hpack
from fuzzing import HANG_S, Tally, spoilt

from tidemill.serving.grpc_messages import SERVICE, messages

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 1, 4
NEVER = {2: "UNKNOWN", 13: "INTERNAL", 15: "DATA_LOSS"}
METHODS = (
    "ModelInfer", "ModelInfer", "ModelInfer", "ModelInfer", "ModelInfer", "ModelInfer", "ModelMetadata", "ModelReady",
    "ServerLive", "ServerReady", "ServerMetadata", "RepositoryIndex", "ModelStreamInfer", "", "x/y", "é",
)  # fmt: skip
_NUMBERS = (0, 1, -1, 2**31, 2**32, 2**63 - 1, -(2**63), 4, 3)
_TEXTS = ("", "pets", "x", "FP32", "BYTES", "INT64", "é" * 100, "\0", "a" * 10_000, "1", "99999999999999999999")


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def block(*fields: tuple[str, str]) -> bytes:
    """Return headers, each a literal that no table remembers."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields)


def _text(text: str) -> bytes:
    data = text.encode()
    return _length(len(data)) + data


def _length(size: int) -> bytes:
    if size < 127:
        return bytes([size])
    out, rest = b"\x7f", size - 127
    while rest >= 128:
        out, rest = out + bytes([rest % 128 + 128]), rest // 128
    return out + bytes([rest])


def head(rng: Random, method: str) -> bytes:
    fields = [(":method", "POST"), (":scheme", "http"), (":path", f"/{SERVICE}/{method}"), ("te", "trailers")]
    fields.append(("content-type", rng.choice(["application/grpc"] * 9 + ["text/html", "application/grpc+json"])))
    if rng.random() < 0.2:
        fields.append(rng.choice([
            ("grpc-timeout", rng.choice(["1S", "0n", "99999999H", "x", "", "-1S"])), ("grpc-encoding", "gzip"), ("x",
            "y" * 9000),
            ("authorization", "Bearer x"), ("a-bin", "%%%"), ("traceparent", "00-0-0-0"), ("content-length", "3"),
        ]))  # fmt: skip
    return block(*fields)


def message(rng: Random) -> bytes:
    """Return a ModelInferRequest, with some of it changed, or bytes that were one."""
    rows = rng.randrange(1, 4)
    inputs: list[dict[str, Any]] = [
        {"name": "x", "datatype": "FP32", "shape": [rows, 4]},
        {"name": "age", "datatype": "FP64", "shape": [rows]},
        {"name": "country", "datatype": "BYTES", "shape": [rows]},
    ]
    raws = [
        struct.pack(f"<{4 * rows}f", *[0.5] * 4 * rows),
        struct.pack(f"<{rows}d", *[30.0] * rows),
        b"\2\0\0\0nl" * rows,
    ]
    fields: dict[str, Any] = {"model_name": "pets", "inputs": inputs, "raw_input_contents": raws}
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        _change(rng, fields)
    data: bytes = messages()["ModelInferRequest"](**fields).SerializeToString()
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        data = spoilt(rng, data)
    return data


def _change(rng: Random, fields: dict[str, Any]) -> None:
    inputs, raws = fields["inputs"], fields["raw_input_contents"]
    what = rng.randrange(8)
    if what == 0 and inputs:
        rng.choice(inputs)["shape"] = [rng.choice(_NUMBERS) for _ in range(rng.randrange(4))]
    elif what == 1 and inputs:
        rng.choice(inputs)[rng.choice(["name", "datatype"])] = rng.choice(_TEXTS)
    elif what == 2 and raws:
        at = rng.randrange(len(raws))
        raws[at] = spoilt(rng, raws[at])
    elif what == 3:
        fields[rng.choice(["model_name", "model_version", "id"])] = rng.choice(_TEXTS)
    elif what == 4 and inputs:
        one = rng.choice(inputs)
        kind = rng.choice(["fp32_contents", "int_contents", "bytes_contents", "bool_contents", "uint64_contents"])
        one["contents"] = {kind: [b"x"] * 3 if kind == "bytes_contents" else [1] * rng.randrange(9)}
        if rng.random() < 0.7:
            raws.clear()
    elif what == 5:
        rng.shuffle(inputs)
        del inputs[: rng.randrange(2)]
    elif what == 6:
        fields["outputs"] = [{"name": rng.choice(["scores", "version", *_TEXTS])} for _ in range(rng.randrange(4))]
    else:
        said = rng.choice([{"string_param": rng.choice(_TEXTS)}, {"int64_param": 7}, {"bool_param": True}])
        fields["parameters"] = {rng.choice(["unit", "subject", "other", ""]): said}


def body(rng: Random) -> bytes:
    """Return a message in its envelope, which may say something else."""
    data = message(rng)
    envelope = bytes([0]) + len(data).to_bytes(4, "big")
    if rng.random() < 0.1:
        envelope = rng.choice(
            [b"\1" + envelope[1:], b"\0\xff\xff\xff\xff", b"\0\0\0\0\0", b"", b"\xff" * 5, envelope[:3]]
        )
    return envelope + data


def broken(rng: Random) -> bytes:
    """Return frames of which some break the rules."""
    frames = [
        frame(SETTINGS), frame(HEADERS, END_HEADERS, 1, head(rng, "ModelInfer")), frame(DATA, END_STREAM, 1,
        body(rng)[:16_000]),
    ]  # fmt: skip
    for _ in range(rng.randrange(1, 5)):
        payload = rng.choice(
            [b"", b"\0" * 4, b"\xff" * 8, b"\0" * 8, rng.randbytes(rng.randrange(60)), head(rng, "ServerLive")]
        )
        odd = frame(rng.randrange(12), rng.randrange(256), rng.choice([0, 1, 2, 3, 5, 2**31 - 1, 2**31]), payload)
        frames.insert(rng.randrange(len(frames) + 1), odd * rng.choice([1, 1, 1, 50]))
    data = (PREFACE if rng.random() < 0.95 else rng.choice([b"", PREFACE[:10], b"GET / HTTP/1.1\r\n\r\n"])) + b"".join(
        frames
    )
    return spoilt(rng, data) if rng.random() < 0.4 else data


class GrpcCaller:
    """Sends calls over one connection, and broken ones over one of their own each; notes what is wrong with replies."""

    def __init__(self, host: str, port: int, tally: Tally) -> None:
        self._address, self._tally = (host, port), tally
        self._sock: socket.socket | None = None
        self._stream = 1

    def run(self, seed: int, index: int) -> None:
        """Send the case of that number."""
        rng = Random(f"grpc {seed}/{index}")
        try:
            if rng.random() < 0.3:
                self._broken(broken(rng))
            else:
                self._call(rng)
        except TimeoutError:
            self._wrong(index, "no reply, or no end")
        except (OSError, ValueError, hpack.HPACKError) as error:
            self._wrong(index, f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Close the connection."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _wrong(self, index: int, what: str) -> None:
        self.close()
        self._tally.problems.append(f"grpc {index}: {what}")

    def _connect(self) -> socket.socket:
        sock = socket.create_connection(self._address, HANG_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _broken(self, data: bytes) -> None:
        with self._connect() as sock:
            with contextlib.suppress(ConnectionError, OSError):
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            got = b""
            with contextlib.suppress(ConnectionError):
                while more := sock.recv(1 << 16):
                    got += more
        kinds, left = frames(got)
        if left:
            raise ValueError(f"half a frame: {left[:60]!r}")
        self._tally.statuses[f"http2 {'shown out' if GOAWAY in [kind for kind, *_ in kinds] else 'closed'}"] += 1

    def _call(self, rng: Random) -> None:
        if self._sock is None or self._stream > 2000:
            self.close()
            self._sock, self._stream, self._got = self._connect(), 1, b""
            self._decoder = hpack.Decoder()
            self._sock.sendall(PREFACE + frame(SETTINGS))
        stream, method, data = self._stream, rng.choice(METHODS), body(rng)
        self._stream += 2
        parts = [frame(HEADERS, END_HEADERS, stream, head(rng, method))]
        cuts = [*range(0, len(data), 16_000), len(data)] if data else [0, 0]
        for start, end in pairwise(cuts):
            parts.append(frame(DATA, END_STREAM if end == len(data) else 0, stream, data[start:end]))
        self._sock.sendall(b"".join(parts))
        self._check(method, self._reply(stream))

    def _reply(self, stream: int) -> dict[str, str] | None:
        """Return headers and trailers of a stream's reply; None where the connection ended instead."""
        assert self._sock is not None
        fields: dict[str, str] = {}
        while True:
            found, self._got = frames(self._got)
            for kind, flags, number, payload in found:
                if kind == HEADERS:
                    fields |= {str(k): str(v) for k, v in self._decoder.decode(payload)} if number == stream else {}
                elif kind == PING and not flags & 1:
                    self._sock.sendall(frame(PING, 1, 0, payload))
                if kind == GOAWAY or (kind == RST and number == stream):
                    self.close()
                    return None
                if number == stream and flags & END_STREAM and kind in (HEADERS, DATA):
                    self._sock.sendall(frame(WINDOW, 0, 0, (1 << 16).to_bytes(4, "big")))
                    return fields
            more = self._sock.recv(1 << 16)
            if not more:
                self.close()
                return None
            self._got += more

    def _check(self, method: str, fields: dict[str, str] | None) -> None:
        if fields is None:
            self._tally.statuses["grpc shown out"] += 1
            return
        if fields.get(":status") != "200":
            self._tally.statuses[f"grpc http {fields.get(':status')}"] += 1
            return
        status, told = int(fields["grpc-status"]), unquote(fields.get("grpc-message", ""))
        self._tally.statuses[f"grpc {status}"] += 1
        if status in NEVER:
            raise ValueError(f"{NEVER[status]} of {method!r}: {told}")
        if "Traceback" in told or (status and not told):
            raise ValueError(f"status {status} of {method!r} says {told[:200]!r}")


def frames(data: bytes) -> tuple[Sequence[tuple[int, int, int, bytes]], bytes]:
    """Return the whole frames at the beginning, and what comes after them."""
    found = []
    while len(data) >= 9:
        size = int.from_bytes(data[:3], "big")
        if len(data) < 9 + size:
            break
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big") & 0x7FFFFFFF, data[9 : 9 + size]))
        data = data[9 + size :]
    return found, data
