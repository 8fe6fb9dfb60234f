"""What curation picks from, what it may know beside that, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from tidemill.schema import Array
from tidemill.stats.vectors import Vectors

Target = str | tuple[str, ...]
"""What `Similar` looks for: the ids of examples, or the name of a suite or cohort, or a condition."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """N requests to pick from.

    `scores` is float (N, K), NaN where no version answered; `columns` holds what `needs()` asked for, arrays (N,).
    `negative` is bool (N,): feedback contradicts the decision, or is a complaint. What follows is there where `needs()`
    asked for it: `vectors` (N, D), in which near means alike; `repeated`, bool (N,): nearly an earlier candidate, which
    members that choose leave out; `shadow`, what a candidate version said beside the answer, None where it was not
    asked.
    """

    ids: tuple[str, ...]
    scores: Array
    decisions: tuple[str | float | None, ...]
    columns: Mapping[str, Array]
    negative: Array
    vectors: Vectors | None = None
    repeated: Array | None = None
    shadow: tuple[str | float | None, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Array) -> Candidates:
        """Return the rows at `index` (positions); no vector is copied."""
        return Candidates(
            ids=tuple(self.ids[i] for i in index),
            scores=self.scores[index],
            decisions=tuple(self.decisions[i] for i in index),
            columns={name: column[index] for name, column in self.columns.items()},
            negative=self.negative[index],
            vectors=None if self.vectors is None else self.vectors.take(index),
            repeated=None if self.repeated is None else self.repeated[index],
            shadow=None if self.shadow is None else tuple(self.shadow[i] for i in index),
        )

    def distinct(self) -> Array:
        """Return the positions of those that nearly repeat no earlier one, int64 (M,)."""
        return np.arange(len(self)) if self.repeated is None else np.flatnonzero(~self.repeated)


@dataclass(frozen=True, kw_only=True)
class Judgements:
    """M answered requests whose feedback has come: `losses` is float (M,), 0 where the answer was right, up to 1.

    `scores` (M, K) and `decisions` are as in `Candidates`; `columns` holds the tags and what `needs()` asked for.
    """

    scores: Array
    decisions: tuple[str | float | None, ...]
    columns: Mapping[str, Array]
    losses: Array

    def __len__(self) -> int:
        return len(self.losses)


@dataclass(frozen=True, kw_only=True)
class CurateContext:
    """What is known beside the candidates: the time, a mask (N,) per cohort, and what `needs()` asked for.

    `training` holds vectors of training examples, float32 (M, D); `targets` those of what is looked for, by what
    `Similar` names. `judged` is None where there is no feedback.
    """

    now: datetime
    cohorts: Mapping[str, Array] = field(default_factory=dict)
    training: Array | None = None
    targets: Mapping[Target, Array] = field(default_factory=dict)
    judged: Judgements | None = None

    def take(self, index: Array) -> CurateContext:
        """Return the context of the rows at `index`."""
        return CurateContext(
            now=self.now,
            cohorts={name: mask[index] for name, mask in self.cohorts.items()},
            training=self.training,
            targets=self.targets,
            judged=self.judged,
        )


@dataclass(frozen=True)
class CurateNeeds:
    """What to hand over, and whether picking waits for feedback to mature.

    `columns` are inputs, tags or projections, and `tags` asks for all tags. `distinct` asks which candidates repeat
    others. `vectors`, `shadow`, `training`, `similar` (the targets) and `judged` are as in `Candidates` and
    `CurateContext`.
    """

    columns: tuple[str, ...] = ()
    feedback: bool = False
    tags: bool = False
    distinct: bool = False
    vectors: bool = False
    shadow: bool = False
    training: bool = False
    judged: bool = False
    similar: tuple[Target, ...] = ()

    def __or__(self, other: CurateNeeds) -> CurateNeeds:
        return CurateNeeds(
            columns=tuple(dict.fromkeys((*self.columns, *other.columns))),
            feedback=self.feedback or other.feedback,
            tags=self.tags or other.tags,
            distinct=self.distinct or other.distinct,
            vectors=self.vectors or other.vectors,
            shadow=self.shadow or other.shadow,
            training=self.training or other.training,
            judged=self.judged or other.judged,
            similar=tuple(dict.fromkeys((*self.similar, *other.similar))),
        )


@dataclass(frozen=True)
class Picks:
    """The picked ids, each once, with why and with its inclusion probability (None: unknown).

    `places` int64 (M,) says where each is among the candidates. It is not given along: picks that somebody makes of
    others have none, and then whoever asked looks the ids up.
    """

    ids: tuple[str, ...]
    reasons: tuple[str, ...]
    probabilities: tuple[float | None, ...]
    places: Array | None = field(default=None, init=False, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, places: Array) -> Picks:
        """Return them with their `places`."""
        found = replace(self)
        object.__setattr__(found, "places", places)
        return found


@dataclass(frozen=True)
class Draw:
    """What one member takes of N candidates: positions in order of preference, and everyone's chance to be taken.

    `chance` is float (N,): 1 and 0 for a deterministic choice, None when it has no known probability.
    """

    taken: Array
    chance: Array | None

    @classmethod
    def chosen(cls, taken: Array, size: int) -> Draw:
        """Return a deterministic choice among `size` candidates."""
        chance = np.zeros(size)
        chance[taken] = 1.0
        return cls(taken, chance)

    @classmethod
    def of_highest(cls, values: Array, budget: int, among: Array) -> Draw:
        """Choose those of the positions `among` whose value in `values` (N,) is highest; NaN never, ties in order."""
        known = among[~np.isnan(values[among])]
        order = np.argsort(-values[known], kind="stable")
        return cls.chosen(known[order[:budget]], len(values))

    @classmethod
    def at_random(cls, among: Array, budget: int, size: int, rng: np.random.Generator) -> Draw:
        """Draw uniformly, without replacement, from the positions `among` of `size` candidates."""
        num, chance = min(budget, len(among)), np.zeros(size)
        chance[among] = num / len(among) if len(among) else 0.0
        return cls(rng.choice(among, size=num, replace=False), chance)
