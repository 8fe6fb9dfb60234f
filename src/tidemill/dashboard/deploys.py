"""What was put in traffic when, as markers of charts."""

from __future__ import annotations

from itertools import pairwise

from tidemill.app import App
from tidemill.dashboard.chart import Marker


def markers(app: App) -> list[Marker]:
    """Return every change of who answers: a version that got all traffic, and a candidate that got its first share."""
    changes, found = app.catalog.history(app.name), list[Marker]()
    if changes:
        found.append(Marker(at=changes[0].at, text=f"v{changes[0].route.stable}", tone="good"))
    for before, after in pairwise(changes):
        old, new = before.route, after.route
        if new.stable != old.stable:
            is_back = new.stable < old.stable
            found.append(Marker(at=after.at, text=f"{'back to ' if is_back else ''}v{new.stable}",
                                tone="bad" if is_back else "good"))  # fmt: skip
        elif new.candidate is not None and new.share > 0 and not old.share:
            found.append(Marker(at=after.at, text=f"v{new.candidate} {new.share:.0%}", tone="unsure"))
        elif old.candidate is not None and new.candidate is None:
            found.append(Marker(at=after.at, text=f"v{old.candidate} withdrawn", tone="bad"))
    return found
