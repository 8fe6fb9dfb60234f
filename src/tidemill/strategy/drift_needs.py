"""What a stage asks of drift: which columns of which requests, in which windows, beside which reference."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from tidemill.clock import from_micros, micros

TRAINING = "training"
"""The reference: the data that the live version was trained on."""
EVERYONE = "all"


@dataclass(frozen=True, kw_only=True)
class DriftNeeds:
    """A look at every whole window of traffic. Two members that ask for the same share one look.

    `columns` None means all there are. `past` is how long a stretch of traffic before the window is its reference, None
    for the training data. Fewer than `min_rows` rows on either side tell nothing.
    """

    columns: tuple[str, ...] | None
    window: timedelta
    past: timedelta | None
    alpha: float
    min_rows: int
    cohort: str = EVERYONE

    def last_whole(self, until: datetime) -> datetime:
        """Return the end of the last whole window at a time: windows are counted from 1970, in UTC."""
        size = self.window // timedelta(microseconds=1)
        return from_micros(micros(until) // size * size)
