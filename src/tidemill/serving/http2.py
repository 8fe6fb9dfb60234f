"""HTTP/2 (RFC 9113) as unary gRPC needs it: requests of one message, replies of one message and trailers.

Written for this purpose because a call through grpcio's asyncio server costs ten times as much as all the work it asks
for (docs/decisions/0021). What is sent in one turn of the event loop leaves in one write; a block of headers that came
before, while the table they refer to is the same, is not decoded again.

Whoever breaks the protocol, or keeps the server busy with frames that ask for nothing, loses the connection (`GOAWAY`);
a call that is too large, too slow or one too many is refused alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tidemill.serving import http2_frames as h2
from tidemill.serving.http2_frames import ProtocolError
from tidemill.serving.http2_heads import Heads
from tidemill.serving.http2_replies import Replies
from tidemill.serving.http2_stream import Shared, Stream

_CONNECTION_WINDOW = 1 << 24


class Http2(asyncio.Protocol):
    """One connection. Every method is called in the event loop."""

    def __init__(self, shared: Shared) -> None:
        self._shared, self._service, self._allowance = shared, shared.service, shared.allowance
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._buffer = b""
        self._greeted = self._draining = self._closing = False
        self._heads = Heads(self._allowance.max_head_bytes)
        self._replies: Replies
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._refused_after = h2.LAST
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags, what of its headers has come
        self._received = self._chores = 0
        self._paused_at = float("inf")
        self._begun = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    # ---- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say what we take."""
        self._transport, self._replies = transport, Replies(transport, self._forget)
        shared, allowance = self._shared, self._allowance
        shared.connections.add(self)
        settings = {h2.MAX_STREAMS: allowance.max_streams, h2.MAX_HEADERS: allowance.max_head_bytes,
                    h2.FIRST_WINDOW_SIZE: max(allowance.max_bytes + 5, h2.FIRST_WINDOW)}  # fmt: skip
        self._replies.frame(h2.SETTINGS, 0, 0, b"".join(h2.SETTING.pack(*item) for item in settings.items()))
        self._replies.frame(h2.WINDOW, 0, 0, (_CONNECTION_WINDOW - h2.FIRST_WINDOW).to_bytes(4, "big"))
        self._timer = self._loop.call_later(allowance.look_s, self._look)
        if len(shared.connections) > allowance.max_connections:
            self._fail(h2.ENHANCE_YOUR_CALM, "too many connections are open")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it; calls that are not answered yet are answered into the void."""
        self._closing = True
        self._shared.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        for stream in list(self._streams.values()):
            self._forget(stream)
        # It knows this connection: without this every closed one would wait for the collector, which seldom comes.
        del self._replies

    def data_received(self, data: bytes) -> None:
        """Take frames apart."""
        if self._closing:
            return
        buffer = self._buffer + data if self._buffer else data
        try:
            at = 0 if self._greeted else self._greet(buffer)
            self._buffer = buffer[self._frames(buffer, at) :] if self._greeted else buffer
        except ProtocolError as error:
            self._fail(error.code, str(error))

    def _greet(self, buffer: bytes) -> int:
        if not buffer.startswith(h2.PREFACE[: len(buffer)]):
            raise ProtocolError(h2.PROTOCOL_ERROR, "this is no HTTP/2")
        self._greeted = len(buffer) >= len(h2.PREFACE)
        return len(h2.PREFACE)

    def _frames(self, buffer: bytes, at: int) -> int:
        """Take every whole frame; return where the rest begins."""
        size = len(buffer)
        while size - at >= 9 and not self._closing:
            length_and_type, flags, number = h2.HEAD.unpack_from(buffer, at)
            length, kind = length_and_type >> 8, length_and_type & 0xFF
            if length > h2.FRAME_SIZE:
                raise ProtocolError(h2.FRAME_SIZE_ERROR, "a frame is too large")
            end = at + 9 + length
            if end > size:
                break
            if self._block is not None and kind != h2.CONTINUATION:
                raise ProtocolError(h2.PROTOCOL_ERROR, "headers are interrupted")
            handler = _HANDLERS.get(kind)
            if handler is not None:
                handler(self, flags, number & h2.LAST, buffer[at + 9 : end])
            else:
                self._chore()
            at = end
        return at

    def _fail(self, code: int, message: str) -> None:
        """Say why, and close."""
        if self._closing:
            return
        self._goaway(self._last, code, message.encode())
        self._replies.flush()
        self._closing = True
        self._transport.close()

    def _goaway(self, last: int, code: int, message: bytes = b"") -> None:
        self._replies.frame(h2.GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + message)

    def _chore(self) -> None:
        """Count a frame that asks for nothing."""
        self._chores += 1
        if self._chores > self._allowance.max_chores:
            raise ProtocolError(h2.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    # ---- the end, and time

    def drain(self) -> None:
        """Take no new calls, answer those under way, then close. Calls that are on their way now are answered too."""
        if not self._draining and not self._closing:
            self._draining = True
            self._goaway(h2.LAST, h2.NO_ERROR)
            self._loop.call_later(self._allowance.drain_s, self._drained)

    def _drained(self) -> None:
        if not self._closing:
            self._refused_after = self._last
            self._goaway(self._last, h2.NO_ERROR)
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._refused_after != h2.LAST and not self._streams and not self._closing:
            self._replies.flush()
            self._closing = True
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._transport.abort()

    def _look(self) -> None:
        """Refuse what takes too long. One timer serves all limits."""
        now, late = self._loop.time(), self._allowance.call_s
        self._timer = self._loop.call_later(self._allowance.look_s, self._look)
        if now - self._paused_at > late:
            self.abort()
        elif not self._last and now - self._begun > late:
            self._fail(h2.NO_ERROR, "no call came")
        else:
            for stream in [s for s in self._streams.values() if now - s.begun > late and not s.is_whole]:
                self._service.refuse(stream, too_large=False)
            for stream in [s for s in self._replies.blocked.values() if now - s.begun > late]:
                self._replies.reset(stream, h2.CANCEL)

    def pause_writing(self) -> None:
        """The caller reads too slowly: take nothing more from it."""
        self._paused_at = self._loop.time()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._paused_at = float("inf")
        if not self._closing:
            self._transport.resume_reading()

    # ---- frames that make a call

    def _on_headers(self, flags: int, number: int, payload: bytes) -> None:
        if not number & 1 or (number <= self._last and number not in self._streams):
            raise ProtocolError(h2.PROTOCOL_ERROR, "headers of a stream that cannot be")
        begin, end = 0, len(payload)
        if flags & h2.PADDED:
            begin, end = 1, end - (payload[0] if payload else 0)
        if flags & h2.PRIORITY:
            begin += 5
        if begin > end:
            raise ProtocolError(h2.PROTOCOL_ERROR, "more padding than frame")
        block = payload[begin:end] if flags & (h2.PADDED | h2.PRIORITY) else payload
        if flags & h2.END_HEADERS:
            self._begin(number, flags, block)
        else:
            self._block = number, flags, bytearray(block)

    def _on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != number:
            raise ProtocolError(h2.PROTOCOL_ERROR, "a continuation of nothing")
        self._chore()
        _, first_flags, block = self._block
        block += payload
        if len(block) > self._allowance.max_head_bytes:
            raise ProtocolError(h2.ENHANCE_YOUR_CALM, "the headers are too long")
        if flags & h2.END_HEADERS:
            self._block = None
            self._begin(number, first_flags, bytes(block))

    def _begin(self, number: int, flags: int, block: bytes) -> None:
        """Begin a stream, or end one by its trailers."""
        head = self._heads.read(block)
        stream = self._streams.get(number)
        if stream is not None:
            if stream.is_whole or not flags & h2.END_STREAM:
                raise ProtocolError(h2.PROTOCOL_ERROR, "headers in the middle of a message")
            self._complete(stream, b"")
            return
        if number > self._refused_after:
            return  # the caller knows: it is told which was the last one
        self._last = number
        if len(self._streams) >= self._allowance.max_streams:
            self._chore()
            self._replies.frame(h2.RST, 0, number, h2.REFUSED_STREAM.to_bytes(4, "big"))
            return
        stream = Stream(self, number, head, self._replies.first_window, self._loop.time())
        self._streams[number] = stream
        if flags & h2.END_STREAM:
            self._complete(stream, b"")

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        self._count_received(len(payload))
        stream = self._streams.get(number)
        if stream is None or stream.is_whole:
            if number > self._last:
                raise ProtocolError(h2.PROTOCOL_ERROR, "data of a stream that was not begun")
            if not payload:
                self._chore()
            return  # of a call that was refused meanwhile
        if flags & h2.PADDED:
            if not payload or payload[0] >= len(payload):
                raise ProtocolError(h2.PROTOCOL_ERROR, "more padding than frame")
            payload = payload[1 : len(payload) - payload[0]]
        if flags & h2.END_STREAM:
            self._complete(stream, payload)
            return
        if not payload:
            self._chore()
        self._keep(stream, payload)

    def _keep(self, stream: Stream, payload: bytes) -> None:
        """Keep a part of a message until the rest has come."""
        shared = self._shared
        stream.parts = stream.parts or []
        stream.parts.append(payload)
        stream.num_bytes += len(payload)
        shared.waiting_bytes += len(payload)
        waits_too_much = shared.waiting_bytes > self._allowance.max_waiting_bytes
        # What the message's own length says goes before: of one that is too large the rest may never come.
        declared = int.from_bytes(stream.parts[0][1:5], "big")
        if max(stream.num_bytes - 5, declared) > self._allowance.max_bytes or waits_too_much:
            self._service.refuse(stream, too_large=True)

    def _complete(self, stream: Stream, payload: bytes) -> None:
        stream.is_whole = True
        if stream.parts is not None:
            payload = b"".join([*stream.parts, payload])
            self._drop_parts(stream)
        if len(payload) > self._allowance.max_bytes + 5:
            self._service.refuse(stream, too_large=True)
        else:
            self._service.call(stream, payload)

    def _count_received(self, num: int) -> None:
        self._received += num
        if self._received > _CONNECTION_WINDOW:
            raise ProtocolError(h2.FLOW_CONTROL_ERROR, "more data than was allowed")
        if self._received > _CONNECTION_WINDOW // 2:
            self._replies.frame(h2.WINDOW, 0, 0, self._received.to_bytes(4, "big"))
            self._received = 0

    # ---- other frames

    def _on_reset(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4 or number > self._last or not number:
            raise ProtocolError(h2.PROTOCOL_ERROR, "a reset of nothing")
        self._chore()
        stream = self._streams.get(number)
        if stream is not None:
            self._forget(stream)

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) % 6 or (flags & h2.ACK and payload):
            raise ProtocolError(h2.PROTOCOL_ERROR, "settings that cannot be")
        self._chore()
        if flags & h2.ACK:
            return
        for key, value in h2.SETTING.iter_unpack(payload):
            if key == h2.FIRST_WINDOW_SIZE:
                self._replies.set_first_window(value, self._streams.values())
            elif key == h2.MAX_FRAME_SIZE:
                self._replies.set_max_frame(value)
        self._replies.frame(h2.SETTINGS, h2.ACK, 0, b"")
        self._replies.send_blocked()

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            raise ProtocolError(h2.FRAME_SIZE_ERROR, "a ping that cannot be")
        self._chore()
        if not flags & h2.ACK:
            self._replies.frame(h2.PING, h2.ACK, 0, payload)

    def _on_goaway(self, flags: int, number: int, payload: bytes) -> None:
        self._chore()  # it closes when it has its replies

    def _on_push(self, flags: int, number: int, payload: bytes) -> None:
        raise ProtocolError(h2.PROTOCOL_ERROR, "a client that pushes")

    def _on_window(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(h2.FRAME_SIZE_ERROR, "a window that cannot be")
        more = int.from_bytes(payload, "big") & h2.LAST
        self._chore()
        stream = self._streams.get(number)
        if not number or stream is not None:
            self._replies.widen(stream, more)
        elif number > self._last:
            raise ProtocolError(h2.PROTOCOL_ERROR, "a window of a stream that was not begun")

    # ---- replies

    def send(self, stream: Stream, head: bytes, data: bytes, trailers: bytes) -> None:
        """Send a reply."""
        self._chores = max(0, self._chores - 4)
        self._replies.send(stream, head, data, trailers)

    def send_head(self, stream: Stream, head: bytes) -> None:
        """Send headers and nothing more; what still comes of the call is not read."""
        self._chores = max(0, self._chores - 1)
        self._replies.send_head(stream, head)

    def _forget(self, stream: Stream) -> None:
        stream.is_gone = True
        self._drop_parts(stream)
        self._streams.pop(stream.number, None)
        self._replies.blocked.pop(stream.number, None)
        if self._draining:
            self._close_if_idle()

    def _drop_parts(self, stream: Stream) -> None:
        self._shared.waiting_bytes -= stream.num_bytes
        stream.parts, stream.num_bytes = None, 0


_HANDLERS: dict[int, Callable[[Http2, int, int, bytes], None]] = {
    h2.DATA: Http2._on_data, h2.HEADERS: Http2._on_headers, h2.RST: Http2._on_reset, h2.SETTINGS: Http2._on_settings,
    h2.PUSH: Http2._on_push, h2.PING: Http2._on_ping, h2.GOAWAY: Http2._on_goaway, h2.WINDOW: Http2._on_window,
    h2.CONTINUATION: Http2._on_continuation,
}  # fmt: skip
