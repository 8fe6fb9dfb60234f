"""Which test rows speak for which cohort, and with what weight.

Rows count by 1 / (inclusion probability), so that a test set that curation has bent towards hard cases still estimates
what traffic would see (Hajek's self-normalised estimate; Sarndal et al., Model Assisted Survey Sampling, 1992, section
5.7). Imported rows count once each: they are all of the population they come from, and the estimate is of that and of
traffic together. Rows whose probability is unknown, because they came by feedback, stay out of it and form a cohort of
their own. Where that would leave fewer than 30 rows of a cohort, all its rows count alike instead, and a note says that
the numbers are of these rows and not of traffic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tidemill.schema import Array
from tidemill.strategy.evidence import ALL, MIN_ROWS

UNSAMPLED = "unsampled"  # the cohort of the rows with no known inclusion probability


@dataclass(frozen=True)
class Rows:
    """The test rows of a cohort, in a period or of all time: positions int64 (n,) and weights float64 (n,)."""

    cohort: str
    index: Array
    weights: Array
    period: str = ""

    def where(self, mask: Array, *, period: str | None = None) -> Rows:
        """Return those of the rows for which `mask` (N,) is true, as rows of `period` if one is given."""
        kept = mask[self.index]
        return Rows(self.cohort, self.index[kept], self.weights[kept], self.period if period is None else period)


def population(
    num_rows: int, cohorts: Mapping[str, Array], probabilities: Array | None
) -> tuple[tuple[Rows, ...], tuple[str, ...]]:
    """Return the rows of `all` and of every cohort, and notes on what the estimates stand for.

    `cohorts` are masks bool (N,); `probabilities` float (N,), NaN where unknown, or None when all rows count alike.
    """
    masks = {ALL: np.ones(num_rows, dtype=bool), **cohorts}
    chance = np.ones(num_rows) if probabilities is None else np.asarray(probabilities, dtype=np.float64)
    known = chance > 0  # NaN is not
    thin = [name for name, mask in masks.items() if _is_thin(mask, known)]
    rows = [
        _alike(name, mask) if name in thin else _weighted(name, mask & known, chance) for name, mask in masks.items()
    ]
    if not known.all() and ALL not in thin:
        rows.append(_alike(UNSAMPLED, ~known))
    return tuple(rows), _notes(known, thin)


def _is_thin(mask: Array, known: Array) -> bool:
    return bool((mask & ~known).any() and (mask & known).sum() < MIN_ROWS)


def _alike(name: str, mask: Array) -> Rows:
    index = np.flatnonzero(mask)
    return Rows(name, index, np.ones(len(index)))


def _weighted(name: str, mask: Array, chance: Array) -> Rows:
    index = np.flatnonzero(mask)
    return Rows(name, index, 1.0 / chance[index])


def _notes(known: Array, thin: list[str]) -> tuple[str, ...]:
    notes = []
    if not known.all() and ALL not in thin:
        notes.append(
            f"{int((~known).sum())} of {len(known)} test rows have no known inclusion probability: "
            f"they are judged apart, as the cohort {UNSAMPLED!r}"
        )
    if thin:
        notes.append(
            f"fewer than {MIN_ROWS} rows with a known inclusion probability in {', '.join(thin)}: "
            "all rows count alike there, and the numbers are of these rows, not of traffic"
        )
    return tuple(notes)
