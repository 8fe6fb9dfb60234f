"""HTTP/2 (RFC 9113) as unary gRPC needs it: requests of one message, replies of one message and trailers.

Written for this purpose because a call through grpcio's asyncio server costs ten times as much as all the work it asks
for (docs/decisions/0021). What is sent in one turn of the event loop leaves in one write; a block of headers that came
before, while the table they refer to is the same, is not decoded again.

Whoever breaks the protocol, or keeps the server busy with frames that ask for nothing, loses the connection (`GOAWAY`);
a call that is too large, too slow or one too many is refused alone.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import hpack
from msgspec import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PUSH, _PING, _GOAWAY, _WINDOW, _CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 0x0, 0x1, 0x3, 0x5, 0x6
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 0x7, 0x8, 0x9, 0xB
_S_STREAMS, _S_WINDOW, _S_FRAME, _S_HEADERS = 0x3, 0x4, 0x5, 0x6

_HEAD = struct.Struct(">IBI")  # length and type, flags, stream
_REPLY = struct.Struct(">IBI")
_SETTING = struct.Struct(">HI")
_MAX_FRAME = 16_384  # that we take; nobody may send more unless told
_FIRST_WINDOW = 65_535
_CONNECTION_WINDOW = 1 << 24
_MAX_WINDOW = (1 << 31) - 1
_LAST = (1 << 31) - 1
_MAX_KNOWN = 64


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


class Head(NamedTuple):
    """What the headers of a call say."""

    method: bytes
    path: str
    kind: bytes
    authorization: bytes | None
    encoding: bytes


class Service(Protocol):
    """What answers calls."""

    def call(self, stream: Stream, body: bytes) -> None:
        """Answer a call whose body is whole, now or later."""
        ...

    def refuse(self, stream: Stream, too_large: bool) -> None:
        """Refuse a call whose body is too large, or did not come in time."""
        ...


class ProtocolError(Exception):
    """The peer broke the protocol: the connection ends with `code`."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


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

    def reply(self, head: bytes, data: bytes, trailers: bytes) -> None:
        """Send a block of headers, a body and a block of trailers."""
        if not self.is_gone:
            self.connection.send(self, head, data, trailers)

    def end(self, head: bytes) -> None:
        """Send a block of headers and nothing more."""
        if not self.is_gone:
            self.connection.send_head(self, head)


class Shared:
    """What all connections of a server have in common."""

    def __init__(self, service: Service, allowance: Allowance) -> None:
        self.service, self.allowance = service, allowance
        self.connections: set[Http2] = set()
        self.waiting_bytes = 0


class Http2(asyncio.Protocol):
    """One connection. Every method is called in the event loop."""

    def __init__(self, shared: Shared) -> None:
        self._shared, self._service, self._allowance = shared, shared.service, shared.allowance
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._buffer = b""
        self._greeted = self._draining = self._closing = False
        self._decoder = hpack.Decoder(max_header_list_size=self._allowance.max_head_bytes)
        self._known: dict[bytes, Head] = {}
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._refused_after = _LAST
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags, what of its headers has come
        self._received = self._chores = 0
        self._window, self._first_window, self._max_frame = _FIRST_WINDOW, _FIRST_WINDOW, _MAX_FRAME
        self._out: list[bytes] = []
        self._blocked: dict[int, Stream] = {}
        self._paused_at = float("inf")
        self._begun = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._handlers: dict[int, Callable[[int, int, bytes], None]] = {
            _DATA: self._on_data, _HEADERS: self._on_headers, _RST: self._on_reset, _SETTINGS: self._on_settings,
            _PUSH: self._on_push, _PING: self._on_ping, _GOAWAY: self._on_goaway, _WINDOW: self._on_window,
            _CONTINUATION: self._on_continuation,
        }  # fmt: skip

    # ---- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say what we take."""
        self._transport = transport
        shared, allowance = self._shared, self._allowance
        shared.connections.add(self)
        settings = {_S_STREAMS: allowance.max_streams, _S_HEADERS: allowance.max_head_bytes,
                    _S_WINDOW: max(allowance.max_bytes + 5, _FIRST_WINDOW)}  # fmt: skip
        self._frame(_SETTINGS, 0, 0, b"".join(_SETTING.pack(*item) for item in settings.items()))
        self._frame(_WINDOW, 0, 0, (_CONNECTION_WINDOW - _FIRST_WINDOW).to_bytes(4, "big"))
        self._timer = self._loop.call_later(allowance.look_s, self._look)
        if len(shared.connections) > allowance.max_connections:
            self._fail(ENHANCE_YOUR_CALM, "too many connections are open")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it; calls that are not answered yet are answered into the void."""
        self._closing = True
        self._shared.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        for stream in list(self._streams.values()):
            self._forget(stream)

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
        if not buffer.startswith(PREFACE[: len(buffer)]):
            raise ProtocolError(PROTOCOL_ERROR, "this is no HTTP/2")
        self._greeted = len(buffer) >= len(PREFACE)
        return len(PREFACE)

    def _frames(self, buffer: bytes, at: int) -> int:
        """Take every whole frame; return where the rest begins."""
        size, handlers = len(buffer), self._handlers
        while size - at >= 9 and not self._closing:
            length_and_type, flags, number = _HEAD.unpack_from(buffer, at)
            length, kind = length_and_type >> 8, length_and_type & 0xFF
            if length > _MAX_FRAME:
                raise ProtocolError(FRAME_SIZE_ERROR, "a frame is too large")
            end = at + 9 + length
            if end > size:
                break
            if self._block is not None and kind != _CONTINUATION:
                raise ProtocolError(PROTOCOL_ERROR, "headers are interrupted")
            handler = handlers.get(kind)
            if handler is not None:
                handler(flags, number & _LAST, buffer[at + 9 : end])
            else:
                self._chore()
            at = end
        return at

    def _fail(self, code: int, message: str) -> None:
        """Say why, and close."""
        if self._closing:
            return
        self._goaway(self._last, code, message.encode())
        self._flush()
        self._closing = True
        self._transport.close()

    def _goaway(self, last: int, code: int, message: bytes = b"") -> None:
        self._frame(_GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + message)

    def _chore(self) -> None:
        """Count a frame that asks for nothing."""
        self._chores += 1
        if self._chores > self._allowance.max_chores:
            raise ProtocolError(ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    # ---- the end, and time

    def drain(self) -> None:
        """Take no new calls, answer those under way, then close. Calls that are on their way now are answered too."""
        if not self._draining and not self._closing:
            self._draining = True
            self._goaway(_LAST, NO_ERROR)
            self._loop.call_later(self._allowance.drain_s, self._drained)

    def _drained(self) -> None:
        if not self._closing:
            self._refused_after = self._last
            self._goaway(self._last, NO_ERROR)
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._refused_after != _LAST and not self._streams and not self._closing:
            self._flush()
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
            self._fail(NO_ERROR, "no call came")
        else:
            for stream in [s for s in self._streams.values() if now - s.begun > late and not s.is_whole]:
                self._service.refuse(stream, too_large=False)
            for stream in [s for s in self._blocked.values() if now - s.begun > late]:
                self._reset(stream, CANCEL)

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
            raise ProtocolError(PROTOCOL_ERROR, "headers of a stream that cannot be")
        begin, end = 0, len(payload)
        if flags & _PADDED:
            begin, end = 1, end - (payload[0] if payload else 0)
        if flags & _PRIORITY:
            begin += 5
        if begin > end:
            raise ProtocolError(PROTOCOL_ERROR, "more padding than frame")
        block = payload[begin:end] if flags & (_PADDED | _PRIORITY) else payload
        if flags & _END_HEADERS:
            self._begin(number, flags, block)
        else:
            self._block = number, flags, bytearray(block)

    def _on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != number:
            raise ProtocolError(PROTOCOL_ERROR, "a continuation of nothing")
        self._chore()
        _, first_flags, block = self._block
        block += payload
        if len(block) > self._allowance.max_head_bytes:
            raise ProtocolError(ENHANCE_YOUR_CALM, "the headers are too long")
        if flags & _END_HEADERS:
            self._block = None
            self._begin(number, first_flags, bytes(block))

    def _begin(self, number: int, flags: int, block: bytes) -> None:
        """Begin a stream, or end one by its trailers."""
        head = self._known.get(block) or self._decode(block)
        stream = self._streams.get(number)
        if stream is not None:
            if stream.is_whole or not flags & _END_STREAM:
                raise ProtocolError(PROTOCOL_ERROR, "headers in the middle of a message")
            self._complete(stream, b"")
            return
        if number > self._refused_after:
            return  # the caller knows: it is told which was the last one
        self._last = number
        if len(self._streams) >= self._allowance.max_streams:
            self._chore()
            self._frame(_RST, 0, number, REFUSED_STREAM.to_bytes(4, "big"))
            return
        stream = Stream(self, number, head, self._first_window, self._loop.time())
        self._streams[number] = stream
        if flags & _END_STREAM:
            self._complete(stream, b"")

    def _decode(self, block: bytes) -> Head:
        table = self._decoder.header_table
        before, newest = table.maxsize, table.dynamic_entries[0] if table.dynamic_entries else None
        try:
            fields = dict(self._decoder.decode(block, raw=True))
        except hpack.HPACKError:
            raise ProtocolError(COMPRESSION_ERROR, "the headers cannot be decoded") from None
        head = Head(
            fields.get(b":method", b""),
            fields.get(b":path", b"").decode("latin-1"),
            fields.get(b"content-type", b""),
            fields.get(b"authorization"),
            fields.get(b"grpc-encoding", b"identity"),
        )
        same = table.maxsize == before and (table.dynamic_entries[0] if table.dynamic_entries else None) is newest
        if not same or len(self._known) >= _MAX_KNOWN:
            self._known.clear()  # what the blocks refer to has moved
        if same:
            self._known[block] = head
        return head

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        self._count_received(len(payload))
        stream = self._streams.get(number)
        if stream is None or stream.is_whole:
            if number > self._last:
                raise ProtocolError(PROTOCOL_ERROR, "data of a stream that was not begun")
            if not payload:
                self._chore()
            return  # of a call that was refused meanwhile
        if flags & _PADDED:
            if not payload or payload[0] >= len(payload):
                raise ProtocolError(PROTOCOL_ERROR, "more padding than frame")
            payload = payload[1 : len(payload) - payload[0]]
        if flags & _END_STREAM:
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
            raise ProtocolError(FLOW_CONTROL_ERROR, "more data than was allowed")
        if self._received > _CONNECTION_WINDOW // 2:
            self._frame(_WINDOW, 0, 0, self._received.to_bytes(4, "big"))
            self._received = 0

    # ---- other frames

    def _on_reset(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4 or number > self._last or not number:
            raise ProtocolError(PROTOCOL_ERROR, "a reset of nothing")
        self._chore()
        stream = self._streams.get(number)
        if stream is not None:
            self._forget(stream)

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) % 6 or (flags & _ACK and payload):
            raise ProtocolError(PROTOCOL_ERROR, "settings that cannot be")
        self._chore()
        if flags & _ACK:
            return
        for key, value in _SETTING.iter_unpack(payload):
            if key == _S_WINDOW:
                self._set_first_window(value)
            elif key == _S_FRAME:
                if not _MAX_FRAME <= value < 1 << 24:
                    raise ProtocolError(PROTOCOL_ERROR, "a frame size that cannot be")
                self._max_frame = value
        self._frame(_SETTINGS, _ACK, 0, b"")
        self._send_blocked()

    def _set_first_window(self, value: int) -> None:
        if value > _MAX_WINDOW:
            raise ProtocolError(FLOW_CONTROL_ERROR, "a window that cannot be")
        for stream in self._streams.values():
            stream.window += value - self._first_window
        self._first_window = value

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            raise ProtocolError(FRAME_SIZE_ERROR, "a ping that cannot be")
        self._chore()
        if not flags & _ACK:
            self._frame(_PING, _ACK, 0, payload)

    def _on_goaway(self, flags: int, number: int, payload: bytes) -> None:
        self._chore()  # it closes when it has its replies

    def _on_push(self, flags: int, number: int, payload: bytes) -> None:
        raise ProtocolError(PROTOCOL_ERROR, "a client that pushes")

    def _on_window(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(FRAME_SIZE_ERROR, "a window that cannot be")
        more = int.from_bytes(payload, "big") & _LAST
        self._chore()
        if not number:
            self._window += more
            if self._window > _MAX_WINDOW or not more:
                raise ProtocolError(FLOW_CONTROL_ERROR, "a window that cannot be")
        elif (stream := self._streams.get(number)) is not None:
            stream.window += more
            if stream.window > _MAX_WINDOW or not more:
                self._reset(stream, FLOW_CONTROL_ERROR)
        elif number > self._last:
            raise ProtocolError(PROTOCOL_ERROR, "a window of a stream that was not begun")
        self._send_blocked()

    # ---- replies

    def send(self, stream: Stream, head: bytes, data: bytes, trailers: bytes) -> None:
        """Send a reply, as much of it as the peer takes now."""
        number, size = stream.number, len(data)
        self._chores = max(0, self._chores - 4)
        if size > self._max_frame or size > self._window or size > stream.window or self._blocked:
            self._frame(_HEADERS, _END_HEADERS, number, head)
            stream.unsent, stream.trailers = data, trailers
            self._blocked[number] = stream
            self._send_blocked()
            return
        self._window -= size
        self._write(b"".join((
            _REPLY.pack(len(head) << 8 | _HEADERS, _END_HEADERS, number), head,
            _REPLY.pack(size << 8, 0, number), data,
            _REPLY.pack(len(trailers) << 8 | _HEADERS, _END_HEADERS | _END_STREAM, number), trailers,
        )))  # fmt: skip
        self._forget(stream)

    def send_head(self, stream: Stream, head: bytes) -> None:
        """Send headers and nothing more; what still comes of the call is not read."""
        self._chores = max(0, self._chores - 1)
        self._frame(_HEADERS, _END_HEADERS | _END_STREAM, stream.number, head)
        if not stream.is_whole:
            self._frame(_RST, 0, stream.number, NO_ERROR.to_bytes(4, "big"))
        self._forget(stream)

    def _send_blocked(self) -> None:
        """Send what waits for the peer to take more."""
        for stream in list(self._blocked.values()):
            while stream.unsent and (room := min(self._window, stream.window, self._max_frame)) > 0:
                part, stream.unsent = stream.unsent[:room], stream.unsent[room:]
                self._window -= len(part)
                stream.window -= len(part)
                self._frame(_DATA, 0, stream.number, part)
            if not stream.unsent:
                self._frame(_HEADERS, _END_HEADERS | _END_STREAM, stream.number, stream.trailers)
                self._forget(stream)

    def _reset(self, stream: Stream, code: int) -> None:
        self._frame(_RST, 0, stream.number, code.to_bytes(4, "big"))
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        stream.is_gone = True
        self._drop_parts(stream)
        self._streams.pop(stream.number, None)
        self._blocked.pop(stream.number, None)
        if self._draining:
            self._close_if_idle()

    def _drop_parts(self, stream: Stream) -> None:
        self._shared.waiting_bytes -= stream.num_bytes
        stream.parts, stream.num_bytes = None, 0

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        self._write(_HEAD.pack(len(payload) << 8 | kind, flags, number) + payload)

    def _write(self, data: bytes) -> None:
        """Send with all else of this turn of the loop."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        if self._out and not self._closing:
            self._transport.write(b"".join(self._out))
        self._out.clear()
