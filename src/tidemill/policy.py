"""From scores to a decision: thresholds, when to abstain, and how many of the best classes to tell.

A policy is a value of its own, apart from the model: the same scores are decided otherwise by another policy. Its
versions are kept in the catalog (`tidemill.stores.policies`), the route names the one in force, and every row of the
log says which it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tidemill.errors import ProjectError
from tidemill.records import Json
from tidemill.schema import Array, Classes, Output


class Decided(NamedTuple):
    """What a policy makes of N score rows: decisions, who abstains, and the `top` best classes where it tells them."""

    decisions: list[str | float]
    abstained: list[bool]
    top_k: list[list[str]] | None


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Turns scores into decisions.

    A class is decided only when its score is at least its threshold, if it has one: of the classes that reach theirs
    the best wins, so one that does not gives way to the next. Where none does, the best class is the decision
    all the same, marked abstained. So is every decision whose own score is below `abstain_below`. With `top` > 1 the
    answer and the log tell that many classes, the decision first.

    An output that is no `Classes` decides by itself; its highest score is what `abstain_below` is compared with.

    Raises:
        ProjectError: a threshold or the level is no finite number, or `top` no positive integer.
    """

    thresholds: Mapping[str, float] = field(default_factory=dict, hash=False)
    abstain_below: float | None = None
    top: int = 1

    def __post_init__(self) -> None:
        levels = {**self.thresholds, **({} if self.abstain_below is None else {"abstain_below": self.abstain_below})}
        for name, level in levels.items():
            if isinstance(level, bool) or not isinstance(level, int | float) or not math.isfinite(level):
                raise ProjectError(f"the policy's level for {name!r} is {level!r}.", "give a number, such as 0.8")
        if type(self.top) is not int or self.top < 1:
            raise ProjectError(f"the policy's top is {self.top!r}.", "give how many of the best classes to tell: 1, 3")
        if self.abstain_below is not None:
            object.__setattr__(self, "abstain_below", float(self.abstain_below))
        object.__setattr__(self, "thresholds", {str(n): float(self.thresholds[n]) for n in sorted(self.thresholds)})

    def decide(self, output: Output, scores: Array) -> Decided:
        """Decide N rows of scores (N, K)."""
        if isinstance(output, Classes) and (self.thresholds or self.top > 1):
            return self._ranked(tuple(output.names), scores)
        decisions = output.decide(scores)
        if self.abstain_below is None:
            return Decided(decisions, [False] * len(decisions), None)
        return Decided(decisions, (scores.max(axis=1) < self.abstain_below).tolist(), None)

    def _ranked(self, names: Sequence[str], scores: Array) -> Decided:
        reached: Array = scores >= _levels(tuple(names), tuple(self.thresholds.items())).astype(scores.dtype)
        if self.top > 1:  # classes that reach their threshold first, then the others; each by score
            order = np.lexsort((-scores, ~reached), axis=1)[:, : self.top]
            best = order[:, 0]
            top_k = [[names[i] for i in row] for row in order.tolist()]
        else:
            best = np.where(reached | ~reached.any(axis=1, keepdims=True), scores, -np.inf).argmax(axis=1)
            top_k = None
        abstained = np.logical_not(reached.any(axis=1))
        if self.abstain_below is not None:
            abstained |= np.take_along_axis(scores, best[:, None], axis=1)[:, 0] < self.abstain_below
        return Decided([names[i] for i in best.tolist()], abstained.tolist(), top_k)

    def check(self, output: Output) -> None:
        """Refuse a policy that does not fit the output.

        Raises:
            ProjectError: a threshold is for no class of it, there are fewer classes than `top`, or it has no classes.
        """
        names = tuple(output.names) if isinstance(output, Classes) else ()
        for name in self.thresholds:
            if name not in names:
                known = ", ".join(names) or "none, because the output is no tm.Classes"
                raise ProjectError(f"the policy has a threshold for {name!r}, which is no class.", f"there is {known}")
        if self.top > 1 and self.top > len(names):
            raise ProjectError(f"the policy tells the best {self.top} of {len(names)} classes.", "ask for fewer")

    def to_json(self) -> Json:
        """Return the policy as JSON."""
        return {"thresholds": dict(self.thresholds), "abstain_below": self.abstain_below, "top": self.top}

    @classmethod
    def from_json(cls, data: Json) -> Policy:
        """Read what `to_json` wrote; what is missing is as by default."""
        return cls(**{f.name: data[f.name] for f in fields(cls) if f.name in data})

    def __str__(self) -> str:
        parts = [f"{name} from {level:g}" for name, level in self.thresholds.items()]
        if self.abstain_below is not None:
            parts.append(f"abstains below {self.abstain_below:g}")
        if self.top > 1:
            parts.append(f"tells the best {self.top}")
        return ", ".join(parts) or "the highest score decides"


@lru_cache(maxsize=256)
def _levels(names: tuple[str, ...], thresholds: tuple[tuple[str, float], ...]) -> Array:
    """Return the threshold of each class, float64 (K,); -inf where there is none."""
    by_name = dict(thresholds)
    return np.array([by_name.get(name, -np.inf) for name in names], dtype=np.float64)


__all__ = ["Decided", "Policy"]
