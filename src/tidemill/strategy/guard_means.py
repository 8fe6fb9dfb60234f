"""The guard over the mean of a metric in its own units, such as the value of a purchase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tidemill.records import Json, Outcome, Scalar, Trust, Verdict
from tidemill.stats.mean_difference import MeanDifference
from tidemill.strategy.arms import in_rollout, latest_share, seconds_for, time_span
from tidemill.strategy.guarding import Guard
from tidemill.strategy.outcomes import OutcomeNeeds, Outcomes
from tidemill.strategy.span import Span
from tidemill.strategy.wording import against, counted, evidence, more, span

_FULL_MARGIN = (
    0.25  # a step's margin is a ratio, 1.25 once half of the traffic is the candidate's: this much of it is ours
)


@dataclass(frozen=True)
class Difference(Guard):
    """Rolls back on evidence that the candidate's mean is worse than the live model's by more than `margin`.

    `margin` is in the metric's own units. A step is left on evidence that the candidate is worse by less than that, or
    by 8 and 4 times as much in the steps at 5 % and 25 %, which can show less. With `before`, such as "14d", the mean
    of each unit in that time before the rollout explains part of its values, and fewer outcomes are enough (CUPED:
    `stats.mean_difference`). The guarantee is asymptotic. Labels must reach both arms alike.
    """

    metric: str
    margin: float
    alpha: float = 0.05
    trust: str = Trust.PEOPLE
    before: Span = Span("0s")
    durations: ClassVar[tuple[str, ...]] = ("before",)

    def check(self) -> None:
        """Refuse margins, chances and trusts that are none."""
        self.require(self.margin > 0, f"margin is {self.margin!r}", "give how much worse is still fine, above 0")
        self._require_margin_and_alpha(1.0, self.alpha)
        self.require(self.trust in list(Trust), f"trust is {self.trust!r}", f"use one of {', '.join(Trust)}")

    def needs(self) -> OutcomeNeeds:
        """Return its metric, its trust, and how much of each unit's past it reads."""
        return OutcomeNeeds((self.metric,), Trust(self.trust), self.before)

    def start(self, margins: tuple[float, ...]) -> Json:
        """Return no counts."""
        return {"values": [], "share": 0.0, "span": None}

    def update(self, state: Json, requests: Outcomes, outcomes: Outcomes) -> Json:
        """Add up losses by arm, and what is known of their units' past."""
        rows = in_rollout(outcomes)
        loss = rows.values[self.metric] if len(rows) else np.zeros(0)
        test = MeanDifference.from_json(state["values"]).add(
            share=rows.share, candidate=rows.candidate, value=loss, before=rows.before.get(self.metric)
        )
        return {
            "values": test.to_json(),
            "share": latest_share(requests, state["share"]),
            "span": time_span(state["span"], rows.received_at[~np.isnan(loss)]),
        }

    def decide(self, state: Json, margin: float, *, part: float = 1.0) -> Verdict:
        """Fail on evidence of a worse candidate, pass on that of one hardly worse; else say what lacks."""
        test = MeanDifference.from_json(state["values"])
        allowed = self.margin * max(margin - 1, 0.0) / _FULL_MARGIN
        worse, fine = test.log_above(self.margin), test.log_below(allowed)
        wanted, decisive = 1 / self.alpha, 1 / (self.alpha * part)
        low, high = test.interval(self.alpha)
        numbers: dict[str, Scalar] = {
            "candidate_outcomes": test.num_candidate,
            "live_outcomes": test.num_stable,
            "worse_by": test.estimate if low > -np.inf else None,
            "worse_by_low": low if low > -np.inf else None,
            "worse_by_high": high if high < np.inf else None,
            "variance_left": test.variance_left,
            "margin": allowed,
            "rollback_margin": self.margin,
            "evidence_worse": evidence(worse),
            "evidence_no_worse": evidence(fine),
            "wanted_evidence": wanted,
            "wanted_evidence_worse": decisive,
        }
        seen = self._seen(test, low, high)
        if worse >= np.log(decisive):
            reason = f"{seen}; worse by more than {self.margin:g} (evidence {against(worse, decisive)})"
            return self._verdict(Outcome.FAIL, reason, numbers, "data")
        if fine >= np.log(wanted):
            reason = f"{seen}; worse by less than {allowed:g} (evidence {against(fine, wanted)})"
            return self._verdict(Outcome.PASS, reason, numbers)
        missing, told = self._missing(test, state, allowed)
        reason = f"{seen}; evidence that it is worse by less than {allowed:g}: {against(fine, wanted)}; {missing}"
        return self._verdict(Outcome.INCONCLUSIVE, reason, {**numbers, **told})

    def _seen(self, test: MeanDifference, low: float, high: float) -> str:
        rows = f"{counted(test.num_candidate, 'outcome')} of the candidate, {test.num_stable:,} of the live model"
        if low == -np.inf:
            return f"{self.metric}: {rows}"
        return f"{self.metric}: the candidate is worse by {test.estimate:.3g} ({low:.3g} to {high:.3g}) in {rows}"

    def _missing(self, test: MeanDifference, state: Json, allowed: float) -> tuple[str, dict[str, Scalar]]:
        share = state["share"]
        if not 0 < share < 1:
            return "no traffic has met the candidate yet", {}
        outcomes = test.more_outcomes(share=share, margin=allowed, alpha=self.alpha, above=False)
        if outcomes is None:
            return "at the difference seen so far no number of outcomes will let it go on", {}
        seconds = seconds_for(outcomes, test, state["span"])
        numbers: dict[str, Scalar] = {"more_outcomes": round(outcomes)}
        told = f"to go on it takes {more(outcomes, 'outcome')}"
        if seconds is None:
            return told, numbers
        return f"{told}, about {span(seconds)}", {**numbers, "more_seconds": round(seconds)}
