"""The trigger that fires when requests have become unlike those that the live version was made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from tidemill.records import Json, Verdict
from tidemill.strategy.drift_memory import checked_needs, remembered, said
from tidemill.strategy.drift_needs import TRAINING, DriftNeeds
from tidemill.strategy.outcomes import OutcomeNeeds
from tidemill.strategy.span import Span
from tidemill.strategy.triggering import Trigger, WatchFacts, micros_or_none


@dataclass(frozen=True)
class Drift(Trigger):
    """Fires when a window of requests differs from the training data, or from a stretch of traffic before it.

    Each whole `window` (counted in UTC) is looked at once. `reference` is `"training"`, or how long a stretch of the
    traffic before the window, such as `"30d"`. `columns` are inputs, projections, and beside traffic also `score.NAME`,
    `decision`, `abstained` and `outlier`; None is all of them. An unchanged window fires with a chance of at most
    `alpha`, whatever the number of columns and of their values (`stats.alarm`). It is unknown until a window has
    `min_rows` rows with their inputs, and its reference as many; a new version, and a new cycle, begin anew.

    It sees that requests are other ones, not that answers are worse: use it with `Amount` or `Degraded`.
    """

    columns: Sequence[str] | None = None
    alpha: float = 0.01
    window: Span = Span("1d")
    reference: str = TRAINING
    min_rows: int = 500
    durations: ClassVar[tuple[str, ...]] = ("window",)

    def check(self) -> None:
        """Refuse numbers out of range."""
        _ = self.drift_needs

    @property
    def drift_needs(self) -> DriftNeeds:
        """What it asks for."""
        return checked_needs(self, **self.params())

    def needs(self) -> OutcomeNeeds:
        """Return that it reads no outcomes, but drift."""
        return OutcomeNeeds(drift=(self.drift_needs,))

    def update(self, state: Json, facts: WatchFacts) -> Json:
        """Remember the newest look."""
        about = [facts.live_version, micros_or_none(facts.last_cycle_at)]
        return remembered(state, self.drift_needs, facts.drift, about)

    def decide(self, state: Json, now: datetime) -> Verdict:
        """Fire if the newest window is alarming."""
        return self._say(*said(state, self.drift_needs))
