"""HTTP as it comes: predictions and feedback are answered straight from the protocol, all else goes the way of ASGI.

A call whose head (request line and headers) is, byte by byte, one that was parsed before is not parsed again: most
callers send the same head each time, and the same bytes mean the same. Everything that is unusual (pipelining, an
upgrade, `Expect`, a compressed body) goes through the parser or to ASGI.
"""

from __future__ import annotations

from typing import Any

import httptools

from tidemill.errors import InvalidRequest, Malformed, TooLarge
from tidemill.serving.calls import Call, Target
from tidemill.serving.connection import MAX_CALLS, PatientConnection
from tidemill.serving.door import Door
from tidemill.serving.inference import header_length
from tidemill.serving.patience import HeadTooLarge, Patience
from tidemill.serving.tokens import ANYBODY
from tidemill.serving.trace import child

_END = b"\r\n\r\n"
_POST = b"POST "
_UPGRADES = frozenset((b"upgrade", b"connection", b"http2-settings"))
_UNUSUAL = frozenset((b"expect", b"upgrade", b"content-encoding"))


class HotProtocol(PatientConnection):
    """What is read and answered on one connection. uvicorn makes it with its own arguments behind these two."""

    def __init__(self, door: Door, patience: Patience, **given: Any) -> None:
        super().__init__(patience, **given)
        self._door = door
        self._chunk = b""
        self._opening = b""  # the head of a call that is parsed, where it and its body are all there is
        self._fresh = self._whole = False  # whether a message begins with the chunk
        self._begun = False  # whether one begins within it
        self._ignoring = False
        self._head_bytes = self._raw_bytes = self._body_bytes = 0
        self._num_missing = 0  # bytes of a call whose head is known

    # ---- bytes

    def data_received(self, data: bytes) -> None:
        """Take a chunk: a call as they were before, or whatever the parser makes of it."""
        if not self._calls and not self._reading and not self._ended:
            door, cycle = self._door, self.cycle
            known = door.known.get(data[: data.find(_END) + 4])
            if (
                known is not None
                and len(data) <= known.num_bytes
                and known.revision == door.tokens.revision
                and (cycle is None or cycle.response_complete)
                and not self.pipeline
            ):
                self.cycle = call = Call(self, known.target, not self._draining, known.caller, data[known.num_head :])
                call.num_json = known.num_json
                self._calls.append(call)
                if len(data) == known.num_bytes:
                    door.add(call)
                else:
                    self._await_rest(call, known.num_bytes - len(data))
                return
        if self._ended:
            return
        if self._num_missing:
            self._take_rest(data)
            return
        self._chunk, self._fresh, self._begun = data, not self._reading, False
        self._feed(data)
        if self._reading and (self._whole or not self._begun):  # of a message that began within it this counts nothing
            self._count(len(data))

    def _await_rest(self, call: Call, num_bytes: int) -> None:
        """Wait for the rest of a body whose head is known."""
        self._hot, call.parts, self._num_missing = call, [call.body], num_bytes
        self._reading, self._in_head = True, False
        self._due = self.loop.time() + self._patience.body_s

    def _take_rest(self, data: bytes) -> None:
        call, num = self._hot, self._num_missing
        assert call is not None and call.parts is not None
        call.parts.append(data if len(data) <= num else data[:num])
        self._num_missing = max(num - len(data), 0)
        if self._num_missing:
            return
        call.body, call.parts = b"".join(call.parts), None
        self._reading, self._hot = False, None
        self._door.add(call)
        if len(data) > num:
            self.data_received(data[num:])

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

    # ---- what the parser finds

    def on_message_begin(self) -> None:
        """Expect a head."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._hot, self._opening = None, b""
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
        if len(self._calls) >= MAX_CALLS:
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
            num_head = len(self._chunk) - len(body)
            if self._whole and self._chunk.startswith(_POST) and self._chunk.find(_END) + 4 == num_head:
                self._opening = self._chunk[:num_head]  # no chunks, which have their lengths before them
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
        if self._opening and call.keep_alive and call.span is None:  # a trace's head does not come again
            self._door.remember(self._opening, call, len(self._opening) + len(call.body))
        self._door.add(call)

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
        elif self.flow.read_paused and len(calls) <= MAX_CALLS // 2 and not self.flow.write_paused:
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
