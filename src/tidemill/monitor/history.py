"""Quality over time: the metrics of a window, and of each of its parts, for all requests and by cohort."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from tidemill.monitor.outcomes import Window
from tidemill.monitor.quality import Quality, quality
from tidemill.project import Project
from tidemill.records import Trust
from tidemill.stores.log import Log

NUM_PARTS = 24


@dataclass(frozen=True, kw_only=True)
class History:
    """A window in `len(until)` parts of the same length: the quality of each, and of the whole."""

    until: tuple[datetime, ...]
    parts: tuple[tuple[Quality, ...], ...]
    whole: tuple[Quality, ...]

    def line(self, metric: str, cohort: str) -> list[Quality | None]:
        """Return a metric in a cohort part by part, None where it was not measured."""
        return [next((q for q in part if (q.metric, q.cohort) == (metric, cohort)), None) for part in self.parts]


def history(
    log: Log, project: Project, window: Window, *, num_parts: int = NUM_PARTS, trust: Trust = Trust.CROWD
) -> History:
    """Return how quality went over a window that has a beginning; a part is read at a time.

    Args:
        log: the log.
        project: its metrics and cohorts.
        window: requests received in (after, until]; `after` is not None.
        num_parts: into how many parts it is cut.
        trust: the least trust of the labels that count.
    """
    assert window.after is not None
    step = (window.until - window.after) / num_parts
    edges = [window.after + i * step for i in range(num_parts)] + [window.until]
    spans = [Window(after=a, until=b) for a, b in pairwise(edges)]
    return History(
        until=tuple(edges[1:]),
        parts=tuple(tuple(quality(log, project, span, trust=trust)) for span in spans),
        whole=tuple(quality(log, project, window, trust=trust)),
    )
