"""Stage 5: whether a candidate is good enough, from its report, to meet traffic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import ClassVar, Self

from tidemill.records import Outcome, Scalar, Trust, Verdict
from tidemill.stats.metrics import match
from tidemill.strategy.member import Member

ALL = "all"  # the cohort of every test row


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One metric on one cohort: candidate, live version and baseline judged on the same `n` rows.

    `gain` is candidate - live, turned so that positive is better, and `low` to `high` its interval (how sure each end
    is, `review.report` says). What is not known is None: the live version's value before there is one, the interval of
    a single row.
    """

    metric: str
    cohort: str
    suite: str = ""
    n: int
    candidate: float | None
    live: float | None = None
    baseline: float | None = None
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    higher_is_better: bool = True

    def __str__(self) -> str:
        """Write it as people read it: `accuracy on new_app: .66 -> .96 (+.30, .24 to .36, n 120)`."""
        where = f"{self.metric} on {self.cohort}"
        if self.live is None or self.gain is None:
            return f"{where}: {number(self.candidate)} (n {self.n})"
        span = "" if self.low is None else f"{number(self.low)} to {number(self.high)}, "
        change = f"{number(self.live)} -> {number(self.candidate)}"
        return f"{where}: {change} ({number(self.gain, sign=True)}, {span}n {self.n})"


def number(value: float | None, *, sign: bool = False) -> str:
    """Write a number with two decimals or, when it is small, two digits; a share without its leading 0."""
    if value is None or math.isnan(value):
        return "unknown"
    text = f"{value:+.2f}" if abs(value) >= 0.095 or abs(value) < 5e-5 else f"{value:+.2g}"
    text = text.replace("+0.", "+.").replace("-0.", "-.")
    return text if sign or value < 0 else text.removeprefix("+")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the gate sees. `approval` is `approved`, `rejected: why`, or None while nobody has spoken."""

    cells: tuple[Cell, ...]
    candidate: int
    live: int | None
    now: datetime
    latency_ms_p50: float | None = None
    latency_ms_p99: float | None = None
    approval: str | None = None
    trust: str = Trust.PEOPLE

    def of(self, metric: str | None) -> Iterator[Cell]:
        """Yield the cells of a metric, by its name or the first part of it; None is the first metric."""
        names = list(dict.fromkeys(cell.metric for cell in self.cells if not cell.suite))
        if not names:
            return
        wanted = names[match(names, metric)]
        yield from (cell for cell in self.cells if cell.metric == wanted and not cell.suite)

    def cell(self, metric: str | None, cohort: str = ALL) -> Cell | None:
        """Return one cell, None when no row could be judged."""
        return next((cell for cell in self.of(metric) if cell.cohort == cohort and cell.candidate is not None), None)


@dataclass(frozen=True)
class OfflineNeeds:
    """What the report must hold.

    On the `compared` metrics the candidate must not lose to the live version, on those `by_cohort` in no cohort either.
    """

    metrics: tuple[str, ...] = ()
    cohorts: bool = False
    baseline: str | None = None
    latency: bool = False
    compared: tuple[str, ...] = ()
    by_cohort: tuple[str, ...] = ()


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


@dataclass(frozen=True)
class NoWorse(Offline):
    """The candidate is no worse than the live version on `metric`; with `by="cohort"`, on every cohort.

    On each cell, with the interval `low` to `high` of the gain (positive is better):

    | verdict | when | says |
    |---|---|---|
    | pass | low >= -margin | a loss beyond the margin is excluded |
    | fail | high < 0 and gain < -margin | it is worse, and by more than is tolerated |
    | inconclusive | otherwise | these rows cannot tell |

    The worst cell decides. A candidate as good as the live version fails with probability <= 5 % over all cohorts
    together, so small cohorts show only large losses: one of 15 points on 100 rows is found nearly always, one of 10
    points three times in four, when the versions differ on a few rows in a hundred besides. `inconclusive` says what a
    cell that cannot tell does: with `fail` no such loss gets by, and many a good candidate is stopped. Cells with fewer
    than `min_rows` rows do not block, and are named. Before there is a live version everything passes.
    """

    metric: str | None = None
    by: str | None = None
    margin: float = 0.02
    min_rows: int = 30
    inconclusive: str = "pass"

    def check(self) -> None:
        """Refuse an unknown `by` or `inconclusive`, and a negative margin."""
        self.require(self.by in (None, "cohort"), f"by is {self.by!r}", "give None or 'cohort'")
        self.require(self.margin >= 0, f"margin is {self.margin!r}", "give a loss that you tolerate, 0 or more")
        self.require(self.min_rows >= 1, f"min_rows is {self.min_rows!r}", "give 1 or more")
        ok = self.inconclusive in ("pass", "fail")
        self.require(ok, f"inconclusive is {self.inconclusive!r}", "give 'pass' or 'fail'")

    def needs(self) -> OfflineNeeds:
        """Ask for the metric, compared with the live version."""
        names = (self.metric,) if self.metric else ()
        by_cohort = names if self.by == "cohort" else ()
        return OfflineNeeds(metrics=names, cohorts=self.by == "cohort", compared=names, by_cohort=by_cohort)

    def judge(self, evidence: Evidence) -> Verdict:
        """Judge each cell; the worst decides."""
        if evidence.live is None:
            return self.verdict(Outcome.PASS, "there is no live version to be worse than")
        cells = [c for c in evidence.of(self.metric) if self.by == "cohort" or c.cohort == ALL]
        thin = [c for c in cells if c.n < self.min_rows or c.gain is None]
        judged = [(c, self._outcome(c)) for c in cells if c not in thin]
        if not judged:
            return self.verdict(
                Outcome.INCONCLUSIVE, f"no labelled rows to compare on{_too_few(thin)}", back_to="labels"
            )
        worst = next(o for o in (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS) if o in {o for _, o in judged})
        named = [c for c, outcome in judged if outcome is worst]
        back_to = "training" if any(c.cohort == ALL for c in named) else "data"
        reason = f"{_SAYS[worst]}: {'; '.join(str(c) for c in _overall_first(named))}{_too_few(thin)}"
        return self.verdict(worst, reason, back_to=back_to, **_numbers(named[0]))

    def _outcome(self, cell: Cell) -> Outcome:
        if cell.gain is None or cell.low is None or cell.high is None:
            return Outcome.INCONCLUSIVE
        if cell.low >= -self.margin:
            return Outcome.PASS
        return Outcome.FAIL if cell.high < 0 and cell.gain < -self.margin else Outcome.INCONCLUSIVE


@dataclass(frozen=True)
class AtLeast(Offline):
    """`metric` on `cohort` is at least `value`, or at most where lower is better. The estimate itself is compared."""

    metric: str | None
    value: float
    cohort: str = ALL

    def needs(self) -> OfflineNeeds:
        """Ask for the metric."""
        return OfflineNeeds(metrics=(self.metric,) if self.metric else (), cohorts=self.cohort != ALL)

    def judge(self, evidence: Evidence) -> Verdict:
        """Compare."""
        cell = evidence.cell(self.metric, self.cohort)
        if cell is None or cell.candidate is None:
            reason = f"{self.metric} on {self.cohort} cannot be judged: no labelled row"
            return self.verdict(Outcome.INCONCLUSIVE, reason, back_to="labels")
        ok = cell.candidate >= self.value if cell.higher_is_better else cell.candidate <= self.value
        wanted = f"wanted {'at least' if cell.higher_is_better else 'at most'} {number(self.value)}"
        reason = f"{cell.metric} on {cell.cohort} is {number(cell.candidate)}, {wanted} (n {cell.n})"
        outcome = Outcome.PASS if ok else Outcome.FAIL
        return self.verdict(outcome, reason, back_to="data", candidate=cell.candidate, n=cell.n)


@dataclass(frozen=True)
class Majority(Member):
    """The constant answer that the training labels suggest: the commonest class, or the median number."""

    stage: ClassVar[str] = "baseline"


@dataclass(frozen=True)
class BeatsBaseline(Offline):
    """The candidate is better than a baseline on `metric` over all rows. The estimates themselves are compared."""

    baseline: Majority = Majority()
    metric: str | None = None

    def check(self) -> None:
        """Refuse what is no baseline."""
        self.require(isinstance(self.baseline, Majority), f"{self.baseline!r} is no baseline", "give Majority()")

    def needs(self) -> OfflineNeeds:
        """Ask for the metric and the baseline."""
        return OfflineNeeds(metrics=(self.metric,) if self.metric else (), baseline=type(self.baseline).__name__)

    def judge(self, evidence: Evidence) -> Verdict:
        """Compare."""
        cell = evidence.cell(self.metric)
        if cell is None or cell.candidate is None or cell.baseline is None:
            reason = f"{self.metric or 'the first metric'} of the candidate or of {self.baseline} is not known"
            return self.verdict(Outcome.INCONCLUSIVE, reason, back_to="labels")
        ok = cell.candidate > cell.baseline if cell.higher_is_better else cell.candidate < cell.baseline
        reason = f"{cell.metric} is {number(cell.candidate)}, {self.baseline} has {number(cell.baseline)} (n {cell.n})"
        outcome = Outcome.PASS if ok else Outcome.FAIL
        return self.verdict(
            outcome, reason, back_to="training", candidate=cell.candidate, baseline=cell.baseline, n=cell.n
        )


@dataclass(frozen=True)
class Latency(Offline):
    """The candidate answers 99 % of single requests within `p99_ms`, measured where the report was made."""

    p99_ms: float

    def needs(self) -> OfflineNeeds:
        """Ask for the latency."""
        return OfflineNeeds(latency=True)

    def judge(self, evidence: Evidence) -> Verdict:
        """Compare."""
        took = evidence.latency_ms_p99
        if took is None:
            return self.verdict(Outcome.INCONCLUSIVE, "the latency was not measured", back_to="training")
        outcome = Outcome.PASS if took <= self.p99_ms else Outcome.FAIL
        reason = f"p99 latency is {took:.3g} ms, wanted at most {self.p99_ms:g} ms"
        return self.verdict(outcome, reason, back_to="training", latency_ms_p99=took)


@dataclass(frozen=True)
class Approval(Offline):
    """A person says yes: `tidemill approve`. The loop waits until somebody has spoken."""

    def judge(self, evidence: Evidence) -> Verdict:
        """Read what was said."""
        if evidence.approval is None:
            return self.verdict(
                Outcome.UNKNOWN, f"version {evidence.candidate} waits for a person to approve or reject it"
            )
        if evidence.approval == "approved":
            return self.verdict(Outcome.PASS, f"version {evidence.candidate} was approved by a person")
        return self.verdict(Outcome.FAIL, f"version {evidence.candidate} was {evidence.approval}", back_to="strategy")


def needs(members: Iterable[Offline]) -> OfflineNeeds:
    """Return what all members together need."""
    all_ = [member.needs() for member in members]
    return OfflineNeeds(
        metrics=tuple(dict.fromkeys(name for need in all_ for name in need.metrics)),
        cohorts=any(need.cohorts for need in all_),
        baseline=next((need.baseline for need in all_ if need.baseline), None),
        latency=any(need.latency for need in all_),
        compared=tuple(dict.fromkeys(name for need in all_ for name in need.compared)),
        by_cohort=tuple(dict.fromkeys(name for need in all_ for name in need.by_cohort)),
    )


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


_SAYS = {
    Outcome.PASS: "no worse",
    Outcome.FAIL: "worse",
    Outcome.INCONCLUSIVE: "too few rows to exclude a loss beyond the margin",
}


def _overall_first(cells: list[Cell]) -> list[Cell]:
    return sorted(cells, key=lambda c: c.cohort != ALL)


def _too_few(cells: list[Cell]) -> str:
    named = ", ".join(f"{c.cohort} (n {c.n})" for c in cells)
    return f"; too few rows to judge {named}" if named else ""


def _numbers(cell: Cell) -> dict[str, Scalar]:
    return {
        "metric": cell.metric, "cohort": cell.cohort, "n": cell.n, "candidate": cell.candidate, "live": cell.live,
        "gain": cell.gain, "low": cell.low, "high": cell.high,
    }  # fmt: skip
