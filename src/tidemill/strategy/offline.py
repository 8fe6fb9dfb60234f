"""Stage 5: whether a candidate is good enough, from its report, to meet traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tidemill.records import Outcome, Scalar, Verdict
from tidemill.strategy.approval import Approval
from tidemill.strategy.baseline import Baseline, Human, Linear, Majority, Previous, Rule
from tidemill.strategy.data_checks import DataChecks
from tidemill.strategy.evidence import ALL, MARGIN, MIN_ROWS, Cell, Evidence, Forgotten, Tolerated, number
from tidemill.strategy.gate import Offline, OfflineNeeds
from tidemill.strategy.suites import Suites

__all__ = [
    "Approval", "AtLeast", "Baseline", "BeatsBaseline", "Calibrated", "DataChecks", "Forgets", "Human", "Latency",
    "Linear", "Majority", "NoWorse", "Offline", "Previous", "Rule", "Size", "Suites",
]  # fmt: skip

_MAJORITY = Majority()


class _Unsaid(float):
    """A number that nobody has given: what is given beside it need not agree with it."""


_UNSAID = _Unsaid(MARGIN)


@dataclass(frozen=True)
class NoWorse(Offline):
    """The candidate is no worse than the live version on `metric`; with `by="cohort"`, on every cohort.

    On each cell, with the interval `low` to `high` of the gain (positive is better):

    | verdict | when | says |
    |---|---|---|
    | pass | low >= -margin | a loss beyond the margin is excluded |
    | fail | high < 0 and gain < -margin | it is worse, and by more than is tolerated |
    | inconclusive | otherwise | these rows cannot tell |

    `margin` is in the metric's own units, 0.02 unless said. Where their scale is not known beforehand say `relative` in
    its place, a share of the live version's value: with 0.05 the candidate passes where a ratio of the two beyond 1.05
    is excluded, below 0.95 where higher is better (`stats.quotient`: Fieller, J. Roy. Statist. Soc. B 16, 1954), and
    fails where it is worse, by more than that. Of a live value of 0 there is no share: there a candidate that is shown
    to be better passes, one shown to be worse fails, and another is inconclusive.

    The worst cell decides. A candidate as good as the live version fails with probability <= 5 % over all cohorts
    together, so small cohorts show only large losses: one of 15 points on 100 rows is found nearly always, one of 10
    points three times in four, when the versions differ on a few rows in a hundred besides. `inconclusive` says what a
    cell that cannot tell does: with `fail` no such loss gets by, and many a good candidate is stopped. Cells with fewer
    than `min_rows` rows do not block, and are named. Before there is a live version everything passes.
    """

    metric: str | None = None
    by: str | None = None
    margin: float = _UNSAID
    min_rows: int = MIN_ROWS
    inconclusive: str = "pass"
    relative: float | None = None

    def check(self) -> None:
        """Refuse an unknown `by` or `inconclusive`, a negative margin, no share, and a margin and a share at once."""
        self.require(self.by in (None, "cohort"), f"by is {self.by!r}", "give None or 'cohort'")
        self.require(self.margin >= 0, f"margin is {self.margin!r}", "give a loss that you tolerate, 0 or more")
        if self.relative is not None:
            both = f"margin is {float(self.margin)!r} and relative is {self.relative!r}"
            self.require(isinstance(self.margin, _Unsaid), both, "give one of them: they are two ways to say one thing")
            hint = "give a share of the live version's value, such as 0.05"
            self.require(0 < self.relative < 1, f"relative is {self.relative!r}", hint)
        self.require(self.min_rows >= 1, f"min_rows is {self.min_rows!r}", "give 1 or more")
        self.check_inconclusive()

    def needs(self) -> OfflineNeeds:
        """Ask for the metric, compared with the live version."""
        names = (self.metric,) if self.metric else ()
        by_cohort = names if self.by == "cohort" else ()
        margins = () if self.relative is not None else tuple((name, self.margin) for name in names)
        relatives = () if self.relative is None else tuple((name, self.relative) for name in names)
        return OfflineNeeds(
            metrics=names, cohorts=self.by == "cohort", compared=names, by_cohort=by_cohort,
            margins=margins, relatives=relatives,
        )  # fmt: skip

    def params(self) -> dict[str, Any]:
        """Return the parameters by name: of `margin` and `relative` the one that counts."""
        unused = "relative" if self.relative is None else "margin"
        given = {name: value for name, value in super().params().items() if name != unused}
        return given | {"margin": float(self.margin)} if "margin" in given else given

    def judge(self, evidence: Evidence) -> Verdict:
        """Judge each cell; the worst decides."""
        if evidence.live is None:
            return self.verdict(Outcome.PASS, "there is no live version to be worse than")
        cells = [c for c in evidence.of(self.metric) if self.by == "cohort" or c.cohort == ALL]
        thin = [c for c in cells if c.n < self.min_rows or c.gain is None]
        tolerated = Tolerated(self.margin, self.relative)
        judged = [(c, tolerated.against_live(c)) for c in cells if c not in thin]
        if not judged:
            return self.verdict(
                Outcome.INCONCLUSIVE, f"no labelled rows to compare on{_too_few(thin)}", back_to="labels"
            )
        worst = next(o for o in (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS) if o in {o for _, o in judged})
        named = [c for c, outcome in judged if outcome is worst]
        back_to = "training" if any(c.cohort == ALL for c in named) else "data"
        says = (_SAYS if self.relative is None else _SAYS_OF_A_SHARE)[worst].format(tolerated)
        reason = f"{says}: {'; '.join(tolerated.told(c) for c in _overall_first(named))}{_too_few(thin)}"
        return self.verdict(worst, reason, back_to=back_to, **_numbers(named[0]), **self._share_of(named[0]))

    def _share_of(self, cell: Cell) -> dict[str, Scalar]:
        if self.relative is None:
            return {}
        found = {"ratio": cell.ratio, "ratio_low": cell.ratio_low, "ratio_high": cell.ratio_high}
        return {**found, "relative": self.relative}


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
class BeatsBaseline(Offline):
    """The candidate is better than a baseline on `metric` over all rows. The estimates themselves are compared.

    Give one of `Majority()`, `Rule(function)`, `Linear()`, `Human(value)` and `Previous()`.
    """

    baseline: Baseline = _MAJORITY
    metric: str | None = None

    def check(self) -> None:
        """Refuse what is no baseline."""
        ok = isinstance(self.baseline, Baseline)
        self.require(
            ok, f"{self.baseline!r} is no baseline", "give Majority(), Rule(f), Linear(), Human(.9), Previous()"
        )

    def needs(self) -> OfflineNeeds:
        """Ask for the metric and the baseline."""
        names = (self.metric,) if self.metric else ()
        return OfflineNeeds(metrics=names, baselines=((self.baseline, self.metric),))

    def judge(self, evidence: Evidence) -> Verdict:
        """Compare."""
        if isinstance(self.baseline, Previous) and evidence.live is None:
            return self.verdict(Outcome.PASS, "there is no version before this one")
        cell = evidence.cell(self.metric)
        theirs = None if cell is None else self._value(cell)
        if cell is None or cell.candidate is None or theirs is None:
            reason = f"{self.metric or 'the first metric'} of the candidate or of {self.baseline} is not known"
            return self.verdict(Outcome.INCONCLUSIVE, reason, back_to="labels")
        ok = cell.candidate > theirs if cell.higher_is_better else cell.candidate < theirs
        reason = f"{cell.metric} is {number(cell.candidate)}, {self.baseline} has {number(theirs)} (n {cell.n})"
        numbers = {"candidate": cell.candidate, "baseline": theirs, "n": cell.n}
        return self.verdict(Outcome.PASS if ok else Outcome.FAIL, reason, back_to="training", **numbers)

    def _value(self, cell: Cell) -> float | None:
        if isinstance(self.baseline, Human):
            return self.baseline.value
        return cell.live if isinstance(self.baseline, Previous) else cell.baselines.get(str(self.baseline))


@dataclass(frozen=True)
class Forgets(Offline):
    """Of the old test rows that the live version gets right, the candidate gets at most this share wrong.

    Old rows are those that the live version was tested on itself. A row learnt and then lost is Toneva et al.'s
    forgetting event (ICLR 2019, arXiv 1812.05159); between two versions of a deployed model it is Yan et al.'s negative
    flip (CVPR 2021, arXiv 2011.09161), here as a share of what there was to lose. All old rows are looked at, and each
    cohort of them with at least 30 rows that the live version gets right: fail where more than `at_most` is shown to be
    lost, with an error probability of 5 % over all cohorts together, pass where it is excluded. Two trainings on the
    same data differ on some rows too, so 0 asks for too much.
    """

    at_most: float = 0.05
    inconclusive: str = "pass"

    def check(self) -> None:
        """Refuse what is no share."""
        self.require(0 <= self.at_most < 1, f"at_most is {self.at_most!r}", "give a share from 0 to 1, such as 0.05")
        self.check_inconclusive()

    def judge(self, evidence: Evidence) -> Verdict:
        """Judge each cohort; the worst decides."""
        if evidence.live is None:
            return self.verdict(Outcome.PASS, "there is no live version whose answers could be forgotten")
        seen = [f for f in evidence.forgotten if f.n >= MIN_ROWS]
        if not seen:
            return self.verdict(
                Outcome.INCONCLUSIVE, "too few old rows that the live version gets right", back_to="labels"
            )
        order = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)
        worst = next(o for o in order if any(self._outcome(f) is o for f in seen))
        named = [f for f in seen if self._outcome(f) is worst]
        shown = "; ".join(f"{f.lost} of {f.n} on {f.cohort} ({number(f.share)})" for f in named)
        reason = f"forgets {shown}, wanted at most {number(self.at_most)}"
        most = max(named, key=lambda f: f.share)
        return self.verdict(
            worst, reason, back_to="data", cohort=most.cohort, n=most.n, share=most.share, low=most.low, high=most.high
        )

    def _outcome(self, found: Forgotten) -> Outcome:
        if found.low > self.at_most:
            return Outcome.FAIL
        return Outcome.PASS if found.high <= self.at_most else Outcome.INCONCLUSIVE


@dataclass(frozen=True)
class Calibrated(Offline):
    """The scores mean what they say: the expected calibration error is at most `at_most`.

    Rows are put into up to 15 bins of equally many by the confidence of the decision; the error is the mean distance
    between a bin's confidence and the share of it that was right (Naeini et al., AAAI 2015; Guo et al., ICML 2017,
    arXiv 1706.04599; bins of equal counts: Nixon et al., arXiv 1904.01685). Its interval decides: fail where a larger
    error is shown, pass where it is excluded. For outputs with classes.
    """

    at_most: float = 0.05
    inconclusive: str = "pass"

    def check(self) -> None:
        """Refuse what is no share."""
        self.require(0 < self.at_most < 1, f"at_most is {self.at_most!r}", "give an error from 0 to 1, such as 0.05")
        self.check_inconclusive()

    def judge(self, evidence: Evidence) -> Verdict:
        """Compare the interval."""
        found = evidence.calibration
        if found is None:
            reason = "the calibration is not known: it takes an output with classes, and labelled rows"
            return self.verdict(Outcome.INCONCLUSIVE, reason, back_to="labels")
        outcome = Outcome.FAIL if found.low > self.at_most else Outcome.INCONCLUSIVE
        outcome = Outcome.PASS if found.high <= self.at_most else outcome
        span = f"{number(found.low)} to {number(found.high)}, n {found.n}"
        reason = f"the calibration error is {number(found.error)} ({span}), wanted at most {number(self.at_most)}"
        numbers = {"error": found.error, "low": found.low, "high": found.high, "n": found.n}
        return self.verdict(outcome, reason, back_to="training", **numbers)


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
class Size(Offline):
    """The candidate's stored artefact takes at most `max_mb` megabytes (of 1,000,000 bytes)."""

    max_mb: float

    def check(self) -> None:
        """Refuse what no artefact can be."""
        self.require(self.max_mb > 0, f"max_mb is {self.max_mb!r}", "give megabytes, such as 50")

    def judge(self, evidence: Evidence) -> Verdict:
        """Compare."""
        size = evidence.size_mb
        if size is None:
            return self.verdict(Outcome.INCONCLUSIVE, "the size is not known", back_to="training")
        outcome = Outcome.PASS if size <= self.max_mb else Outcome.FAIL
        reason = f"the artefact takes {size:.3g} MB, wanted at most {self.max_mb:g} MB"
        return self.verdict(outcome, reason, back_to="training", size_mb=size)


_SAYS = {
    Outcome.PASS: "no worse",
    Outcome.FAIL: "worse",
    Outcome.INCONCLUSIVE: "too few rows to exclude a loss beyond the margin",
}
_SAYS_OF_A_SHARE = {
    Outcome.PASS: "no worse by more than {}",
    Outcome.FAIL: "worse by more than {}",
    Outcome.INCONCLUSIVE: "these rows do not exclude a loss beyond {}",
}


def _overall_first(cells: Sequence[Cell]) -> list[Cell]:
    return sorted(cells, key=lambda c: c.cohort != ALL)


def _too_few(cells: Sequence[Cell]) -> str:
    named = ", ".join(f"{c.cohort} (n {c.n})" for c in cells)
    return f"; too few rows to judge {named}" if named else ""


def _numbers(cell: Cell) -> dict[str, Scalar]:
    return {
        "metric": cell.metric, "cohort": cell.cohort, "n": cell.n, "candidate": cell.candidate, "live": cell.live,
        "gain": cell.gain, "low": cell.low, "high": cell.high,
    }  # fmt: skip
