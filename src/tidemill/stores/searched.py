"""The process behind a `Searcher`: reads conditions and rows, writes which rows meet them, leaves when it is let go.

A message is the lengths of its words and of its bytes, the words as JSON, and the bytes: of rows Arrow IPC, of answers
a byte for each row and condition.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import struct
import sys
import threading
from collections.abc import Mapping
from typing import IO

import numpy as np
import polars as pl

from tidemill.errors import ProjectError
from tidemill.records import Json
from tidemill.schema import Array
from tidemill.stores.conditions import evaluate

_HEAD = struct.Struct("<QQ")
_NICE = 10  # whoever only looks comes first


def send(to: IO[bytes], words: Json, body: bytes) -> None:
    """Write a message.

    Raises:
        OSError: nobody reads.
    """
    told = json.dumps(words).encode()
    to.write(_HEAD.pack(len(told), len(body)))
    to.write(told)
    to.write(body)
    to.flush()


def receive(of: IO[bytes]) -> tuple[Json, bytes]:
    """Read a message.

    Raises:
        EOFError: there is none any more.
    """
    num_words, num_bytes = _HEAD.unpack(_whole(of, _HEAD.size))
    return json.loads(_whole(of, num_words)), _whole(of, num_bytes)


def _whole(of: IO[bytes], num: int) -> bytes:
    read = of.read(num)
    if len(read) < num:
        raise EOFError
    return read


def packed(frame: pl.DataFrame) -> bytes:
    """Return rows as bytes."""
    out = io.BytesIO()
    frame.write_ipc_stream(out)
    return out.getvalue()


def answers(conditions: Mapping[str, str], body: bytes) -> tuple[Json, bytes]:
    """Return the answer to a message: the error, or nothing and a byte for each condition and row."""
    try:
        met = evaluate(conditions, pl.read_ipc_stream(io.BytesIO(body)))
    except ProjectError as error:
        return {"message": error.message, "hint": error.hint}, b""
    return {}, b"".join(met[name].astype(np.uint8).tobytes() for name in conditions)


def unpacked(conditions: Mapping[str, str], body: bytes, num_rows: int) -> dict[str, Array]:
    """Return what `answers` packed, by condition, bool (N,)."""
    met = np.frombuffer(body, dtype=np.uint8).astype(bool).reshape(len(conditions), num_rows)
    return dict(zip(conditions, met, strict=True))


def main() -> None:
    """Answer until standard input ends; what is under way then is given up."""
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    asked: queue.SimpleQueue[tuple[Json, bytes]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    while True:
        send(sys.stdout.buffer, *answers(*asked.get()))


def _listen(asked: queue.SimpleQueue[tuple[Json, bytes]]) -> None:
    try:
        while True:
            asked.put(receive(sys.stdin.buffer))
    except EOFError:
        os._exit(0)  # whatever the other thread is busy with


if __name__ == "__main__":
    main()
