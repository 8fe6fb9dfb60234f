"""Stage 2, second half: where labels come from, how many a day, how far they are trusted and when they have matured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

from tidemill.records import Trust
from tidemill.strategy.member import Member
from tidemill.strategy.span import Span

UNLIMITED = 2**62
"""The allowance of a budget that has no bound."""
DAY = timedelta(days=1)


@dataclass(frozen=True)
class LabelFact:
    """One label that somebody gave to an example."""

    value: str | float
    trust: Trust
    source: str
    at: datetime


def winner(labels: Sequence[LabelFact]) -> LabelFact | None:
    """Return the label that counts: the highest trust, then the newest. The order of `labels` does not matter.

    Two sources that speak at the same time with the same trust are told apart by name, then by value.
    """
    return max(labels, key=lambda fact: (fact.trust.rank, fact.at, fact.source, str(fact.value)), default=None)


class Label(Member):
    """Base of the label stage. `a | b` takes labels from both.

    `queue`, `feedback` and `functions` are the sources of each kind, `horizon` is how long after a request its feedback
    counts, and `allowance` is how many picks may have been handed out.
    """

    stage: ClassVar[str] = "label"

    @property
    def queue(self) -> Queue | None:
        """The source that asks people, if there is one."""
        return None

    @property
    def feedback(self) -> Feedback | None:
        """The source that waits for feedback, if there is one."""
        return None

    @property
    def functions(self) -> Functions | None:
        """The source that asks functions, if there is one."""
        return None

    @property
    def horizon(self) -> timedelta:
        """How long after a request its feedback counts."""
        raise NotImplementedError

    def allowance(self, elapsed: timedelta) -> int:
        """Return how many picks may have been handed out in total, `elapsed` after the first curation.

        Days count from the first curation. It never falls, and grows by at most the daily budget in a day.
        """
        raise NotImplementedError

    def __or__(self, other: Label) -> Either:
        return Either((self, other))


@dataclass(frozen=True)
class Queue(Label):
    """People label what was picked (`tidemill label`, or `App.labelling`), at most `daily_budget` examples a day.

    The picks of a day are released evenly over `spread`, so that a late event can still be picked on the same day.
    `horizon` is for feedback that other sources give beside the queue, so 0 here.

    A task belongs to one labeller for `lease`. Each example is labelled by `per_example` people, and the commonest
    label counts (of numbers, the median); where none is, one more is asked. A share `golden` of everybody's tasks are
    examples whose label is known (`tidemill label golden`), which measure the labeller and change nothing. `rulebook`
    is shown with the tasks. At most `recheck` examples a day whose labels look wrong are asked for once more, by
    confident learning over the scores they were answered with.
    """

    daily_budget: int = 200
    trust: str = Trust.PEOPLE
    spread: Span = Span("1d")
    horizon: Span = Span("0s")
    per_example: int = 1
    golden: float = 0.05
    rulebook: str = ""
    lease: Span = Span("1h")
    recheck: int = 0
    durations: ClassVar[tuple[str, ...]] = ("spread", "horizon", "lease")

    def check(self) -> None:
        """Refuse a negative budget, an unknown trust, a spread beyond a day, and numbers that make no sense."""
        _check_source(self, self.daily_budget, self.trust)
        self.require(self.spread <= DAY, f"spread is {self.spread}, more than a day", "give at most '1d'")
        several = isinstance(self.per_example, int) and self.per_example >= 1
        self.require(several, f"per_example is {self.per_example!r}", "give how many people label each example")
        self.require(0 <= self.golden < 1, f"golden is {self.golden!r}", "give a share of the tasks, below 1")
        self.require(self.lease > timedelta(0), f"lease is {self.lease}", "give people some time, such as '1h'")
        whole = isinstance(self.recheck, int) and self.recheck >= 0
        self.require(whole, f"recheck is {self.recheck!r}", "give a whole number of examples a day")

    @property
    def queue(self) -> Queue | None:
        """This."""
        return self

    def allowance(self, elapsed: timedelta) -> int:
        """Release the daily budget evenly over `spread`."""
        return _released(self.daily_budget, self.spread, elapsed)


@dataclass(frozen=True)
class Feedback(Label):
    """Labels come by themselves, from users or a system of record, within `horizon` of the request.

    `daily_budget` bounds how many requests a day become examples; None takes all that curation picks.
    """

    trust: str = Trust.CROWD
    horizon: Span = Span("2d")
    daily_budget: int | None = 5000
    durations: ClassVar[tuple[str, ...]] = ("horizon",)

    def check(self) -> None:
        """Refuse a negative budget and an unknown trust."""
        _check_source(self, 0 if self.daily_budget is None else self.daily_budget, self.trust)

    @property
    def feedback(self) -> Feedback | None:
        """This."""
        return self

    def allowance(self, elapsed: timedelta) -> int:
        """Release the daily budget evenly over the day."""
        return UNLIMITED if self.daily_budget is None else _released(self.daily_budget, DAY, elapsed)


@dataclass(frozen=True)
class Functions(Label):
    """Functions of yours label what was picked: each takes the inputs by name and returns a label, or None.

    Their votes are weighed by how well they agree (`tidemill.stats.label_model`), unless a majority of equals is
    better on the examples whose label is known from people or a system of record; a label is given where its chance is
    at least `sure`. The trust is `functions`: such labels train, and judge nothing. Weak supervision: Ratner et al.,
    Snorkel (VLDB 2017). For outputs that are classes.
    """

    voters: tuple[Callable[..., Any], ...] = ()
    sure: float = 0.8
    daily_budget: int | None = 5000
    horizon: Span = Span("0s")
    durations: ClassVar[tuple[str, ...]] = ("horizon",)

    def check(self) -> None:
        """Refuse no function, what is none, and a chance that is none."""
        _check_source(self, 0 if self.daily_budget is None else self.daily_budget, Trust.FUNCTIONS)
        there = bool(self.voters) and all(callable(one) for one in self.voters)
        self.require(there, f"the functions are {self.voters!r}", "give a list of functions of an example's inputs")
        self.require(0 < self.sure <= 1, f"sure is {self.sure!r}", "give a chance, above 0 and at most 1")

    @property
    def functions(self) -> Functions | None:
        """This."""
        return self

    def allowance(self, elapsed: timedelta) -> int:
        """Release the daily budget evenly over the day."""
        return UNLIMITED if self.daily_budget is None else _released(self.daily_budget, DAY, elapsed)


@dataclass(frozen=True)
class Either(Label):
    """Labels from any of `members`; the highest trust wins, then the newest (see `winner`). Written `a | b`.

    Everything picked goes to the people's queue if there is one, so it is the queue's budget that bounds the picks.
    """

    members: tuple[Label, ...]

    def check(self) -> None:
        """Flatten nested ones; refuse two sources of a kind, whose budgets would contradict each other."""
        for member in self.members:
            self.require(isinstance(member, Label), f"{member} is no label stage", "combine members of tm.label")
        flat = (m.members if isinstance(m, Either) else (m,) for m in self.members)
        object.__setattr__(self, "members", tuple(part for parts in flat for part in parts))
        for kind in (Queue, Feedback, Functions):
            num = sum(isinstance(m, kind) for m in self.members)
            self.require(num < 2, f"there are {num} of {kind.__name__}", f"give one {kind.__name__}")

    @property
    def queue(self) -> Queue | None:
        """The member that asks people."""
        return next((m.queue for m in self.members if m.queue), None)

    @property
    def feedback(self) -> Feedback | None:
        """The member that waits for feedback."""
        return next((m.feedback for m in self.members if m.feedback), None)

    @property
    def functions(self) -> Functions | None:
        """The member that asks functions."""
        return next((m.functions for m in self.members if m.functions), None)

    @property
    def horizon(self) -> timedelta:
        """The longest of the members' horizons."""
        return max(m.horizon for m in self.members)

    def allowance(self, elapsed: timedelta) -> int:
        """Return the queue's allowance, or without a queue that of the feedback, or of the functions."""
        source = self.queue or self.feedback or self.functions
        return source.allowance(elapsed) if source else 0

    def __str__(self) -> str:
        return " | ".join(str(m) for m in self.members)


def _check_source(source: Queue | Feedback | Functions, daily_budget: int, trust: str) -> None:
    whole = isinstance(daily_budget, int) and daily_budget >= 0
    source.require(whole, f"daily_budget is {daily_budget!r}", "give a whole number of labels a day")
    known = ", ".join(Trust)
    source.require(trust in tuple(Trust), f"trust is {trust!r}", f"give one of {known}")
    if not isinstance(source, Functions):
        object.__setattr__(source, "trust", Trust(trust))


def _released(daily_budget: int, spread: timedelta, elapsed: timedelta) -> int:
    if elapsed < timedelta(0):
        return 0
    days, today = divmod(elapsed, DAY)
    share = min(1.0, today / spread) if spread else 1.0
    return days * daily_budget + int(daily_budget * share)
