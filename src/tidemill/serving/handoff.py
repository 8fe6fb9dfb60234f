"""One call at a time for the event loop: made in it, or in a thread where it may take long."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable

_SLOW_S = 0.02  # the loop may stand still this long
_WEIGHT = 0.2  # of the last call in the average

Call = Callable[[], None]
Done = Callable[[Exception | None, float], None]
"""Called in the event loop with what the call raised and the seconds it took."""
_Work = tuple[Call, Done, asyncio.AbstractEventLoop, bool]


class Handoff:
    """Makes calls for the event loop, never two at once.

    A quick call is made in the loop: handing it over would cost more than it takes. After a call that was slow a thread
    makes the next, and the loop goes on meanwhile.

    Args:
        inline_below_s: a thread makes the calls, too, while they take longer than this on average. The first call is
            made in the thread, unless this is infinite; with 0 all are.
    """

    def __init__(self, *, inline_below_s: float = float("inf")) -> None:
        self._inline_below_s = inline_below_s
        self._average_s = inline_below_s if inline_below_s < float("inf") else 0.0
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

    def run(self, call: Call, done: Done, *, rare: bool = False) -> None:
        """Make a call, then call `done`. None may be under way.

        One that is `rare` takes longer than the others and is no measure of them: where they are measured, a thread
        makes it.
        """
        assert self._since is None, "calls must not overlap"
        self._since = time.monotonic()
        is_measured = self._inline_below_s < float("inf")
        if self._average_s < self._inline_below_s and not self._was_slow and not (rare and is_measured):
            self._end(_attempt(call), time.monotonic() - self._since, done, is_measured)
            return
        if self._work is None:
            self._work = queue.SimpleQueue()
            threading.Thread(target=self._run, args=(self._work,), name="log-writer", daemon=True).start()
        self._work.put((call, done, asyncio.get_running_loop(), is_measured and not rare))

    def close(self) -> None:
        """Let the thread go once it is idle."""
        if self._work is not None:
            self._work.put(None)

    def _run(self, work: queue.SimpleQueue[_Work | None]) -> None:
        while (item := work.get()) is not None:
            call, done, loop, counts = item
            begun = time.monotonic()
            error = _attempt(call)
            try:
                loop.call_soon_threadsafe(self._end, error, time.monotonic() - begun, done, counts)
            except RuntimeError:
                return  # the loop has ended: a call that hung until then has nobody to tell

    def _end(self, error: Exception | None, took_s: float, done: Done, counts: bool) -> None:
        self._since, self._was_slow = None, took_s > _SLOW_S
        if counts:
            self._average_s += _WEIGHT * (took_s - self._average_s)
        done(error, took_s)


def _attempt(call: Call) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None
