"""The report: what is known of a candidate before it meets traffic, as a value that is stored and shown."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from tidemill.records import Json, Verdict
from tidemill.review.change import Change
from tidemill.review.failures import FailureGroup
from tidemill.strategy.data_checked import DataChecked
from tidemill.strategy.evidence import Calibration, Cell, Evidence, Forgotten, Word, number
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
    that are new since the live version's training set differ from it, `failures` where the candidate errs.
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

    def to_json(self) -> Json:
        """Return the report as plain JSON."""
        return msgspec.json.decode(msgspec.json.encode(self))

    @classmethod
    def from_json(cls, data: Json) -> Report:
        """Read what `to_json` wrote, or an earlier version did; what it did not hold is empty."""
        return msgspec.convert(data, cls)

    def to_markdown(self) -> str:
        """Return the report as a page of Markdown."""
        against = "no live version yet" if self.live is None else f"live version {self.live}"
        title = f"# Version {self.candidate} against {against}"
        lines = [f"- **{verdict.outcome}** {verdict.by}: {verdict.reason}" for verdict in self.verdicts]
        lines += [f"- Note: {note}" for note in self.notes]
        return "\n\n".join([title, self._facts(), self._table(), *(["\n".join(lines)] if lines else [])]) + "\n"

    def _facts(self) -> str:
        facts = [f"Dataset `{self.dataset}`, labels of trust {self.trust} or higher."]
        if self.evaluation is not None:
            facts.append(f"Judged by {self.evaluation}.")
        if self.latency_ms_p50 is not None and self.latency_ms_p99 is not None:
            facts.append(f"Latency: p50 {self.latency_ms_p50:.3g} ms, p99 {self.latency_ms_p99:.3g} ms.")
        return " ".join(facts)

    def _table(self) -> str:
        names = ["metric", "cohort", "n", "live", "candidate", "gain", "interval", *self.baselines]
        lines = [f"| {' | '.join(names)} |", f"|---|---|--:|--:|--:|--:|---{'|--:' * len(self.baselines)}|"]
        for cell in (cell for cell in self.cells if not cell.period):
            gain = "" if cell.gain is None else number(cell.gain, sign=True)
            span = "" if cell.low is None else f"{number(cell.low)} to {number(cell.high)}"
            beside = [_shown(cell.baselines.get(name)) for name in self.baselines]
            values = [_shown(cell.live), _shown(cell.candidate), gain, span, *beside]
            lines.append(f"| {cell.metric} | {cell.cohort} | {cell.n} | {' | '.join(values)} |")
        return "\n".join(lines)


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


def _shown(value: float | None) -> str:
    return "" if value is None else number(value)
