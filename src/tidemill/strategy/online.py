"""Stage 6: how a candidate meets real traffic, step by step, and when it is promoted or rolled back.

A member keeps its state as plain JSON: `start`, `update` with new facts, `decide`. Each is pure, so a loop killed
anywhere goes on where it was, and the same code backtests. `a >> b` goes on to b once a would promote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np

from tidemill.clock import from_micros, micros
from tidemill.records import Json, Outcome, Scalar, Verdict
from tidemill.stats.rise import log_rate_above
from tidemill.strategy.guard import Errors, Guard, NoWorse, SampleRatio
from tidemill.strategy.member import Member, shown_duration
from tidemill.strategy.outcomes import OutcomeNeeds
from tidemill.strategy.rollout import Action, Kind, RolloutFacts, Shadows
from tidemill.strategy.span import Span
from tidemill.strategy.wording import against, counted, percent, span

__all__ = [
    "Action",
    "Gradual",
    "Now",
    "Online",
    "RolloutFacts",
    "Shadow",
    "Shadows",
    "Then",
]

WhenInconclusive = Literal["hold", "rollback", "promote"]

_MARGIN_SHARES = (0.05, 0.25, 0.5)  # a small share can only show much; the margins narrow with it
_MARGINS = (3.0, 2.0, 1.25)
_SHADOW_ALPHA = 0.05
_CHOICES = ("hold", "rollback", "promote")


class Online(Member):
    """Base of the online stage: `start`, `update`, `decide`. The state is plain JSON; all three are pure."""

    stage: ClassVar[str] = "online"

    def needs(self) -> OutcomeNeeds:
        """Return which metrics it reads."""
        return OutcomeNeeds()

    def resolved(self, metric: str, *, binary: bool = True) -> Online:
        """Return the member with the project's first metric in place of None; `binary`: its loss is 0 or 1."""
        return self

    def start(self, now: datetime) -> Json:
        """Return the state of a rollout that begins now; `decide` then says what its first traffic is."""
        raise NotImplementedError

    def update(self, state: Json, facts: RolloutFacts) -> Json:
        """Return the state with new facts in it; they may come in batches of any size, in order."""
        raise NotImplementedError

    def decide(self, state: Json, now: datetime) -> Action:
        """Say what to do, with the reason and the numbers."""
        raise NotImplementedError

    def __rshift__(self, other: Online) -> Then:
        return Then((self, other))

    def _action(self, kind: Kind, step: str, verdict: Verdict, state: Json, *, share: float = 0.0) -> Action:
        if kind == "promote":
            return Action(kind=kind, share=1.0, shadow=False, step="promoted", verdict=verdict, state=state)
        if kind == "rollback":
            return Action(kind=kind, share=0.0, shadow=False, step="rolled back", verdict=verdict, state=state)
        return Action(kind=kind, share=share, shadow=share == 0, step=step, verdict=verdict, state=state)

    def _require_choice(self, choice: str) -> None:
        self.require(choice in _CHOICES, f"on_inconclusive is {choice!r}", f"use one of {', '.join(_CHOICES)}")


@dataclass(frozen=True)
class Now(Online):
    """Promotes at once: no traffic is compared."""

    def start(self, now: datetime) -> Json:
        """Return nothing to remember."""
        return {}

    def update(self, state: Json, facts: RolloutFacts) -> Json:
        """Return the same."""
        return state

    def decide(self, state: Json, now: datetime) -> Action:
        """Promote."""
        verdict = Verdict(outcome=Outcome.PASS, by=str(self), reason="promoted at once, as the strategy says")
        return self._action("promote", "now", verdict, state)


@dataclass(frozen=True)
class Shadow(Online):
    """The candidate answers nobody and is compared with who answered; left after `requests` shadow predictions.

    It is left only while at most `max_failed` of them failed; evidence that more do rolls back, early if need be. After
    `max_duration` without an end, `on_inconclusive` decides.
    """

    requests: int = 1000
    max_duration: Span = Span("7d")
    on_inconclusive: WhenInconclusive = "hold"
    max_failed: float = 0.01
    durations: ClassVar[tuple[str, ...]] = ("max_duration",)

    def check(self) -> None:
        """Refuse numbers out of range."""
        self.require(
            self.requests > 0, f"requests is {self.requests!r}", "give how many shadow predictions to wait for"
        )
        self.require(0 < self.max_failed < 1, f"max_failed is {self.max_failed!r}", "give a share such as 0.01")
        self._require_choice(self.on_inconclusive)

    def start(self, now: datetime) -> Json:
        """Return no counts."""
        return {"began": micros(now), "num": 0, "failed": 0, "disagree": 0, "latency_ms": 0.0}

    def update(self, state: Json, facts: RolloutFacts) -> Json:
        """Count shadow predictions."""
        new = facts.shadows
        return {
            "began": state["began"],
            "num": state["num"] + new.num,
            "failed": state["failed"] + new.num_failed,
            "disagree": state["disagree"] + new.num_disagree,
            "latency_ms": state["latency_ms"] + float(new.latency_ms.sum()),
        }

    def decide(self, state: Json, now: datetime) -> Action:
        """Roll back on failures, leave after enough predictions, else wait."""
        num, failed = state["num"], state["failed"]
        failing = log_rate_above(self.max_failed, num=num, events=failed)
        seen = self._seen(state)
        if failing >= -np.log(_SHADOW_ALPHA):
            reason = (
                f"more than {percent(self.max_failed)} of shadow predictions fail "
                f"(evidence {against(failing, 1 / _SHADOW_ALPHA)}): {seen}"
            )
            return self._say("rollback", state, Outcome.FAIL, reason, "training")
        if num >= self.requests and failed <= self.max_failed * num:
            return self._say("promote", state, Outcome.PASS, seen)
        why = f"{seen}; {self._missing(state, now)}"
        if now < from_micros(state["began"]) + self.max_duration:
            return self._say("stay", state, Outcome.INCONCLUSIVE, why)
        reason = f"inconclusive after {shown_duration(self.max_duration)}: {why}"
        back_to = "strategy" if self.on_inconclusive == "rollback" else ""
        return self._say(self.on_inconclusive, state, Outcome.INCONCLUSIVE, reason, back_to)

    def _seen(self, state: Json) -> str:
        differ = state["disagree"] / max(state["num"], 1)
        return (
            f"{counted(state['num'], 'shadow prediction')}, {state['failed']:,} failed, "
            f"{percent(differ)} differ from what was answered"
        )

    def _missing(self, state: Json, now: datetime) -> str:
        if state["num"] < self.requests:
            return f"{self.requests:,} wanted{_to_go(state['num'], self.requests, now - from_micros(state['began']))}"
        return f"at most {percent(self.max_failed)} may have failed to go on"

    def _say(self, kind: Kind, state: Json, outcome: Outcome, reason: str, back_to: str = "") -> Action:
        num = max(state["num"], 1)
        numbers: dict[str, Scalar] = {
            "shadow_predictions": state["num"],
            "wanted": self.requests,
            "failed_share": state["failed"] / num,
            "disagreement_share": state["disagree"] / num,
            "latency_ms_mean": state["latency_ms"] / num,
        }
        verdict = Verdict(outcome=outcome, by=str(self), reason=reason, numbers=numbers, back_to=back_to)
        return self._action(kind, "shadow", verdict, state)


@dataclass(frozen=True)
class Gradual(Online):
    """Gives the candidate growing shares of traffic; the last, 1.0, is promotion.

    A step is left after `min_requests` answered requests once every guard allows it, at the step's margin: by default a
    ratio of 3 at 5 %, 2 at 25 % and 1.25 from 50 % on, in between by interpolation. Evidence is carried over steps,
    each outcome weighed with the share it came under. A guard's failure rolls back at once, from any step. A
    sample-ratio mismatch holds: the arms cannot be compared. After `max_duration` without an end `on_inconclusive`
    decides; a mismatch is never promoted.
    """

    shares: tuple[float, ...] = (0.05, 0.25, 0.5, 1.0)
    guards: tuple[Guard, ...] = (Errors(), NoWorse())
    min_requests: int = 200
    max_duration: Span = Span("14d")
    on_inconclusive: WhenInconclusive = "hold"
    margins: tuple[float, ...] | None = None
    durations: ClassVar[tuple[str, ...]] = ("max_duration",)

    def check(self) -> None:
        """Refuse shares that do not grow to 1, margins that do not fit them, and guards that are none."""
        rising = all(a < b for a, b in pairwise((0.0, *self.shares)))
        ends = bool(self.shares) and self.shares[-1] == 1
        self.require(
            rising and ends, f"shares are {self.shares}", "let them grow to 1.0, such as (0.05, 0.25, 0.5, 1.0)"
        )
        steps = len(self.shares) - 1
        fits = self.margins is None or (len(self.margins) == steps and all(m >= 1 for m in self.margins))
        self.require(fits, f"margins are {self.margins}", f"give {steps} ratios of at least 1, one per share below 1.0")
        self.require(
            all(isinstance(g, Guard) for g in self.guards), f"guards are {self.guards}", "use members of tm.guard"
        )
        self._require_choice(self.on_inconclusive)

    def needs(self) -> OutcomeNeeds:
        """Return what its guards read, at the strictest trust that any of them asks for."""
        return OutcomeNeeds.of(guard.needs() for guard in self.guards)

    def resolved(self, metric: str, *, binary: bool = True) -> Gradual:
        """Return it with the guards resolved."""
        return replace(self, guards=tuple(guard.resolved(metric, binary=binary) for guard in self.guards))

    def margin(self, share: float) -> float:
        """Return the margin at which the step with this share is left."""
        if self.margins is not None:
            return self.margins[self.shares.index(share)]
        return float(np.interp(share, _MARGIN_SHARES, _MARGINS))

    def start(self, now: datetime) -> Json:
        """Return the first step, with no evidence."""
        margins = tuple(self.margin(share) for share in self.shares[:-1])
        return {
            "began": micros(now),
            "step": 0,
            "step_began": micros(now),
            "requests": 0,
            "guards": [guard.start(margins) for guard in self._all_guards()],
        }

    def update(self, state: Json, facts: RolloutFacts) -> Json:
        """Count requests of this step and hand the facts to the guards."""
        rows = facts.requests
        here = (rows.share > 0) & (rows.received_at >= state["step_began"])
        guards = [
            guard.update(memory, rows, facts.outcomes)
            for guard, memory in zip(self._all_guards(), state["guards"], strict=True)
        ]
        return {**state, "requests": state["requests"] + int(here.sum()), "guards": guards}

    def decide(self, state: Json, now: datetime) -> Action:
        """Roll back, hold, go on or stay, in this order of concern."""
        share = self.shares[state["step"]]
        if share == 1:
            return self._say("promote", state, Outcome.PASS, "no share below 1.0 was asked for")
        *verdicts, mismatch = parts = self._verdicts(state, share)
        failed = [v for v in verdicts if v.outcome is Outcome.FAIL]
        if failed:
            return self._say("rollback", state, Outcome.FAIL, _reasons(failed), parts=parts, back_to=failed[0].back_to)
        if mismatch.outcome is not Outcome.PASS:
            return self._undecided(state, now, mismatch.reason, parts, mismatched=True)
        missing = [v for v in verdicts if v.outcome is not Outcome.PASS]
        if state["requests"] < self.min_requests:
            waited = now - from_micros(state["step_began"])
            few = f"{state['requests']:,} of {self.min_requests:,} requests"
            few += _to_go(state["requests"], self.min_requests, waited)
            return self._undecided(state, now, "; ".join([few, *(v.reason for v in missing)]), parts)
        if missing:
            return self._undecided(state, now, _reasons(missing), parts)
        return self._leave(state, now, parts)

    def _all_guards(self) -> tuple[Guard, ...]:
        return (*self.guards, SampleRatio())

    def _verdicts(self, state: Json, share: float) -> tuple[Verdict, ...]:
        margin = self.margin(share)
        pairs = zip(self._all_guards(), state["guards"], strict=True)
        return tuple(guard.decide(memory, margin) for guard, memory in pairs)

    def _leave(self, state: Json, now: datetime, parts: tuple[Verdict, ...]) -> Action:
        """Go on to the next step, which counts its own requests and keeps all evidence."""
        reason = "; ".join([counted(state["requests"], "request"), *(v.reason for v in parts)])
        step = state["step"] + 1
        if self.shares[step] == 1:
            return self._say("promote", state, Outcome.PASS, reason, parts=parts)
        action = self._say("advance", state, Outcome.PASS, reason, parts=parts)
        after = {**state, "step": step, "step_began": micros(now), "requests": 0}
        return replace(action, share=self.shares[step], step=percent(self.shares[step]), state=after)

    def _undecided(
        self, state: Json, now: datetime, why: str, parts: tuple[Verdict, ...], *, mismatched: bool = False
    ) -> Action:
        if now < from_micros(state["began"]) + self.max_duration:
            return self._say("hold" if mismatched else "stay", state, Outcome.INCONCLUSIVE, why, parts=parts)
        kind: Kind = "hold" if mismatched and self.on_inconclusive == "promote" else self.on_inconclusive
        reason = f"inconclusive after {shown_duration(self.max_duration)}: {why}"
        return self._say(
            kind, state, Outcome.INCONCLUSIVE, reason, parts=parts, back_to="strategy" if kind == "rollback" else ""
        )

    def _say(
        self,
        kind: Kind,
        state: Json,
        outcome: Outcome,
        reason: str,
        *,
        parts: tuple[Verdict, ...] = (),
        back_to: str = "",
    ) -> Action:
        share = self.shares[state["step"]]
        numbers: dict[str, Scalar] = {
            "share": share,
            "requests": state["requests"],
            "min_requests": self.min_requests,
            "margin": self.margin(share) if share < 1 else None,
        }
        told = f"at {percent(share)}: {reason}"
        verdict = Verdict(
            outcome=outcome, by=type(self).__name__, reason=told, numbers=numbers, back_to=back_to, parts=parts
        )
        return self._action(kind, percent(share), verdict, state, share=share)


@dataclass(frozen=True)
class Then(Online):
    """`parts`, one after the other: where one would promote, the next begins. Written `a >> b`."""

    parts: tuple[Online, ...]

    def check(self) -> None:
        """Refuse what is no online stage."""
        fine = bool(self.parts) and all(isinstance(part, Online) for part in self.parts)
        self.require(fine, f"parts are {self.parts}", "use members of tm.online")

    def __rshift__(self, other: Online) -> Then:
        return Then((*self.parts, other))

    def __str__(self) -> str:
        return " >> ".join(str(part) for part in self.parts)

    def needs(self) -> OutcomeNeeds:
        """Return what its parts read, at the strictest trust that any of them asks for."""
        return OutcomeNeeds.of(part.needs() for part in self.parts)

    def resolved(self, metric: str, *, binary: bool = True) -> Then:
        """Return it with the parts resolved."""
        return Then(tuple(part.resolved(metric, binary=binary) for part in self.parts))

    def start(self, now: datetime) -> Json:
        """Return the first part's start."""
        return {"at": 0, "part": self.parts[0].start(now)}

    def update(self, state: Json, facts: RolloutFacts) -> Json:
        """Hand the facts to the part that is on."""
        return {"at": state["at"], "part": self.parts[state["at"]].update(state["part"], facts)}

    def decide(self, state: Json, now: datetime) -> Action:
        """Do what the part that is on says; where it would promote, begin the next one."""
        at = state["at"]
        action: Action = self.parts[at].decide(state["part"], now)
        if action.kind != "promote" or at == len(self.parts) - 1:
            return replace(action, state={"at": at, "part": action.state})
        begun = {"at": at + 1, "part": self.parts[at + 1].start(now)}
        first = self.decide(begun, now)
        if first.kind in ("stay", "hold"):
            return replace(first, kind="advance", verdict=action.verdict)
        return first


def _reasons(verdicts: Sequence[Verdict]) -> str:
    return "; ".join(v.reason for v in verdicts)


def _to_go(num: int, wanted: int, waited: timedelta) -> str:
    """Say how long the missing ones take at the rate they came so far, if that is known."""
    if not num or waited <= timedelta(0):
        return ""
    return f", about {span((wanted - num) * waited.total_seconds() / num)} to go"
