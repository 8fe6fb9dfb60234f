"""From scores to a decision: what the log calls the policy, with a version of its own."""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.schema import Array, Output


@dataclass(frozen=True)
class Policy:
    """Takes the output's own decision, and marks it abstained when its highest score is below `abstain_below`."""

    version: int = 1
    abstain_below: float | None = None

    def decide(self, output: Output, scores: Array) -> tuple[list[str | float], list[bool]]:
        """Return decisions and abstentions, N each, for scores float32 (N, K)."""
        decisions = output.decide(scores)
        if self.abstain_below is None:
            return decisions, [False] * len(decisions)
        return decisions, (scores.max(axis=1) < self.abstain_below).tolist()
