"""The gate before traffic: the base of its tests, and how their verdicts count together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from tidemill.fingerprint import digest
from tidemill.records import Outcome, Scalar, Verdict
from tidemill.strategy.baseline import Baseline
from tidemill.strategy.evidence import Evidence
from tidemill.strategy.member import Member


@dataclass(frozen=True)
class OfflineNeeds:
    """What the report must hold.

    On the `compared` metrics the candidate must not lose to the live version, on those `by_cohort` in no cohort either;
    `margins` are the losses tolerated there, by metric, and `relatives` those told as a share of the live version's
    value, which the report then needs the ratio for. `baselines` stand beside the candidate on their metric.
    `data` are schemas, by digest, that the training rows are held against.
    """

    metrics: tuple[str, ...] = ()
    cohorts: bool = False
    baselines: tuple[tuple[Baseline, str | None], ...] = ()
    latency: bool = False
    compared: tuple[str, ...] = ()
    by_cohort: tuple[str, ...] = ()
    margins: tuple[tuple[str, float], ...] = ()
    relatives: tuple[tuple[str, float], ...] = ()
    data: tuple[tuple[str, Any], ...] = ()


class Offline(Member):
    """Base of the offline stage: one verb, `judge`. Several members stand in a list, and all must pass.

    `inconclusive` says what an inconclusive verdict of this member means for the gate: `pass` or `fail`.
    """

    stage: ClassVar[str] = "offline"
    inconclusive: str = "fail"

    def needs(self) -> OfflineNeeds:
        """Say what `judge` has to be given."""
        return OfflineNeeds()

    def judge(self, evidence: Evidence) -> Verdict:
        """Return pass, fail or inconclusive; unknown means that a person has to speak first."""
        raise NotImplementedError

    def resolved(self, metric: str) -> Self:
        """Return the member with the project's first metric in place of None."""
        return replace(self, metric=metric) if getattr(self, "metric", "") is None else self  # type: ignore[type-var]

    def verdict(self, outcome: Outcome, reason: str, *, back_to: str = "", **numbers: Scalar) -> Verdict:
        """Return a verdict in this member's name."""
        mend = back_to if outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE) else ""
        return Verdict(outcome=outcome, by=str(self), reason=reason, numbers=numbers, back_to=mend)

    def check_inconclusive(self) -> None:
        """Refuse an `inconclusive` that is neither `pass` nor `fail`."""
        ok = self.inconclusive in ("pass", "fail")
        self.require(ok, f"inconclusive is {self.inconclusive!r}", "give 'pass' or 'fail'")


def needs(members: Iterable[Offline]) -> OfflineNeeds:
    """Return what all members together need."""
    all_ = [member.needs() for member in members]
    return OfflineNeeds(
        metrics=tuple(dict.fromkeys(name for need in all_ for name in need.metrics)),
        cohorts=any(need.cohorts for need in all_),
        baselines=tuple(dict.fromkeys(baseline for need in all_ for baseline in need.baselines)),
        latency=any(need.latency for need in all_),
        compared=tuple(dict.fromkeys(name for need in all_ for name in need.compared)),
        by_cohort=tuple(dict.fromkeys(name for need in all_ for name in need.by_cohort)),
        margins=tuple(dict.fromkeys(margin for need in all_ for margin in need.margins)),
        relatives=tuple(dict.fromkeys(relative for need in all_ for relative in need.relatives)),
        data=tuple({digest: schema for need in all_ for digest, schema in need.data}.items()),
    )


def asked(members: Iterable[Offline]) -> str:
    """Return a digest of the members that a report is measured for; one that only waits for a person is none."""
    return digest([member.to_json() for member in members if member.needs() != OfflineNeeds()])


def gate(members: Sequence[Offline], evidence: Evidence) -> Verdict:
    """Return one verdict of all members: fail if any fails, else unknown if any waits, else pass.

    An inconclusive one counts as its member says; its own verdict stays among the parts. No members let all pass.
    """
    parts = tuple(member.judge(evidence) for member in members)
    counted = [_counted(part, member) for part, member in zip(parts, members, strict=True)]
    for outcome in (Outcome.FAIL, Outcome.UNKNOWN):
        named = [part for part, counts in zip(parts, counted, strict=True) if counts is outcome]
        if named:
            reason = "; ".join(f"{part.by}: {part.reason}" for part in named)
            return Verdict(outcome=outcome, by="gate", reason=reason, back_to=named[0].back_to, parts=parts)
    reason = "; ".join(part.reason for part in parts) or "the strategy has no offline test"
    return Verdict(outcome=Outcome.PASS, by="gate", reason=reason, parts=parts)


def _counted(verdict: Verdict, member: Offline) -> Outcome:
    return Outcome(member.inconclusive) if verdict.outcome is Outcome.INCONCLUSIVE else verdict.outcome
