"""Quality that users got: the answering version's decision against the truth, by cohort and window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl

from tidemill.monitor.cohorts import cohort_masks, keep_weights, needs_inputs
from tidemill.monitor.outcomes import Window, judge, matured_frame
from tidemill.monitor.tally import Tally
from tidemill.project import Project
from tidemill.records import Json, Trust
from tidemill.stores.log import Log

ALL = "all"
MOST_ROWS = 500_000
_FACTS = ["scores", "keep_probability", "decision"]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """A metric over the labelled requests of a window, in one cohort. The interval is given for shares only."""

    metric: str
    cohort: str
    num: int
    value: float | None
    low: float | None = None
    high: float | None = None

    def to_json(self) -> Json:
        """Return it as JSON."""
        return {"metric": self.metric, "cohort": self.cohort, "n": self.num, "value": self.value,
                "low": self.low, "high": self.high}  # fmt: skip


def quality(
    log: Log, project: Project, window: Window, *, trust: Trust = Trust.CROWD, at_most: int = MOST_ROWS
) -> list[Quality]:
    """Return every metric for all requests and for each cohort, over labels of at least `trust`.

    The log is read in parts of about `at_most` rows, the next one while one is counted: a day of any size takes the
    memory of two.
    """
    spans = log.spans(project.name, after=window.after, until=window.until, at_most=at_most)
    windows = [Window(after=after, until=until) for after, until in spans]
    tally = Tally(project.metrics)
    with ThreadPoolExecutor(1) as pool:
        read = partial(matured_frame, log, project, trust=trust, facts=_FACTS)
        waiting = pool.submit(read, windows[0])
        for following in [*windows[1:], None]:
            frame = waiting.result()
            if following is not None:
                waiting = pool.submit(read, following)
            _count(tally, project, frame.filter(pl.col("decision").is_not_null()))
    return _told(tally, project, [ALL, *project.cohorts])


def quality_of(project: Project, frame: pl.DataFrame) -> list[Quality]:
    """Return the quality of a matured frame, for all its rows and for each cohort."""
    tally = Tally(project.metrics)
    _count(tally, project, frame)
    return _told(tally, project, [ALL, *project.cohorts])


def quality_inside(project: Project, frame: pl.DataFrame, *, sampled: bool) -> list[Quality]:
    """Return the quality of all rows of a matured frame; `sampled` says that they are there by their kept inputs."""
    tally = Tally(project.metrics)
    everyone = {ALL: np.ones(len(frame), dtype=bool)}
    tally.add(judge(project, frame), everyone, {ALL: keep_weights(frame)} if sampled else {})
    return _told(tally, project, [ALL])


def _count(tally: Tally, project: Project, frame: pl.DataFrame) -> None:
    """Count a part: in cohorts that read inputs, a row stands for those whose inputs the log stage dropped."""
    masks = {ALL: np.ones(len(frame), dtype=bool), **cohort_masks(project, frame)}
    chances = keep_weights(frame)
    weights = {name: chances for name, condition in project.cohorts.items() if needs_inputs(project, condition)}
    tally.add(judge(project, frame), masks, weights)


def _told(tally: Tally, project: Project, cohorts: Sequence[str]) -> list[Quality]:
    found = []
    for at, metric in enumerate(project.metrics):
        for cohort in cohorts:
            num, value, span = tally.cell(at, cohort)
            found.append(
                Quality(
                    metric=metric.name,
                    cohort=cohort,
                    num=num,
                    value=None if math.isnan(value) else value,
                    low=span.low if span else None,
                    high=span.high if span else None,
                )
            )
    return found
