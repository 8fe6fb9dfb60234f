"""Stage 2, first half: which requests deserve a label.

A pick has an **inclusion probability** pi: the chance, under the design, that the request was picked. Deterministic
picks are a stratum of their own with pi = 1; what is left is drawn from by chance. Summing 1/pi over the picks then
counts every request once, whatever the deterministic members prefer (Horvitz and Thompson, JASA 47, 1952). Picks made
because of feedback have no known pi and stay in the pool that chance draws from, so that estimates do not need them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

import numpy as np

from tidemill.errors import ProjectError
from tidemill.schema import Array
from tidemill.strategy.member import Member

RANDOM_SHARE = 0.1  # what Random gets of a budget unless told
_NOBODY: Array = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """N requests to pick from.

    `scores` is float (N, K), NaN where no version answered; `columns` holds what `needs()` asked for, arrays (N,).
    `negative` is bool (N,): feedback contradicts the decision, or is a complaint.
    """

    ids: tuple[str, ...]
    scores: Array
    decisions: tuple[str | float | None, ...]
    columns: Mapping[str, Array]
    negative: Array

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Array) -> Candidates:
        """Return the rows at `index` (positions)."""
        return Candidates(
            ids=tuple(self.ids[i] for i in index),
            scores=self.scores[index],
            decisions=tuple(self.decisions[i] for i in index),
            columns={name: column[index] for name, column in self.columns.items()},
            negative=self.negative[index],
        )


@dataclass(frozen=True, kw_only=True)
class CurateContext:
    """What is known beside the candidates: the time, and a mask (N,) per cohort."""

    now: datetime
    cohorts: Mapping[str, Array] = field(default_factory=dict)

    def take(self, index: Array) -> CurateContext:
        """Return the context of the rows at `index`."""
        return CurateContext(now=self.now, cohorts={name: mask[index] for name, mask in self.cohorts.items()})


@dataclass(frozen=True)
class CurateNeeds:
    """Inputs, tags or projections to hand over as `columns`; and whether picking waits for feedback to mature."""

    columns: tuple[str, ...] = ()
    feedback: bool = False


@dataclass(frozen=True)
class Picks:
    """The picked ids, each once, with why and with its inclusion probability (None: unknown)."""

    ids: tuple[str, ...]
    reasons: tuple[str, ...]
    probabilities: tuple[float | None, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Draw:
    """What one member takes of N candidates: positions in order of preference, and everyone's chance to be taken.

    `chance` is float (N,): 1 and 0 for a deterministic choice, None when it has no known probability.
    """

    taken: Array
    chance: Array | None


class Curate(Member):
    """Base of the curation stage: one verb, `pick`. `a + b` shares the budget, by the members' `share`s."""

    stage: ClassVar[str] = "curate"
    by_chance: ClassVar[bool] = False  # members that draw come after those that choose, and draw from what is left

    share: float | None = None

    def check(self) -> None:
        """Refuse a share that is none."""
        share = self.share
        ok = share is None or (isinstance(share, int | float) and 0 < share <= 1)
        self.require(ok, f"share is {share!r}", "give the part of the budget, above 0 and at most 1, or None")

    @property
    def reason(self) -> str:
        """What an example picked by this member is marked with."""
        return type(self).__name__.lower()

    def needs(self) -> CurateNeeds:
        """Say what `pick` has to be given."""
        return CurateNeeds()

    def draw(self, candidates: Candidates, context: CurateContext, budget: int, rng: np.random.Generator) -> Draw:
        """Take at most `budget` of the candidates. Members implement this."""
        raise NotImplementedError

    def pick(self, candidates: Candidates, context: CurateContext, budget: int, rng: np.random.Generator) -> Picks:
        """Return at most `budget` different candidates; equal arguments and generator give equal picks."""
        drawn = self.draw(candidates, context, max(0, budget), rng)
        ids = tuple(candidates.ids[i] for i in drawn.taken)
        chances = [None] * len(ids) if drawn.chance is None else [float(drawn.chance[i]) for i in drawn.taken]
        return Picks(ids, (self.reason,) * len(ids), tuple(chances))

    def __add__(self, other: Curate) -> Mix:
        return Mix((self, other))


@dataclass(frozen=True)
class Random(Curate):
    """Draw uniformly without replacement: pi = n / N.

    The baseline that is hard to beat at small budgets, and what every unbiased estimate rests on.
    """

    share: float | None = None
    by_chance: ClassVar[bool] = True

    def draw(self, candidates: Candidates, context: CurateContext, budget: int, rng: np.random.Generator) -> Draw:
        """Take `budget` of them, or all."""
        num, size = min(budget, len(candidates)), len(candidates)
        return Draw(rng.choice(size, size=num, replace=False), np.full(size, num / size if size else 0.0))


@dataclass(frozen=True)
class Stratified(Curate):
    """Draw uniformly within each value of the column `by`, as evenly over the values as they allow: pi = n_h / N_h.

    `by` is an input, a tag or a projection. Cochran, Sampling Techniques (1977), ch. 5.
    """

    share: float | None = None
    by: str = ""
    by_chance: ClassVar[bool] = True

    def check(self) -> None:
        """Refuse to stratify by nothing."""
        super().check()
        self.require(bool(self.by), "by is missing", "name an input, a tag or a projection, as in by='country'")

    @property
    def reason(self) -> str:
        """Name the column."""
        return f"stratified: {self.by}"

    def needs(self) -> CurateNeeds:
        """Ask for the column."""
        return CurateNeeds(columns=(self.by,))

    def draw(self, candidates: Candidates, context: CurateContext, budget: int, rng: np.random.Generator) -> Draw:
        """Take an even number of each value."""
        groups = _groups(_column(candidates, self.by))
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
class Uncertain(Curate):
    """Choose where the model is least sure: pi = 1 in their stratum.

    `by` is `margin` (between the two likeliest classes), `entropy` or `least_confidence`. Ties go to the first in the
    list. Chooses nothing when there is a single score. Settles, Active Learning Literature Survey (2009), section 3.1.
    """

    share: float | None = None
    by: str = "margin"

    def check(self) -> None:
        """Refuse an unknown measure."""
        super().check()
        self.require(self.by in _UNCERTAINTY, f"by is {self.by!r}", f"give one of {', '.join(_UNCERTAINTY)}")

    @property
    def reason(self) -> str:
        """Name the measure."""
        return f"uncertain: {self.by}"

    def draw(self, candidates: Candidates, context: CurateContext, budget: int, rng: np.random.Generator) -> Draw:
        """Take the most uncertain ones that were answered."""
        scores = np.asarray(candidates.scores, dtype=np.float64)
        if scores.shape[1] < 2:
            return _chosen(_NOBODY, len(candidates))
        doubt = _UNCERTAINTY[self.by](scores)
        order = np.argsort(-doubt, kind="stable")  # NaN comes last
        order = order[~np.isnan(doubt[order])]
        return _chosen(order[:budget], len(candidates))


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
        return CurateNeeds(feedback=True)

    def draw(self, candidates: Candidates, context: CurateContext, budget: int, rng: np.random.Generator) -> Draw:
        """Take negative ones."""
        pool = np.flatnonzero(candidates.negative)
        return Draw(rng.choice(pool, size=min(budget, len(pool)), replace=False), None)


@dataclass(frozen=True)
class Mix(Curate):
    """Share a budget among `members`, in order; what one leaves goes to the next. Written `a + b`.

    Members without a share divide what the others leave. `Random` is always there, with a tenth unless told and all
    that nobody else claims, and comes last. Members that draw by chance come after those that choose, and each draws
    from all that is not a sure pick: draws that do not depend on each other give every request its exact probability.
    A request found twice is picked once, and the budget it saves is not spent.
    """

    members: tuple[Curate, ...]

    def check(self) -> None:
        """Flatten, put the members in order, add Random, and refuse shares that do not fit."""
        for member in self.members:
            self.require(isinstance(member, Curate), f"{member} is no curation stage", "add members of tm.curate")
        flat = [part for m in self.members for part in (m.members if isinstance(m, Mix) else (m,))]
        object.__setattr__(self, "members", _in_order(flat))
        given = sum(m.share or 0.0 for m in self.members)
        self.require(given <= 1 + 1e-9, f"the shares sum to {given:g}", "make them sum to at most 1")
        starved = [str(m) for m, share in zip(self.members, self.shares, strict=True) if share <= 1e-9]
        self.require(not starved, f"no share is left for {', '.join(starved)}", "lower the other shares")

    @property
    def shares(self) -> tuple[float, ...]:
        """Each member's part of the budget, which sum to 1; shares that leave no tenth for an untold Random shrink."""
        *others, random = self.members
        room = 1.0 - (random.share or RANDOM_SHARE)
        given = sum(m.share or 0.0 for m in others)
        shrink = min(1.0, room / given) if given else 1.0
        num_open = sum(m.share is None for m in others)
        rest = max(0.0, room - given) / num_open if num_open else 0.0
        shares = [rest if m.share is None else m.share * shrink for m in others]
        return (*shares, 1.0 - sum(shares))

    def needs(self) -> CurateNeeds:
        """Ask for what any member needs."""
        needs = [m.needs() for m in self.members]
        columns = dict.fromkeys(name for need in needs for name in need.columns)
        return CurateNeeds(columns=tuple(columns), feedback=any(need.feedback for need in needs))

    def pick(self, candidates: Candidates, context: CurateContext, budget: int, rng: np.random.Generator) -> Picks:
        """Return at most `budget` different candidates."""
        tally, left = _Tally(len(candidates)), 0
        for member, quota in zip(self.members, self._quotas(max(0, budget), rng), strict=True):
            pool = tally.pool(by_chance=member.by_chance)
            drawn = member.draw(candidates.take(pool), context.take(pool), quota + left, rng)
            left += quota - len(drawn.taken)
            tally.add(member, pool, drawn)
        return tally.picks(candidates.ids)

    def _quotas(self, budget: int, rng: np.random.Generator) -> list[int]:
        """Round the shares of the budget to whole picks by one random offset, so that a budget of 1 is shared too."""
        edges = np.cumsum(self.shares) * budget
        whole = np.minimum(np.floor(edges + rng.random()), budget)
        whole[-1] = budget
        return [int(n) for n in np.diff(whole, prepend=0.0)]

    def __str__(self) -> str:
        return " + ".join(str(m) for m in self.members)


class _Tally:
    """The state of one mixed pick: who was taken by whom, and everyone's chance of having been missed so far."""

    def __init__(self, size: int) -> None:
        self._missed = np.ones(size)  # the product of 1 - chance over the draws
        self._sure = np.zeros(size, dtype=bool)  # chosen, with chance 1
        self._known = np.zeros(size, dtype=bool)  # taken, with a known chance
        self._reasons: dict[int, str] = {}  # by position, in order of picking

    def pool(self, *, by_chance: bool) -> Array:
        """Return whom the next member may take: those that choose take nobody twice; chance draws from all not sure."""
        free = ~self._sure
        if not by_chance and self._reasons:
            free[list(self._reasons)] = False
        return np.flatnonzero(free)

    def add(self, member: Curate, pool: Array, drawn: Draw) -> None:
        """Count what `member` took of `pool`."""
        taken = pool[drawn.taken]
        if drawn.chance is not None:
            self._missed[pool] *= 1.0 - drawn.chance
            self._known[taken] = True
            self._sure[taken] |= not member.by_chance
        self._reasons.update(dict.fromkeys(taken.tolist(), member.reason))

    def picks(self, ids: Sequence[str]) -> Picks:
        """Return who was taken, with the chance of having been taken by any draw."""
        chances = [float(1.0 - self._missed[i]) if self._known[i] else None for i in self._reasons]
        return Picks(tuple(ids[i] for i in self._reasons), tuple(self._reasons.values()), tuple(chances))


def _in_order(members: Sequence[Curate]) -> tuple[Curate, ...]:
    """Put those that choose first, then those that draw, and last the one Random."""
    random = [m for m in members if isinstance(m, Random)]
    others = sorted((m for m in members if not isinstance(m, Random)), key=lambda m: m.by_chance)
    shares = [m.share for m in random if m.share is not None]
    return (*others, Random(sum(shares)) if shares else Random())


def _chosen(taken: Array, size: int) -> Draw:
    chance = np.zeros(size)
    chance[taken] = 1.0
    return Draw(taken, chance)


def _column(candidates: Candidates, name: str) -> Array:
    if name not in candidates.columns:
        known = ", ".join(candidates.columns) or "none"
        raise ProjectError(
            f"curation asks for {name!r}, which was not handed over ({known}).", "declare it as an input"
        )
    return candidates.columns[name]


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


def _margin(scores: Array) -> Array:
    top = np.sort(scores, axis=1)[:, -2:]  # NaN sorts last, and so spoils its row
    return np.asarray(top[:, 0] - top[:, 1])


def _entropy(scores: Array) -> Array:
    positive = np.where(scores > 0, scores, 1.0)
    return np.where(np.isnan(scores).any(axis=1), np.nan, -(scores * np.log(positive)).sum(axis=1))


def _least_confidence(scores: Array) -> Array:
    return np.asarray(1.0 - scores.max(axis=1))


_UNCERTAINTY = {"margin": _margin, "entropy": _entropy, "least_confidence": _least_confidence}
