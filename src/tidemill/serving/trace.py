"""W3C Trace Context (https://www.w3.org/TR/trace-context-2/): a request that belongs to a trace gets a span of its own.

The caller finds the span in `traceresponse`, and the log names the trace of what failed. The gateway calls nobody over
HTTP, so `tracestate` has nowhere to go on to.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16


class Span(NamedTuple):
    """The part of a trace that one request makes here; ids are hexadecimal, `flags` as the caller sent them."""

    trace_id: bytes
    span_id: bytes
    flags: bytes

    @property
    def header(self) -> bytes:
        """The value of `traceresponse`."""
        return b"00-%b-%b-%b" % self

    def __str__(self) -> str:
        return f"trace {self.trace_id.decode()} span {self.span_id.decode()}"


def child(traceparent: bytes) -> Span | None:
    """Return a new span of the caller's trace, or None where the header is not as the standard has it.

    A version newer than 00 may say more after its flags, which are then ignored.
    """
    found = _PARENT.fullmatch(traceparent)
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more is not None) or trace_id == _NO_TRACE or parent_id == _NO_SPAN:
        return None
    return Span(trace_id, os.urandom(8).hex().encode(), flags)
