"""The alerts of a backtest, in memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection

from tidemill.records import Verdict
from tidemill.stores.alerts import Alerts, OpenAlert


class MemoryAlerts(Alerts):
    """Opens and closes alerts of one project; nobody is told."""

    def __init__(self) -> None:
        self._all: list[OpenAlert] = []

    def open(self, conn: Connection, project: str, name: str, *, cohort: str, verdict: Verdict, now: datetime) -> int:
        """Open an alert, or note that the open one of that name fired again; return its id."""
        for known in self.standing(project):
            if known.name == name:
                self._all[known.id - 1] = replace(known, fired_at=now, verdict=verdict)
                return known.id
        self._all.append(
            OpenAlert(
                id=len(self._all) + 1, name=name, cohort=cohort, opened_at=now, fired_at=now, closed_at=None,
                silent_until=None, verdict=verdict, told_at=None, tries=0, problem="",
            )
        )  # fmt: skip
        return len(self._all)

    def close(self, conn: Connection, id: int, now: datetime) -> None:
        """Close an alert."""
        self._all[id - 1] = replace(self._all[id - 1], closed_at=now)

    def standing(self, project: str) -> list[OpenAlert]:
        """Return the open alerts, the oldest first."""
        return [one for one in self._all if one.is_open]

    def untold(self, project: str) -> list[OpenAlert]:
        """Return none: nobody is told."""
        return []

    def history(self, project: str, limit: int = 100) -> list[OpenAlert]:
        """Return the newest alerts, newest first."""
        return self._all[::-1][:limit]
