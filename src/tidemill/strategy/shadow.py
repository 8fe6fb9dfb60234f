"""The candidate as a shadow: it answers nobody, and is compared with who answered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import ClassVar

import numpy as np

from tidemill.clock import from_micros, micros
from tidemill.records import Json, Outcome, Scalar, Verdict
from tidemill.stats.rise import log_rate_above
from tidemill.strategy.guarding import Guard
from tidemill.strategy.member import shown_duration
from tidemill.strategy.outcomes import OutcomeNeeds
from tidemill.strategy.rollout import Action, Kind, RolloutFacts
from tidemill.strategy.span import Span
from tidemill.strategy.staged import Online, WhenInconclusive, to_go
from tidemill.strategy.wording import against, counted, percent

_SHADOW_ALPHA = 0.05
_MARGIN = 1.25  # of the guards


@dataclass(frozen=True)
class Shadow(Online):
    """The candidate answers nobody and is compared with who answered; left after `requests` shadow predictions.

    It is left only while at most `max_failed` of them failed; evidence that more do rolls back, early if need be. After
    `max_duration` without an end, `on_inconclusive` decides.

    `guards` compare each shadow answer with the one that the user got. `guard.NoWorse` of a binary loss counts the
    pairs in which one of the two is wrong (McNemar, Psychometrika 1947, as a sequential test: such a pair is the
    candidate's with chance 1/2 when both are equally good), so that few labels tell much; the step is left once all
    guards allow it at the margin of half the traffic.
    """

    requests: int = 1000
    guards: tuple[Guard, ...] = ()
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
        self.require(
            all(isinstance(g, Guard) for g in self.guards), f"guards are {self.guards}", "use members of tm.guard"
        )
        self._require_choice(self.on_inconclusive)

    def needs(self) -> OutcomeNeeds:
        """Return what its guards read of the shadowed requests."""
        return replace(OutcomeNeeds.of(guard.needs() for guard in self.guards), pairs=bool(self.guards))

    def resolved(self, metric: str, *, binary: bool = True) -> Shadow:
        """Return it with the guards resolved."""
        return replace(self, guards=tuple(guard.resolved(metric, binary=binary) for guard in self.guards))

    def start(self, now: datetime) -> Json:
        """Return no counts."""
        guards = [guard.start((_MARGIN,)) for guard in self.guards]
        return {"began": micros(now), "num": 0, "failed": 0, "disagree": 0, "latency_ms": 0.0, "guards": guards}

    def update(self, state: Json, facts: RolloutFacts) -> Json:
        """Count shadow predictions."""
        new = facts.shadows
        return {
            "began": state["began"],
            "num": state["num"] + new.num,
            "failed": state["failed"] + new.num_failed,
            "disagree": state["disagree"] + new.num_disagree,
            "latency_ms": state["latency_ms"] + float(new.latency_ms.sum()),
            "guards": [
                guard.update(memory, new.requests, new.outcomes)
                for guard, memory in zip(self.guards, state["guards"], strict=True)
            ],
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
        parts = self._verdicts(state)
        against_it = [v for v in parts if v.outcome is Outcome.FAIL]
        if against_it:
            reason = "; ".join(v.reason for v in against_it)
            return self._say("rollback", state, Outcome.FAIL, reason, against_it[0].back_to, parts)
        missing = [v.reason for v in parts if v.outcome is not Outcome.PASS]
        if num < self.requests or failed > self.max_failed * num:
            missing.insert(0, self._missing(state, now))
        if not missing:
            return self._say("promote", state, Outcome.PASS, "; ".join([seen, *(v.reason for v in parts)]), "", parts)
        why = "; ".join([seen, *missing])
        if now < from_micros(state["began"]) + self.max_duration:
            return self._say("stay", state, Outcome.INCONCLUSIVE, why, "", parts)
        reason = f"inconclusive after {shown_duration(self.max_duration)}: {why}"
        back_to = "strategy" if self.on_inconclusive == "rollback" else ""
        return self._say(self.on_inconclusive, state, Outcome.INCONCLUSIVE, reason, back_to, parts)

    def _verdicts(self, state: Json) -> tuple[Verdict, ...]:
        part = 1 / max(len(self.guards), 1)
        pairs = zip(self.guards, state["guards"], strict=True)
        return tuple(guard.decide(memory, _MARGIN, part=part) for guard, memory in pairs)

    def _seen(self, state: Json) -> str:
        differ = state["disagree"] / max(state["num"], 1)
        return (
            f"{counted(state['num'], 'shadow prediction')}, {state['failed']:,} failed, "
            f"{percent(differ)} differ from what was answered"
        )

    def _missing(self, state: Json, now: datetime) -> str:
        if state["num"] < self.requests:
            return f"{self.requests:,} wanted{to_go(state['num'], self.requests, now - from_micros(state['began']))}"
        return f"at most {percent(self.max_failed)} may have failed to go on"

    def _say(
        self,
        kind: Kind,
        state: Json,
        outcome: Outcome,
        reason: str,
        back_to: str = "",
        parts: tuple[Verdict, ...] = (),
    ) -> Action:
        num = max(state["num"], 1)
        numbers: dict[str, Scalar] = {
            "shadow_predictions": state["num"],
            "wanted": self.requests,
            "failed_share": state["failed"] / num,
            "disagreement_share": state["disagree"] / num,
            "latency_ms_mean": state["latency_ms"] / num,
        }
        verdict = Verdict(outcome=outcome, by=str(self), reason=reason, numbers=numbers, back_to=back_to, parts=parts)
        return self._action(kind, "shadow", verdict, state)
