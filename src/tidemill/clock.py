"""Time: the only module that reads the clock. Everywhere else a UTC `datetime` or a `Clock` is passed in."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

from tidemill.errors import ProjectError

_WANTED = "a timedelta or a string such as '30d', '2h', '10m', '5s', '250ms'"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_LONGEST = timedelta(days=36_525)  # 100 years: added to any time of today it is a time still
_MOST_DOUBLINGS = 30  # of a rest: what fails for days has failed thousands of times, more than a float can double
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*")


class Clock(Protocol):
    """Tells the time in UTC and waits."""

    def now(self) -> datetime:
        """Return the current time, timezone-aware, in UTC."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait that long; a manual clock moves on instead."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        """Block this thread."""
        time.sleep(seconds)


class ManualClock:
    """A clock that moves only when told to, for tests and backtests."""

    def __init__(self, start: datetime) -> None:
        self._now = start.astimezone(UTC)

    def now(self) -> datetime:
        """Return the time it was set to."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Move on by that much."""
        if seconds < 0:
            raise ValueError(f"a clock does not run backwards: sleep({seconds})")
        self._now += timedelta(seconds=seconds)

    def set(self, now: datetime) -> None:
        """Move to `now`, which may not lie in the past."""
        if now < self._now:
            raise ValueError(f"a clock does not run backwards: {now} < {self._now}")
        self._now = now.astimezone(UTC)


def duration(value: timedelta | str, *, name: str = "duration") -> timedelta:
    """Read a duration such as `"30d"`, `"2h"`, `"1d 12h"` or a `timedelta`.

    Raises:
        ProjectError: it is neither, or negative, or too long.
    """
    if isinstance(value, timedelta):
        if value < timedelta(0):
            raise ProjectError(f"{name} is {value}, which is negative.", f"give {_WANTED}")
        return value
    parts = list(_DURATION.finditer(value)) if isinstance(value, str) else []
    if not parts or "".join(p.group(0) for p in parts) != value:
        raise ProjectError(f"{name} is {value!r}, which is not a duration.", f"give {_WANTED}")
    seconds = sum(float(p.group(1)) * _UNITS[p.group(2)] for p in parts)
    if seconds > _LONGEST.total_seconds():
        raise ProjectError(f"{name} is {value!r}, longer than 100 years.", f"give {_WANTED}")
    return timedelta(seconds=seconds)


def rest_s(failures: int, *, first_s: float = 2.0, longest_s: float = 300.0) -> float:
    """Return how long to rest after so many failures in a row, seconds: each time twice as long; 0 after none."""
    if failures <= 0:
        return 0.0
    return min(longest_s, first_s * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))


def micros(at: datetime) -> int:
    """Microseconds since 1970 of a timezone-aware time: how times are stored."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def from_micros(value: int) -> datetime:
    """Return the UTC time of `micros`."""
    return _EPOCH + timedelta(microseconds=value)
