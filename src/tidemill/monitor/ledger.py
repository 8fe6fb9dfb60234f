"""The strategy ledger: each strategy version with what it brought, each time that it was in force."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from tidemill.clock import micros
from tidemill.monitor.outcomes import Window, horizon
from tidemill.monitor.quality import quality
from tidemill.project import Project
from tidemill.records import Json
from tidemill.stores.catalog import Catalog
from tidemill.stores.journal import Journal
from tidemill.stores.log import Log
from tidemill.stores.reservoir import Reservoir

EXPECTED = "expected."
"""Before the digest of a strategy: the state in which the journal keeps what is expected of it."""


@dataclass(frozen=True, kw_only=True)
class StrategyPeriod:
    """A strategy version over a time that it was in force. `quality` is the first metric of what users got.

    One that came into force again has a period for each time.

    `expected` is what a backtest foretold: `quality`, and `retrainings`, `labels` and `train_cpu_s` a day, each with
    its interval as [value, low, high].
    """

    number: int
    digest: str
    since: datetime
    until: datetime
    quality: float | None
    num_judged: int
    num_cycles: int
    num_promoted: int
    num_labels: int
    expected: Json | None = None

    def to_json(self) -> Json:
        """Return it as JSON, times in ISO 8601."""
        return {**vars(self), "since": self.since.isoformat(), "until": self.until.isoformat()}


def ledger(
    project: Project, *, catalog: Catalog, journal: Journal, log: Log, reservoir: Reservoir, now: datetime
) -> list[StrategyPeriod]:
    """Return which strategy versions were in force, the oldest first, each with the time until the next one."""
    spells = catalog.strategy_spells(project.name)
    ends = [*(spell.since for spell in spells[1:]), now]
    index = reservoir.index(project.name)
    cycles = journal.cycles(project.name)
    periods = []
    for spell, end in zip(spells, ends, strict=True):
        window = Window(after=spell.since, until=min(end, now - horizon(project)))
        first = quality(log, project, window)[0]
        mine = [c for c in cycles if spell.since <= c.opened_at < end]
        labelled = pl.col("labelled_at").is_between(micros(spell.since), micros(end), closed="left")
        periods.append(
            StrategyPeriod(
                number=spell.number,
                digest=spell.digest,
                since=spell.since,
                until=end,
                quality=first.value,
                num_judged=first.num,
                num_cycles=len(mine),
                num_promoted=sum(c.outcome == "promoted" for c in mine),
                num_labels=len(index.filter(labelled & pl.col("request_id").is_not_null())),
                expected=journal.state(project.name, f"{EXPECTED}{spell.digest}"),
            )
        )
    return periods
