"""HTTP as it comes: predictions and feedback are answered straight from the protocol, all else goes the way of ASGI.

A call whose head (request line and headers) is, byte by byte, one that was parsed before is not parsed again: most
callers send the same head each time, and the same bytes mean the same. Everything that is unusual (a body in several
pieces, pipelining, an upgrade, `Expect`, a compressed body) goes through the parser or to ASGI.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tidemill.errors import InvalidRequest, Malformed, TooLarge, Unavailable
from tidemill.serving.calls import REFUSAL, Call, Target, plain_problem
from tidemill.serving.door import Door
from tidemill.serving.inference import header_length
from tidemill.serving.patience import HeadTooLarge, Patience, TooSlow
from tidemill.serving.tokens import ANYBODY
from tidemill.serving.trace import child

_END = b"\r\n\r\n"
_MAX_CALLS = 64  # of one connection that wait for their answers; then nothing more is read from it
_MAX_REFUSED = 256  # connections beyond the limit that are told so; more are closed without a word
_UPGRADES = frozenset((b"upgrade", b"connection", b"http2-settings"))
_UNUSUAL = frozenset((b"expect", b"upgrade", b"content-encoding"))


class HotProtocol(HttpToolsProtocol):
    """One connection. uvicorn makes it with its own arguments behind these two."""

    cycle: Any

    def __init__(self, door: Door, patience: Patience, **given: Any) -> None:
        super().__init__(**given)
        self._door, self._patience = door, patience
        self._calls: deque[Call] = deque()  # not answered yet, in order
        self._hot: Call | None = None  # whose body is being read
        self._chunk = b""
        self._fresh = self._whole = False  # whether a message begins with the chunk
        self._begun = False  # whether one begins within it
        self._reading = self._in_head = self._ignoring = self._draining = self._ended = self._lingering = False
        self._was_asked = False  # since the timer looked last
        self._head_bytes = self._raw_bytes = self._body_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = self._idle_since = self._paused_at = 0.0

    # ---- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or refuse when there are too many."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._idle_since = self.loop.time()
        self._timer = self.loop.call_later(self._patience.head_s, self._watch)
        if len(self.connections) > self._patience.max_connections:
            self._end(Unavailable("too many connections are open.", "close some, or try again in a second"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it; calls that are not answered yet are answered into the void."""
        if self._timer is not None:
            self._timer.cancel()
        for call in self._calls:
            call.disconnected = True
        self._calls.clear()
        self._hot = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a chunk: a call as they were before, or whatever the parser makes of it."""
        if not self._calls and not self._reading and not self._ended:
            door, cycle = self._door, self.cycle
            known = door.known.get(data[: data.find(_END) + 4])
            if (
                known is not None
                and len(data) == known.num_bytes
                and known.revision == door.tokens.revision
                and (cycle is None or cycle.response_complete)
                and not self.pipeline
            ):
                self.cycle = call = Call(self, known.target, not self._draining, known.caller, data[known.num_head :])
                call.num_json = known.num_json
                self._calls.append(call)
                door.add(call)
                return
        if self._ended:
            return
        self._chunk, self._fresh, self._begun = data, not self._reading, False
        self._feed(data)
        if self._reading and (self._whole or not self._begun):  # of a message that began within it this counts nothing
            self._count(len(data))

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._end(Malformed("this is no HTTP/1.1 request.", "see RFC 9112"))

    def _decline(self, rest: bytes) -> None:
        """Take a request that would go on in another protocol as one that would not: some clients ask with each first.

        The parser takes all that follows such a head for the other protocol: another one gets the head without it.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._end(Malformed("this is no proxy.", "send POST or GET"))
            return
        kept = [b"%b: %b\r\n" % header for header in self.headers if header[0] not in _UPGRADES]
        self.parser = httptools.HttpRequestParser(self)
        self._feed(b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, self.url, b"".join(kept), rest))

    def _count(self, num_bytes: int) -> None:
        """Refuse what has no end."""
        if self._in_head:
            self._head_bytes += num_bytes
            if self._head_bytes > self._patience.max_head_bytes:
                self._end(HeadTooLarge("the headers are too long.", "send fewer of them"))
        else:
            self._raw_bytes += num_bytes
            # Chunks of one byte each are six times as long; beyond that it is trailers or extensions without end.
            if self._raw_bytes > 6 * self._door.max_body_bytes + self._patience.max_head_bytes:
                self._end(TooLarge("the body is larger than it may be.", "send less, in larger chunks"))

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Answer what was asked before the caller closed its half, then close."""
        if self._hot is not None:  # it never comes whole
            self._hot.response_complete, self._hot = True, None
            self._calls.pop()
        if self._calls:
            self._calls[-1].keep_alive = False
        elif self.cycle is not None and not self.cycle.response_complete and not self._reading:
            (self.pipeline[0][0] if self.pipeline else self.cycle).keep_alive = False
        else:
            return None
        self._ended = True
        return True

    def shutdown(self) -> None:
        """Close, but not under the feet of a call that is on its way."""
        self._draining = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(self._patience.drain_s, self._close_idle)
        else:
            self.cycle.keep_alive = False

    def _close_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    def _end(self, error: InvalidRequest) -> None:
        """Tell what is wrong, after what was asked before, and close."""
        if self._ended or self.transport.is_closing():
            return
        self._ended = True
        if self._hot is not None:
            self._hot.keep_alive = False
            self._hot.refuse(error)
        elif self._calls and self._calls[-1].keep_alive:
            call = Call(self, REFUSAL, False, ANYBODY)
            self._calls.append(call)
            call.refuse(error)
        elif self._is_slow_busy():
            self.cycle.keep_alive = False
            self.cycle.message_event.set()
        elif not self._calls:
            if not self._reading or self._in_head or self.cycle is None or not self.cycle.response_complete:
                self.transport.write(plain_problem(error))  # else this request has had its reply
            self._linger()
        self._hot = None

    def _linger(self) -> None:
        """Close once the caller has had time to read: bytes that nobody takes would reset the connection under it."""
        self._ended = self._lingering = True
        transport = self.transport
        if len(self.connections) > self._patience.max_connections + _MAX_REFUSED or not transport.can_write_eof():
            transport.close()
            return
        transport.write_eof()
        self.loop.call_later(self._patience.linger_s, transport.close)

    # ---- time

    def _watch(self) -> None:
        """Close what takes too long. One lazy timer serves all limits, so that no call sets or stops one."""
        self._timer = None
        if self.transport is None or self.transport.is_closing():
            return
        now, patience = self.loop.time(), self._patience
        ends = self._ends(now)
        if ends > now:
            # Not later than a head may take: one that begins meanwhile is found out in time.
            self._timer = self.loop.call_at(min(ends, now + patience.head_s), self._watch)
        elif self.flow.write_paused:
            self.transport.abort()  # it does not read: there is no point in writing more
        elif self._in_head and not self._calls:
            self._end(TooSlow(f"the headers did not come within {patience.head_s:g} s.", "send them at once"))
        elif self._hot is not None:
            self._end(TooSlow(f"the body did not come within {patience.body_s:g} s.", "send it at once"))
        else:
            self.transport.close()

    def _ends(self, now: float) -> float:
        if self._was_asked:
            self._idle_since, self._was_asked = now, False
        if self.flow.write_paused:
            return self._paused_at + self._patience.read_s
        if self._reading and not self.flow.read_paused:
            return self._due
        if self._reading or self._calls or not (self.cycle is None or self.cycle.response_complete):
            return now + self._patience.idle_s
        return self._idle_since + self._patience.idle_s

    def pause_writing(self) -> None:
        """The caller reads too slowly: take nothing more from it."""
        self._paused_at = self.loop.time()
        self.flow.pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self.flow.resume_writing()
        if len(self._calls) < _MAX_CALLS and not self.pipeline:
            self._resume()

    def _resume(self) -> None:
        """Read again; the time in which nothing was read is not the caller's."""
        if self._reading and self.flow.read_paused:
            self._due = max(self._due, self.loop.time() + self._patience.head_s)
        self.flow.resume_reading()

    # ---- what the parser finds

    def on_message_begin(self) -> None:
        """Expect a head."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._hot = None
        self._reading = self._in_head = True
        self._whole, self._fresh, self._begun = self._fresh, False, True
        self._head_bytes = self._raw_bytes = 0
        self._due = self.loop.time() + self._patience.head_s

    def on_header(self, name: bytes, value: bytes) -> None:
        """Remember a header, up to a number."""
        self.headers.append((name.lower(), value))
        if len(self.headers) > self._patience.max_headers:
            self._end(HeadTooLarge(f"there are more than {self._patience.max_headers} headers.", "send fewer of them"))
            raise ValueError("too many headers")

    def on_headers_complete(self) -> None:
        """Decide which way a request goes."""
        self._in_head = False
        if self.parser.should_upgrade():
            return  # see `_decline`
        if len(self._chunk) > self._patience.max_head_bytes:
            self._check_head()
        self._due = self.loop.time() + self._patience.body_s
        if self._ignoring or (self._calls and not self._calls[-1].keep_alive):
            self._ignoring = True  # what comes after `connection: close`
            return
        target = self._door.target(self.url) if self.parser.get_method() == b"POST" else None
        if target is None or self.pipeline or self._is_slow_busy() or not self._is_usual():
            self._slow()
        else:
            self._begin(target)

    def _check_head(self) -> None:
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > self._patience.max_head_bytes:
            self._end(HeadTooLarge("the headers are too long.", "send fewer of them"))
            raise ValueError("too long a head")

    def _is_slow_busy(self) -> bool:
        cycle = self.cycle
        return cycle is not None and type(cycle) is not Call and not cycle.response_complete

    def _is_usual(self) -> bool:
        return not any(name in _UNUSUAL for name, _ in self.headers)

    def _begin(self, target: Target) -> None:
        keep_alive = not self._draining and self.parser.get_http_version() == "1.1" and self.parser.should_keep_alive()
        self.cycle = call = Call(self, target, keep_alive, ANYBODY)
        self._calls.append(call)
        given = dict(self.headers)
        limit = self._door.max_body_bytes
        try:
            if int(given.get(b"content-length", b"0")) > limit:
                call.keep_alive = False
                raise TooLarge(f"the body is larger than {limit} bytes.", "send less, or raise max_body_bytes")
            call.caller = self._door.caller(given.get(b"authorization"))
            call.num_json = header_length(given.items())
            parent = given.get(b"traceparent")
            if parent is not None:
                call.span = child(parent)
        except InvalidRequest as error:
            call.refuse(error)
            return
        self._hot = call
        if len(self._calls) >= _MAX_CALLS:
            self.flow.pause_reading()

    def _slow(self) -> None:
        """Hand the request to ASGI, as if uvicorn had seen it from the beginning."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = any(n == b"expect" and v.lower() == b"100-continue" for n, v in headers)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        call = self._hot
        if call is None:
            if type(self.cycle) is not Call and not self._ignoring:
                super().on_body(body)
        elif not call.body:
            call.body, self._body_bytes = body, len(body)
        else:
            call.parts = call.parts or [call.body]
            call.parts.append(body)
            self._body_bytes += len(body)
            if self._body_bytes > self._door.max_body_bytes:
                self._hot, call.keep_alive = None, False
                limit = self._door.max_body_bytes
                call.refuse(TooLarge(f"the body is larger than {limit} bytes.", "send less, or raise max_body_bytes"))

    def on_message_complete(self) -> None:
        """Hand a whole call over."""
        if self.parser.should_upgrade():
            return
        self._reading = False
        call, self._hot = self._hot, None
        if call is None:
            if type(self.cycle) is not Call and not self._ignoring:
                super().on_message_complete()
            return
        if call.parts is not None:
            call.body, call.parts = b"".join(call.parts), None
        elif self._whole and call.keep_alive and call.span is None:  # a trace's head does not come again
            self._remember(call)
        self._door.add(call)

    def _remember(self, call: Call) -> None:
        """Know this head next time, if the chunk was this call and nothing more."""
        num_head = self._chunk.find(_END) + 4
        if num_head + len(call.body) == len(self._chunk):
            self._door.remember(self._chunk[:num_head], call, len(self._chunk))

    # ---- replies

    def send(self, call: Call, head: bytes, body: bytes) -> None:
        """Write a reply in its turn; what comes after it is dropped."""
        if call.disconnected or call.response_complete or call.head:
            return
        calls, transport = self._calls, self.transport
        if len(calls) == 1 and call.keep_alive and not (call.span or self.pipeline or self.flow.read_paused):
            calls.clear()
            call.response_complete = self._was_asked = True
            call.body = b""  # an idle connection keeps its last call, which shall not keep what it brought
            self.server_state.total_requests += 1
            if not transport.is_closing():
                transport.write(b"%b\r\n%b" % (head, body))
            return
        if calls[0] is not call:
            call.head, call.reply = head, body
            return
        calls.popleft()
        self._write(call, head, body)
        while calls and calls[0].head:
            call = calls.popleft()
            self._write(call, call.head, call.reply)
        if not calls:
            self._answered_all()
        elif self.flow.read_paused and len(calls) <= _MAX_CALLS // 2 and not self.flow.write_paused:
            self._resume()

    def _write(self, call: Call, head: bytes, body: bytes) -> None:
        call.response_complete = True
        call.body = call.reply = b""
        self.server_state.total_requests += 1
        transport = self.transport
        if transport.is_closing() or self._lingering:
            return
        if call.span is not None:
            head = b"%btraceresponse: %b\r\n" % (head, call.span.header)
        if call.keep_alive:
            transport.write(b"%b\r\n%b" % (head, body))
            return
        transport.write(b"%bconnection: close\r\n\r\n%b" % (head, body))
        if self._reading:
            self._linger()
        else:
            transport.close()

    def _answered_all(self) -> None:
        if self.pipeline:
            self.server_state.total_requests -= 1
            self.on_response_complete()
            return
        self._idle_since = self.loop.time()
        if self.flow.read_paused and not self.flow.write_paused:
            self._resume()

    def on_response_complete(self) -> None:
        """ASGI has answered: go on with what was piped behind."""
        self.server_state.total_requests += 1
        self._idle_since = self.loop.time()
        if self.transport.is_closing():
            return
        self._resume()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
