"""Most of the traffic for some time, with a part left on the live model to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from tidemill.clock import from_micros, micros
from tidemill.records import Json, Outcome, Scalar, Verdict
from tidemill.strategy.guard import Errors, Latency
from tidemill.strategy.guarding import Guard
from tidemill.strategy.member import shown_duration
from tidemill.strategy.rollout import Action, Kind, RolloutFacts
from tidemill.strategy.span import Span
from tidemill.strategy.staged import to_go
from tidemill.strategy.watched import Watched, reasons
from tidemill.strategy.wording import counted, percent, span

_MARGIN = 1.25


@dataclass(frozen=True)
class Bake(Watched):
    """Lets the candidate answer `share` of the traffic for `duration`, then promotes it unless a guard says no.

    It catches what takes time to show: leaks, the night's traffic, a weekly batch. No evidence for the candidate is
    asked for, only the time and `min_requests`; a guard's failure rolls back at once. Put it last:
    `Gradual() >> Bake()`.
    """

    duration: Span = Span("1d")
    share: float = 0.95
    guards: tuple[Guard, ...] = (Errors(), Latency())
    min_requests: int = 200
    durations: ClassVar[tuple[str, ...]] = ("duration",)

    def check(self) -> None:
        """Refuse shares that leave one arm without traffic."""
        self.require(0 < self.share < 1, f"share is {self.share!r}", "leave the live model some traffic, such as 0.05")
        self._require_guards()

    def start(self, now: datetime) -> Json:
        """Return no evidence."""
        return {"began": micros(now), "requests": 0, "guards": self._started((_MARGIN,))}

    def update(self, state: Json, facts: RolloutFacts) -> Json:
        """Count requests and hand the facts to the guards."""
        here = (facts.requests.share > 0) & (facts.requests.received_at >= state["began"])
        requests = state["requests"] + int(here.sum())
        return {**state, "requests": requests, "guards": self._updated(state["guards"], facts)}

    def decide(self, state: Json, now: datetime) -> Action:
        """Roll back, hold, stay or promote, in this order of concern."""
        *verdicts, mismatch = parts = self._verdicts(state["guards"], _MARGIN)
        failed = [v for v in verdicts if v.outcome is Outcome.FAIL]
        if failed:
            return self._say("rollback", state, Outcome.FAIL, reasons(failed), parts, failed[0].back_to)
        if mismatch.outcome is not Outcome.PASS:
            return self._say("hold", state, Outcome.INCONCLUSIVE, mismatch.reason, parts)
        waited = now - from_micros(state["began"])
        missing = []
        if waited < self.duration:
            left = (self.duration - waited).total_seconds()
            missing.append(f"{span(left)} of {shown_duration(self.duration)} to go")
        if state["requests"] < self.min_requests:
            few = f"{state['requests']:,} of {self.min_requests:,} requests"
            missing.append(few + to_go(state["requests"], self.min_requests, waited))
        if missing:
            return self._say("stay", state, Outcome.INCONCLUSIVE, "; ".join(missing), parts)
        seen = "; ".join([counted(state["requests"], "request"), *(v.reason for v in parts)])
        return self._say("promote", state, Outcome.PASS, seen, parts)

    def _say(
        self, kind: Kind, state: Json, outcome: Outcome, reason: str, parts: tuple[Verdict, ...], back_to: str = ""
    ) -> Action:
        numbers: dict[str, Scalar] = {"share": self.share, "requests": state["requests"]}
        told = f"bakes at {percent(self.share)}: {reason}"
        verdict = Verdict(outcome=outcome, by="Bake", reason=told, numbers=numbers, back_to=back_to, parts=parts)
        return self._action(kind, f"bake at {percent(self.share)}", verdict, state, share=self.share)
