"""One call over HTTP/2, what it is allowed, and what answers it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from tidemill.serving.http2_heads import Head
from tidemill.serving.trace import Span

if TYPE_CHECKING:
    from tidemill.serving.http2 import Http2


class Allowance(Struct, frozen=True, kw_only=True):
    """What a connection is allowed: seconds, numbers and sizes. `max_bytes` is that of a message."""

    max_bytes: int
    call_s: float = 30.0  # for a message to come, and for the caller to read what was written
    look_s: float = 5.0  # how often that is looked at
    drain_s: float = 0.2  # for calls that were sent before the caller could know
    max_streams: int = 1_024
    max_connections: int = 4_096
    max_head_bytes: int = 32 << 10
    max_chores: int = 1_000  # frames that asked for nothing, less the calls that were answered
    max_waiting_bytes: int = 256 << 20  # of messages that are not whole yet, of all connections


class Stream(Struct, eq=False):
    """One call. `is_gone` says that nobody waits for its reply any more."""

    connection: Http2
    number: int
    head: Head
    window: int
    begun: float
    parts: list[bytes] | None = None
    num_bytes: int = 0
    is_whole: bool = False
    is_gone: bool = False
    unsent: bytes = b""
    trailers: bytes = b""
    span: Span | None = None  # its part of the caller's trace

    def reply(self, head: bytes, data: bytes, trailers: bytes) -> None:
        """Send a block of headers, a body and a block of trailers."""
        if not self.is_gone:
            self.connection.send(self, head, data, trailers)

    def end(self, head: bytes) -> None:
        """Send a block of headers and nothing more."""
        if not self.is_gone:
            self.connection.send_head(self, head)


class Service(Protocol):
    """What answers calls."""

    def call(self, stream: Stream, body: bytes) -> None:
        """Answer a call whose body is whole, now or later."""
        ...

    def refuse(self, stream: Stream, too_large: bool) -> None:
        """Refuse a call whose body is too large, or did not come in time."""
        ...


class Shared:
    """What all connections of a server have in common."""

    def __init__(self, service: Service, allowance: Allowance) -> None:
        self.service, self.allowance = service, allowance
        self.connections: set[Http2] = set()
        self.waiting_bytes = 0
