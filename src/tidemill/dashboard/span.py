"""The span of time that a measure is taken over: a period up to now, or since there is traffic in it."""

from __future__ import annotations

from datetime import datetime, timedelta

from tidemill.app import App
from tidemill.clock import from_micros, micros
from tidemill.monitor.outcomes import Window, horizon
from tidemill.stores.logfiles import LogFiles

_LEAST = timedelta(seconds=30)


def matured_window(app: App, period: timedelta) -> Window:
    """Return the requests of the last `period` that have matured, from the first request in it on."""
    until = app.clock.now() - horizon(app.project)
    return Window(after=max(until - period, min(_first_at(app, until - period), until - _LEAST)), until=until)


def _first_at(app: App, after: datetime) -> datetime:
    """Return when the first prediction after a time was received, by the files of the log."""
    files = LogFiles(app.db, app.world.home.log).find(app.name, "predictions", first=micros(after))
    return max(after, from_micros(min((file.first_at for file in files), default=micros(after)) - 1))
