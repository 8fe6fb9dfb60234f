"""Which stretch of time a test row is of: months where the rows span several, else equal parts; and the newest rows."""

from __future__ import annotations

import numpy as np

from tidemill.clock import from_micros
from tidemill.schema import Array

NEWEST = "newest"
"""The cohort of the newest rows: where the world has moved to, whatever cohorts are declared."""

_NEWEST_SHARE = 0.2
_MOST_MONTHS, _PARTS = 12, 4
_DAY = "%Y-%m-%d"


def newest(received_at: Array) -> dict[str, Array]:
    """Return the mask of the newest fifth of the rows, by `received_at` int64 (N,) in microseconds; {} if all are one.

    Rows of one moment, such as those of one import, are not told apart.
    """
    if not len(received_at):
        return {}
    mask = received_at > np.quantile(received_at, 1 - _NEWEST_SHARE, method="nearest")
    return {NEWEST: mask} if mask.any() else {}


def periods(received_at: Array) -> dict[str, Array]:
    """Return a mask bool (N,) by name of each period, the oldest first; {} where all rows are of one moment.

    Periods are calendar months in UTC where there are 2 to 12 of them; the rows of more are put into the 11 newest and
    what was before. Rows of one month are cut into four parts of about equally many.
    """
    if not len(received_at) or received_at.min() == received_at.max():
        return {}
    months = received_at.astype("datetime64[us]").astype("datetime64[M]")
    names = np.unique(months)
    if len(names) == 1:
        return _parts(received_at)
    shown = names[-(_MOST_MONTHS - 1) :] if len(names) > _MOST_MONTHS else names
    before = {f"before {shown[0]}": months < shown[0]} if len(shown) < len(names) else {}
    return {**before, **{str(name): months == name for name in shown}}


def _parts(received_at: Array) -> dict[str, Array]:
    edges = np.unique(np.quantile(received_at, np.linspace(0, 1, _PARTS + 1)[1:-1], method="nearest"))
    part = np.searchsorted(edges, received_at, side="left")
    there = np.unique(part)
    if len(there) == 1:
        return {}
    masks = [part == at for at in there]
    return {f"{k}. {_span(received_at[mask])}": mask for k, mask in enumerate(masks, start=1)}


def _span(received_at: Array) -> str:
    first, last = from_micros(int(received_at.min())), from_micros(int(received_at.max()))
    if first.date() != last.date():
        return f"{first.strftime(_DAY)} to {last.strftime(_DAY)}"
    return f"{first.strftime(_DAY)} {first:%H:%M:%S} to {last:%H:%M:%S}"
