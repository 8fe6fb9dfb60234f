"""An A/B test: is the candidate better? One metric, two arms, an effect with an interval that holds at every look."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import ClassVar

import numpy as np

from tidemill.clock import from_micros, micros
from tidemill.errors import ProjectError
from tidemill.records import Json, Outcome, Scalar, Trust, Verdict
from tidemill.stats.event_ratio import EventRatio
from tidemill.stats.mean_difference import MeanDifference
from tidemill.strategy.arms import in_rollout, seconds_for, time_span
from tidemill.strategy.guard import Errors
from tidemill.strategy.guarding import Guard
from tidemill.strategy.member import shown_duration
from tidemill.strategy.outcomes import OutcomeNeeds
from tidemill.strategy.rollout import Action, Kind, RolloutFacts
from tidemill.strategy.span import Span
from tidemill.strategy.staged import WhenInconclusive
from tidemill.strategy.watched import Watched, reasons
from tidemill.strategy.wording import counted, more, percent, span, times

_MARGIN = 1.25  # of the guards


@dataclass(frozen=True)
class AB(Watched):
    """Splits traffic until the metric tells the arms apart: a better candidate is promoted, a worse one rolled back.

    The verdict carries the effect and its interval, which holds at every look: for a binary loss the ratio of the
    arms' rates (exact: `stats.event_ratio`), else the difference of means, less what the unit's past of `before`
    explains (asymptotic: `stats.mean_difference`). Nothing is promoted before `min_duration` is over, so that a whole
    day's traffic has been seen. After `max_duration` without a difference, `on_inconclusive` decides. `alpha` is the
    chance that two equal arms are ever told apart. `metric=None` is the project's first. Guards may roll back earlier.
    """

    metric: str | None = None
    share: float = 0.5
    alpha: float = 0.05
    guards: tuple[Guard, ...] = (Errors(),)
    min_duration: Span = Span("1d")
    max_duration: Span = Span("14d")
    on_inconclusive: WhenInconclusive = "rollback"
    trust: str = Trust.PEOPLE
    before: Span = Span("0s")
    binary: bool = True
    durations: ClassVar[tuple[str, ...]] = ("min_duration", "max_duration", "before")

    def check(self) -> None:
        """Refuse shares, chances and durations out of range."""
        self.require(0 < self.share < 1, f"share is {self.share!r}", "give the candidate's share, such as 0.5")
        self.require(0 < self.alpha < 1, f"alpha is {self.alpha!r}", "give the accepted chance, such as 0.05")
        self.require(
            self.min_duration <= self.max_duration, f"min_duration is {self.min_duration}", "let it end by max_duration"
        )
        self.require(self.trust in list(Trust), f"trust is {self.trust!r}", f"use one of {', '.join(Trust)}")
        self._require_guards()
        self._require_choice(self.on_inconclusive)

    def needs(self) -> OutcomeNeeds:
        """Return its metric beside what its guards read."""
        own = OutcomeNeeds((self._metric(),), Trust(self.trust), self.before)
        return OutcomeNeeds.of([own, *(guard.needs() for guard in self.guards)])

    def resolved(self, metric: str, *, binary: bool = True) -> AB:
        """Return it with the project's first metric in place of None, and the guards resolved."""
        guards = tuple(guard.resolved(metric, binary=binary) for guard in self.guards)
        if self.metric is not None:
            return replace(self, guards=guards)
        return replace(self, metric=metric, binary=binary, guards=guards)

    def start(self, now: datetime) -> Json:
        """Return no evidence."""
        return {"began": micros(now), "effect": [], "span": None, "guards": self._started((_MARGIN,))}

    def update(self, state: Json, facts: RolloutFacts) -> Json:
        """Take in outcomes by arm, and hand the facts to the guards."""
        rows = in_rollout(facts.outcomes)
        loss = rows.values[self._metric()] if len(rows) else np.zeros(0)
        if self.binary:
            test = EventRatio.from_json(state["effect"]).add(share=rows.share, candidate=rows.candidate, event=loss)
            effect = test.to_json()
        else:
            before = rows.before.get(self._metric())
            means = MeanDifference.from_json(state["effect"])
            effect = means.add(share=rows.share, candidate=rows.candidate, value=loss, before=before).to_json()
        known = rows.received_at[~np.isnan(loss)]
        return {
            **state,
            "effect": effect,
            "span": time_span(state["span"], known),
            "guards": self._updated(state["guards"], facts),
        }

    def decide(self, state: Json, now: datetime) -> Action:
        """Roll back, hold, promote or go on, in this order of concern."""
        *verdicts, mismatch = parts = self._verdicts(state["guards"], _MARGIN)
        failed = [v for v in verdicts if v.outcome is Outcome.FAIL]
        if failed:
            return self._say("rollback", state, Outcome.FAIL, reasons(failed), parts, failed[0].back_to)
        if mismatch.outcome is not Outcome.PASS:
            return self._say("hold", state, Outcome.INCONCLUSIVE, mismatch.reason, parts)
        return self._told_apart(state, now, parts)

    def _told_apart(self, state: Json, now: datetime, parts: tuple[Verdict, ...]) -> Action:
        """Decide by the interval of the effect."""
        same, low, high = self._interval(state)
        waited = now - from_micros(state["began"])
        if low > same:
            return self._say("rollback", state, Outcome.FAIL, "the candidate is worse", parts, "data")
        if high < same and waited >= self.min_duration:
            return self._say("promote", state, Outcome.PASS, "the candidate is better", parts)
        if high < same:
            left = span((self.min_duration - waited).total_seconds())
            return self._say("stay", state, Outcome.INCONCLUSIVE, f"better so far; {left} to go", parts)
        return self._undecided(state, waited, parts)

    def _undecided(self, state: Json, waited: timedelta, parts: tuple[Verdict, ...]) -> Action:
        missing = self._missing(state)
        if waited < self.max_duration:
            return self._say("stay", state, Outcome.INCONCLUSIVE, missing, parts)
        reason = f"inconclusive after {shown_duration(self.max_duration)}: {missing}"
        back_to = "strategy" if self.on_inconclusive == "rollback" else ""
        return self._say(self.on_inconclusive, state, Outcome.INCONCLUSIVE, reason, parts, back_to)

    def _metric(self) -> str:
        if self.metric is None:
            raise ProjectError("online.AB has no metric yet.", "name one, or call resolved(metric) first")
        return self.metric

    def _test(self, state: Json) -> EventRatio | MeanDifference:
        return (EventRatio if self.binary else MeanDifference).from_json(state["effect"])

    def _interval(self, state: Json) -> tuple[float, float, float]:
        """Return the effect of equal arms, and the interval of the effect; larger is worse."""
        return (1.0 if self.binary else 0.0, *self._test(state).interval(self.alpha))

    def _missing(self, state: Json) -> str:
        """Say about how many more outcomes would tell the arms apart, should the effect stay what it is."""
        test, worse = self._test(state), self._effect(state) > (1.0 if self.binary else 0.0)
        if isinstance(test, EventRatio):
            ahead = test.more_outcomes(share=self.share, margin=1.0, alpha=self.alpha / 2, worse=worse)
        else:
            ahead = test.more_outcomes(share=self.share, margin=0.0, alpha=self.alpha / 2, above=worse)
        if ahead is None or test.num_candidate + test.num_stable == 0:
            return "the arms do not differ so far"
        seconds = seconds_for(ahead, test, state["span"])
        when = "" if seconds is None else f", about {span(seconds)}"
        return f"at this effect it takes {more(ahead, 'outcome')} to tell{when}"

    def _effect(self, state: Json) -> float:
        test = self._test(state)
        return test.ratio if isinstance(test, EventRatio) else test.estimate

    def _told(self, state: Json) -> str:
        test, (_, low, high) = self._test(state), self._interval(state)
        rows = f"{counted(test.num_candidate, 'outcome')} against {test.num_stable:,}"
        if math.isinf(low) or math.isnan(self._effect(state)):
            return f"{self.metric}: {rows}"
        if self.binary:
            return f"{self.metric}: losses are {times(self._effect(state))} ({low:.3g} to {high:.3g}), {rows}"
        return f"{self.metric}: worse by {self._effect(state):.3g} ({low:.3g} to {high:.3g}), {rows}"

    def _say(
        self, kind: Kind, state: Json, outcome: Outcome, reason: str, parts: tuple[Verdict, ...], back_to: str = ""
    ) -> Action:
        test, (_, low, high), effect = self._test(state), self._interval(state), self._effect(state)
        numbers: dict[str, Scalar] = {
            "share": self.share,
            "effect": effect if math.isfinite(effect) else None,
            "effect_low": low if math.isfinite(low) else None,
            "effect_high": high if math.isfinite(high) else None,
            "effect_is": "ratio of losses" if self.binary else "difference of mean losses",
            "candidate_outcomes": test.num_candidate,
            "live_outcomes": test.num_stable,
        }
        told = f"A/B at {percent(self.share)}: {reason}; {self._told(state)}"
        verdict = Verdict(outcome=outcome, by="AB", reason=told, numbers=numbers, back_to=back_to, parts=parts)
        return self._action(kind, f"A/B {percent(self.share)}", verdict, state, share=self.share)
