"""Measures that take too long for a view: taken by one thread behind it, kept with the time they were taken."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from datetime import datetime
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from tidemill.clock import Clock
from tidemill.errors import TidemillError

_MOST = 500  # readings kept; the one not asked for the longest goes first
_MOST_WAITING = 100  # measures; whoever asks for more asks again, as open pages do
FRESH_S = 60.0
_FAILED_FRESH_S = 5.0  # what failed may do so for a moment only
_logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Reading(Generic[T]):
    """What a measure gave, or `problem` where it failed; `is_renewing` while a newer one is under way.

    `error` is what it raised, where that was foreseen.
    """

    value: T | None
    at: datetime
    took_s: float
    problem: str = ""
    error: TidemillError | None = None
    is_renewing: bool = False


class Measured:
    """Takes measures one after the other in a thread of its own; who asks twice for one waits for the same."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._kept: OrderedDict[Hashable, Reading[Any]] = OrderedDict()
        self._asked: set[Hashable] = set()
        self._queue: SimpleQueue[tuple[Hashable, Callable[[], Any]] | None] = SimpleQueue()
        self._idle = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._run, name="tidemill-measured", daemon=True)
        self._stopping = False
        self.revision = 0
        """Grows with every measure taken."""

    def start(self) -> None:
        """Begin to measure."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, once the measure under way is taken."""
        if self._thread.is_alive():
            self._stopping = True
            self._queue.put(None)
            self._thread.join()

    def ask(self, key: Hashable, measure: Callable[[], T], *, fresh_s: float = FRESH_S) -> Reading[T] | None:
        """Return the last reading, None before the first; one older than `fresh_s` is taken anew behind it.

        One that failed holds for some seconds; then it is as if there were none. `key` says what is measured: equal
        keys are one measure. It returns at once.
        """
        with self._lock:
            last = self._kept.get(key)
            if last is not None:
                self._kept.move_to_end(key)
                age_s = (self._clock.now() - last.at).total_seconds()
                if age_s <= (min(fresh_s, _FAILED_FRESH_S) if last.problem else fresh_s) and key not in self._asked:
                    return last
            if key not in self._asked and len(self._asked) < _MOST_WAITING:
                self._asked.add(key)
                self._queue.put((key, measure))
            return None if last is None or last.problem else replace(last, is_renewing=True)

    def settle(self, timeout_s: float = 60.0) -> bool:
        """Wait until all that was asked for is taken; return whether it is."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._asked, timeout_s)

    def _run(self) -> None:
        while (job := self._queue.get()) is not None and not self._stopping:
            key, measure = job
            reading = self._take(measure)
            with self._idle:
                self._kept[key] = reading
                self._kept.move_to_end(key)
                if len(self._kept) > _MOST:
                    self._kept.popitem(last=False)
                self._asked.discard(key)
                self.revision += 1
                self._idle.notify_all()

    def _take(self, measure: Callable[[], Any]) -> Reading[Any]:
        began, value, problem, raised = time.perf_counter(), None, "", None
        try:
            value = measure()
        except TidemillError as error:
            problem, raised = str(error), _bare(error)
        except Exception:  # a user's metric or projection may raise anything
            _logger.exception("a measure failed")
            problem = "it failed; the log of the page says why"
        return Reading(
            value=value, at=self._clock.now(), took_s=time.perf_counter() - began, problem=problem, error=raised
        )


def _bare(error: TidemillError) -> TidemillError:
    """Return an error without where it came from: that would hold on to all that was measured."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
