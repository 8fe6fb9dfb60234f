"""Work-conserving batches: when a version is free it takes what has arrived, at most `max_batch`; there is no timer."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
from msgspec import Struct

from tidemill.errors import ModelHung
from tidemill.runtime.load import Loaded
from tidemill.schema import Array
from tidemill.serving.turn import Turn

INLINE_BELOW_S = 0.0005
"""A version whose full warm batch takes less runs in the event loop: a thread would cost more than it frees."""
_TOO_SLOW_INLINE_S = 0.005
_NUM_SLOW, _NUM_QUICK = 2, 100  # batches in a row, after which it leaves the loop or comes back
_NEVER = float("inf")
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


AnyRow = TypeVar("AnyRow", bound=Row)


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
    outliers: dict[int, list[str]] = {}
    try:
        columns = loaded.schema.columns(inputs, loaded.inputs)
        outliers = loaded.ranges.outliers(columns)
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
    return Scored(scores, time.perf_counter() - begun, failures, outliers)


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
    """The queue of one version, and what empties it: the event loop itself, or threads of its own, one for each copy.

    Every method is called in the event loop. No copy is idle while rows wait: those that are free share what has come.
    Shadow rows run only when no other row waits, and at most `max_shadows` are kept.
    """

    def __init__(
        self, loaded: Loaded, *, done: Done, shadowed: Done, max_batch: int, inline: bool, turn: Turn | None = None
    ) -> None:
        self._loaded, self._turn = loaded, turn or Turn()
        self._done, self._shadowed = done, shadowed
        self._loop = asyncio.get_running_loop()
        self._rows: deque[Row] = deque()
        self._shadows: deque[Row] = deque()
        self._copies = self._num_free = loaded.copies
        self._woken = False
        self._running: dict[int, tuple[int, float]] = {}  # of each batch in a thread: its rows, and when it is overdue
        self._num_threads = 0
        self._row_s = 0.0  # what a row takes, a moving average over batches
        self._work: queue.SimpleQueue[tuple[list[Row], Done] | None] | None = None
        self.max_batch = max_batch
        self.inline = self._is_quick = inline and not loaded.is_python
        self._num_odd = 0  # batches in a row that should have run elsewhere

    @property
    def num_waiting(self) -> int:
        """Rows in the queue, but for shadows."""
        return len(self._rows)

    @property
    def wait_s(self) -> float:
        """How long the rows before a new one will take, as quick as the version is now."""
        num_running = sum(num_rows for num_rows, _ in self._running.values())
        return (len(self._rows) + num_running) * self._row_s / self._copies

    @property
    def is_stuck(self) -> bool:
        """Whether all batches at work have outlived their rows: what is put in now would only wait for nothing."""
        return not self._num_free and time.monotonic() > max((at for _, at in self._running.values()), default=_NEVER)

    def put(self, row: Row) -> None:
        """Queue a row for the next batch."""
        row.waits_in, row.is_running = self, False
        self._rows.append(row)
        self._wake()

    def put_all(self, rows: Sequence[Row]) -> None:
        """Queue rows whose `waits_in` is this queue already."""
        self._rows.extend(rows)
        self._wake()

    def room(self, max_waiting: int, max_wait_s: float) -> int:
        """Return how many rows may be queued now, so that none waits longer than that."""
        room = max_waiting - len(self._rows)
        if self._row_s > 0.0:
            room = min(room, 1 + int((max_wait_s - self.wait_s) / self._row_s))
        return max(room, 0)

    def put_shadows(self, rows: Sequence[AnyRow]) -> Sequence[AnyRow]:
        """Queue shadow rows, as many as the queue of shadows has room for; return the others."""
        room = max(4 * self.max_batch - len(self._shadows), 0)
        for row in rows[:room]:
            row.waits_in = self
        self._shadows.extend(rows[:room])
        self._go_on()
        return rows[room:]

    def purge(self) -> None:
        """Drop rows that no longer wait here."""
        self._rows = deque(row for row in self._rows if row.waits_in is self)
        self._shadows = deque(row for row in self._shadows if row.waits_in is self)

    def close(self) -> None:
        """End the threads once they are through with their batches."""
        if self._work is not None:
            for _ in range(self._num_threads):
                self._work.put(None)

    def _wake(self) -> None:
        if self._num_free and not self._woken:
            self._woken = True
            self._turn.soon(self._next)

    def _next(self) -> None:
        self._woken = False
        rows, done = self._take(self._rows), self._done
        if not rows:
            rows, done = self._take(self._shadows), self._shadowed
        if not rows:
            return
        self._num_free -= 1
        if self.inline:
            self._finish(rows, done, score(self._loaded, [row.inputs for row in rows]))
            return
        for row in rows:
            row.is_running = True
        self._running[id(rows)] = len(rows), max(row.deadline for row in rows)
        self._in_thread((rows, done))
        self._go_on()  # another copy may be free for what is left

    def _go_on(self) -> None:
        if (self._rows or self._shadows) and self._num_free and not self._woken:
            self._woken = True
            self._turn.later(self._next)

    def _take(self, waiting: deque[Row]) -> list[Row]:
        now = time.monotonic()
        rows: list[Row] = []
        while waiting and not rows:
            share = -(-len(waiting) // self._num_free)
            taken = [waiting.popleft() for _ in range(min(share, self.max_batch))]
            rows = [row for row in taken if row.waits_in is self and row.deadline > now]
        return rows

    def _finish(self, rows: list[Row], done: Done, scored: Scored) -> None:
        self._running.pop(id(rows), None)
        self._num_free += 1
        self._row_s += _WEIGHT * (scored.seconds / len(rows) - self._row_s)
        if self._is_quick:
            self._note_time(scored.seconds)
        try:
            done(rows, scored)
        finally:
            self._go_on()

    def _note_time(self, seconds: float) -> None:
        """Leave the loop to others while rows are larger than the examples that the version was measured with.

        Or while the machine is busy, so come back when batches are quick.
        """
        is_odd = (seconds > _TOO_SLOW_INLINE_S) == self.inline
        self._num_odd = self._num_odd + 1 if is_odd else 0
        if self._num_odd >= (_NUM_SLOW if self.inline else _NUM_QUICK):
            self.inline, self._num_odd = not self.inline, 0

    def _in_thread(self, batch: tuple[list[Row], Done]) -> None:
        self._work = self._work or queue.SimpleQueue()
        if len(self._running) > self._num_threads:
            self._num_threads += 1
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
