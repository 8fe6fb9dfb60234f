"""Writes what was answered and what was learnt, before anybody is told: one write for all batches of a tick."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from tidemill.serving.metrics import Metrics
from tidemill.stores.segments import Batch, SegmentWriter

_logger = logging.getLogger(__name__)
_PROBE_EVERY_S = 1.0

Release = Callable[[str | None], None]
"""Called once a batch is written, or with the problem when it could not be."""


class Recorder:
    """Appends batches to this gateway's segment.

    All batches added in one turn of the event loop are written by one write(2), then each one's `release` is called.
    The segment is sealed when it is full or older than `max_age_s`.
    """

    def __init__(self, writer: SegmentWriter, metrics: Metrics, *, max_age_s: float = 0.5) -> None:
        self._writer = writer
        self._metrics = metrics
        self._max_age_s = max_age_s
        self._encode = msgspec.msgpack.Encoder().encode
        self._waiting: list[tuple[Batch, Release]] = []
        self._opened = time.monotonic()
        self._probed = 0.0
        self._lost = Batch(project="")
        self._closed = False
        self.failure: str | None = None

    def add(self, batch: Batch, release: Release) -> None:
        """Write a batch in this turn of the event loop, and call `release` after it."""
        if self._closed:  # a shadow that came in late
            release("the log is closed")
            return
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.commit)
        self._waiting.append((batch, release))

    def commit(self) -> None:
        """Write what waits and release it."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        problem = self._append([batch for batch, _ in waiting])
        for _, release in waiting:
            release(problem)

    def tick(self, low_at: int) -> None:
        """Seal the segment if it is due, and tell readers that nothing received before `low_at` is still to come."""
        self.commit()  # what waits was received before this tick
        now = time.monotonic()
        try:
            if self._writer.is_empty:
                self._opened = now
                self._writer.idle(low_at)
            elif self._writer.is_full or now - self._opened >= self._max_age_s:
                self._writer.rotate(low_at)
                self._opened = now
        except OSError as error:
            self._failed(error)
        if self.failure is not None and now - self._probed >= _PROBE_EVERY_S:
            # Nothing may come in while this gateway says it is not ready: find out by itself whether it is again.
            self._probed = now
            self._append([Batch(project=self._lost.project)])

    def close(self) -> None:
        """Write what waits and seal the segment."""
        self.commit()
        self._closed = True
        self._writer.close()

    def _append(self, batches: list[Batch]) -> str | None:
        try:
            self._writer.append([self._encode(batch) for batch in batches])
        except Exception as error:
            self._lost = batches[0]
            return self._failed(error)
        if self.failure is not None:
            _logger.warning("the log can be written again")
            self.failure = None
        return None

    def _failed(self, error: Exception) -> str:
        if self.failure is None:
            _logger.error("the log cannot be written: %s", error)
        self._metrics.log_failures[()] += 1
        self.failure = f"the log cannot be written: {getattr(error, 'strerror', None) or type(error).__name__}"
        return self.failure
