"""Work-conserving batches: when a version is free it takes what has arrived, at most `max_batch`; there is no timer."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct

from tidemill.errors import ModelHung
from tidemill.runtime.load import Loaded
from tidemill.schema import Array

INLINE_BELOW_S = 0.0005
"""A version whose full warm batch takes less runs in the event loop: a thread would cost more than it frees."""
_TOO_SLOW_INLINE_S = 0.005
_WEIGHT = 0.2  # of the newest batch in what a row takes

RAISED, TIMEOUT, NOT_FINITE, NOT_LOADED, OVERLOADED = "raised", "timeout", "not_finite", "not_loaded", "overloaded"
"""Why a version did not answer: `fallback_reason` in the log, and a label of the metrics."""


class Failure(NamedTuple):
    """Why a version did not answer a row, for the log, and in words, for people who operate it."""

    reason: str
    detail: str


class Row(Struct, eq=False):
    """A request that waits for a version: canonical `inputs`, and until when (`time.monotonic`) it waits there.

    `waits_in` is the queue it is in, or whose batch it is in (`is_running`); a batcher passes over rows that wait
    elsewhere by now, or nowhere, or whose time is up.
    """

    inputs: dict[str, Any]
    deadline: float
    waits_in: Batcher | None = None
    is_running: bool = False


@dataclass(slots=True)
class Scored:
    """What a version made of a batch of N rows.

    `scores` is float32 (N, K), without meaning where a row failed; `failures` is by position, and so is `outliers`: the
    inputs outside what the version learnt from.
    """

    scores: Array
    seconds: float
    failures: dict[int, Failure] = field(default_factory=dict)
    outliers: dict[int, list[str]] = field(default_factory=dict)


def score(loaded: Loaded, inputs: Sequence[Mapping[str, Any]], *, until: float = float("inf")) -> Scored:
    """Predict a batch; a row that makes the model raise, or gives NaN, fails alone.

    `until` (of `time.monotonic`) is when nobody waits for the batch any more: rows are not tried singly after it.
    """
    begun = time.perf_counter()
    failures: dict[int, Failure] = {}
    columns = loaded.schema.columns(inputs, loaded.inputs)
    try:
        scores = loaded.predict(columns, finite=False)
    except ModelHung as error:  # trying the rows singly would hang as often as there are rows
        scores = _nothing(loaded, len(inputs))
        failures = dict.fromkeys(range(len(inputs)), Failure(TIMEOUT, error.message))
    except Exception as error:
        scores, failures = _singly(loaded, inputs, error, until)
    finite = np.isfinite(scores)
    if not finite.all():
        for i in np.flatnonzero(~finite.all(axis=1)).tolist():
            failures.setdefault(i, Failure(NOT_FINITE, "the model returned NaN or infinity"))
    return Scored(scores, time.perf_counter() - begun, failures, loaded.ranges.outliers(columns))


def _singly(
    loaded: Loaded, inputs: Sequence[Mapping[str, Any]], error: Exception, until: float
) -> tuple[Array, dict[int, Failure]]:
    scores = _nothing(loaded, len(inputs))
    if len(inputs) == 1:
        return scores, {0: Failure(RAISED, _words(error))}
    failures = {}
    for i, row in enumerate(inputs):
        if time.monotonic() >= until:
            failures[i] = Failure(TIMEOUT, f"its batch failed: {_words(error)}")
            continue
        try:
            scores[i] = loaded.predict(loaded.schema.columns([row], loaded.inputs), finite=False)[0]
        except Exception as own:
            failures[i] = Failure(TIMEOUT if isinstance(own, ModelHung) else RAISED, _words(own))
    return scores, failures


def _nothing(loaded: Loaded, num_rows: int) -> Array:
    return np.zeros((num_rows, loaded.schema.output.num_scores), dtype=np.float32)


def _words(error: Exception) -> str:
    return str(getattr(error, "message", "") or f"{type(error).__name__}: {error}")[:500]


Done = Callable[["Sequence[Any]", Scored], None]
"""Called in the event loop with the rows of a batch, those that no longer wait included, and what became of them."""


class Batcher:
    """The queue of one version, and what empties it: the event loop itself, or one thread of its own.

    Every method is called in the event loop. Shadow rows run only when no other row waits, and at most `max_shadows`
    are kept.
    """

    def __init__(self, loaded: Loaded, *, done: Done, shadowed: Done, max_batch: int, inline: bool) -> None:
        self._loaded = loaded
        self._done, self._shadowed = done, shadowed
        self._loop = asyncio.get_running_loop()
        self._rows: deque[Row] = deque()
        self._shadows: deque[Row] = deque()
        self._busy = False
        self._overdue_at = float("inf")
        self._num_running = 0
        self._row_s = 0.0  # what a row takes, a moving average over batches
        self._work: queue.SimpleQueue[tuple[list[Row], Done] | None] | None = None
        self.max_batch = max_batch
        self.inline = inline and not loaded.is_python

    @property
    def num_waiting(self) -> int:
        """Rows in the queue, but for shadows."""
        return len(self._rows)

    @property
    def wait_s(self) -> float:
        """How long the rows before a new one will take, as quick as the version is now."""
        return (len(self._rows) + self._num_running) * self._row_s

    @property
    def is_stuck(self) -> bool:
        """Whether the batch at work has outlived its rows: what is put in now would only wait for nothing."""
        return time.monotonic() > self._overdue_at

    def put(self, row: Row) -> None:
        """Queue a row for the next batch."""
        row.waits_in, row.is_running = self, False
        self._rows.append(row)
        self._wake()

    def put_shadow(self, row: Row) -> bool:
        """Queue a shadow row; False when the queue of shadows is full."""
        if len(self._shadows) >= 4 * self.max_batch:
            return False
        row.waits_in = self
        self._shadows.append(row)
        self._wake()
        return True

    def purge(self) -> None:
        """Drop rows that no longer wait here."""
        self._rows = deque(row for row in self._rows if row.waits_in is self)
        self._shadows = deque(row for row in self._shadows if row.waits_in is self)

    def close(self) -> None:
        """End the thread once it is through with its batch."""
        if self._work is not None:
            self._work.put(None)

    def _wake(self) -> None:
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._next)  # after all that came in this turn of the loop

    def _next(self) -> None:
        rows, done = self._take(self._rows), self._done
        if not rows:
            rows, done = self._take(self._shadows), self._shadowed
        if not rows:
            self._busy = False
        elif self.inline:
            self._finish(rows, done, score(self._loaded, [row.inputs for row in rows]))
        else:
            self._overdue_at, self._num_running = max(row.deadline for row in rows), len(rows)
            self._in_thread((rows, done))

    def _take(self, waiting: deque[Row]) -> list[Row]:
        rows: list[Row] = []
        now = time.monotonic()
        while waiting and len(rows) < self.max_batch:
            row = waiting.popleft()
            if row.waits_in is self and row.deadline > now:
                row.is_running = True
                rows.append(row)
        return rows

    def _finish(self, rows: list[Row], done: Done, scored: Scored) -> None:
        self._overdue_at, self._num_running = float("inf"), 0
        self._row_s += _WEIGHT * (scored.seconds / len(rows) - self._row_s)
        if scored.seconds > _TOO_SLOW_INLINE_S:
            self.inline = False  # its rows are larger than the examples it was measured with: do not hold up the others
        try:
            done(rows, scored)
        finally:
            if self._rows or self._shadows:
                self._loop.call_soon(self._next)
            else:
                self._busy = False

    def _in_thread(self, batch: tuple[list[Row], Done]) -> None:
        if self._work is None:
            self._work = queue.SimpleQueue()
            threading.Thread(target=self._run, args=(self._work,), name="tidemill-version", daemon=True).start()
        self._work.put(batch)

    def _run(self, work: queue.SimpleQueue[tuple[list[Row], Done] | None]) -> None:
        while (batch := work.get()) is not None:
            rows, done = batch
            scored = score(self._loaded, [row.inputs for row in rows], until=max(row.deadline for row in rows))
            try:
                self._loop.call_soon_threadsafe(self._finish, rows, done, scored)
            except RuntimeError:
                return  # the loop has ended, and with it all who waited
