"""What leaves on a connection of HTTP/2: as much as the peer takes, all of one turn of the event loop in one write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from tidemill.serving.http2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE,
    HEAD,
    HEADERS,
    MAX_WINDOW,
    NO_ERROR,
    PROTOCOL_ERROR,
    RST,
    ProtocolError,
    frame,
)
from tidemill.serving.http2_stream import Stream


class Replies:
    """Sends frames. `forget` is called with a stream when nothing more of it is to be sent."""

    def __init__(self, transport: Any, forget: Callable[[Stream], None]) -> None:
        self._transport, self._forget = transport, forget
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes] = []
        self._window, self._max_frame = FIRST_WINDOW, FRAME_SIZE
        self.first_window = FIRST_WINDOW
        """What the peer takes of a new stream before it says more."""
        self.blocked: dict[int, Stream] = {}
        """Streams whose replies wait for the peer to take more."""

    # ---- replies

    def send(self, stream: Stream, head: bytes, data: bytes, trailers: bytes) -> None:
        """Send a reply, as much of it as the peer takes now."""
        number, size = stream.number, len(data)
        if size > self._max_frame or size > self._window or size > stream.window or self.blocked:
            self.frame(HEADERS, END_HEADERS, number, head)
            stream.unsent, stream.trailers = data, trailers
            self.blocked[number] = stream
            self.send_blocked()
            return
        self._window -= size
        self._write(b"".join((
            HEAD.pack(len(head) << 8 | HEADERS, END_HEADERS, number), head,
            HEAD.pack(size << 8 | DATA, 0, number), data,
            HEAD.pack(len(trailers) << 8 | HEADERS, END_HEADERS | END_STREAM, number), trailers,
        )))  # fmt: skip
        self._forget(stream)

    def send_head(self, stream: Stream, head: bytes) -> None:
        """Send headers and nothing more; what still comes of the call is not read."""
        self.frame(HEADERS, END_HEADERS | END_STREAM, stream.number, head)
        if not stream.is_whole:
            self.frame(RST, 0, stream.number, NO_ERROR.to_bytes(4, "big"))
        self._forget(stream)

    def reset(self, stream: Stream, code: int) -> None:
        """End a call without a reply."""
        self.frame(RST, 0, stream.number, code.to_bytes(4, "big"))
        self._forget(stream)

    def send_blocked(self) -> None:
        """Send what waits for the peer to take more."""
        for stream in list(self.blocked.values()):
            while stream.unsent and (room := min(self._window, stream.window, self._max_frame)) > 0:
                part, stream.unsent = stream.unsent[:room], stream.unsent[room:]
                self._window -= len(part)
                stream.window -= len(part)
                self.frame(DATA, 0, stream.number, part)
            if not stream.unsent:
                self.frame(HEADERS, END_HEADERS | END_STREAM, stream.number, stream.trailers)
                self._forget(stream)

    # ---- what the peer takes

    def set_first_window(self, value: int, streams: Iterable[Stream]) -> None:
        """Take over what the peer takes of a stream, of those that are open too.

        Raises:
            ProtocolError: there is no such window.
        """
        if value > MAX_WINDOW:
            raise ProtocolError(FLOW_CONTROL_ERROR, "a window that cannot be")
        for stream in streams:
            stream.window += value - self.first_window
        self.first_window = value

    def set_max_frame(self, value: int) -> None:
        """Take over how large a frame the peer takes.

        Raises:
            ProtocolError: there is no such size.
        """
        if not FRAME_SIZE <= value < 1 << 24:
            raise ProtocolError(PROTOCOL_ERROR, "a frame size that cannot be")
        self._max_frame = value

    def widen(self, stream: Stream | None, more: int) -> None:
        """Let more be sent, of a stream or (None) of the connection.

        Raises:
            ProtocolError: there is no such window of the connection.
        """
        if stream is None:
            self._window += more
            if self._window > MAX_WINDOW or not more:
                raise ProtocolError(FLOW_CONTROL_ERROR, "a window that cannot be")
        else:
            stream.window += more
            if stream.window > MAX_WINDOW or not more:
                self.reset(stream, FLOW_CONTROL_ERROR)
        self.send_blocked()

    # ---- frames

    def frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """Send a frame."""
        self._write(frame(kind, flags, number, payload))

    def _write(self, data: bytes) -> None:
        """Send with all else of this turn of the loop."""
        if not self._out:
            self._loop.call_soon(self.flush)
        self._out.append(data)

    def flush(self) -> None:
        """Write what waits."""
        if self._out and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()
