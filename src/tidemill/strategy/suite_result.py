"""What became of a suite: how many cases pass, and which fail, the newly failing first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import bdtrc

_MAX_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class FailedCase:
    """A case that the candidate fails: the inputs, shortened; what was wanted; what candidate and live version said.

    `new` says that the live version passes it.
    """

    id: str
    inputs: str
    wanted: str
    candidate: str
    live: str | None = None
    new: bool = False
    note: str = ""

    def __str__(self) -> str:
        """Write it as people read it: `line 3 (text='bad word'): 'ok', wanted 'toxic'`."""
        return f"{self.id} ({self.inputs}): {self.candidate}, wanted {self.wanted}"


@dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """A suite's cases counted, and some of those that fail.

    `num_new` fail that the live version passes, and `num_fixed` pass that it fails; `num_failed_live` is None before
    there is a live version. `sampled` says that the cases are drawn from many. `problem` says why none could be asked.
    """

    name: str
    kind: str
    version: str
    at_least: float
    sampled: bool = False
    num_cases: int = 0
    num_failed: int = 0
    num_failed_live: int | None = None
    num_new: int = 0
    num_fixed: int = 0
    failed: tuple[FailedCase, ...] = ()
    problem: str = ""

    @property
    def share(self) -> float | None:
        """The share of cases that pass, None when there are none."""
        return 1 - self.num_failed / self.num_cases if self.num_cases else None

    @property
    def share_live(self) -> float | None:
        """The live version's share, None when it is not known."""
        if self.num_failed_live is None or not self.num_cases:
            return None
        return 1 - self.num_failed_live / self.num_cases

    def is_worse(self, alpha: float) -> bool:
        """Tell whether the candidate fails more than the live version.

        Of sampled cases, it has to be more than chance makes of two versions that are as good, by the sign test on the
        cases that one of them fails and the other passes, at level `alpha`.
        """
        lost = self.num_new - self.num_fixed
        if not self.sampled or lost <= 0:
            return lost > 0
        return bool(bdtrc(self.num_new - 1, self.num_new + self.num_fixed, 0.5) <= alpha)

    def __str__(self) -> str:
        """Write it as people read it: `past_bugs: 47 of 50 pass (live 50)`."""
        if self.problem:
            return f"{self.name}: {self.problem}"
        if not self.num_cases:
            return f"{self.name}: no cases"
        live = "" if self.num_failed_live is None else f" (live {self.num_cases - self.num_failed_live})"
        return f"{self.name}: {self.num_cases - self.num_failed} of {self.num_cases} pass{live}"

    def told(self) -> str:
        """Return the same with the first cases that fail."""
        if not self.failed:
            return str(self)
        more = self.num_failed - len(self.failed[:_MAX_NAMED])
        named = "; ".join(_named(case) for case in self.failed[:_MAX_NAMED])
        return f"{self}: {named}{f'; and {more} more' if more > 0 else ''}"


def worse_suites(results: Sequence[SuiteResult], alpha: float) -> list[SuiteResult]:
    """Return those on which the candidate is worse; the sampled ones share `alpha`."""
    sampled = max(1, sum(result.sampled for result in results))
    return [result for result in results if result.is_worse(alpha / sampled)]


def _named(case: FailedCase) -> str:
    return f"newly failing {case}" if case.new else str(case)
