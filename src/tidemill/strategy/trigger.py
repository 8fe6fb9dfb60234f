"""Stage 3: when to retrain. A trigger gathers facts about the live version and says fire, quiet or unknown.

The state is plain JSON; `update` and `decide` are pure. Triggers compose: `a | b` fires when either does, `a & b` when
both do, by three-valued logic (Kleene's); `.at_most("7d")` holds back a trigger that fired too recently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import ClassVar, NamedTuple

import numpy as np

from tidemill.clock import duration, from_micros, micros
from tidemill.errors import ProjectError
from tidemill.records import Json, Outcome, Scalar, Trust, Verdict
from tidemill.schema import Array
from tidemill.strategy.member import Member, shown_duration
from tidemill.strategy.outcomes import OutcomeNeeds, Outcomes
from tidemill.strategy.span import Span
from tidemill.strategy.stream import Stream
from tidemill.strategy.wording import against, counted, evidence, more, span

FIRE, QUIET, UNKNOWN = Outcome.FIRE, Outcome.QUIET, Outcome.UNKNOWN
EVERYONE = "all"  # the stream of all outcomes, beside those of cohorts


@dataclass(frozen=True, kw_only=True)
class WatchFacts:
    """What is known of the live version now. `outcomes` are those that matured since the last update, in time order."""

    now: datetime
    outcomes: Outcomes
    num_labels: int  # labelled training examples there are
    trained_labels: int  # how many there were at the last training
    last_trained_at: datetime
    live_version: int
    last_cycle_at: datetime | None = None  # when the last cycle opened
    asked: str | None = None  # a person's reason to retrain


class Trigger(Member):
    """Base of the triggers: `start`, `update` with new facts, `decide`. The state is plain JSON; all three are pure."""

    stage: ClassVar[str] = "trigger"

    def needs(self) -> OutcomeNeeds:
        """Return which metrics it reads."""
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
class Every(Trigger):
    """Fires when `period` has passed since the last training, or since the last cycle opened if that was later."""

    period: Span = Span("30d")
    durations: ClassVar[tuple[str, ...]] = ("period",)

    def check(self) -> None:
        """Refuse a period of nothing."""
        self.require(self.period > timedelta(0), f"period is {self.period}", "give a time such as '30d'")

    def update(self, state: Json, facts: WatchFacts) -> Json:
        """Remember when the last training was, or the last try."""
        return {"since": micros(max(facts.last_trained_at, facts.last_cycle_at or facts.last_trained_at))}

    def decide(self, state: Json, now: datetime) -> Verdict:
        """Compare the time since then with the period."""
        if not state:
            return self._say(UNKNOWN, "nothing is known yet of the last training")
        since = now - from_micros(state["since"])
        numbers: dict[str, Scalar] = {
            "seconds_since": since.total_seconds(),
            "period_seconds": self.period.total_seconds(),
        }
        ago = f"the last training was {span(since.total_seconds())} ago"
        if since >= self.period:
            return self._say(FIRE, f"{ago}, and {shown_duration(self.period)} is the period", numbers)
        return self._say(QUIET, f"{ago}; due in {span((self.period - since).total_seconds())}", numbers)


@dataclass(frozen=True)
class Amount(Trigger):
    """Fires when `labels` new training labels came since the last training, or since the last cycle opened."""

    labels: int

    def check(self) -> None:
        """Refuse no labels."""
        self.require(self.labels > 0, f"labels is {self.labels!r}", "give a positive number")

    def update(self, state: Json, facts: WatchFacts) -> Json:
        """Count labels since the last training; a cycle that ended without one starts the count again."""
        cycle = _micros_or_none(facts.last_cycle_at)
        tried = state.get("tried", 0)
        if state and state["cycle"] != cycle:
            tried = facts.num_labels
        return {"new": facts.num_labels - max(facts.trained_labels, tried), "tried": tried, "cycle": cycle}

    def decide(self, state: Json, now: datetime) -> Verdict:
        """Compare the count with what is asked for."""
        if not state:
            return self._say(UNKNOWN, "the labels have not been counted yet")
        new = max(state["new"], 0)
        numbers: dict[str, Scalar] = {"new_labels": new, "wanted": self.labels}
        told = f"{counted(new, 'new label')} since the last training"
        if new >= self.labels:
            return self._say(FIRE, f"{told}, {self.labels:,} wanted", numbers)
        return self._say(QUIET, f"{told}; {self.labels - new:,} more to come", numbers)


@dataclass(frozen=True)
class Manual(Trigger):
    """Fires when a person asks, with `tidemill retrain`."""

    def update(self, state: Json, facts: WatchFacts) -> Json:
        """Remember who asks."""
        return {"asked": facts.asked}

    def decide(self, state: Json, now: datetime) -> Verdict:
        """Fire if somebody asks."""
        asked = state.get("asked")
        return self._say(QUIET, "nobody asked") if asked is None else self._say(FIRE, asked)


class _Losses(NamedTuple):
    """The losses of one stream in a batch, and the rows of the batch that they stand in, both (N,)."""

    at: Array
    loss: Array


_NONE = _Losses(np.zeros(0, dtype=np.int64), np.zeros(0))


@dataclass(frozen=True)
class Degraded(Trigger):
    """Fires when the live version's loss has risen by more than `drop` above its own first outcomes.

    The version's first `reference` matured outcomes, of everyone and of each cohort, are what it was good for. From
    then on each stream is tested at every look (`stats.rise`) for a mean loss above the reference's plus `drop`, from
    any time on; a reference that may have been lucky raises the bar. A cohort that appears only later, such as a new
    version of an app, is held to everyone's reference. `alpha` is the chance of a false alarm over the
    life of the version, with the noise of the reference in it, and is shared out over the streams. A new version begins
    anew; a new cycle keeps the reference and drops the evidence.

    A drop of accuracy is a rise of errors, so `drop=0.03` reads the same for both. `binary=False` takes any loss; the
    guarantee is then approximate. Rows count one by one: a few people who send most of the requests make the true
    chance of a false alarm larger. `metric=None` is the project's first.
    """

    metric: str | None = None
    drop: float = 0.03
    by_cohort: bool = True
    alpha: float = 0.01
    reference: int = 300
    trust: str = Trust.CROWD
    binary: bool = True

    def check(self) -> None:
        """Refuse numbers out of range."""
        self.require(self.drop > 0, f"drop is {self.drop!r}", "give how much worse is too much, such as 0.03")
        self.require(0 < self.alpha < 1, f"alpha is {self.alpha!r}", "give the chance of a false alarm, such as 0.01")
        self.require(self.reference >= 30, f"reference is {self.reference!r}", "give at least 30 outcomes")
        self.require(self.trust in list(Trust), f"trust is {self.trust!r}", f"use one of {', '.join(Trust)}")

    def needs(self) -> OutcomeNeeds:
        """Return its metric and trust."""
        return OutcomeNeeds((self._metric(),), Trust(self.trust))

    def resolved(self, metric: str, *, binary: bool = True) -> Degraded:
        """Return the trigger with the project's first metric in place of None."""
        return replace(self, metric=metric, binary=binary) if self.metric is None else self

    def update(self, state: Json, facts: WatchFacts) -> Json:
        """Feed each stream: first its reference, then its test."""
        cycle = _micros_or_none(facts.last_cycle_at)
        old = state["streams"] if state.get("version") == facts.live_version else {}
        streams = {name: Stream.from_json(stream) for name, stream in old.items()}
        if streams and state["cycle"] != cycle:
            streams = {name: stream.without_evidence() for name, stream in streams.items()}
        losses = self._losses(facts)
        late = self._appear_late(streams.get(EVERYONE, Stream()), losses)
        names = list(dict.fromkeys([*streams, *losses]))  # everyone's first: others may be held to it
        alpha = self.alpha / 2 / max(len(names), 1)
        for name in names:
            begun = streams.get(name, Stream())
            if name in late and begun.reference.num == 0:
                begun = Stream(streams[EVERYONE].reference)
            streams[name] = begun.add(
                losses.get(name, _NONE).loss, size=self.reference, drop=self.drop, alpha=alpha, binary=self.binary
            )
        return {
            "version": facts.live_version,
            "cycle": cycle,
            "streams": {name: stream.to_json() for name, stream in streams.items()},
        }

    def decide(self, state: Json, now: datetime) -> Verdict:
        """Fire if any stream's evidence is there; unknown until everyone's reference is full."""
        streams = {name: Stream.from_json(stream) for name, stream in state.get("streams", {}).items()}
        parts = tuple(self._judge(name, stream, len(streams)) for name, stream in streams.items())
        fired = [part for part in parts if part.outcome is FIRE]
        if fired:
            return self._composed(FIRE, fired, parts)
        if not parts or parts[0].outcome is UNKNOWN:
            lacking = parts[:1] or (self._say(UNKNOWN, f"no outcomes yet, {self.reference} make the reference"),)
            return self._composed(UNKNOWN, lacking, parts)
        return self._composed(QUIET, [part for part in parts if part.outcome is QUIET], parts)

    def _metric(self) -> str:
        if self.metric is None:
            raise ProjectError("trigger.Degraded has no metric yet.", "name one, or call resolved(metric) first")
        return self.metric

    def _appear_late(self, everyone: Stream, losses: Mapping[str, _Losses]) -> set[str]:
        """Return the streams whose first loss comes after everyone's reference is full, however facts are batched."""
        room = self.reference - everyone.reference.num
        at = losses[EVERYONE].at if losses else _NONE.at
        if room > len(at):
            return set()
        full_from = -1 if room <= 0 else at[room - 1]
        return {name for name, its in losses.items() if name != EVERYONE and len(its.at) and its.at[0] > full_from}

    def _losses(self, facts: WatchFacts) -> dict[str, _Losses]:
        """Return the known losses of the live version by stream, everyone's first."""
        rows = facts.outcomes
        if not len(rows):
            return {}
        loss = rows.values[self._metric()]
        known = ~np.isnan(loss) & (rows.version == facts.live_version)
        self._require_binary(loss[known])
        masks = {EVERYONE: known}
        if self.by_cohort:
            masks |= {name: known & mask for name, mask in rows.cohorts.items()}
        return {name: _Losses(np.flatnonzero(mask), loss[mask]) for name, mask in masks.items()}

    def _require_binary(self, loss: Array) -> None:
        odd = loss[(loss != 0) & (loss != 1)] if self.binary else loss[:0]
        if len(odd):
            raise ProjectError(
                f"{self} tests errors of 0 or 1, and the loss of {self.metric!r} is {odd[0]:g}.",
                f"write trigger.Degraded({self.metric!r}, binary=False)",
            )

    def _judge(self, name: str, stream: Stream, num_streams: int) -> Verdict:
        reference, test = stream.reference, stream.test
        who = str(self.metric) if name == EVERYONE else f"{self.metric} in cohort {name}"
        if test is None:
            missing = self.reference - reference.num
            reason = f"{who}: {reference.num} of {self.reference} outcomes of the reference, {missing} more to come"
            return self._say(UNKNOWN, reason, {"reference_outcomes": reference.num, "more_outcomes": missing})
        log_evidence, wanted = test.log_evidence(), 2 * num_streams / self.alpha
        numbers: dict[str, Scalar] = {
            "reference_loss": reference.mean,
            "bar": test.bar,
            "recent_loss": test.recent,
            "outcomes": test.num,
            "evidence": evidence(log_evidence),
            "wanted_evidence": wanted,
        }
        told = (
            f"{who}: loss {test.recent:.3g} of late, {reference.mean:.3g} in the first {reference.num} outcomes; "
            f"evidence that it is above {test.bar:.3g}: {against(log_evidence, wanted)} "
            f"after {counted(test.num, 'outcome')}"
        )
        if log_evidence >= np.log(wanted):
            return self._say(FIRE, told, numbers)
        left = test.more_outcomes(1 / wanted) if self.binary else None
        if left is None:
            return self._say(QUIET, told, numbers)
        numbers["more_outcomes"] = round(left)
        return self._say(QUIET, f"{told}; should it stay so, it fires after {more(left, 'outcome')}", numbers)

    def _composed(self, outcome: Outcome, told: Sequence[Verdict], parts: tuple[Verdict, ...]) -> Verdict:
        """Return the verdict of the stream with most evidence, and all streams as its parts."""
        first = max(told, key=lambda part: float(part.numbers.get("evidence") or 0))
        return Verdict(outcome=outcome, by=str(self), reason=first.reason, numbers=first.numbers, parts=parts)


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
            "cycle": _micros_or_none(facts.last_cycle_at),
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


def _micros_or_none(at: datetime | None) -> int | None:
    return None if at is None else micros(at)
