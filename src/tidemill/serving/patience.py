"""What a connection is allowed, and what a caller is told who wants more."""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.errors import InvalidRequest


class HeadTooLarge(InvalidRequest):
    """The headers of a request are too many or too long."""

    status = 431
    title = "Headers too large"


class TooSlow(InvalidRequest):
    """A request did not come in time."""

    status = 408
    title = "Request timeout"


@dataclass(frozen=True, kw_only=True)
class Patience:
    """What a connection is allowed: seconds to send a head and a body, to be idle and to read, and sizes."""

    head_s: float = 10.0
    body_s: float = 30.0
    idle_s: float = 75.0
    read_s: float = 30.0
    drain_s: float = 0.2  # after a signal to end, for what callers sent before they could know
    linger_s: float = 1.0  # after a refusal, to read what the caller still sends: else it never reads the refusal
    max_head_bytes: int = 32 << 10
    max_headers: int = 100
    max_connections: int = 4096
