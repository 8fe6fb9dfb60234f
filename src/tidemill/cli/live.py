"""What scrolls by while the demo runs: quality by cohort every few seconds, and each verdict with its reason."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

from rich.console import Console
from rich.text import Text

from tidemill.app import App
from tidemill.cli.screen import verdict_line
from tidemill.cli.status import route_text
from tidemill.monitor.outcomes import Window, horizon
from tidemill.monitor.quality import quality
from tidemill.testing.traffic import Users

_QUALITY_EVERY_S, _QUALITY_OVER = 3.0, timedelta(seconds=4)


class Live(threading.Thread):
    """Prints until stopped."""

    def __init__(self, app: App, users: Users, console: Console, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._app, self._users, self._console, self._stop_event = app, users, console, stop
        self._began, self._shown = time.monotonic(), 0

    def run(self) -> None:
        """Look every half second."""
        next_quality = 0.0
        while not self._stop_event.wait(0.5):
            self._verdicts()
            if time.monotonic() >= next_quality:
                next_quality = time.monotonic() + _QUALITY_EVERY_S
                self._quality()
        self._verdicts()

    def _stamp(self) -> Text:
        return Text.assemble((f"{time.monotonic() - self._began:6.1f} s  ", "dim"))

    def _verdicts(self) -> None:
        given = self._app.world.journal.verdicts(self._app.name, limit=1000)[::-1]
        for entry in given[self._shown :]:
            self._console.print(self._stamp() + verdict_line(entry.verdict, step=entry.step))
        self._shown = max(self._shown, len(given))

    def _quality(self) -> None:
        until = self._app.clock.now() - horizon(self._app.project)
        found = quality(self._app.world.log, self._app.project, Window(after=until - _QUALITY_OVER, until=until))
        cohorts = "  ".join(f"{q.cohort} {q.value:.2f}" for q in found if q.value is not None and q.cohort != "all")
        route = self._app.world.catalog.route(self._app.name)
        line = f"{self._users.counts['answered']:>6} answered | {cohorts or 'no feedback yet'} | {route_text(route)}"
        self._console.print(self._stamp() + Text(line, style="cyan"))
