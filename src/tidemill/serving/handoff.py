"""One call at a time for the event loop: made in it, or in a thread that it waits for only where that is short."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

_SLOW_S = 0.02  # the loop may stand still this long
_LONGEST_MS = 2  # and this long for a thread, whatever becomes of the call
_WEIGHT = 0.2  # of the last call in the average

Call = Callable[[], None]
Done = Callable[[Exception | None, float], None]
"""Called in the event loop with what the call raised and the seconds it took."""


class _Made(NamedTuple):
    """What became of a call."""

    error: Exception | None
    took_s: float


class _Thread:
    """A thread that makes one call at a time, asked and answering by pipes.

    A pipe wakes who waits at its other end once, and can be waited for together with all else that the event loop waits
    for. A lock would do neither: who is woken by one must then wait for the interpreter's, too, which costs a processor
    twice the turns.

    Raises:
        OSError: there may be no more threads, or files.
    """

    def __init__(self, over: Call) -> None:
        self._call: Call | None = None
        self._made = _Made(None, 0.0)
        self._loop = asyncio.get_running_loop()
        ends = [*os.pipe()]
        try:
            ends += os.pipe()
            self._asked, self._ask, self._answered, self._answer = ends
            threading.Thread(target=self._run, name="log-writer", daemon=True).start()
        except (OSError, RuntimeError) as error:
            for end in ends:
                os.close(end)
            raise OSError(errno.EAGAIN, f"there is nobody to write: {error}") from error
        self._poll = select.poll()
        self._poll.register(self._answered, select.POLLIN)
        self._loop.add_reader(self._answered, over)

    def make(self, call: Call) -> None:
        """Begin a call; the event loop calls `over` when it is made, unless `is_over` saw that before."""
        self._call = call
        os.write(self._ask, b".")

    def is_over(self, within_ms: int) -> bool:
        """Wait for the end of the call, in the event loop."""
        return bool(self._poll.poll(within_ms))

    def take(self) -> _Made | None:
        """Return what became of the call that is over; None where the thread has ended with it."""
        return self._made if os.read(self._answered, 1) else None

    def close(self) -> None:
        """Let the thread go once it is idle; nobody is told of a call under way any more."""
        self._loop.remove_reader(self._answered)
        os.close(self._answered)
        os.close(self._ask)

    def _run(self) -> None:
        try:
            while os.read(self._asked, 1):
                self._made = _made(self._call)
                self._call = None
                os.write(self._answer, b".")
        except BrokenPipeError:
            pass  # a call that hung until now has nobody to tell
        finally:
            os.close(self._asked)
            os.close(self._answer)


def _made(call: Call | None) -> _Made:
    assert call is not None
    begun = time.monotonic()
    error = _attempt(call)
    return _Made(error, time.monotonic() - begun)


class Handoff:
    """Makes calls for the event loop, never two at once.

    A quick call is made in the loop: handing it over would cost more than it takes. After a call that was slow a thread
    makes the next, and the loop goes on meanwhile.

    Args:
        wait_below_s: with a finite number a thread makes all calls, so that one that hangs does not stop the loop. The
            loop waits for the thread, two milliseconds at most, while calls take less than this on average, which is
            cheaper than to go on and be called back; with 0 never. The first call is not waited for.
    """

    def __init__(self, *, wait_below_s: float = float("inf")) -> None:
        self._wait_below_s = wait_below_s
        self._is_inline = wait_below_s == float("inf")
        self._average_s = wait_below_s
        self._was_slow = False
        self._since: float | None = None
        self._thread: _Thread | None = None
        self._done: Done = _nobody
        self._counts = False

    @property
    def is_busy(self) -> bool:
        """Whether a call is under way."""
        return self._since is not None

    @property
    def busy_s(self) -> float:
        """How long the call under way has taken so far."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    def run(
        self, call: Call, done: Done, *, rare: bool = False, waits: bool = True, meanwhile: Call | None = None
    ) -> None:
        """Make a call, then call `done`. None may be under way.

        One that is `rare` takes longer than the others: it is no measure of them, and is not waited for. Without
        `waits` none is: where there is more to do meanwhile, that saves more than the waiting would. Where a thread is
        waited for, the loop does `meanwhile` first, which must not raise.
        """
        assert self._since is None, "calls must not overlap"
        self._since = time.monotonic()
        if self._is_inline and not self._was_slow:
            error = _attempt(call)
            self._end(error, time.monotonic() - self._since, done)
            return
        try:
            thread = self._thread = self._thread or _Thread(self._told)
        except OSError as error:
            self._end(error, 0.0, done)
            return
        self._done, self._counts = done, not self._is_inline and not rare
        thread.make(call)
        if waits and self._counts and self._average_s < self._wait_below_s:
            if meanwhile is not None:
                meanwhile()
            if thread.is_over(_LONGEST_MS):
                self._told()

    def close(self) -> None:
        """Let the thread go once it is idle; who waits for a call under way is not told any more."""
        if self._thread is not None:
            self._thread.close()
            self._thread = None

    def _told(self) -> None:
        assert self._thread is not None
        made, done, self._done = self._thread.take(), self._done, _nobody
        if made is None:
            self.close()
            made = _Made(OSError(errno.EIO, "the thread that writes has ended"), 0.0)
        if self._counts:
            self._average_s += _WEIGHT * (made.took_s - self._average_s)
        self._end(made.error, made.took_s, done)

    def _end(self, error: Exception | None, took_s: float, done: Done) -> None:
        self._since, self._was_slow = None, took_s > _SLOW_S
        done(error, took_s)


def _nobody(error: Exception | None, took_s: float) -> None:
    """Tell nobody."""


def _attempt(call: Call) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None
