"""Inputs that no honest caller sends, the same for the same seed and index, and a caller who checks every reply.

`Case.pieces` are written to a socket one after the other. A case that is whole HTTP says how many replies it must get;
one that is not ends by closing its half of the connection, and then every reply must be well-formed and the gateway
must close too.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from artefacts import inputs

NEVER = {500, 501, 502, 504}
ALLOWED = {200, 202, 400, 403, 404, 405, 408, 413, 415, 417, 422, 429, 431, 503}
HANG_S = 10.0

_RAW = re.compile(rb'"@raw(\d+)@"')
_TOKENS = (
    b"NaN", b"-Infinity", b"1e999", b"-1e999", b"1" + b"0" * 400, b"-0", b"1E400", b"0x10", b"01", b"1.", b".5", b"+1",
    b"\xff", b'"\xed\xa0\x80"', b'"\\ud800"', b'"\\u0000"', b"[" * 300 + b"]" * 300, b"[" * 5000, b'{"a":' * 2000,
    b"tru", b"nul", b"'x'", b"//x", b"\xef\xbb\xbf1", b'"\n"', b"1e-999", b"18446744073709551616",
    b"-9223372036854775809",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 1e308, -1e308, 5e-324, 3.5e38, 2**31, 2**53 + 1, 2**63, 2**64, "", "x", "\0",
    "é" * 300,
    "a" * 70_000, [], {}, [[]], [{}], {"": ""}, {"a": {"a": {}}}, [None] * 50, list(range(2000)), "1", "nl", "NaN",
    "\U0001f600",
)  # fmt: skip
_METHODS = (b"GET", b"GET", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT", b"POST", b"get", b"X", b"")
_PATHS = (
    b"/", b"/v1/predict", b"/v1/feedback", b"/v1/models", b"/v2", b"/v2/health/live", b"/v2/health/ready",
    b"/v2/models/pets",
    b"/v2/models/pets/ready", b"/v2/models/pets/versions/1", b"/v2/models/pets/versions/1/infer",
    b"/v2/models/pets/infer",
    b"/metrics", b"//v1//predict", b"/v1/predict/", b"/v1/predict?x=1", b"/v1/predict#x", b"/%76%31/predict", b"/%00",
    b"/%",
    b"/%ff%fe", b"/../../etc/passwd", b"/v2/models/" + b"a" * 3000, b"/v2/models/%2e%2e/infer",
    b"/v2/models/pets/versions/99999999999999999999",
    b"/v2/models/pets/versions/0/infer", b"/v2/models/pets/versions/-1", b"/v2/models//infer", b"*",
    b"http://x/v1/models",
    b"/\xc3\xa9", b"/v2/models/\xff", b"/v2/repository/index", b"/v2/models/pets/versions/\xc2\xb2/infer",
)  # fmt: skip
_HEADERS = (
    b"content-length: 5\r\ncontent-length: 6\r\n", b"content-length: -1\r\n", b"content-length: 1e3\r\n",
    b"content-length: 99999999999999999999\r\n", b"content-length: 4294967295\r\n", b"content-length: +5\r\n",
    b"content-length: 5\r\ntransfer-encoding: chunked\r\n", b"transfer-encoding: gzip\r\n",
    b"transfer-encoding: chunked, identity\r\n", b"transfer-encoding: xchunked\r\n",
    b"connection: close, keep-alive\r\n",
    b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: eA==\r\n",
    b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAA\r\n",
    b"expect: 100-continue\r\n",
    b"expect: 200-ok\r\n", b"content-encoding: gzip\r\n", b"content-encoding: identity\r\n", b" folded: x\r\n",
    b"a: b\r\n c\r\n",
    b"a\x00b: c\r\n", b"a: \x00\r\n", b": x\r\n", b"a b: c\r\n", b"a : b\r\n", b"a: b\rc: d\r\n", b"a: b\nc: d\r\n",
    b"x" * 500 + b": 1\r\n",
    b"x: " + b"y" * 60_000 + b"\r\n", b"x: y\r\n" * 300, b"authorization: Bearer \r\n",
    b"authorization: Bearer " + b"x" * 5000 + b"\r\n",
    b"authorization: \xff\r\n", b"traceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01\r\n",
    b"traceparent: \x80\r\n",
    b"inference-header-content-length: 99999\r\n", b"inference-header-content-length: -1\r\n",
    b"host: a\r\nhost: b\r\n", b"te: trailers\r\n",
    b"proxy-connection: keep-alive\r\n", b"content-type: text/xml\r\n",
)  # fmt: skip


@dataclass
class Case:
    """What is sent, and what must come back: `replies` is None where only their form is known."""

    kind: str
    pieces: list[bytes]
    replies: int | None = 1
    heads: bool = False  # whether replies have no body


@dataclass
class Tally:
    """What came of all cases."""

    statuses: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)


# --- bodies


def predict_body(rng: Random, ids: Sequence[str]) -> bytes:
    body = {"inputs": inputs([rng.random() for _ in range(4)]), "unit": "u", "subject": "s", "model": "pets"}
    return _mangled(rng, body)


def feedback_body(rng: Random, ids: Sequence[str]) -> bytes:
    request_id = rng.choice(ids) if ids else "019a0000-0000-7000-8000-000000000000"
    said = rng.choice([{"label": "cat"}, {"rating": 3.5}, {"thumbs": "up"}, {"event": "click", "value": 2}])
    item = {"request_id": request_id, **said}
    return _mangled(rng, [dict(item) for _ in range(rng.randrange(4))] if rng.random() < 0.3 else item)


def infer_json(rng: Random, ids: Sequence[str]) -> bytes:
    return _mangled(rng, _infer(rng.randrange(1, 4)))


def _infer(rows: int) -> dict[str, Any]:
    return {
        "id": "7",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [rows, 4], "data": [0.5] * 4 * rows},
            {"name": "age", "datatype": "FP64", "shape": [rows], "data": [30.0] * rows},
            {"name": "country", "datatype": "BYTES", "shape": [rows], "data": ["nl"] * rows},
        ],
        "outputs": [{"name": "scores"}],
    }


def infer_binary(rng: Random) -> tuple[bytes, bytes]:
    """Return the headers and the body of a call with the binary extension."""
    rows = rng.randrange(1, 4)
    body, raws = _infer(rows), []
    for tensor, good in zip(
        body["inputs"],
        (struct.pack(f"<{4 * rows}f", *[0.5] * 4 * rows), struct.pack(f"<{rows}d", *[30.0] * rows),
        b"\2\0\0\0nl" * rows),
        strict=True,
    ):  # fmt: skip
        del tensor["data"]
        raw = good
        if rng.random() < 0.2:
            raw = rng.choice([b"", raw[:-1], raw + b"\0", b"\xff" * len(raw), raw * 3, rng.randbytes(len(raw))])
        size = len(raw) if rng.random() < 0.9 else rng.choice([-1, 0, 2**31, 2**63, len(raw) + 1, "4", None, 1.5])
        tensor["parameters"] = {"binary_data_size": size}
        raws.append(raw)
    if rng.random() < 0.5:
        body["parameters"] = {"binary_data_output": rng.choice([True, 1, "yes", None])}
    head = _mangled(rng, body) if rng.random() < 0.5 else json.dumps(body).encode()
    length = len(head) if rng.random() < 0.9 else rng.choice([0, 1, len(head) - 1, len(head) + 1, 10**9, -5])
    name = b"inference-header-content-length: "
    told = name + (b"%d" % length if rng.random() < 0.97 else rng.choice([b"", b"x", b"1e2", b"9" * 50])) + b"\r\n"
    return told, head + b"".join(raws)


def _mangled(rng: Random, value: Any) -> bytes:
    """Return JSON of a value with some of it changed, or bytes that were JSON."""
    raws: list[bytes] = []
    for _ in range(rng.choice([0, 0, 1, 1, 2, 4])):
        value = _changed(rng, value, raws)
    data = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    data = _RAW.sub(lambda found: raws[int(found[1])], data)
    for _ in range(rng.choice([0, 0, 0, 0, 0, 0, 1, 3])):
        data = spoilt(rng, data)
    return data


def _changed(rng: Random, value: Any, raws: list[bytes]) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if rng.random() < 0.1:
            return {**value, rng.choice(["", "extra", "x" * 500, key.upper(), key + "\0"]): _other(rng, raws)}
        return {**value, key: _changed(rng, value[key], raws)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:at] if rng.random() < 0.5 else value + value[at:]
        return [*value[:at], _changed(rng, value[at], raws), *value[at + 1 :]]
    return _other(rng, raws)


def _other(rng: Random, raws: list[bytes]) -> Any:
    if rng.random() < 0.4:
        raws.append(rng.choice(_TOKENS))
        return f"@raw{len(raws) - 1}@"
    if rng.random() < 0.1:
        return base64.b64encode(rng.randbytes(rng.randrange(40))).decode()
    return rng.choice(_VALUES)


def spoilt(rng: Random, data: bytes) -> bytes:
    """Return bytes with some lost, added, doubled or changed."""
    at, size = rng.randrange(len(data) + 1), rng.randrange(1, 6)
    return rng.choice([
        data[:at], data[:at] + data[at + size :], data[:at] + rng.randbytes(size) + data[at:],
        data[:at] + data[at:] * 2, b"",
        data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :], data + b"\0", data + data, b" " * 1000 + data,
        rng.randbytes(size * 20),
    ])  # fmt: skip


# --- requests


def request(method: bytes, path: bytes, body: bytes, headers: bytes = b"") -> bytes:
    return b"%b %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (method, path, headers, len(body), body)


def _chunked(rng: Random, path: bytes, body: bytes) -> bytes:
    """Return the same call in chunks, some with extensions or trailers."""
    parts, at = [], 0
    while at < len(body):
        size = rng.randrange(1, max(2, len(body) // 2 + 1))
        part = body[at : at + size]
        parts.append(b"%x%b\r\n%b\r\n" % (len(part), rng.choice([b"", b"", b";a=b"]), part))
        at += size
    last = b"0\r\n" + rng.choice([b"", b"", b"x-trailer: 1\r\n"]) + b"\r\n"
    return b"POST %b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" % path + b"".join(parts) + last


def _split(rng: Random, data: bytes) -> list[bytes]:
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice([0, 0, 0, 1, 2, 5])))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


def _post(kind: str, path: bytes, make: Callable[[Random, Sequence[str]], bytes]) -> Callable[..., Case]:
    def case(rng: Random, ids: Sequence[str]) -> Case:
        body = make(rng, ids)
        data = _chunked(rng, path, body) if rng.random() < 0.1 and len(body) < 10_000 else request(b"POST", path, body)
        return Case(kind, _split(rng, data))

    return case


def _binary(rng: Random, ids: Sequence[str]) -> Case:
    headers, body = infer_binary(rng)
    return Case("binary", _split(rng, request(b"POST", b"/v2/models/pets/infer", body, headers)))


def _get(rng: Random, ids: Sequence[str]) -> Case:
    heads = rng.random() < 0.3
    path = rng.choice([path for path in _PATHS if path.startswith(b"/") and path.isascii() and b"#" not in path])
    data = b"%b %b HTTP/1.1\r\nhost: x\r\n\r\n" % (b"HEAD" if heads else b"GET", path)
    return Case("get", _split(rng, data), heads=heads)


def _pipelined(rng: Random, ids: Sequence[str]) -> Case:
    """Several calls at once, hot and slow ones mixed."""
    makes = ((b"/v1/predict", predict_body), (b"/v1/feedback", feedback_body), (b"/v2/models/pets/infer", infer_json))
    parts = []
    for _ in range(rng.randrange(2, 12)):
        path, make = rng.choice(makes)
        body = make(rng, ids)
        parts.append(
            b"GET /v2/health/live HTTP/1.1\r\n\r\n" if rng.random() < 0.2 else request(b"POST", path, body[:20_000])
        )
    return Case("pipelined", _split(rng, b"".join(parts)), replies=len(parts))


def _edge(rng: Random, ids: Sequence[str]) -> Case:
    """HTTP that is not, or hardly."""
    body = predict_body(rng, ids)[:5000]
    method, path = rng.choice(_METHODS), rng.choice(_PATHS)
    headers = b"".join(rng.choice(_HEADERS) for _ in range(rng.randrange(4)))
    version = rng.choice(
        [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9.9", b"http/1.1", b""]
    )
    data = b"%b %b %b\r\nhost: x\r\n%b" % (method, path, version, headers)
    data += rng.choice([b"content-length: %d\r\n\r\n" % len(body), b"transfer-encoding: chunked\r\n\r\n", b"\r\n", b""])
    data += rng.choice(
        [body, b"", b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffff\r\n", b"-1\r\n", b"5;" + b"x" * 20_000, body * 2]
    )
    if rng.random() < 0.3:
        data = spoilt(rng, data)
    if rng.random() < 0.1:
        data = rng.choice([
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 50,
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + rng.randbytes(200),
            rng.randbytes(rng.randrange(1, 3000)), b"\r\n" * 500, b"\0" * 100, b"GET /",
            b"POST /v1/predict HTTP/1.1\r\n",
        ])  # fmt: skip
    return Case("edge", _split(rng, data), replies=None)


def _cut(rng: Random, ids: Sequence[str]) -> Case:
    """A good call that ends too early."""
    data = request(b"POST", b"/v1/predict", predict_body(rng, ids))
    return Case("cut", [data[: rng.randrange(len(data))] or b"P"], replies=None)


_KINDS = (
    (30, _post("predict", b"/v1/predict", predict_body)),
    (15, _post("feedback", b"/v1/feedback", feedback_body)),
    (15, _post("infer", b"/v2/models/pets/infer", infer_json)),
    (13, _binary),
    (5, _get),
    (5, _pipelined),
    (13, _edge),
    (4, _cut),
)


def make(seed: int, index: int, ids: Sequence[str] = ()) -> Case:
    """Return a case; the request ids it may use come from the replies before it."""
    rng = Random(f"{seed}/{index}")
    (kind,) = rng.choices([make for _, make in _KINDS], [weight for weight, _ in _KINDS])
    return kind(rng, ids)


# --- the caller


class Caller:
    """Sends cases over one connection for as long as the gateway keeps it, and notes what is wrong with replies."""

    def __init__(self, host: str, port: int, tally: Tally) -> None:
        self._address, self._tally = (host, port), tally
        self._sock: socket.socket | None = None

    def run(self, name: str, case: Case) -> None:
        """Send a case and check what comes back."""
        try:
            data, is_open = self._exchange(case)
            replies, left = parse(data, heads=case.heads)
        except TimeoutError:
            self._wrong(name, case, "no reply, or no end")
            return
        except (OSError, ValueError) as error:
            self._wrong(name, case, f"{type(error).__name__}: {error}")
            return
        if left:
            self._wrong(name, case, f"a broken reply: {left[:200]!r}")
        if case.replies is not None and len(replies) != case.replies and not _gave_up(replies):
            self._wrong(name, case, f"{len(replies)} replies, not {case.replies}")
        if is_open and case.replies is None:
            self._wrong(name, case, "the connection stays open")
        for status, headers, body in replies:
            self._tally.statuses[f"{case.kind} {status}"] += 1
            problem = fault(status, headers, body, heads=case.heads)
            if problem:
                self._wrong(name, case, f"{problem}: {status} {body[:300]!r}")
            elif status == 200 and b'"request_id":"' in body and len(self._tally.ids) < 1000:
                self._tally.ids.append(json.loads(body)["request_id"])

    def close(self) -> None:
        """Close the connection."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _wrong(self, name: str, case: Case, what: str) -> None:
        self.close()
        self._tally.problems.append(f"{name} ({case.kind}): {what}")

    def _exchange(self, case: Case) -> tuple[bytes, bool]:
        """Return all bytes of the replies, and whether the connection is still open."""
        sock = self._sock
        if sock is None:
            sock = self._sock = socket.create_connection(self._address, HANG_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = b""
        try:
            for piece in case.pieces:
                sock.sendall(piece)
            if case.replies is None:
                sock.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was refused before it had all come; what was said about it may still be read
        except OSError:
            if case.replies is not None:
                raise
        while case.replies is None or len(parse(data, heads=case.heads)[0]) < case.replies:
            try:
                more = sock.recv(1 << 16)
            except ConnectionResetError:
                more = b""
            if not more:
                self.close()
                return data, False
            data += more
        return data, True


def _gave_up(replies: Sequence[tuple[int, dict[bytes, bytes], bytes]]) -> bool:
    """Whether the last reply says that nothing more is answered on this connection."""
    return bool(replies) and replies[-1][1].get(b"connection", b"").lower() == b"close"


def parse(data: bytes, *, heads: bool = False) -> tuple[list[tuple[int, dict[bytes, bytes], bytes]], bytes]:
    """Return the whole replies at the beginning, and what comes after them."""
    replies = []
    while b"\r\n\r\n" in data:
        head, _, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        found = re.fullmatch(rb"HTTP/1\.[01] (\d{3}) [ -~]*", first)
        if found is None:
            raise ValueError(f"no status line: {first[:100]!r}")
        headers: dict[bytes, bytes] = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not re.fullmatch(rb"[a-z0-9-]+", name) or name in headers:
                raise ValueError(f"no header: {line[:100]!r}")
            headers[name] = value.strip()
        status = int(found[1])
        if status == 100:
            data = rest
            continue
        size = 0 if heads else int(headers[b"content-length"])
        if len(rest) < size:
            break
        replies.append((status, headers, rest[:size]))
        data = rest[size:]
    return replies, data


def fault(status: int, headers: dict[bytes, bytes], body: bytes, *, heads: bool) -> str:
    """Return what is wrong with a reply, empty when nothing is."""
    if status in NEVER or status not in ALLOWED:
        return "a status that never may be"
    if b"Traceback" in body or b'File \\"' in body:
        return "a stack trace"
    kind = headers.get(b"content-type", b"")
    if heads or not kind.startswith((b"application/json", b"application/problem+json")):
        return "" if status < 400 or heads else "an error that is no problem+json"
    with contextlib.suppress(ValueError):
        said = json.loads(body)
        if kind == b"application/problem+json" and not (said["status"] == status and said["title"] and said["detail"]):
            return "a problem that does not say which"
        return ""
    return "no JSON"
