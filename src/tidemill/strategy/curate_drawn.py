"""Members of curation that draw from a part of the requests: evenly over values, or where somebody objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tidemill.schema import Array
from tidemill.strategy.candidates import Candidates, CurateContext, CurateNeeds, Draw
from tidemill.strategy.curating import Curate

_SAME = 1e-3  # relative: numbers nearer than that are one decision
_NOBODY: Array = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Stratified(Curate):
    """Draw uniformly within each value of the column `by`, as evenly over the values as they allow: pi = n_h / N_h.

    `by` is an input, a tag or a projection. Cochran, Sampling Techniques (1977), ch. 5.
    """

    share: float | None = None
    by: str = ""

    def check(self) -> None:
        """Refuse to stratify by nothing."""
        super().check()
        self.require(bool(self.by), "by is missing", "name an input, a tag or a projection, as in by='country'")

    @property
    def by_chance(self) -> bool:
        """It draws."""
        return True

    @property
    def reason(self) -> str:
        """Name the column."""
        return f"stratified: {self.by}"

    def needs(self) -> CurateNeeds:
        """Ask for the column."""
        return CurateNeeds(columns=(self.by,))

    def draw(self, candidates: Candidates, context: CurateContext, budget: int, rng: np.random.Generator) -> Draw:
        """Take an even number of each value."""
        groups = _groups(self.column(candidates, self.by))
        level, left = _level(budget, [len(g) for g in groups])
        larger = [h for h, group in enumerate(groups) if len(group) > level]
        lucky = set(rng.choice(larger, size=min(left, len(larger)), replace=False)) if larger else set()
        chance, taken = np.zeros(len(candidates)), [_NOBODY]
        for h, group in enumerate(groups):
            more = left / len(larger) if h in larger else 0.0  # the chance of being lucky, not the luck
            chance[group] = (min(level, len(group)) + more) / len(group)
            taken.append(rng.choice(group, size=min(level, len(group)) + (h in lucky), replace=False))
        return Draw(np.concatenate(taken), chance)


@dataclass(frozen=True)
class FeedbackDriven(Curate):
    """Choose at random among the requests whose feedback contradicts the decision or complains; pi is unknown.

    Who gives feedback is nobody's design, so these picks train and test models but stand in no unbiased estimate.
    """

    share: float | None = None

    @property
    def reason(self) -> str:
        """`feedback`."""
        return "feedback"

    def needs(self) -> CurateNeeds:
        """Ask for matured feedback."""
        return CurateNeeds(feedback=True, distinct=True)

    def draw(self, candidates: Candidates, context: CurateContext, budget: int, rng: np.random.Generator) -> Draw:
        """Take negative ones."""
        pool = np.flatnonzero(candidates.negative)
        return Draw(rng.choice(pool, size=min(budget, len(pool)), replace=False), None)


@dataclass(frozen=True)
class Disagreement(Curate):
    """Draw uniformly where a version in shadow decides otherwise than the answer: pi = n / N of those requests.

    One of the two is wrong. Query by committee, with the live model and its candidate for a committee (Seung, Opper and
    Sompolinsky, COLT 1992). Draws nothing while no version is in shadow. Numbers differ from 0.1 % on.
    """

    share: float | None = None

    @property
    def by_chance(self) -> bool:
        """It draws."""
        return True

    def needs(self) -> CurateNeeds:
        """Ask for what versions in shadow said."""
        return CurateNeeds(shadow=True)

    def draw(self, candidates: Candidates, context: CurateContext, budget: int, rng: np.random.Generator) -> Draw:
        """Take some of those that differ."""
        beside = candidates.shadow or (None,) * len(candidates)
        apart = [_differ(a, b) for a, b in zip(candidates.decisions, beside, strict=True)]
        return Draw.at_random(np.flatnonzero(np.array(apart, dtype=bool)), budget, len(candidates), rng)


def _differ(one: str | float | None, other: str | float | None) -> bool:
    if one is None or other is None:
        return False
    if isinstance(one, str) or isinstance(other, str):
        return one != other
    return abs(one - other) > _SAME * abs(other)


def _groups(column: Array) -> list[Array]:
    """Return the positions of each value, in order of appearance; NaN is one value."""
    groups: dict[object, list[int]] = {}
    for position, value in enumerate(column.tolist()):
        groups.setdefault(value if value == value else "NaN", []).append(position)  # noqa: PLR0124
    return [np.array(positions, dtype=np.int64) for positions in groups.values()]


def _level(budget: int, sizes: Sequence[int]) -> tuple[int, int]:
    """Return how many each group gives at most, and how many are then left for one more from a larger group."""
    level = 0
    while budget >= (num_open := sum(size > level for size in sizes)) > 0:
        step = min(budget // num_open, min(size for size in sizes if size > level) - level)
        level, budget = level + step, budget - step * num_open
    return level, budget
