"""Stage 6: how a candidate meets real traffic, step by step, and when it is promoted or rolled back.

A member keeps its state as plain JSON: `start`, `update` with new facts, `decide`. Each is pure, so a loop killed
anywhere goes on where it was, and the same code backtests. `a >> b` goes on to b once a would promote.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tidemill.records import Json, Outcome, Verdict
from tidemill.strategy.ab import AB
from tidemill.strategy.bake import Bake
from tidemill.strategy.gradual import Gradual
from tidemill.strategy.rollout import Action, RolloutFacts, Shadows
from tidemill.strategy.shadow import Shadow
from tidemill.strategy.staged import Online, Then

__all__ = ["AB", "Action", "Bake", "Gradual", "Now", "Online", "RolloutFacts", "Shadow", "Shadows", "Then"]


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
