"""Guards over what a candidate does: that it fails to answer, is slow, abstains, or differs from the live model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tidemill.records import Json, Outcome, Scalar, Verdict
from tidemill.stats.event_ratio import EventRatio
from tidemill.stats.rise import Rise
from tidemill.strategy.arms import (
    LATENCY_WINDOW,
    arm_numbers,
    exceedances,
    in_rollout,
    new_events,
    repeated_events,
    seen_events,
)
from tidemill.strategy.guarding import Guard
from tidemill.strategy.outcomes import Outcomes
from tidemill.strategy.wording import against, counted, evidence, more, percent, times

_FLOORS_PART = 0.1  # of alpha


@dataclass(frozen=True)
class Errors(Guard):
    """Rolls back when the candidate fails to answer more often than `margin` times the live model does.

    It needs no evidence to leave a step. Beside the ratio stands a floor: when more than `max_share` of its answers
    fail, from some time on, it goes back whatever the live model does. A tenth of `alpha` is the floor's: what it is
    there for shows at once. The failures of one unit count once, and for the floor, which must see a late outage too,
    once in a row.
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

    def decide(self, state: Json, margin: float, *, part: float = 1.0) -> Verdict:
        """Fail on evidence of more failures; pass otherwise."""
        failures, floor = EventRatio.from_json(state["failures"]), Rise.from_json(state["floor"])
        worse, above = failures.log_worse(self.margin), floor.log_evidence()
        alpha = self.alpha * part
        wanted, wanted_floor = 1 / (alpha * (1 - _FLOORS_PART)), 1 / (alpha * _FLOORS_PART)
        numbers = {
            **arm_numbers(failures, "answers", "failures"),
            "recent_share": floor.recent,
            "evidence_worse": evidence(worse),
            "evidence_floor": evidence(above),
            "wanted_evidence": wanted,
            "wanted_evidence_floor": wanted_floor,
        }
        seen = seen_events(failures, "failure", "answer")
        if above >= np.log(wanted_floor):
            reason = (
                f"more of the candidate's latest answers fail than the {percent(self.max_share)} allowed "
                f"(evidence {against(above, wanted_floor)}): {seen}"
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

    def decide(self, state: Json, margin: float, *, part: float = 1.0) -> Verdict:
        """Fail on evidence of more slow answers; pass otherwise."""
        slow, cut = EventRatio.from_json(state["slow"]), state["cut"]
        worse, wanted = slow.log_worse(self.margin), 1 / (self.alpha * part)
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
class Abstains(Guard):
    """Rolls back when the candidate abstains more than `margin` times as often as the live model does.

    It needs no evidence to leave a step. The abstentions of one unit count once.
    """

    margin: float = 1.5
    alpha: float = 0.05

    def check(self) -> None:
        """Refuse margins and chances out of range."""
        self._require_margin_and_alpha(self.margin, self.alpha)

    def start(self, margins: tuple[float, ...]) -> Json:
        """Return no counts."""
        return {"abstained": [], "units": ""}

    def update(self, state: Json, requests: Outcomes, outcomes: Outcomes) -> Json:
        """Count answers and abstentions by arm; a failed answer is neither."""
        rows = in_rollout(requests)
        abstained = np.zeros(len(rows), dtype=bool) if rows.abstained is None else rows.abstained & ~rows.failed
        new, units = new_events(rows, abstained, state["units"])
        event = np.where((abstained & ~new) | rows.failed, np.nan, abstained)
        counts = EventRatio.from_json(state["abstained"]).add(share=rows.share, candidate=rows.candidate, event=event)
        return {"abstained": counts.to_json(), "units": units}

    def decide(self, state: Json, margin: float, *, part: float = 1.0) -> Verdict:
        """Fail on evidence of more abstentions; pass otherwise."""
        counts = EventRatio.from_json(state["abstained"])
        worse, wanted = counts.log_worse(self.margin), 1 / (self.alpha * part)
        numbers = {
            **arm_numbers(counts, "answers", "abstentions"),
            "evidence_worse": evidence(worse),
            "wanted_evidence": wanted,
        }
        seen = seen_events(counts, "abstention", "answer")
        if worse < np.log(wanted):
            return self._verdict(Outcome.PASS, f"no evidence of more abstentions: {seen}", numbers)
        reason = (
            f"the candidate abstains {times(counts.ratio)} as often as the live model, and more than "
            f"{times(self.margin)} (evidence {against(worse, wanted)}): {seen}"
        )
        return self._verdict(Outcome.FAIL, reason, numbers, "training")


@dataclass(frozen=True)
class Disagreement(Guard):
    """Rolls back when more than `at_most` of the candidate's shadow decisions differ from what was answered.

    It needs no labels, and has something to say in `online.Shadow` alone. Where a better model must differ, set the
    share to what that allows. It needs no evidence to leave the shadow.
    """

    at_most: float = 0.2
    alpha: float = 0.05
    metric: ClassVar[str] = "disagreement"  # as which `update` gets the differences, 0 or 1 in the candidate's rows

    def check(self) -> None:
        """Refuse shares and chances out of range."""
        self.require(0 < self.at_most < 1, f"at_most is {self.at_most!r}", "give a share such as 0.2")
        self._require_margin_and_alpha(1.0, self.alpha)

    def start(self, margins: tuple[float, ...]) -> Json:
        """Return no counts."""
        return {"num": 0, "differ": 0, "rise": Rise(bar=self.at_most).to_json()}

    def update(self, state: Json, requests: Outcomes, outcomes: Outcomes) -> Json:
        """Count shadow decisions that differ."""
        differ = requests.values.get(self.metric, np.full(len(requests), np.nan))[requests.candidate]
        differ = differ[~np.isnan(differ)]
        return {
            "num": state["num"] + len(differ),
            "differ": state["differ"] + int(differ.sum()),
            "rise": Rise.from_json(state["rise"]).add(differ).to_json(),
        }

    def decide(self, state: Json, margin: float, *, part: float = 1.0) -> Verdict:
        """Fail on evidence that more differ than may; pass otherwise."""
        rise, wanted = Rise.from_json(state["rise"]), 1 / (self.alpha * part)
        above, share = rise.log_evidence(), state["differ"] / max(state["num"], 1)
        numbers: dict[str, Scalar] = {
            "shadow_predictions": state["num"],
            "disagreement_share": share,
            "evidence_above": evidence(above),
            "wanted_evidence": wanted,
        }
        seen = f"{percent(share)} of {counted(state['num'], 'shadow decision')} differ from what was answered"
        if above < np.log(wanted):
            return self._verdict(Outcome.PASS, seen, numbers)
        reason = f"{seen}, more than {percent(self.at_most)} (evidence {against(above, wanted)})"
        return self._verdict(Outcome.FAIL, reason, numbers, "training")
