"""The test that reads the project's suites: the candidate behaves as wanted, and no worse than the live version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidemill.records import Outcome, Verdict
from tidemill.strategy.evidence import Evidence
from tidemill.strategy.gate import Offline
from tidemill.strategy.suite_result import SuiteResult, worse_suites

_ALPHA = 0.05


@dataclass(frozen=True)
class Suites(Offline):
    """The candidate passes every suite of the project.

    Of each, a share of `at_least` has to pass: the suite's own unless it is given here. With `no_worse`, the candidate
    fails no more cases than the live version either. Where cases are drawn from the test rows (`Invariant`,
    `Directional`), it fails more when the sign test on the cases that only one of them fails says so, with an error
    probability of 5 % over all such suites together. The reason names cases that fail, the newly failing first: those
    that the live version passes. A suite that cannot be asked is inconclusive; one without a case is named.
    """

    at_least: float | None = None
    no_worse: bool = True
    inconclusive: str = "fail"

    def check(self) -> None:
        """Refuse what is no share."""
        ok = self.at_least is None or 0 < self.at_least <= 1
        self.require(ok, f"at_least is {self.at_least!r}", "give a share above 0, up to 1, or leave it to the suites")
        self.check_inconclusive()

    def judge(self, evidence: Evidence) -> Verdict:
        """Judge each suite; the worst decides."""
        results = evidence.suites
        if not results:
            return self.verdict(Outcome.INCONCLUSIVE, "the report has no suites", back_to="strategy")
        failing = self._failing(results)
        broken = [result for result in results if result.problem]
        if failing:
            reason = "; ".join(f"{result.told()} ({why})" for result, why in failing)
            back_to = "training" if all(result.sampled for result, _ in failing) else "data"
            return self.verdict(Outcome.FAIL, reason, back_to=back_to, **_counts(results))
        if broken:
            reason = "; ".join(f"{result.name} cannot be asked: {result.problem}" for result in broken)
            return self.verdict(Outcome.INCONCLUSIVE, reason, back_to="strategy", **_counts(results))
        return self.verdict(Outcome.PASS, "; ".join(map(str, results)), back_to="", **_counts(results))

    def _failing(self, results: Sequence[SuiteResult]) -> list[tuple[SuiteResult, str]]:
        worse = worse_suites(results, _ALPHA) if self.no_worse else []
        found = []
        for result in results:
            wanted = result.at_least if self.at_least is None else self.at_least
            if result.share is not None and result.share < wanted:
                found.append((result, f"wanted {'all' if wanted == 1 else f'{wanted:.0%}'}"))
            elif result in worse:
                found.append((result, "worse than the live version"))
        return sorted(found, key=lambda pair: -pair[0].num_new)


def _counts(results: Sequence[SuiteResult]) -> dict[str, int]:
    return {
        "suites": len(results),
        "cases": sum(result.num_cases for result in results),
        "failed": sum(result.num_failed for result in results),
        "newly_failing": sum(result.num_new for result in results),
    }
