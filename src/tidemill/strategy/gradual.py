"""Growing shares of traffic, each left on evidence, with a way back at every look."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import ClassVar

import numpy as np

from tidemill.clock import from_micros, micros
from tidemill.records import Json, Outcome, Scalar, Verdict
from tidemill.strategy.guard import Errors, NoWorse
from tidemill.strategy.guarding import Guard
from tidemill.strategy.member import shown_duration
from tidemill.strategy.rollout import Action, Kind, RolloutFacts
from tidemill.strategy.span import Span
from tidemill.strategy.staged import WhenInconclusive, to_go
from tidemill.strategy.watched import Watched, reasons
from tidemill.strategy.wording import counted, percent

_MARGIN_SHARES = (0.05, 0.25, 0.5)  # a small share can only show much; the margins narrow with it
_MARGINS = (3.0, 2.0, 1.25)


@dataclass(frozen=True)
class Gradual(Watched):
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
        self._require_guards()
        self._require_choice(self.on_inconclusive)

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
            "guards": self._started(margins),
        }

    def update(self, state: Json, facts: RolloutFacts) -> Json:
        """Count requests of this step and hand the facts to the guards."""
        rows = facts.requests
        here = (rows.share > 0) & (rows.received_at >= state["step_began"])
        return {
            **state,
            "requests": state["requests"] + int(here.sum()),
            "guards": self._updated(state["guards"], facts),
        }

    def decide(self, state: Json, now: datetime) -> Action:
        """Roll back, hold, go on or stay, in this order of concern."""
        share = self.shares[state["step"]]
        if share == 1:
            return self._say("promote", state, Outcome.PASS, "no share below 1.0 was asked for")
        *verdicts, mismatch = parts = self._verdicts(state["guards"], self.margin(share))
        failed = [v for v in verdicts if v.outcome is Outcome.FAIL]
        if failed:
            return self._say("rollback", state, Outcome.FAIL, reasons(failed), parts=parts, back_to=failed[0].back_to)
        if mismatch.outcome is not Outcome.PASS:
            return self._undecided(state, now, mismatch.reason, parts, mismatched=True)
        missing = [v for v in verdicts if v.outcome is not Outcome.PASS]
        if state["requests"] < self.min_requests:
            waited = now - from_micros(state["step_began"])
            few = f"{state['requests']:,} of {self.min_requests:,} requests"
            few += to_go(state["requests"], self.min_requests, waited)
            return self._undecided(state, now, "; ".join([few, *(v.reason for v in missing)]), parts)
        if missing:
            return self._undecided(state, now, reasons(missing), parts)
        return self._leave(state, now, parts)

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
