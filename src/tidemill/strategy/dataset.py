"""Stage 4: which labelled examples a candidate learns from, and with what weight.

Only examples of the training split are ever selected: the split was fixed when the example was inserted, and the store
adds the test rows by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

import numpy as np

from tidemill.clock import micros
from tidemill.schema import Array
from tidemill.strategy.member import Member
from tidemill.strategy.span import Span


@dataclass(frozen=True, kw_only=True)
class ExampleIndex:
    """N labelled examples in a fixed order; every array has length N."""

    ids: Array  # object, strings
    received_at: Array  # int64, microseconds since 1970
    labelled_at: Array  # int64, microseconds since 1970
    split: Array  # strings, "train" or "test"
    label: Array  # object
    trust: Array  # int64, the rank of the label's trust
    decision: Array  # object, what the answering version said, None where nobody did
    cohorts: Mapping[str, Array] = field(default_factory=dict)  # bool

    def __len__(self) -> int:
        return len(self.ids)

    def trainable(self, now: datetime) -> Array:
        """Mask (N,) of what may be learnt from at `now`: of the training split, received and labelled by then."""
        at = micros(now)
        mask: Array = (self.split == "train") & (self.received_at <= at) & (self.labelled_at <= at)
        return mask


@dataclass(frozen=True)
class Selection:
    """The chosen examples in the order of the index, with their weights."""

    ids: tuple[str, ...]
    weights: tuple[float, ...]


class Dataset(Member):
    """Base of the dataset stage: one verb, `form`. `a + b` is the union; an example in both has the sum of weights."""

    stage: ClassVar[str] = "dataset"

    @property
    def needs_classes(self) -> bool:
        """Whether labels have to be classes."""
        return False

    def weigh(self, index: ExampleIndex, now: datetime, rng: np.random.Generator) -> Array:
        """Return a weight for each example, float64 (N,), 0 for those left out. Members implement this."""
        raise NotImplementedError

    def form(self, index: ExampleIndex, now: datetime, rng: np.random.Generator) -> Selection:
        """Return what to learn from; equal index, time and generator give an equal selection."""
        weights = np.where(index.trainable(now), self.weigh(index, now, rng), 0.0)
        chosen = np.flatnonzero(weights > 0)
        return Selection(tuple(index.ids[chosen].tolist()), tuple(weights[chosen].tolist()))

    def __add__(self, other: Dataset) -> Union:
        return Union((self, other))


@dataclass(frozen=True)
class Everything(Dataset):
    """All labelled examples of the training split, weight 1."""

    def weigh(self, index: ExampleIndex, now: datetime, rng: np.random.Generator) -> Array:
        """Return 1 for each."""
        return np.ones(len(index))


@dataclass(frozen=True)
class Window(Dataset):
    """Examples whose request came within the last `period`, weight 1."""

    period: Span = Span("90d")
    durations: ClassVar[tuple[str, ...]] = ("period",)

    def weigh(self, index: ExampleIndex, now: datetime, rng: np.random.Generator) -> Array:
        """Return 1 for the examples after `now - period`."""
        return (index.received_at > micros(now - self.period)).astype(np.float64)


@dataclass(frozen=True)
class Recent(Dataset):
    """The `num` training examples whose requests came last (all, when there are no more), weight 1.

    A `Window` is as long as its period, however little came in it; this one reaches back as far as it must.
    """

    num: int

    def check(self) -> None:
        """Refuse a selection of nothing."""
        self.require(isinstance(self.num, int) and self.num > 0, f"num is {self.num!r}", "give a positive number")

    def weigh(self, index: ExampleIndex, now: datetime, rng: np.random.Generator) -> Array:
        """Return 1 for the newest ones; of those that came at once, the later in the index."""
        pool = np.flatnonzero(index.trainable(now))
        newest = pool[np.argsort(index.received_at[pool], kind="stable")[-self.num :]]
        weights = np.zeros(len(index))
        weights[newest] = 1.0
        return weights


@dataclass(frozen=True)
class Replay(Dataset):
    """A uniform sample of `num` of all training examples (all, when there are no more), weight 1.

    Beside a `Window` it keeps a model from forgetting: experience replay. Rolnick et al., Experience Replay for
    Continual Learning, NeurIPS 2019.
    """

    num: int

    def check(self) -> None:
        """Refuse a sample of nothing."""
        self.require(isinstance(self.num, int) and self.num > 0, f"num is {self.num!r}", "give a positive number")

    def weigh(self, index: ExampleIndex, now: datetime, rng: np.random.Generator) -> Array:
        """Return 1 for the sampled ones."""
        pool = np.flatnonzero(index.trainable(now))
        weights = np.zeros(len(index))
        weights[rng.choice(pool, size=min(self.num, len(pool)), replace=False)] = 1.0
        return weights


@dataclass(frozen=True)
class Balanced(Dataset):
    """What `of` selects, with weights under which each class weighs as much as any other; the mean weight stays.

    An example of a rare class weighs at most `at_most` times one of the commonest, so that three do not outshout a
    thousand. For outputs that are classes. King & Zeng, Logistic Regression in Rare Events Data, Political Analysis
    2001, whose weights these are.
    """

    of: Dataset = Everything()
    at_most: float = 10.0

    def check(self) -> None:
        """Refuse what is no dataset stage, and a limit that could only make rare classes rarer."""
        self.require(isinstance(self.of, Dataset), f"of is {self.of!r}", "give a member of tm.dataset")
        self.require(self.at_most >= 1, f"at_most is {self.at_most!r}", "give 1 or more")

    @property
    def needs_classes(self) -> bool:
        """Whether labels have to be classes."""
        return True

    def weigh(self, index: ExampleIndex, now: datetime, rng: np.random.Generator) -> Array:
        """Return the weights of `of`, times a factor for each class."""
        weights = np.where(index.trainable(now), self.of.weigh(index, now, rng), 0.0)
        total = weights.sum()
        if total == 0.0:
            return weights
        _, of_class = np.unique(index.label.astype(str), return_inverse=True)
        by_class = np.bincount(of_class, weights)
        present = by_class > 0
        factor = np.zeros(len(by_class))
        factor[present] = np.minimum(by_class.max() / by_class[present], self.at_most)
        raised = weights * factor[of_class]
        balanced: Array = raised * (total / raised.sum())
        return balanced


@dataclass(frozen=True)
class Union(Dataset):
    """What any of `members` selects; weights add. Written `a + b`."""

    members: tuple[Dataset, ...]

    def check(self) -> None:
        """Flatten nested unions, so that `(a + b) + c` equals `a + (b + c)`."""
        for member in self.members:
            self.require(isinstance(member, Dataset), f"{member} is no dataset stage", "add members of tm.dataset")
        flat = (m.members if isinstance(m, Union) else (m,) for m in self.members)
        object.__setattr__(self, "members", tuple(part for parts in flat for part in parts))

    @property
    def needs_classes(self) -> bool:
        """Whether labels have to be classes, for any member."""
        return any(member.needs_classes for member in self.members)

    def weigh(self, index: ExampleIndex, now: datetime, rng: np.random.Generator) -> Array:
        """Return the sum of the members' weights."""
        total = np.zeros(len(index))
        for member in self.members:
            total += member.weigh(index, now, rng)
        return total

    def __str__(self) -> str:
        return " + ".join(str(m) for m in self.members)
