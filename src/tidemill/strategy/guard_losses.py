"""The guard over a metric's losses, as the ratio of the candidate's to the live model's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from tidemill.errors import ProjectError
from tidemill.records import Json, Outcome, Scalar, Trust, Verdict
from tidemill.schema import Array
from tidemill.stats.event_ratio import EventRatio
from tidemill.stats.loss_ratio import LossRatio
from tidemill.strategy.arms import (
    ArmRatio,
    arm_numbers,
    in_rollout,
    latest_share,
    seconds_for,
    seen_events,
    time_span,
    totals,
)
from tidemill.strategy.guarding import Guard
from tidemill.strategy.outcomes import OutcomeNeeds, Outcomes
from tidemill.strategy.wording import against, counted, evidence, more, span, times


@dataclass(frozen=True)
class NoWorse(Guard):
    """Leaves a step on evidence that the candidate's loss is below the step's margin times the live model's.

    It rolls back on evidence that it is above `margin` times. `alpha` holds for each of the two. A binary loss (errors:
    0 or 1) is tested exactly (`stats.event_ratio`); with `binary=False` any loss with a mean above zero is tested, and
    the guarantee is asymptotic (`stats.loss_ratio`). Labels must reach both arms alike, and only labels of `trust` or
    more are read. `metric=None` is the project's first.
    """

    metric: str | None = None
    margin: float = 1.25
    alpha: float = 0.05
    trust: str = Trust.PEOPLE
    binary: bool = True

    def check(self) -> None:
        """Refuse margins, chances and trusts that are none."""
        self._require_margin_and_alpha(self.margin, self.alpha)
        self.require(self.trust in list(Trust), f"trust is {self.trust!r}", f"use one of {', '.join(Trust)}")

    def needs(self) -> OutcomeNeeds:
        """Return its metric and trust."""
        return OutcomeNeeds((self._metric(),), Trust(self.trust))

    def resolved(self, metric: str, *, binary: bool = True) -> Self:
        """Return the guard with the project's first metric in place of None."""
        return replace(self, metric=metric, binary=binary) if self.metric is None else self

    def start(self, margins: tuple[float, ...]) -> Json:
        """Return no counts."""
        return {"losses": [], "share": 0.0, "span": None}

    def update(self, state: Json, requests: Outcomes, outcomes: Outcomes) -> Json:
        """Count outcomes and losses by arm."""
        rows = in_rollout(outcomes)
        loss = rows.values[self._metric()] if len(rows) else np.zeros(0)
        self._require_binary(loss)
        known = ~np.isnan(loss)
        losses = self._test(state).add(share=rows.share, candidate=rows.candidate, event=loss)
        return {
            "losses": losses.to_json(),
            "share": latest_share(requests, state["share"]),
            "span": time_span(state["span"], rows.received_at[known]),
        }

    def decide(self, state: Json, margin: float, *, part: float = 1.0) -> Verdict:
        """Fail on evidence of a worse candidate, pass on that of one no worse than `margin`; else say what lacks."""
        test, wanted, decisive = self._test(state), 1 / self.alpha, 1 / (self.alpha * part)
        worse, no_worse = test.log_worse(self.margin), test.log_no_worse(margin)
        numbers: dict[str, Scalar] = {
            **arm_numbers(test, "outcomes", "errors" if self.binary else "losses"),
            "margin": margin,
            "rollback_margin": self.margin,
            "evidence_worse": evidence(worse),
            "evidence_no_worse": evidence(no_worse),
            "wanted_evidence": wanted,
            "wanted_evidence_worse": decisive,
            "exact": self.binary,
        }
        seen = self._seen(test)
        if worse >= np.log(decisive):
            reason = (
                f"{self.metric}: losses are {times(test.ratio)} the live model's, more than {times(self.margin)} "
                f"(evidence {against(worse, decisive)}): {seen}"
            )
            return self._verdict(Outcome.FAIL, reason, numbers, "data")
        if no_worse >= np.log(wanted):
            reason = f"{self.metric}: no worse than {times(margin)} (evidence {against(no_worse, wanted)}): {seen}"
            return self._verdict(Outcome.PASS, reason, numbers)
        missing, told = self._missing(test, state, margin, part)
        reason = (
            f"{self.metric}: {seen}; evidence that it is no worse than {times(margin)}: {against(no_worse, wanted)}, "
            f"worse than {times(self.margin)}: {against(worse, decisive)}; {missing}"
        )
        return self._verdict(Outcome.INCONCLUSIVE, reason, {**numbers, **told})

    def _metric(self) -> str:
        if self.metric is None:
            raise ProjectError("guard.NoWorse has no metric yet.", "name one, or call resolved(metric) first")
        return self.metric

    def _require_binary(self, loss: Array) -> None:
        odd = loss[~np.isnan(loss) & (loss != 0) & (loss != 1)] if self.binary else loss[:0]
        if len(odd):
            raise ProjectError(
                f"{self} tests errors of 0 or 1, and the loss of {self.metric!r} is {odd[0]:g}.",
                f"write guard.NoWorse({self.metric!r}, binary=False)",
            )

    def _test(self, state: Json) -> ArmRatio:
        return (EventRatio if self.binary else LossRatio).from_json(state["losses"])

    def _seen(self, test: ArmRatio) -> str:
        if isinstance(test, EventRatio):
            return seen_events(test, "error", "outcome")
        mine, live = (total / max(num, 1) for total, num in totals(test))
        return (
            f"mean loss {mine:.3g} in {counted(test.num_candidate, 'outcome')} of the candidate, "
            f"{live:.3g} in {test.num_stable:,} of the live model"
        )

    def _missing(self, test: ArmRatio, state: Json, margin: float, part: float) -> tuple[str, dict[str, Scalar]]:
        """Say how many more outcomes would settle it, as far as that can be told."""
        share = state["share"]
        if not 0 < share < 1:
            return "no traffic has met the candidate yet", {}
        worse = test.ratio > margin
        at = self.margin if worse else margin
        alpha = self.alpha * part if worse else self.alpha
        end = "roll back" if worse else "go on"
        outcomes = test.more_outcomes(share=share, margin=at, alpha=alpha, worse=worse)
        if outcomes is None:
            return f"at the ratio seen so far ({times(test.ratio)}) no number of outcomes will tell", {}
        numbers: dict[str, Scalar] = {}
        parts = []
        if isinstance(test, EventRatio):
            events = test.more_events(share=share, margin=at, alpha=alpha, worse=worse) or 0.0
            numbers["more_errors"] = round(events)
            parts.append(more(events, "error"))
        if test.num_candidate + test.num_stable > 0:  # else nobody knows how rare errors are
            numbers["more_outcomes"] = round(outcomes)
            parts.append(more(outcomes, "outcome"))
        seconds = seconds_for(outcomes, test, state["span"])
        if seconds is not None:
            numbers["more_seconds"] = round(seconds)
            parts.append(f"about {span(seconds)}")
        return f"to {end} at {times(at)} it takes {', '.join(parts)}", numbers
