"""What watches a rollout: each guard gathers evidence about the candidate, and says stay, leave or roll back.

A guard's state is plain JSON made of counts, so that a rollout may stop anywhere and go on, and its evidence holds at
every look. Rows count by the candidate's share they came under; rows routed without a candidate count for nothing. A
unit that comes back counts once, in the first row that matters to the guard.

`alpha` is the chance that this guard rolls back a candidate that is within its margin, over the whole rollout. Those of
several guards add up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from tidemill.errors import ProjectError
from tidemill.records import Json, Outcome, Scalar, Trust, Verdict
from tidemill.schema import Array
from tidemill.stats.event_ratio import EventRatio
from tidemill.stats.first_seen import first_seen
from tidemill.stats.loss_ratio import LossRatio
from tidemill.stats.rise import Rise
from tidemill.strategy.arms import (
    LATENCY_WINDOW,
    ArmRatio,
    arm_numbers,
    exceedances,
    in_rollout,
    latest_share,
    new_events,
    repeated_events,
    seconds_for,
    seen_events,
    time_span,
    totals,
)
from tidemill.strategy.member import Member
from tidemill.strategy.outcomes import OutcomeNeeds, Outcomes
from tidemill.strategy.wording import against, counted, evidence, more, percent, span, times

_UNITS_BITS = 17  # the bitmap of units whose arm was counted


class Guard(Member):
    """Base of the guards: `start`, `update` with new facts, `decide`. The state is plain JSON; all three are pure."""

    stage: ClassVar[str] = "guard"

    def needs(self) -> OutcomeNeeds:
        """Return which metrics it reads."""
        return OutcomeNeeds()

    def resolved(self, metric: str, *, binary: bool = True) -> Self:
        """Return the guard with the project's first metric in place of None; `binary`: its loss is 0 or 1."""
        return self

    def start(self, margins: tuple[float, ...]) -> Json:
        """Return the state of a rollout whose steps are left at these margins."""
        raise NotImplementedError

    def update(self, state: Json, requests: Outcomes, outcomes: Outcomes) -> Json:
        """Return the state with new facts in it; batches of any size, in order, give the same one.

        Args:
            state: what `start` or the last `update` returned.
            requests: every newly answered request.
            outcomes: the newly matured first outcome of each unit, with losses.
        """
        raise NotImplementedError

    def decide(self, state: Json, margin: float) -> Verdict:
        """Say PASS (the step may be left, at this margin), FAIL (roll back) or INCONCLUSIVE (what more it takes)."""
        raise NotImplementedError

    def _require_margin_and_alpha(self, margin: float, alpha: float) -> None:
        self.require(margin >= 1, f"margin is {margin!r}", "give a ratio of at least 1, such as 1.25")
        self.require(0 < alpha < 1, f"alpha is {alpha!r}", "give the accepted chance of a false rollback, such as 0.05")

    def _verdict(self, outcome: Outcome, reason: str, numbers: dict[str, Scalar], back_to: str = "") -> Verdict:
        failed = outcome is Outcome.FAIL
        return Verdict(outcome=outcome, by=str(self), reason=reason, numbers=numbers, back_to=back_to if failed else "")


@dataclass(frozen=True)
class Errors(Guard):
    """Rolls back when the candidate fails to answer more often than `margin` times the live model does.

    It needs no evidence to leave a step. Beside the ratio stands a floor: when more than `max_share` of its answers
    fail, from some time on, it goes back whatever the live model does. Half of `alpha` goes to each. The failures of
    one unit count once, and for the floor, which must see a late outage too, once in a row.
    """

    max_share: float = 0.2
    margin: float = 1.25
    alpha: float = 0.05

    def check(self) -> None:
        """Refuse shares, margins and chances out of range."""
        self.require(0 < self.max_share < 1, f"max_share is {self.max_share!r}", "give a share such as 0.2")
        self._require_margin_and_alpha(self.margin, self.alpha)

    def start(self, margins: tuple[float, ...]) -> Json:
        """Return no counts."""
        return {"failures": [], "floor": Rise(bar=self.max_share).to_json(), "units": "", "last": None}

    def update(self, state: Json, requests: Outcomes, outcomes: Outcomes) -> Json:
        """Count answers and failures by arm."""
        rows = in_rollout(requests)
        new, units = new_events(rows, rows.failed, state["units"])
        failures = EventRatio.from_json(state["failures"]).add(
            share=rows.share, candidate=rows.candidate, event=np.where(rows.failed & ~new, np.nan, rows.failed)
        )
        mine = rows.take(rows.candidate)
        again, last = repeated_events(mine, mine.failed, state["last"])
        floor = Rise.from_json(state["floor"]).add(mine.failed[~again].astype(np.float64))
        return {"failures": failures.to_json(), "floor": floor.to_json(), "units": units, "last": last}

    def decide(self, state: Json, margin: float) -> Verdict:
        """Fail on evidence of more failures; pass otherwise."""
        failures, floor = EventRatio.from_json(state["failures"]), Rise.from_json(state["floor"])
        worse, above, wanted = failures.log_worse(self.margin), floor.log_evidence(), 2 / self.alpha
        numbers = {
            **arm_numbers(failures, "answers", "failures"),
            "recent_share": floor.recent,
            "evidence_worse": evidence(worse),
            "evidence_floor": evidence(above),
            "wanted_evidence": wanted,
        }
        seen = seen_events(failures, "failure", "answer")
        if above >= np.log(wanted):
            reason = (
                f"more of the candidate's latest answers fail than the {percent(self.max_share)} allowed "
                f"(evidence {against(above, wanted)}): {seen}"
            )
            return self._verdict(Outcome.FAIL, reason, numbers, "training")
        if worse >= np.log(wanted):
            reason = (
                f"the candidate fails {times(failures.ratio)} as often as the live model, and more than "
                f"{times(self.margin)} (evidence {against(worse, wanted)}): {seen}"
            )
            return self._verdict(Outcome.FAIL, reason, numbers, "training")
        return self._verdict(Outcome.PASS, f"no evidence of more failures: {seen}", numbers)


@dataclass(frozen=True)
class Latency(Guard):
    """Rolls back when slow answers are more than `margin` times as frequent as the live model's.

    Slow means above the 99th percentile of the live model's last full window of 500 answers, so the cut moves with the
    load and is set before the answers that it judges. It needs no evidence to leave a step.
    """

    margin: float = 2.0
    alpha: float = 0.05

    def check(self) -> None:
        """Refuse margins and chances out of range."""
        self._require_margin_and_alpha(self.margin, self.alpha)

    def start(self, margins: tuple[float, ...]) -> Json:
        """Return no cut yet."""
        return {"slow": [], "cut": None, "window": [], "units": ""}

    def update(self, state: Json, requests: Outcomes, outcomes: Outcomes) -> Json:
        """Judge each answer by the cut in force when it came."""
        rows = in_rollout(requests)
        slow, cut, window = exceedances(rows, state["cut"], state["window"])
        new, units = new_events(rows, slow == 1, state["units"])
        repeated = (slow == 1) & ~new
        counts = EventRatio.from_json(state["slow"]).add(
            share=rows.share, candidate=rows.candidate, event=np.where(repeated, np.nan, slow)
        )
        return {"slow": counts.to_json(), "cut": cut, "window": window, "units": units}

    def decide(self, state: Json, margin: float) -> Verdict:
        """Fail on evidence of more slow answers; pass otherwise."""
        slow, cut = EventRatio.from_json(state["slow"]), state["cut"]
        worse, wanted = slow.log_worse(self.margin), 1 / self.alpha
        numbers = {
            **arm_numbers(slow, "answers", "slow_answers"),
            "slow_above_ms": cut,
            "evidence_worse": evidence(worse),
            "wanted_evidence": wanted,
        }
        if cut is None:
            missing = LATENCY_WINDOW - len(state["window"])
            return self._verdict(Outcome.PASS, f"{more(missing, 'answer')} of the live model set the cut", numbers)
        seen = f"{seen_events(slow, 'slow answer', 'answer')} (above {cut:,.3g} ms)"
        if worse >= np.log(wanted):
            reason = (
                f"slow answers are {times(slow.ratio)} as frequent as the live model's, more than {times(self.margin)} "
                f"(evidence {against(worse, wanted)}): {seen}"
            )
            return self._verdict(Outcome.FAIL, reason, numbers, "training")
        return self._verdict(Outcome.PASS, f"no evidence of slower answers: {seen}", numbers)


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

    def decide(self, state: Json, margin: float) -> Verdict:
        """Fail on evidence of a worse candidate, pass on that of one no worse than `margin`; else say what lacks."""
        test, wanted = self._test(state), 1 / self.alpha
        worse, no_worse = test.log_worse(self.margin), test.log_no_worse(margin)
        numbers: dict[str, Scalar] = {
            **arm_numbers(test, "outcomes", "errors" if self.binary else "losses"),
            "margin": margin,
            "rollback_margin": self.margin,
            "evidence_worse": evidence(worse),
            "evidence_no_worse": evidence(no_worse),
            "wanted_evidence": wanted,
            "exact": self.binary,
        }
        seen = self._seen(test)
        if worse >= np.log(wanted):
            reason = (
                f"{self.metric}: losses are {times(test.ratio)} the live model's, more than {times(self.margin)} "
                f"(evidence {against(worse, wanted)}): {seen}"
            )
            return self._verdict(Outcome.FAIL, reason, numbers, "data")
        if no_worse >= np.log(wanted):
            reason = f"{self.metric}: no worse than {times(margin)} (evidence {against(no_worse, wanted)}): {seen}"
            return self._verdict(Outcome.PASS, reason, numbers)
        missing, told = self._missing(test, state, margin)
        reason = (
            f"{self.metric}: {seen}; evidence that it is no worse than {times(margin)}: {against(no_worse, wanted)}, "
            f"worse than {times(self.margin)}: {against(worse, wanted)}; {missing}"
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

    def _missing(self, test: ArmRatio, state: Json, margin: float) -> tuple[str, dict[str, Scalar]]:
        """Say how many more outcomes would settle it, as far as that can be told."""
        share = state["share"]
        if not 0 < share < 1:
            return "no traffic has met the candidate yet", {}
        worse = test.ratio > margin
        at = self.margin if worse else margin
        end = "roll back" if worse else "go on"
        outcomes = test.more_outcomes(share=share, margin=at, alpha=self.alpha, worse=worse)
        if outcomes is None:
            return f"at the ratio seen so far ({times(test.ratio)}) no number of outcomes will tell", {}
        numbers: dict[str, Scalar] = {}
        parts = []
        if isinstance(test, EventRatio):
            events = test.more_events(share=share, margin=at, alpha=self.alpha, worse=worse) or 0.0
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


@dataclass(frozen=True)
class SampleRatio(Guard):
    """Says INCONCLUSIVE when the candidate meets another share of the units than it was given.

    Then routing or logging is broken and no comparison of the arms holds. Always on in `online.Gradual`. Each unit
    counts once, under the share of its first request: a ratio other than 1 is a mismatch. Lindon & Malek (2022).
    """

    alpha: float = 0.001

    def check(self) -> None:
        """Refuse a chance out of range."""
        self.require(0 < self.alpha < 1, f"alpha is {self.alpha!r}", "give the accepted chance of a false hold")

    def start(self, margins: tuple[float, ...]) -> Json:
        """Return no counts."""
        return {"units": [], "seen": ""}

    def update(self, state: Json, requests: Outcomes, outcomes: Outcomes) -> Json:
        """Count new units by arm."""
        rows = in_rollout(requests)
        new, seen = first_seen(state["seen"], rows.unit, bits=_UNITS_BITS)
        rows = rows.take(new)
        units = EventRatio.from_json(state["units"]).add(
            share=rows.share, candidate=rows.candidate, event=np.ones(len(rows))
        )
        return {"units": units.to_json(), "seen": seen}

    def decide(self, state: Json, margin: float) -> Verdict:
        """Pass, or say that the arms cannot be compared."""
        units = EventRatio.from_json(state["units"])
        apart, wanted = units.log_apart(), 1 / self.alpha
        expected = sum(row.share * (row.candidate + row.stable) for row in units.counts)
        numbers: dict[str, Scalar] = {
            "candidate_units": units.num_candidate,
            "units": units.num_candidate + units.num_stable,
            "expected_units": round(expected, 1),
            "evidence_mismatch": evidence(apart),
            "wanted_evidence": wanted,
        }
        seen = (
            f"the candidate met {units.num_candidate:,} of {units.num_candidate + units.num_stable:,} units "
            f"counted, {expected:,.0f} expected"
        )
        if apart < np.log(wanted):
            return self._verdict(Outcome.PASS, seen, numbers)
        reason = (
            f"sample-ratio mismatch: {seen} (evidence {against(apart, wanted)}); the arms cannot be compared until "
            "routing and logging are mended"
        )
        return self._verdict(Outcome.INCONCLUSIVE, reason, numbers)
