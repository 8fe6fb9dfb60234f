"""What the members of curation share, `Random`, which is always there, and the mix that shares a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import ClassVar

import numpy as np

from tidemill.errors import ProjectError
from tidemill.schema import Array
from tidemill.stats.vectors import Vectors
from tidemill.strategy.candidates import Candidates, CurateContext, CurateNeeds, Draw, Picks
from tidemill.strategy.member import Member

RANDOM_SHARE = 0.1  # what Random gets of a budget unless told


class Curate(Member):
    """Base of the curation stage: one verb, `pick`. `a + b` shares the budget, by the members' `share`s."""

    stage: ClassVar[str] = "curate"

    share: float | None = None

    def check(self) -> None:
        """Refuse a share that is none."""
        share = self.share
        ok = share is None or (isinstance(share, int | float) and 0 < share <= 1)
        self.require(ok, f"share is {share!r}", "give the part of the budget, above 0 and at most 1, or None")

    @property
    def by_chance(self) -> bool:
        """Whether it draws: such members come after those that choose, and draw from what is left."""
        return False

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
        places = None
        if not self.by_chance and candidates.repeated is not None:
            places = candidates.distinct()
            candidates, context = candidates.take(places), context.take(places)
        drawn = self.draw(candidates, context, max(0, budget), rng)
        ids = tuple(map(candidates.ids.__getitem__, drawn.taken.tolist()))
        chances = [None] * len(ids) if drawn.chance is None else drawn.chance[drawn.taken].tolist()
        places = drawn.taken if places is None else places[drawn.taken]
        return Picks(ids, (self.reason,) * len(ids), tuple(chances)).at(places)

    def __add__(self, other: Curate) -> Mix:
        return Mix((self, other))

    def column(self, candidates: Candidates, name: str) -> Array:
        """Return a column (N,) that `needs()` asked for."""
        if name not in candidates.columns:
            known = ", ".join(candidates.columns) or "none"
            raise ProjectError(
                f"curation asks for {name!r}, which was not handed over ({known}).", "declare it as an input"
            )
        return candidates.columns[name]

    def vectors(self, candidates: Candidates) -> Vectors:
        """Return the vectors (N, D) that `needs()` asked for."""
        if candidates.vectors is None:
            raise ProjectError(f"{self} asks for vectors, which were not handed over.", "say so in its `needs()`")
        return candidates.vectors


@dataclass(frozen=True)
class Random(Curate):
    """Draw uniformly without replacement: pi = n / N.

    The baseline that is hard to beat at small budgets, and what every unbiased estimate rests on.
    """

    share: float | None = None

    @property
    def by_chance(self) -> bool:
        """It draws."""
        return True

    def draw(self, candidates: Candidates, context: CurateContext, budget: int, rng: np.random.Generator) -> Draw:
        """Take `budget` of them, or all."""
        return Draw.at_random(np.arange(len(candidates)), budget, len(candidates), rng)


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
        return reduce(or_, (member.needs() for member in self.members))

    def pick(self, candidates: Candidates, context: CurateContext, budget: int, rng: np.random.Generator) -> Picks:
        """Return at most `budget` different candidates."""
        tally, left = _Tally(candidates), 0
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

    def __init__(self, candidates: Candidates) -> None:
        size = len(candidates)
        self._repeated = candidates.repeated
        self._missed = np.ones(size)  # the product of 1 - chance over the draws
        self._sure = np.zeros(size, dtype=bool)  # chosen, with chance 1
        self._known = np.zeros(size, dtype=bool)  # taken, with a known chance
        self._reasons: dict[int, str] = {}  # by position, in order of picking

    def pool(self, *, by_chance: bool) -> Array:
        """Return whom the next member may take: those that choose take nobody twice; chance draws from all not sure.

        Near-duplicates are out of what is chosen, and in what is drawn, so that the draw stands for all requests.
        """
        free = ~self._sure
        if not by_chance and self._reasons:
            free[list(self._reasons)] = False
        if not by_chance and self._repeated is not None:
            free &= ~self._repeated
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
        places = np.array(list(self._reasons), dtype=np.int64)
        return Picks(tuple(ids[i] for i in self._reasons), tuple(self._reasons.values()), tuple(chances)).at(places)


def _in_order(members: Sequence[Curate]) -> tuple[Curate, ...]:
    """Put those that choose first, then those that draw, and last the one Random."""
    random = [m for m in members if isinstance(m, Random)]
    others = sorted((m for m in members if not isinstance(m, Random)), key=lambda m: m.by_chance)
    shares = [m.share for m in random if m.share is not None]
    return (*others, Random(sum(shares)) if shares else Random())
