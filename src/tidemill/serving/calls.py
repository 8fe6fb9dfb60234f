"""One request on the hot path, from its bytes to its reply, and what a reply looks like."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Protocol

from msgspec import Struct

from tidemill.errors import InvalidRequest
from tidemill.serving.protocol import Answer, problem
from tidemill.serving.rows import Moment
from tidemill.serving.tokens import CHALLENGE, Caller
from tidemill.serving.trace import Span

_HEAD = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b"
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
_PROBLEM = b"application/problem+json"
_EXTRA = {401: b"www-authenticate: " + CHALLENGE + b"\r\n", 503: b"retry-after: 1\r\n"}


class Connection(Protocol):
    """What a call is answered through."""

    def send(self, call: Call, head: bytes, body: bytes) -> None:
        """Write a reply once all calls before this one are answered; `head` lacks the empty line at its end."""
        ...


class Target(Protocol):
    """What answers the calls of one path."""

    def take(self, calls: Sequence[Call], moment: Moment) -> None:
        """Answer calls that came at `moment`, each now or later."""
        ...

    def told(self, call: Call, answer: Answer) -> None:
        """Reply with the answer to what `take` asked for."""
        ...

    def problem(self, error: InvalidRequest) -> bytes:
        """Return the body that tells of an error."""
        ...


class _Event:
    def set(self) -> None:
        """Wake nobody."""


class Call(Struct, eq=False):
    """A request of the hot path. To uvicorn it looks like one of its own cycles: its shutdown and its limits see it.

    `head` and `reply` wait in a call that is answered before those that came earlier on its connection; `form`,
    `asked` and `id` are its target's. `span` is its part of the caller's trace, if there is one.
    """

    connection: Connection
    target: Target
    keep_alive: bool
    caller: Caller
    body: bytes = b""
    parts: list[bytes] | None = None
    disconnected: bool = False
    response_complete: bool = False
    head: bytes = b""
    reply: bytes = b""
    form: Any = None
    asked: Any = None
    id: str | None = None
    num_json: int | None = None  # of the body, where tensors follow as bytes
    span: Span | None = None

    message_event: ClassVar[Any] = _Event()
    more_body: ClassVar[bool] = False

    def told(self, answer: Answer | InvalidRequest) -> None:
        """Reply with an answer, or with why there is none."""
        if isinstance(answer, Answer):
            self.target.told(self, answer)
        else:
            self.refuse(answer)

    def answer(self, body: bytes) -> None:
        """Reply with JSON."""
        self.connection.send(self, JSON_HEAD % len(body), body)

    def answer_bytes(self, body: bytes, num_json: int) -> None:
        """Reply with JSON of `num_json` bytes and the bytes of tensors behind it."""
        line = b"inference-header-content-length: %d\r\n" % num_json
        self.connection.send(self, head(200, b"application/octet-stream", len(body)) + line, body)

    def accept(self, body: bytes) -> None:
        """Reply that it is taken."""
        self.connection.send(self, head(202, b"application/json", len(body)), body)

    def refuse(self, error: InvalidRequest) -> None:
        """Reply with a problem."""
        body = self.target.problem(error)
        self.connection.send(self, head(error.status, _PROBLEM, len(body)), body)


def head(status: int, kind: bytes, num_bytes: int) -> bytes:
    """Return the head of a reply, but for the empty line."""
    phrase = HTTPStatus(status).phrase.encode()
    return _HEAD % (status, phrase, kind, num_bytes, _EXTRA.get(status, b""))


def plain_problem(error: InvalidRequest) -> bytes:
    """Return a whole reply that tells of an error and closes the connection."""
    body = problem(error)
    return b"%bconnection: close\r\n\r\n%b" % (head(error.status, _PROBLEM, len(body)), body)


class _Refusal:
    """What a connection is told of bytes that are no call of any path."""

    def take(self, calls: Sequence[Call], moment: Moment) -> None:
        """Never called."""

    def told(self, call: Call, answer: Answer) -> None:
        """Never called."""

    def problem(self, error: InvalidRequest) -> bytes:
        """Return the body that tells of an error."""
        return problem(error)


REFUSAL = _Refusal()
"""The target of a call that is only refused, after those before it."""
