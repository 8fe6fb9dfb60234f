"""The guard that is always on: whether each arm meets the share of the units that it was given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tidemill.records import Json, Outcome, Scalar, Verdict
from tidemill.stats.event_ratio import EventRatio
from tidemill.stats.first_seen import first_seen
from tidemill.strategy.arms import in_rollout
from tidemill.strategy.guarding import Guard
from tidemill.strategy.outcomes import Outcomes
from tidemill.strategy.wording import against, evidence

_UNITS_BITS = 17  # the bitmap of units whose arm was counted


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

    def decide(self, state: Json, margin: float, *, part: float = 1.0) -> Verdict:
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
