"""One connection over HTTP: how long it may take, how much of it is read, and how it ends."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tidemill.errors import InvalidRequest, Unavailable
from tidemill.serving.calls import REFUSAL, Call, plain_problem
from tidemill.serving.patience import Patience, TooSlow
from tidemill.serving.tokens import ANYBODY

MAX_CALLS = 64
"""Calls of one connection that wait for their answers; then nothing more is read from it."""
_MAX_REFUSED = 256  # connections beyond the limit that are told so; more are closed without a word


class PatientConnection(HttpToolsProtocol):
    """A connection that waits for its caller, but not for ever. What is read and answered is up to `HotProtocol`."""

    cycle: Any

    def __init__(self, patience: Patience, **given: Any) -> None:
        super().__init__(**given)
        self._patience = patience
        self._calls: deque[Call] = deque()  # not answered yet, in order
        self._hot: Call | None = None  # whose body is being read
        self._reading = self._in_head = self._draining = self._ended = self._lingering = False
        self._was_asked = False  # since the timer looked last
        self._timer: asyncio.TimerHandle | None = None
        self._due = self._idle_since = self._paused_at = 0.0

    def send(self, call: Call, head: bytes, body: bytes) -> None:
        """Write a reply in its turn."""
        raise NotImplementedError

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
        # A call knows its connection: without this every closed one would wait for the collector, which seldom comes.
        self.cycle = None

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
        if len(self._calls) < MAX_CALLS and not self.pipeline:
            self._resume()

    def _resume(self) -> None:
        """Read again; the time in which nothing was read is not the caller's."""
        if self._reading and self.flow.read_paused:
            self._due = max(self._due, self.loop.time() + self._patience.head_s)
        self.flow.resume_reading()

    def _is_slow_busy(self) -> bool:
        cycle = self.cycle
        return cycle is not None and type(cycle) is not Call and not cycle.response_complete
