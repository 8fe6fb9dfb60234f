"""Stage 3: when to retrain. A trigger gathers facts about the live version and says fire, quiet or unknown.

The state is plain JSON; `update` and `decide` are pure. Triggers compose: `a | b` fires when either does, `a & b` when
both do, by three-valued logic (Kleene's); `.at_most("7d")` holds back a trigger that fired too recently.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from tidemill.clock import from_micros, micros
from tidemill.records import Json, Outcome, Scalar, Verdict
from tidemill.strategy.degraded import EVERYONE, Degraded
from tidemill.strategy.drift import Drift
from tidemill.strategy.member import shown_duration
from tidemill.strategy.span import Span
from tidemill.strategy.triggering import AllOf, AnyOf, AtMost, Trigger, WatchFacts, micros_or_none
from tidemill.strategy.wording import counted, span

FIRE, QUIET, UNKNOWN = Outcome.FIRE, Outcome.QUIET, Outcome.UNKNOWN

__all__ = [
    "EVERYONE", "AllOf", "Amount", "AnyOf", "AtMost", "Degraded", "Drift", "Every", "Manual", "Trigger", "WatchFacts",
]  # fmt: skip


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
        cycle = micros_or_none(facts.last_cycle_at)
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
