"""How a gateway and its Python model's worker process talk: length-prefixed msgpack over a socket pair.

| who | message |
|---|---|
| worker, once | `{"ready": true}` or `{"error": text}` |
| gateway | `{"columns": {name: array}}` |
| worker | `{"scores": array, "memory": resident bytes}` or `{"error": text}` |

An array of numbers is `[dtype, shape, bytes in C order]`, an array of strings is a plain list. Nothing is pickled.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from tidemill.records import Json
from tidemill.schema import Array

_LENGTH = 4


def pack_array(array: Array) -> Json:
    """Return an array as a msgpack value."""
    if array.dtype == object:
        return array.tolist()
    return [[array.dtype.str, list(array.shape)], np.ascontiguousarray(array).tobytes()]


def unpack_array(value: Json) -> Array:
    """Read what `pack_array` wrote; the result may be read-only."""
    if len(value) == 2 and isinstance(value[1], bytes):
        (dtype, shape), raw = value
        return np.frombuffer(raw, dtype=np.dtype(dtype)).reshape(shape)
    return np.array([*value, None], dtype=object)[:-1]


def send(sock: socket.socket, message: Mapping[str, Any], *, timeout_s: float | None = None) -> None:
    """Write one message.

    Raises:
        TimeoutError: the other side did not read in time.
        OSError: it is gone.
    """
    body = msgspec.msgpack.encode(message)
    sock.settimeout(timeout_s)
    sock.sendall(len(body).to_bytes(_LENGTH, "big") + body)


def receive(sock: socket.socket, *, timeout_s: float | None = None) -> dict[str, Any]:
    """Read one message.

    Raises:
        TimeoutError: it did not come in time.
        EOFError: the other side is gone.
    """
    ends_at = None if timeout_s is None else time.monotonic() + timeout_s
    size = int.from_bytes(_exactly(sock, _LENGTH, ends_at), "big")
    message: dict[str, Any] = msgspec.msgpack.decode(_exactly(sock, size, ends_at))
    return message


def _exactly(sock: socket.socket, size: int, ends_at: float | None) -> bytearray:
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        if ends_at is not None:
            sock.settimeout(max(ends_at - time.monotonic(), 1e-3))
        else:
            sock.settimeout(None)
        got = sock.recv_into(view[filled:])
        if not got:
            raise EOFError("the other side closed the connection")
        filled += got
        if ends_at is not None and filled < size and time.monotonic() >= ends_at:
            raise TimeoutError("the message did not come in time")
    return data
