"""The two arms of a rollout: which rows count for a guard, and what was seen, in numbers and in words."""

from __future__ import annotations

import numpy as np

from tidemill.records import Scalar
from tidemill.schema import Array
from tidemill.stats.event_ratio import EventRatio
from tidemill.stats.first_seen import first_seen, hashed
from tidemill.stats.loss_ratio import LossRatio
from tidemill.stats.mean_difference import MeanDifference
from tidemill.strategy.outcomes import Outcomes
from tidemill.strategy.wording import counted

LATENCY_WINDOW = 500  # answers of the live model that set the latency's cut for the next ones
_MOST_OVER = 15  # of a window; 5 are expected above the 99th percentile of the one before
_EVENT_BITS = 16  # the bitmap of units that had an event; evidence is there long before it is full

ArmRatio = EventRatio | LossRatio
Arms = ArmRatio | MeanDifference


def in_rollout(rows: Outcomes) -> Outcomes:
    """Return the rows that had a chance of either arm."""
    return rows.take((rows.share > 0) & (rows.share < 1))


def new_events(rows: Outcomes, event: Array, memory: str) -> tuple[Array, str]:
    """Mark the rows where the event befell its unit for the first time."""
    new = np.zeros(len(rows), dtype=bool)
    at = np.flatnonzero(event)
    first, memory = first_seen(memory, rows.unit[at], bits=_EVENT_BITS)
    new[at[first]] = True
    return new, memory


def repeated_events(rows: Outcomes, event: Array, last: int | None) -> tuple[Array, int | None]:
    """Mark the events that befell the unit of the event before; `last` is the hash of the last one's unit."""
    again = np.zeros(len(rows), dtype=bool)
    units = hashed(rows.unit[event])
    again[event] = units == np.array([-1 if last is None else last, *units])[:-1]
    return again, int(units[-1]) if len(units) else last


def exceedances(rows: Outcomes, cut: float | None, window: list[float]) -> tuple[Array, float | None, list[float]]:
    """Return 1 where an answer was above the cut in force, 0 where not, NaN where that says nothing; and the new cut.

    Nothing is said before there is a cut, nor while the load has left it behind: when many answers of the live model
    are above it, those of both arms are, and would only water the evidence down.
    """
    latency = np.round(rows.latency_ms, 3)
    slow = np.full(len(rows), np.nan)
    stable = np.flatnonzero(~rows.candidate & ~np.isnan(latency))
    begin = 0
    while begin < len(rows):
        room = LATENCY_WINDOW - len(window)
        used, stable = stable[:room], stable[room:]
        end = int(used[-1]) + 1 if len(used) == room else len(rows)
        if cut is not None:
            slow[begin:end] = _judged(latency[begin:end], rows.candidate[begin:end], cut, window)
        window = [*window, *latency[used].tolist()]
        if len(window) == LATENCY_WINDOW:
            cut, window = float(np.quantile(window, 0.99)), []
        begin = end
    return slow, cut, window


def _judged(latency: Array, candidate: Array, cut: float, window: list[float]) -> Array:
    """Return whether each answer is above the cut, NaN where too many of the window's were before it."""
    over = latency > cut
    before = np.cumsum(over & ~candidate) - (over & ~candidate) + sum(value > cut for value in window)
    return np.where((before <= _MOST_OVER) & ~np.isnan(latency), over, np.nan)


def latest_share(requests: Outcomes, share: float) -> float:
    """Return the candidate's share when the last request came; `share` when none did."""
    shares = requests.share[(requests.share > 0) & (requests.share < 1)]
    return float(shares[-1]) if len(shares) else share


def time_span(old: list[int] | None, times_known: Array) -> list[int] | None:
    """Return the first and last time of known outcomes."""
    if not len(times_known):
        return old
    first, last = int(times_known.min()), int(times_known.max())
    return [first, last] if old is None else [min(old[0], first), max(old[1], last)]


def seconds_for(outcomes: float, test: Arms, known: list[int] | None) -> float | None:
    """Return how long that many outcomes take at the rate they came so far; None when that is not known yet."""
    seen = test.num_candidate + test.num_stable
    if known is None or known[1] <= known[0] or seen < 2:
        return None
    return outcomes * (known[1] - known[0]) / 1e6 / (seen - 1)


def totals(test: ArmRatio) -> tuple[tuple[float, int], tuple[float, int]]:
    """Return (events or losses added up, rows) of the candidate and of the live model."""
    return (test.sum_candidate, test.num_candidate), (test.sum_stable, test.num_stable)


def arm_numbers(test: ArmRatio, rows: str, events: str) -> dict[str, Scalar]:
    """Return the numbers of a verdict that say what was seen."""
    (mine, num), (live, num_live) = totals(test)
    return {
        f"candidate_{rows}": num,
        f"candidate_{events}": mine,
        f"live_{rows}": num_live,
        f"live_{events}": live,
        "ratio": test.ratio,
    }


def seen_events(test: EventRatio, event: str, row: str) -> str:
    """Say what was seen: `3 errors in 90 outcomes of the candidate, 41 in 1,902 of the live model`."""
    return (
        f"{counted(test.sum_candidate, event)} in {counted(test.num_candidate, row)} of the candidate, "
        f"{test.sum_stable:,} in {test.num_stable:,} of the live model"
    )
