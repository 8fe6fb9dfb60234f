"""One call at a time for the event loop: made in it, or in a thread where it may take long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_SLOW_S = 0.02  # the loop may stand still this long

Call = Callable[[], None]
Done = Callable[[Exception | None, float], None]
"""Called in the event loop with what the call raised and the seconds it took."""


class Handoff:
    """Makes calls for the event loop, never two at once.

    A quick call is made in the loop: handing it over would cost more than it takes. With `always`, or after a call that
    was slow, a thread makes it, and the loop goes on meanwhile.
    """

    def __init__(self, *, always: bool) -> None:
        self._always = always
        self._was_slow = False
        self._since: float | None = None
        self._thread: ThreadPoolExecutor | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a call is under way."""
        return self._since is not None

    @property
    def busy_s(self) -> float:
        """How long the call under way has taken so far."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    def run(self, call: Call, done: Done) -> None:
        """Make a call, then call `done`. None may be under way."""
        assert self._since is None, "calls must not overlap"
        self._since = time.monotonic()
        if not (self._always or self._was_slow):
            self._end(_attempt(call), done)
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="log-writer")
        self._thread.submit(self._in_thread, call, done, asyncio.get_running_loop())

    def close(self) -> None:
        """Let the thread go once it is idle."""
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    def _in_thread(self, call: Call, done: Done, loop: asyncio.AbstractEventLoop) -> None:
        error = _attempt(call)
        if not loop.is_closed():  # a call that hung until after the end has nobody to tell
            loop.call_soon_threadsafe(self._end, error, done)

    def _end(self, error: Exception | None, done: Done) -> None:
        took = self.busy_s
        self._since, self._was_slow = None, took > _SLOW_S
        done(error, took)


def _attempt(call: Call) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None
