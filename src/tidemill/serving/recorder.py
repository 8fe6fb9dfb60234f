"""Writes what was answered and what was learnt, before anybody is told: one write for all batches of a tick."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from tidemill.serving.handoff import Handoff
from tidemill.serving.metrics import Metrics
from tidemill.serving.turn import Turn
from tidemill.stores.segments import Batch, SegmentWriter

_logger = logging.getLogger(__name__)
_PROBE_EVERY_S = 1.0
_MAX_BUFFERS, _MAX_BUFFER_BYTES = 4, 4 << 20  # that are kept for the next write
_CLOSED = "the log is closed"
_LATE = "the log was opened after this request came"

Release = Callable[[str | None], None]
"""Called once a batch is written, or with the problem when it could not be."""
Prepare = Callable[[], None]
"""Called at most once before that, while a thread writes the batch: makes what is told where all goes well."""


class _Entry(NamedTuple):
    batch: Batch
    release: Release
    prepare: Prepare | None


class Recorder:
    """Appends batches to this gateway's segment.

    All batches added in one turn of the event loop are written by one write(2), then each one's `release` is called.
    While a thread writes (see `Handoff`), what comes in is gathered for the next write. Who has waited for `patience_s`
    is told that the log is slow, and until that write returns nobody waits for it any more; what it wrote may be in the
    log all the same. The segment is sealed when it is full or older than `max_age_s`.

    A segment that cannot be opened, at first or later, is tried again every second.

    Args:
        open_writer: makes the writer of a segment, given its `low_at`.
        metrics: counts failures, and times writes.
        now: gives the time in microseconds.
        wait_below_s: where it is finite a thread writes, and the event loop waits for it, two milliseconds at most,
            while a write takes less than this on average; with 0 never (see `Handoff`).
        max_age_s: the age at which a segment is sealed.
        patience_s: how long a write may take.
    """

    def __init__(
        self,
        open_writer: Callable[[int], SegmentWriter],
        metrics: Metrics,
        *,
        now: Callable[[], int],
        wait_below_s: float = float("inf"),
        max_age_s: float = 0.5,
        patience_s: float = 1.0,
    ) -> None:
        self._open_writer, self._metrics, self._now = open_writer, metrics, now
        self._max_age_s, self._patience_s = max_age_s, patience_s
        self.turn = Turn()
        self._encode_into = msgspec.msgpack.Encoder().encode_into
        self._buffers: list[bytearray] = []  # of the last write, to be used again: fresh memory costs more than rows
        self._hand = Handoff(wait_below_s=wait_below_s)
        self._writer: SegmentWriter | None = None
        self._waiting: list[_Entry] = []
        self._writing: list[_Entry] = []
        self._seal_at: int | None = None
        self._probed = self._opened = time.monotonic()
        self._since = 0  # rows received before it belong to no segment of ours
        self._project = ""
        self._gave_up = self._closed = False
        self.failure: str | None = None
        """Why rows cannot be logged now."""
        self.unsealed: str | None = None
        """Why rows that are logged do not reach the loop now."""
        self._open()

    def add(self, batch: Batch, release: Release, prepare: Prepare | None = None) -> None:
        """Write a batch in this turn of the event loop, or in the next write, and call `release` after it."""
        problem = self._refusal(batch)
        if problem is not None:
            release(problem)
            return
        if not self._waiting and not self._hand.is_busy:
            self.turn.soon(self.commit)
        self._waiting.append(_Entry(batch, release, prepare))

    def commit(self) -> None:
        """Write what waits, unless a write is under way: then it is written after that one."""
        if self._writer is None or self._hand.is_busy:
            return
        if self._seal_at is not None:
            low_at, self._seal_at = self._seal_at, None
            self._hand.run(partial(self._seal, self._writer, low_at), self._sealed, rare=True)
        elif self._waiting:
            self._writing, self._waiting = self._waiting, []
            self._append(self._writer, [entry.batch for entry in self._writing])

    def tick(self, low_at: int) -> None:
        """Seal the segment if it is due, and tell readers that nothing received before `low_at` is still to come."""
        self.commit()  # what waits was received before this tick
        if self._hand.busy_s > self._patience_s:
            self._give_up()
        came = (row.received_at for entry in self._waiting for row in entry.batch.feedback)
        posted = (one.received_at for entry in self._waiting for one in entry.batch.profiles)
        self._seal_at = min([low_at, *came, *posted])
        self.commit()
        if self.failure is not None and time.monotonic() - self._probed >= _PROBE_EVERY_S:
            self._probe()

    async def close(self) -> None:
        """Write what waits and seal the segment."""
        self._closed = True
        while (self._hand.is_busy or self._waiting) and self._writer is not None and not self._gave_up:
            self.commit()
            if self._hand.busy_s > self._patience_s:
                self._give_up()
            await asyncio.sleep(0.001)
        self._hand.close()
        if self._writer is not None and not self._hand.is_busy:
            try:
                self._writer.close()
            except OSError as error:  # the compactor seals what is left open
                _logger.error("the last segment cannot be sealed: %s", error)

    # ---- appending

    def _append(self, writer: SegmentWriter, batches: list[Batch]) -> None:
        self._project = batches[0].project
        try:
            frames = self._encoded(batches)
        except Exception as error:  # a value that no log could hold
            self._appended(error, 0.0)
            return
        write = partial(writer.append, frames)
        self._hand.run(write, self._appended, waits=not self.turn.goes_on, meanwhile=self._prepare)

    def _prepare(self) -> None:
        for entry in self._writing:
            if entry.prepare is not None:
                try:
                    entry.prepare()
                except Exception:  # then it is made later, and whoever is told sees what is wrong
                    _logger.exception("a reply could not be made before it is sent")

    def _encoded(self, batches: Sequence[Batch]) -> Sequence[bytearray]:
        """Return the batches in msgpack; what was returned before is overwritten, since no two writes overlap."""
        buffers = self._buffers
        del buffers[_MAX_BUFFERS:]
        for number, batch in enumerate(batches):
            if number == len(buffers) or len(buffers[number]) > _MAX_BUFFER_BYTES:
                buffers[number : number + 1] = [bytearray()]
            self._encode_into(batch, buffers[number])
        return buffers[: len(batches)]

    def _appended(self, error: Exception | None, took: float) -> None:
        written, self._writing = self._writing, []
        self._gave_up = False
        self._metrics.log_write.observe(took)
        problem = None if error is None else self._failed(error)
        if error is None and self.failure is not None:
            _logger.warning("the log can be written again")
            self.failure = None
        _tell(written, problem)
        self.commit()

    def _refusal(self, batch: Batch) -> str | None:
        """Return why a batch is not even tried."""
        if self._closed:  # a shadow that came in late
            return _CLOSED
        if self._writer is None or self._gave_up:
            return self.failure
        oldest = min((row.received_at for row in batch.predictions), default=self._since) if self._since else 0
        return _LATE if oldest < self._since else None

    def _give_up(self) -> None:
        """Let nobody wait any longer for the write under way; it is still made, whenever the disk goes on."""
        if self._gave_up:
            return
        self._gave_up = True
        problem = self._failed(TimeoutError(0, f"the disk has been at one write for {self._hand.busy_s:.1f} s"))
        told, self._writing, self._waiting = [*self._writing, *self._waiting], [], []
        _tell(told, problem)

    def _failed(self, error: Exception) -> str:
        if self.failure is None:
            _logger.error("the log cannot be written: %s", error)
        self._metrics.log_failures[()] += 1
        self.failure = f"the log cannot be written: {_reason(error)}"
        return self.failure

    # ---- segments

    def _open(self) -> bool:
        try:
            self._writer = self._open_writer(self._now())
        except OSError as error:
            self._failed(error)
        return self._writer is not None

    def _seal(self, writer: SegmentWriter, low_at: int) -> None:
        """Seal a segment that is full or old enough. May run in the thread."""
        now = time.monotonic()
        if writer.is_empty or writer.is_full or now - self._opened >= self._max_age_s:
            writer.rotate(low_at)
            self._opened, self.unsealed = now, None

    def _sealed(self, error: Exception | None, _: float) -> None:
        self._gave_up = False
        if error is not None and self._writer is not None and self._writer.is_empty:
            self._failed(error)  # not even the time in the header can be written
        elif error is not None:
            if self.unsealed is None:
                _logger.error("the log's segment cannot be sealed: %s", error)
            self._metrics.log_failures[()] += 1
            self.unsealed = f"the log's segment cannot be sealed, so that the loop does not see it: {_reason(error)}"
        self.commit()

    def _probe(self) -> None:
        """Find out whether the log can be written again: nothing may come in while this gateway is not ready."""
        self._probed = time.monotonic()
        if self._writer is None:
            if self._open():  # until now readers saw no segment of ours, and went on
                self._since, self.failure = self._now(), None
        elif not self._hand.is_busy:
            self._append(self._writer, [Batch(project=self._project)])


def _tell(entries: Sequence[_Entry], problem: str | None) -> None:
    """Release batches: one whose callers cannot be told keeps those of the others waiting no longer."""
    for entry in entries:
        try:
            entry.release(problem)
        except Exception:
            _logger.exception("callers could not be told")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
