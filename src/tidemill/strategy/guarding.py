"""What watches a rollout: each guard gathers evidence about the candidate, and says stay, leave or roll back.

A guard's state is plain JSON made of counts, so that a rollout may stop anywhere and go on, and its evidence holds at
every look. Rows count by the candidate's share they came under; rows routed without a candidate count for nothing. A
unit that comes back counts once, in the first row that matters to the guard.

`alpha` is the chance of rolling back a candidate that is within its margins, over the whole rollout: a rollout's guards
share it in equal parts, so that more of them do not roll back more good candidates. Leaving a step needs the word of
every guard, and there each keeps its whole alpha (an intersection-union test: Berger, Technometrics 1982).
"""

from __future__ import annotations

from typing import ClassVar, Self

from tidemill.records import Json, Outcome, Scalar, Verdict
from tidemill.strategy.member import Member
from tidemill.strategy.outcomes import OutcomeNeeds, Outcomes


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

    def decide(self, state: Json, margin: float, *, part: float = 1.0) -> Verdict:
        """Say PASS (the step may be left, at this margin), FAIL (roll back) or INCONCLUSIVE (what more it takes).

        Args:
            state: what the last `update` returned.
            margin: the ratio at which the step may be left.
            part: the part of `alpha` that this guard may spend on rolling back.
        """
        raise NotImplementedError

    def _require_margin_and_alpha(self, margin: float, alpha: float) -> None:
        self.require(margin >= 1, f"margin is {margin!r}", "give a ratio of at least 1, such as 1.25")
        self.require(0 < alpha < 1, f"alpha is {alpha!r}", "give the accepted chance of a false rollback, such as 0.05")

    def _verdict(self, outcome: Outcome, reason: str, numbers: dict[str, Scalar], back_to: str = "") -> Verdict:
        failed = outcome is Outcome.FAIL
        return Verdict(outcome=outcome, by=str(self), reason=reason, numbers=numbers, back_to=back_to if failed else "")
