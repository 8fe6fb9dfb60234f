"""What a supervisor and a worker of it say to each other: a line of JSON each, once."""

from __future__ import annotations

import socket
from typing import Any

import msgspec


class Hello(msgspec.Struct, kw_only=True):
    """What the supervisor sends: `settings` of `serve.run`, and the descriptors that the worker has inherited.

    `listener` is the socket that all workers take connections from, None where each binds the port for itself. `counts`
    are the files of `Totals`, and `hearts` is the memory of `Heart`, of which `number` is this worker's. It may take
    `end_s` to end when it is told to.
    """

    home: str
    settings: dict[str, Any]
    number: int
    counts: list[int]
    hearts: int
    end_s: float
    listener: int | None


class Answer(msgspec.Struct, kw_only=True):
    """What a worker says: the address it serves, or why it does not."""

    address: str = ""
    problem: str = ""
    hint: str = ""


def send(channel: socket.socket, message: Hello | Answer) -> None:
    """Send a line."""
    channel.sendall(msgspec.json.encode(message) + b"\n")
