"""The windows of a backtest: how far time jumps between looks of the loop."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

import numpy as np

from tidemill.errors import ProjectError
from tidemill.loop.backtest.stream import TICK
from tidemill.schema import Array

_US = timedelta(microseconds=1)
_MOST = 100_000
_USUAL = 20


class Window(NamedTuple):
    """Rows `first` to `last` (exclusive) of the stream, and the microsecond at which the loop looks."""

    first: int
    last: int
    now: int


def windows(received_at: Array, start: int, step: timedelta | int | None) -> list[Window]:
    """Return the windows from `start` (microseconds) on: of a span of time, of so many rows, or 20 of equal time.

    Raises:
        ProjectError: the step is nothing, or makes too many windows.
    """
    first, end = int(np.searchsorted(received_at, start)), int(received_at[-1])
    if isinstance(step, int):
        return _of_rows(received_at, first, step)
    span = (end + 1 - start) // _USUAL + TICK if step is None else step // _US
    span = span // TICK * TICK
    if span <= 0 or (end - start) // span >= _MOST:
        raise ProjectError(f"step is {step}, which makes too many windows.", "give a longer step, such as '1d'")
    edges = np.arange(start + span, end + 1 + span, span, dtype=np.int64)
    lasts = np.searchsorted(received_at, edges)
    firsts = [first, *lasts[:-1].tolist()]
    return [Window(a, int(b), int(edge) - TICK + 1) for a, b, edge in zip(firsts, lasts, edges, strict=True)]


def _of_rows(received_at: Array, first: int, step: int) -> list[Window]:
    if step <= 0:
        raise ProjectError(f"step is {step} rows.", "give a positive number of rows, or a time such as '1d'")
    num = len(received_at)
    return [
        Window(a, min(a + step, num), int(received_at[min(a + step, num) - 1]) + 1) for a in range(first, num, step)
    ]
