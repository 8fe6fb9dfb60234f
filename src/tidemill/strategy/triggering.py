"""The base of the triggers, what they are shown, and how they compose by three-valued logic (Kleene's)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import ClassVar

from tidemill.clock import duration, from_micros, micros
from tidemill.records import Json, Outcome, Scalar, Verdict
from tidemill.stats.drift_report import DriftReport
from tidemill.strategy.drift_needs import DriftNeeds
from tidemill.strategy.member import Member, shown_duration
from tidemill.strategy.outcomes import OutcomeNeeds, Outcomes
from tidemill.strategy.reference import References
from tidemill.strategy.span import Span
from tidemill.strategy.wording import span

FIRE, QUIET, UNKNOWN = Outcome.FIRE, Outcome.QUIET, Outcome.UNKNOWN


@dataclass(frozen=True, kw_only=True)
class WatchFacts:
    """What is known of the live version now. `outcomes` are those that matured since the last update, in time order.

    `drift` holds what the looks that came due since then have said, `references` what the live version was good for,
    both by what was asked for.
    """

    now: datetime
    outcomes: Outcomes
    num_labels: int  # labelled training examples there are
    trained_labels: int  # how many there were at the last training
    last_trained_at: datetime
    live_version: int
    last_cycle_at: datetime | None = None  # when the last cycle opened
    asked: str | None = None  # a person's reason to retrain
    drift: Mapping[DriftNeeds, DriftReport] = field(default_factory=dict)
    references: References = field(default_factory=dict)


class Trigger(Member):
    """Base of the triggers: `start`, `update` with new facts, `decide`. The state is plain JSON; all three are pure."""

    stage: ClassVar[str] = "trigger"

    def needs(self) -> OutcomeNeeds:
        """Return which metrics it reads, and which looks at drift."""
        return OutcomeNeeds()

    def resolved(self, metric: str, *, binary: bool = True) -> Trigger:
        """Return the trigger with the project's first metric in place of None; `binary`: its loss is 0 or 1."""
        return self

    def start(self) -> Json:
        """Return the state before any facts: `decide` then says unknown."""
        return {}

    def update(self, state: Json, facts: WatchFacts) -> Json:
        """Return the state with new facts in it; outcomes may come in batches of any size."""
        raise NotImplementedError

    def decide(self, state: Json, now: datetime) -> Verdict:
        """Say FIRE, QUIET or UNKNOWN, with the reason and the numbers."""
        raise NotImplementedError

    def __or__(self, other: Trigger) -> AnyOf:
        return AnyOf((self, other))

    def __and__(self, other: Trigger) -> AllOf:
        return AllOf((self, other))

    def at_most(self, per: timedelta | str) -> AtMost:
        """Return a trigger that opens at most one cycle in `per`."""
        return AtMost(self, duration(per, name="at_most"))

    def _say(self, outcome: Outcome, reason: str, numbers: dict[str, Scalar] | None = None) -> Verdict:
        return Verdict(outcome=outcome, by=str(self), reason=reason, numbers=numbers or {})


@dataclass(frozen=True)
class _Members(Trigger):
    """A trigger made of others."""

    members: tuple[Trigger, ...]
    sign: ClassVar[str]

    def check(self) -> None:
        """Refuse what is no trigger."""
        fine = bool(self.members) and all(isinstance(member, Trigger) for member in self.members)
        self.require(fine, f"members are {self.members}", "use members of tm.trigger")

    def __str__(self) -> str:
        return f" {self.sign} ".join(f"({m})" if isinstance(m, _Members) else str(m) for m in self.members)

    def needs(self) -> OutcomeNeeds:
        """Return what its members read, at the strictest trust that any of them asks for."""
        return OutcomeNeeds.of(member.needs() for member in self.members)

    def resolved(self, metric: str, *, binary: bool = True) -> Trigger:
        """Return it with its members resolved."""
        return replace(self, members=tuple(member.resolved(metric, binary=binary) for member in self.members))

    def start(self) -> Json:
        """Return its members' starts."""
        return [member.start() for member in self.members]

    def update(self, state: Json, facts: WatchFacts) -> Json:
        """Hand the facts to each member."""
        return [member.update(memory, facts) for member, memory in zip(self.members, state, strict=True)]

    def _parts(self, state: Json, now: datetime) -> tuple[Verdict, ...]:
        return tuple(member.decide(memory, now) for member, memory in zip(self.members, state, strict=True))

    def _decided_by(self, order: Sequence[Outcome], parts: tuple[Verdict, ...]) -> Verdict:
        """Return the first outcome of `order` that some part has, with the reasons of those parts."""
        outcome = next(o for o in order if any(part.outcome is o for part in parts))
        decisive = [part for part in parts if part.outcome is outcome]
        numbers = decisive[0].numbers if len(decisive) == 1 else {}
        reason = "; ".join(part.reason for part in decisive)
        return Verdict(outcome=outcome, by=str(self), reason=reason, numbers=numbers, parts=parts)


@dataclass(frozen=True)
class AnyOf(_Members):
    """Fires when any member does; unknown when none does and some do not know. Written `a | b`."""

    sign: ClassVar[str] = "|"

    def __or__(self, other: Trigger) -> AnyOf:
        return AnyOf((*self.members, other))

    def decide(self, state: Json, now: datetime) -> Verdict:
        """Say the strongest of what its members say."""
        return self._decided_by((FIRE, UNKNOWN, QUIET), self._parts(state, now))


@dataclass(frozen=True)
class AllOf(_Members):
    """Fires when all members do; quiet when any is; else unknown. Written `a & b`."""

    sign: ClassVar[str] = "&"

    def __and__(self, other: Trigger) -> AllOf:
        return AllOf((*self.members, other))

    def decide(self, state: Json, now: datetime) -> Verdict:
        """Say the weakest of what its members say."""
        return self._decided_by((QUIET, UNKNOWN, FIRE), self._parts(state, now))


@dataclass(frozen=True)
class AtMost(Trigger):
    """Holds `trigger` back while the last cycle opened less than `per` ago. Written `trigger.at_most(per)`."""

    trigger: Trigger
    per: Span = Span("7d")
    durations: ClassVar[tuple[str, ...]] = ("per",)

    def __str__(self) -> str:
        inner = f"({self.trigger})" if isinstance(self.trigger, _Members) else str(self.trigger)
        return f"{inner}.at_most({shown_duration(self.per)!r})"

    def needs(self) -> OutcomeNeeds:
        """Return what the trigger reads."""
        return self.trigger.needs()

    def resolved(self, metric: str, *, binary: bool = True) -> Trigger:
        """Return it with the trigger resolved."""
        return replace(self, trigger=self.trigger.resolved(metric, binary=binary))

    def start(self) -> Json:
        """Return the trigger's start."""
        return {"trigger": self.trigger.start(), "cycle": None}

    def update(self, state: Json, facts: WatchFacts) -> Json:
        """Hand the facts on, and remember when the last cycle opened."""
        return {
            "trigger": self.trigger.update(state["trigger"], facts),
            "cycle": micros_or_none(facts.last_cycle_at),
        }

    def decide(self, state: Json, now: datetime) -> Verdict:
        """Say what the trigger says, but quiet where it would fire too soon."""
        verdict = self.trigger.decide(state["trigger"], now)
        free_at = None if state["cycle"] is None else from_micros(state["cycle"]) + self.per
        if verdict.outcome is not FIRE or free_at is None or free_at <= now:
            return replace(verdict, by=str(self), parts=(verdict,))
        wait = span((free_at - now).total_seconds())
        reason = f"would fire ({verdict.reason}), but one cycle in {shown_duration(self.per)} is allowed: {wait} to go"
        return Verdict(outcome=QUIET, by=str(self), reason=reason, numbers=verdict.numbers, parts=(verdict,))


def micros_or_none(at: datetime | None) -> int | None:
    """Return a time as microseconds."""
    return None if at is None else micros(at)
