"""What offline reports promised beside what traffic showed: do offline gains predict online ones?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from tidemill.monitor.outcomes import Window, horizon, judged, matured_frame, outcomes
from tidemill.project import Project
from tidemill.records import Cycle, Json, Trust
from tidemill.review.report import Report
from tidemill.stats.mean_difference import MeanDifference
from tidemill.stores.catalog import Catalog
from tidemill.stores.journal import Journal
from tidemill.stores.log import Log
from tidemill.strategy.evidence import ALL

_ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How much better the candidate was than the live version, above 0 for better, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Release:
    """A candidate that met traffic: its gain in the first metric on test rows, and between the arms of its rollout."""

    cycle: int
    version: int
    strategy: str
    closed_at: datetime
    outcome: str
    offline: Gain | None
    online: Gain | None

    @property
    def agrees(self) -> bool | None:
        """Whether traffic bore the report out: the online interval reaches the offline gain. None where one lacks."""
        if self.offline is None or self.online is None:
            return None
        return self.online.low <= self.offline.high and self.offline.low <= self.online.high

    def to_json(self) -> Json:
        """Return it as JSON."""
        gains = {name: None if gain is None else vars(gain) for name, gain in self._gains().items()}
        return {**vars(self), **gains, "closed_at": self.closed_at.isoformat(), "agrees": self.agrees}

    def _gains(self) -> dict[str, Gain | None]:
        return {"offline": self.offline, "online": self.online}


def releases(project: Project, *, catalog: Catalog, journal: Journal, log: Log, now: datetime) -> list[Release]:
    """Return every closed cycle whose candidate met traffic, the oldest first."""
    reached = [c for c in journal.cycles(project.name) if c.outcome in ("promoted", "rolled back") and c.closed_at]
    found = []
    for cycle in sorted(reached, key=lambda c: c.number):
        if cycle.candidate is None or cycle.closed_at is None:
            continue
        found.append(
            Release(
                cycle=cycle.number,
                version=cycle.candidate,
                strategy=cycle.strategy,
                closed_at=cycle.closed_at,
                outcome=str(cycle.outcome),
                offline=_offline(project, catalog, cycle.candidate),
                online=_online(project, log, cycle, now),
            )
        )
    return found


def foretold(released: Sequence[Release]) -> str:
    """Say in a sentence whether offline gains have predicted online ones."""
    both = [r for r in released if r.agrees is not None]
    if not both:
        return "no release has both an offline and an online gain yet"
    borne_out = sum(bool(r.agrees) for r in both)
    said = f"offline gains were borne out online in {borne_out} of {len(both)} releases"
    pairs = np.array([(r.offline.value, r.online.value) for r in both if r.offline and r.online])
    if len(pairs) < 3 or not pairs.std(axis=0).all():
        return said
    return f"{said}; their correlation is {float(np.corrcoef(pairs.T)[0, 1]):.2f}"


def _offline(project: Project, catalog: Catalog, version: int) -> Gain | None:
    body = catalog.report(project.name, version)
    if body is None:
        return None
    first = project.metrics[0].name
    for cell in Report.from_json(body).cells:
        if (cell.metric, cell.cohort, cell.suite, cell.period) == (first, ALL, "", "") and cell.gain is not None:
            if cell.low is None or cell.high is None:
                return None
            return Gain(value=cell.gain, low=cell.low, high=cell.high, n=cell.n)
    return None


def _online(project: Project, log: Log, cycle: Cycle, now: datetime) -> Gain | None:
    """Compare the arms of a rollout, the first outcome of each unit, within equal shares of traffic."""
    metric = project.metrics[0]
    if metric.rows(judged(project.output, scores=np.zeros((0, project.output.num_scores)), labels=[])) is None:
        return None  # such as F1, which no single request has
    window = Window(after=cycle.opened_at, until=min(cycle.closed_at or now, now - horizon(project)))
    if window.until <= cycle.opened_at:
        return None
    frame = matured_frame(log, project, window, trust=Trust.CROWD)
    mine = (pl.col("rollout") == f"{project.name}-{cycle.number}") & (pl.col("share") > 0)
    rows = outcomes(project, frame.filter(mine), candidate=cycle.candidate, metrics=(metric.name,))
    if not len(rows):
        return None
    loss = rows.values[metric.name]
    _, first = np.unique(rows.unit.astype(str)[~np.isnan(loss)], return_index=True)
    rows = rows.take(np.flatnonzero(~np.isnan(loss))[np.sort(first)])
    test = MeanDifference().add(share=rows.share, candidate=rows.candidate, value=rows.values[metric.name])
    low, high = test.interval(_ALPHA)
    if math.isnan(test.estimate):
        return None
    return Gain(value=-test.estimate, low=-high, high=-low, n=len(rows))
