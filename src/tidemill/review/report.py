"""The report: what is known of a candidate before it meets traffic, as a value that is stored and shown."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from tidemill.records import Json, Verdict
from tidemill.review.change import Change
from tidemill.review.failures import FailureGroup
from tidemill.strategy.data_checked import DataChecked
from tidemill.strategy.evidence import Calibration, Cell, Evidence, Forgotten, Word
from tidemill.strategy.suite_result import SuiteResult


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Which test rows these are: two datasets with the same ones have the same `version`.

    `num_new` rows were not in the live version's dataset (`since`, its number), `num_gone` were and are not any more.
    """

    version: str
    dataset: int
    num_rows: int
    since: int | None = None
    num_new: int = 0
    num_gone: int = 0

    def __str__(self) -> str:
        """Write it as people read it: `evaluation set 3fa90c12, 420 rows, 60 new and 0 gone since dataset 4`."""
        grown = (
            "" if self.since is None else f", {self.num_new} new and {self.num_gone} gone since dataset {self.since}"
        )
        return f"evaluation set {self.version}, {self.num_rows} rows{grown}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is known of a candidate before it meets traffic; `notes` say what one must know to trust the numbers.

    `cells` are metrics by cohort of all time and, with `period` set, by stretch of time. `changes` say how the examples
    that are new since the live version's training set differ from it, `failures` where the candidate errs. `asked`
    stands for the tests that it was measured for (`strategy.gate.asked`), "" where nobody knows.
    """

    candidate: int
    live: int | None
    dataset: str
    cells: tuple[Cell, ...]
    evaluation: EvaluationSet | None = None
    baselines: tuple[str, ...] = ()
    latency_ms_p50: float | None = None
    latency_ms_p99: float | None = None
    size_mb: float | None = None
    calibration: Calibration | None = None
    forgotten: tuple[Forgotten, ...] = ()
    changes: tuple[Change, ...] = ()
    failures: tuple[FailureGroup, ...] = ()
    suites: tuple[SuiteResult, ...] = ()
    data: tuple[DataChecked, ...] = ()
    trust: str = "people"
    notes: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    asked: str = ""

    def to_json(self) -> Json:
        """Return the report as plain JSON."""
        return msgspec.json.decode(msgspec.json.encode(self))

    @classmethod
    def from_json(cls, data: Json) -> Report:
        """Read what `to_json` wrote, or an earlier version did; what it did not hold is empty."""
        return msgspec.convert(data, cls)


def evidence(report: Report, *, approval: Word | None, now: datetime, asked_at: datetime | None = None) -> Evidence:
    """Return what the gate sees of a report, what a person said of it, and since when one has been asked."""
    return Evidence(
        cells=report.cells,
        candidate=report.candidate,
        live=report.live,
        now=now,
        latency_ms_p50=report.latency_ms_p50,
        latency_ms_p99=report.latency_ms_p99,
        size_mb=report.size_mb,
        calibration=report.calibration,
        forgotten=report.forgotten,
        suites=report.suites,
        data=report.data,
        approval=approval,
        asked_at=asked_at,
        trust=report.trust,
    )
