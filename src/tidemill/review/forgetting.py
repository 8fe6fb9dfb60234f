"""What the candidate no longer knows: old rows that the live version gets right and the candidate gets wrong."""

from __future__ import annotations

from collections.abc import Sequence

from tidemill.review.population import Rows
from tidemill.schema import Array
from tidemill.stats.intervals import clopper_pearson
from tidemill.stats.metrics import Judged
from tidemill.strategy.evidence import MIN_ROWS, Forgotten


def forgotten(
    candidate: Judged, live: Judged, cohorts: Sequence[Rows], old: Array, *, alpha: float = 0.05
) -> tuple[Forgotten, ...]:
    """Return, per cohort, how many of the old rows that `live` gets right `candidate` gets wrong.

    `old` is a mask bool (N,). The lower bounds are Clopper and Pearson's, and hold for all cohorts of at least 30 such
    rows together with 1 - alpha (Bonferroni). Every row counts once: what is asked is how many of these rows are lost.
    Empty for an output without classes, whose answers are neither right nor wrong.
    """
    if not candidate.classes:
        return ()
    known = candidate.known & live.known & old
    right = known & (live.decisions == live.labels)
    lost = right & (candidate.decisions != candidate.labels)
    counts = [(rows.cohort, int(right[rows.index].sum()), int(lost[rows.index].sum())) for rows in cohorts]
    tail = alpha / max(1, sum(n >= MIN_ROWS for _, n, _ in counts))
    return tuple(_forgotten(cohort, n, num_lost, tail) for cohort, n, num_lost in counts if n)


def _forgotten(cohort: str, n: int, lost: int, tail: float) -> Forgotten:
    low, high = clopper_pearson(lost, n, tails=(tail, 0.025))
    return Forgotten(cohort=cohort, n=n, lost=lost, share=lost / n, low=low, high=high)
