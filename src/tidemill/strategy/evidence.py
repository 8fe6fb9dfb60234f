"""What the gate sees of a candidate: cells of metrics by cohort, and what else was measured of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from tidemill.records import Outcome, Trust
from tidemill.stats.metrics import match
from tidemill.strategy.data_checked import DataChecked
from tidemill.strategy.suite_result import SuiteResult
from tidemill.strategy.wording import percent

ALL = "all"  # the cohort of every test row
MARGIN = 0.02  # the loss that is tolerated unless a test names another
MIN_ROWS = 30  # fewer rows are shown, and judged by nobody


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One metric on one cohort: candidate, live version and baselines judged on the same `n` rows.

    `candidate_low` to `candidate_high` is the 95 % interval of the candidate's own value. `gain` is candidate - live,
    turned so that positive is better, and `low` to `high` its interval (how sure each end is, `review.compare` says).
    `ratio` is candidate / live with its interval, known where a test tolerates a share of the live version's value; an
    end that has no bound is None. `baselines` are values by name. `period` names the stretch of time that the rows are
    of, "" for all time. `outcome` and `reason` say what the gain shows (`Tolerated.against_live`). What is not known is
    None: the live version's value before there is one, the interval of a single row.
    """

    metric: str
    cohort: str
    suite: str = ""
    period: str = ""
    n: int
    candidate: float | None
    candidate_low: float | None = None
    candidate_high: float | None = None
    live: float | None = None
    baselines: Mapping[str, float | None] = field(default_factory=dict)
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    higher_is_better: bool = True
    outcome: str = ""
    reason: str = ""

    def __str__(self) -> str:
        """Write it as people read it: `accuracy on new_app: .66 -> .96 (+.30, .24 to .36, n 120)`."""
        span = "" if self.low is None else f", {number(self.low)} to {number(self.high)}"
        return self.written(f"{number(self.gain, sign=True)}{span}")

    def written(self, change: str) -> str:
        """Write it with what the change is in other words."""
        where = f"{self.metric} on {self.cohort}"
        if self.live is None or self.gain is None:
            return f"{where}: {number(self.candidate)} (n {self.n})"
        return f"{where}: {number(self.live)} -> {number(self.candidate)} ({change}, n {self.n})"


def number(value: float | None, *, sign: bool = False) -> str:
    """Write a number with two decimals or, when it is small, two digits; a share without its leading 0."""
    if value is None or math.isnan(value):
        return "unknown"
    text = f"{value:+.2f}" if abs(value) >= 0.095 or abs(value) < 5e-5 else f"{value:+.2g}"
    text = text.replace("+0.", "+.").replace("-0.", "-.")
    return text if sign or value < 0 else text.removeprefix("+")


@dataclass(frozen=True)
class Tolerated:
    """The loss that a test tolerates: `margin` in the metric's own units or, if given, `relative` of the live value."""

    margin: float = MARGIN
    relative: float | None = None

    def __str__(self) -> str:
        """Write it as people read it: `.02`, `5 % of the live version's value`."""
        return number(self.margin) if self.relative is None else f"{percent(self.relative)} of the live version's value"

    def against_live(self, cell: Cell) -> Outcome:
        """Return pass where a loss beyond it is excluded, fail where one is shown, else inconclusive.

        Of a live value of 0 or less there is no share: there a candidate passes with `relative` if it is shown to be
        better, and is inconclusive if it is as good.
        """
        if cell.gain is None or cell.low is None or cell.high is None:
            return Outcome.INCONCLUSIVE
        if self.relative is None:
            fine, most = cell.low >= -self.margin, self.margin
        else:
            fine, most = _share_excluded(cell, self.relative), self.relative * abs(cell.live or 0.0)
        if fine:
            return Outcome.PASS
        return Outcome.FAIL if cell.high < 0 and cell.gain < -most else Outcome.INCONCLUSIVE

    def told(self, cell: Cell) -> str:
        """Write what the cell shows of such a loss, as `Cell` is written or with the ratio in place of the gain."""
        return str(cell) if self.relative is None else cell.written(ratio_text(cell))


def _share_excluded(cell: Cell, relative: float) -> bool:
    """Tell whether a loss beyond a share of the live version's value is excluded."""
    if cell.live is not None and cell.live <= 0:
        return cell.low is not None and cell.low > 0
    if cell.higher_is_better:
        return cell.ratio_low is not None and cell.ratio_low >= 1 - relative
    return cell.ratio_high is not None and cell.ratio_high <= 1 + relative


def ratio_text(cell: Cell) -> str:
    """Write how many times the live version's value the candidate's is: `×1.050, 0.990 to 1.114`."""
    if cell.live is not None and cell.live <= 0:
        return f"there is no share of {number(cell.live)}: name a margin"
    if cell.ratio is None:
        return "their ratio is not in this report"
    low, high = ("unbounded" if end is None else f"{end:.3f}" for end in (cell.ratio_low, cell.ratio_high))
    return f"×{cell.ratio:.3f}, {low} to {high}"


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """Of the old rows of a cohort that the live version gets right, the share that the candidate gets wrong.

    `n` counts the rows that the live version gets right, `lost` those of them that the candidate loses. `low` is a
    lower bound that holds for all cohorts together with 95 %, `high` a 97.5 % upper bound for this one.
    """

    cohort: str
    n: int
    lost: int
    share: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Rows of like confidence: mean confidence, share that was right, number of rows."""

    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The expected calibration error over `bins` with its 95 % interval, from `n` rows."""

    error: float
    low: float
    high: float
    n: int
    bins: tuple[Bin, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Word:
    """What a person said of a candidate, who, and when."""

    approved: bool
    by: str
    at: datetime
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the gate sees of a candidate.

    `trust` is the weakest trust of the labels. `approval` is None while nobody has spoken; a person has been asked
    since `asked_at`.
    """

    cells: tuple[Cell, ...]
    candidate: int
    live: int | None
    now: datetime
    latency_ms_p50: float | None = None
    latency_ms_p99: float | None = None
    size_mb: float | None = None
    calibration: Calibration | None = None
    forgotten: tuple[Forgotten, ...] = ()
    suites: tuple[SuiteResult, ...] = ()
    data: tuple[DataChecked, ...] = ()
    approval: Word | None = None
    asked_at: datetime | None = None
    trust: str = Trust.PEOPLE

    def of(self, metric: str | None) -> Iterator[Cell]:
        """Yield the cells of a metric over all time, by its name or the first part of it; None is the first metric."""
        names = list(dict.fromkeys(cell.metric for cell in self.cells if not cell.suite))
        if not names:
            return
        wanted = names[match(names, metric)]
        yield from (cell for cell in self.cells if cell.metric == wanted and not cell.suite and not cell.period)

    def cell(self, metric: str | None, cohort: str = ALL) -> Cell | None:
        """Return one cell, None when no row could be judged."""
        return next((cell for cell in self.of(metric) if cell.cohort == cohort and cell.candidate is not None), None)
