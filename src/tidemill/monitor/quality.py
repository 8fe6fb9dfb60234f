"""Quality that users got: the answering version's decision against the truth, by cohort and window."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl

from tidemill.monitor.cohorts import cohort_masks
from tidemill.monitor.outcomes import Window, judge, matured_frame
from tidemill.project import Project
from tidemill.records import Json, Trust
from tidemill.stats.intervals import wilson
from tidemill.stats.metrics import weighted_mean
from tidemill.stores.log import Log


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


def quality(log: Log, project: Project, window: Window, *, trust: Trust = Trust.CROWD) -> list[Quality]:
    """Return every metric for all requests and for each cohort, over labels of at least `trust`."""
    frame = matured_frame(log, project, window, trust=trust)
    return quality_of(project, frame.filter(pl.col("decision").is_not_null()))


def quality_of(project: Project, frame: pl.DataFrame) -> list[Quality]:
    """Return the quality of a matured frame."""
    masks = {"all": np.ones(len(frame), dtype=bool), **cohort_masks(project, frame)}
    judged = judge(project, frame)
    found = []
    for metric in project.metrics:
        rows = metric.rows(judged)
        for name, mask in masks.items():
            num = int((mask & judged.known).sum()) if rows is None else int((mask & ~np.isnan(rows)).sum())
            value = math.nan
            if num:  # a mean over rows needs no copy of all that is known of them
                value = metric.value(judged.take(mask)) if rows is None else weighted_mean(rows[mask])
            is_share = rows is not None and metric.bounds == (0.0, 1.0) and num > 0
            span = wilson(value * num, num) if is_share else None
            found.append(
                Quality(
                    metric=metric.name,
                    cohort=name,
                    num=num,
                    value=_known(value),
                    low=span.low if span else None,
                    high=span.high if span else None,
                )
            )
    return found


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
