"""One call at a time for the event loop: made in it, or in a thread that it waits for only where that is short."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable

_SLOW_S = 0.02  # the loop may stand still this long
_LONGEST_S = 0.002  # and this long for a thread, whatever becomes of the call
_WEIGHT = 0.2  # of the last call in the average

Call = Callable[[], None]
Done = Callable[[Exception | None, float], None]
"""Called in the event loop with what the call raised and the seconds it took."""


class _Work:
    """A call that a thread makes, and who tells of its end: the loop while it waits for it, else the thread."""

    def __init__(self, call: Call, done: Done, *, counts: bool) -> None:
        self.call, self.done, self.counts = call, done, counts
        self.loop = asyncio.get_running_loop()
        self.error: Exception | None = None
        self.took_s = 0.0
        self._over = threading.Lock()
        self._over.acquire()
        self._guard = threading.Lock()
        self._is_over = self._is_left = False
        self._begun = threading.Lock()
        self._begun.acquire()

    def make(self) -> bool:
        """Make the call, in the thread; say whether nobody waits for its end any more."""
        self._begun.release()
        begun = time.monotonic()
        self.error = _attempt(self.call)
        self.took_s = time.monotonic() - begun
        with self._guard:
            self._is_over = True
        self._over.release()
        return self._is_left

    def begins_within(self, seconds: float) -> float:
        """Wait until the thread has come so far that it goes on without the loop's help; return what is left."""
        asked = time.monotonic()
        self._begun.acquire(timeout=seconds)
        return max(0.0, seconds - (time.monotonic() - asked))

    def is_over_within(self, seconds: float) -> bool:
        """Wait for its end, in the loop; where it does not come the thread tells of it."""
        if seconds > 0.0 and self._over.acquire(timeout=seconds):
            return True
        with self._guard:
            self._is_left = not self._is_over
        return self._is_over


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
        self._work: queue.SimpleQueue[_Work | None] | None = None

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
        if self._work is None:
            self._work = queue.SimpleQueue()
            threading.Thread(target=_run, args=(self._work, self._told), name="log-writer", daemon=True).start()
        work = _Work(call, done, counts=not self._is_inline and not rare)
        self._work.put(work)
        left_s = _LONGEST_S if waits and work.counts and self._average_s < self._wait_below_s else 0.0
        if left_s and meanwhile is not None:
            # One that has not begun could not do so while the interpreter is at work here.
            left_s = work.begins_within(left_s)
            meanwhile()
        if work.is_over_within(left_s):
            self._told(work)

    def close(self) -> None:
        """Let the thread go once it is idle."""
        if self._work is not None:
            self._work.put(None)

    def _told(self, work: _Work) -> None:
        if work.counts:
            self._average_s += _WEIGHT * (work.took_s - self._average_s)
        self._end(work.error, work.took_s, work.done)

    def _end(self, error: Exception | None, took_s: float, done: Done) -> None:
        self._since, self._was_slow = None, took_s > _SLOW_S
        done(error, took_s)


def _run(queued: queue.SimpleQueue[_Work | None], told: Callable[[_Work], None]) -> None:
    while (work := queued.get()) is not None:
        if work.make():
            try:
                work.loop.call_soon_threadsafe(told, work)
            except RuntimeError:
                return  # the loop has ended: a call that hung until then has nobody to tell


def _attempt(call: Call) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None
