"""How large batches and parts should be, and how many hands are worth their start: measured on the first rows."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from tidemill.deploy.order import num_cores
from tidemill.deploy.task import Task
from tidemill.runtime.load import Loaded
from tidemill.runtime.threads import share
from tidemill.schema import Columns, Schema
from tidemill.stores.checked import check_table
from tidemill.stores.parts import Table
from tidemill.stores.sources import Source

PART_S, MOST_PART_S = 0.5, 4.0  # of work: short enough not to be missed after a kill, long enough for what each costs
PARTS_PER_HAND = 32  # where that makes them longer: hands then end together, give or take a fiftieth
WORTH_S = 1.0  # of work: what another process must save to be worth its start
MAX_PART_ROWS, MAX_PART_BYTES = 65_536, 32 << 20
MAX_BATCH_ROWS, MAX_BATCH_BYTES = 8_192, 64 << 20
_LONGEST_TRY_S, _BETTER = 0.1, 0.98
_FIRST_ROWS, _STEP = 8, 4
_UNKNOWN_ROW_S = 1e-6


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Rows per batch and per part, and the seconds and bytes of a row."""

    batch_rows: int
    part_rows: int
    row_s: float
    row_bytes: float


def find_pace(
    loaded: Loaded, schema: Schema, head: Table, task: Task, *, num_rows: int | None, jobs: int | None
) -> Pace:
    """Try growing batches of the first rows until they bring nothing more, for a fraction of a second.

    `num_rows` is how many the whole table has, None where nobody knows; `jobs` how many hands were asked for.
    """
    checked = check_table(schema, head, wanted=loaded.inputs, key=task.key, typed=task.typed)
    num = int(checked.good.sum())
    row_bytes = head.nbytes / max(len(head), 1)
    batch_rows, row_s = task.batch_rows or _FIRST_ROWS, _UNKNOWN_ROW_S
    if num:
        batch_rows, row_s = _tried(loaded, checked.columns, num, task.batch_rows, task.threads)
    most = max(1, min(MAX_PART_ROWS, int(MAX_PART_BYTES / max(row_bytes, 1.0))))
    part_s = _part_s(num_rows, row_s, num_hands=jobs or most_hands(task.threads))
    part_rows = min(most, max(batch_rows, math.ceil(part_s / max(row_s, 1e-9) / batch_rows) * batch_rows))
    return Pace(batch_rows=batch_rows, part_rows=part_rows, row_s=row_s, row_bytes=row_bytes)


def num_threads(wanted: int | None, jobs: int | None) -> int:
    """Return how many threads each of `jobs` hands has: what the project says, else its share of the cores.

    By default there is a hand for each core, on one thread: parts are what goes best side by side.
    """
    return wanted or (1 if jobs is None else share(num_cores(), workers=jobs, copies=1))


def most_hands(threads: int) -> int:
    """Return how many hands of `threads` threads there are cores for."""
    return share(num_cores(), workers=1, copies=threads)


def num_jobs(source: Source, pace: Pace, *, done: int, threads: int) -> int:
    """Return how many hands of `threads` threads there are cores and work for."""
    most = most_hands(threads)
    if source.num_rows is None:
        return most
    return max(1, min(most, int((source.num_rows - done) * pace.row_s / WORTH_S)))


def _part_s(num_rows: int | None, row_s: float, *, num_hands: int) -> float:
    """Return how long a part should take: the longer the whole job, the longer, within bounds."""
    if num_rows is None:
        return PART_S
    return min(max(PART_S, num_rows * row_s / num_hands / PARTS_PER_HAND), MOST_PART_S)


def _tried(loaded: Loaded, columns: Columns, num: int, wanted: int, threads: int) -> tuple[int, float]:
    bytes_of_row = sum(column[:1].nbytes for column in columns.values()) * 4  # as float32, of pictures
    most = max(1, min(MAX_BATCH_ROWS, MAX_BATCH_BYTES // max(bytes_of_row, 1)))
    size = wanted or min(_FIRST_ROWS, most)
    best, row_s = size, _seconds(loaded, columns, num, size, threads) / size
    while not wanted and size * _STEP <= most and row_s * size * _STEP < _LONGEST_TRY_S:
        size *= _STEP
        now = _seconds(loaded, columns, num, size, threads) / size
        if now > row_s * _BETTER:
            break
        best, row_s = size, now
    return best, row_s


def _seconds(loaded: Loaded, columns: Columns, num: int, size: int, threads: int) -> float:
    """Return the seconds of a warm batch: the first rows, over and over."""
    index = np.arange(size) % num
    batch = {name: column[index] for name, column in columns.items()}
    # A model on one thread of this process works in this one: what else the machine does need not count.
    clock = time.perf_counter if loaded.is_python or threads > 1 else time.thread_time
    taken = []
    for _ in range(6 if size <= _FIRST_ROWS else 4):  # the first is cold, and others may be disturbed
        begun = clock()
        loaded.predict(batch, finite=False)
        taken.append(clock() - begun)
    return max(min(taken), 1e-7)
