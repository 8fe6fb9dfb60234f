"""The people who label what a strategy asks for: so many a day, after a delay, and not always rightly."""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from tidemill.loop.backtest.reservoir import MemoryReservoir
from tidemill.loop.backtest.traffic import Traffic
from tidemill.loop.backtest.world import RehearsalWorld
from tidemill.records import Trust

_DAY_US = timedelta(days=1) // timedelta(microseconds=1)


class Labellers:
    """Take requests off the queue, at most `per_day` (None: all), and answer each `delay` after they took it.

    What the stream knows no label of cannot be answered: `num_asked` counts what was taken, `num_unknown` these.
    """

    def __init__(
        self, world: RehearsalWorld, traffic: Traffic, told: np.ndarray, *, delay: timedelta, per_day: float | None,
        begun: int,
    ) -> None:  # fmt: skip
        assert isinstance(world.reservoir, MemoryReservoir)
        self._world, self._reservoir, self._traffic, self._told = world, world.reservoir, traffic, told
        self._delay_us = delay // timedelta(microseconds=1)
        self._per_day, self._begun = per_day, begun
        self._at_work: list[tuple[int, np.ndarray]] = []
        self.num_asked = 0
        self.num_unknown = 0

    def take(self, now: int) -> None:
        """Take what the queue holds and people have time for, at `now` (microseconds)."""
        rows = self._reservoir.waiting()[: self._left(now)]
        if not len(rows):
            return
        known = ~np.isnan(self._told[rows])
        self.num_asked += len(rows)
        self.num_unknown += int((~known).sum())
        self._reservoir.take_off(rows)
        self._at_work.append((now + self._delay_us, rows[known]))

    def _left(self, now: int) -> int | None:
        """Return how many more can be taken: time that has passed unused is not kept beyond the day."""
        if self._per_day is None:
            return None
        return max(0, int(self._per_day * (now - self._begun) / _DAY_US) - self.num_asked)

    def answer(self, now: int) -> bool:
        """Give the labels that are done by `now`; return whether there were any."""
        done = [(at, rows) for at, rows in self._at_work if at <= now]
        self._at_work = [(at, rows) for at, rows in self._at_work if at > now]
        queue = self._world.project.strategy.label.queue
        for at, rows in done:
            assert queue is not None, "only a queue asks"
            when = np.full(len(rows), at, dtype=np.int64)
            self._reservoir.answer_rows(rows, self._told[rows], when, trust=Trust(queue.trust))
            if len(rows):
                self._traffic.write_labels(rows, when, source="people", trust=Trust(queue.trust))
        return any(len(rows) for _, rows in done)
