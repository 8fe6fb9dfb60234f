"""The member of curation that goes by a projection, an input or a tag."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tidemill.schema import Array
from tidemill.strategy.candidates import Candidates, CurateContext, CurateNeeds, Draw
from tidemill.strategy.curating import Curate

_EXTREMES = ("high", "low", "both")


@dataclass(frozen=True)
class Projected(Curate):
    """Draw where the column `name` is true (or a number other than 0): pi = n / N of those requests.

    With `extreme`, `high`, `low` or `both`, choose the highest values, the lowest, or those farthest from the median
    instead: pi = 1 in their stratum. `name` is a projection, an input or a tag; a missing value is never picked.
    """

    share: float | None = None
    name: str = ""
    extreme: str | None = None

    def check(self) -> None:
        """Refuse a missing name and an unknown extreme."""
        super().check()
        self.require(bool(self.name), "name is missing", "name a projection, as in name='has_emoji'")
        known = self.extreme is None or self.extreme in _EXTREMES
        self.require(known, f"extreme is {self.extreme!r}", f"give one of {', '.join(_EXTREMES)}, or None")

    @property
    def by_chance(self) -> bool:
        """It draws, but for the extremes."""
        return self.extreme is None

    @property
    def reason(self) -> str:
        """Name the column."""
        return f"projected: {self.name}"

    def needs(self) -> CurateNeeds:
        """Ask for the column."""
        return CurateNeeds(columns=(self.name,), distinct=self.extreme is not None)

    def draw(self, candidates: Candidates, context: CurateContext, budget: int, rng: np.random.Generator) -> Draw:
        """Take those that are true, or the extremes."""
        column = self.column(candidates, self.name)
        if self.extreme is None:
            there = np.array([_is_true(value) for value in column.tolist()], dtype=bool)
            return Draw.at_random(np.flatnonzero(there), budget, len(candidates), rng)
        values = np.array([_number(value) for value in column.tolist()], dtype=np.float64)
        return Draw.of_highest(_far(values, self.extreme), budget, np.arange(len(candidates)))


def _is_true(value: object) -> bool:
    """Tell whether a value says yes; text never does."""
    return isinstance(value, bool | int | float) and value == value and bool(value)  # noqa: PLR0124


def _number(value: object) -> float:
    return float(value) if isinstance(value, bool | int | float) else float("nan")


def _far(values: Array, extreme: str) -> Array:
    if extreme == "high":
        return values
    if extreme == "low":
        return -values
    known = values[~np.isnan(values)]
    return np.abs(values - (np.median(known) if len(known) else 0.0))
