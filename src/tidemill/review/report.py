"""The report: a candidate against the live version, metric by metric and cohort by cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import numpy as np

from tidemill.records import Json, Trust, Verdict
from tidemill.review.compare import Versions, compare, majority
from tidemill.review.population import population
from tidemill.schema import Array
from tidemill.stats.metrics import Judged, Metric, match
from tidemill.strategy.offline import Cell, Evidence, OfflineNeeds, number

ALPHA = 0.05
NEWEST = "newest"  # the cohort of the rows received since the live version was trained
_PLAIN = ("candidate", "live", "dataset", "baseline", "latency_ms_p50", "latency_ms_p99", "trust")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is known of a candidate before it meets traffic; `notes` say what one must know to trust the numbers."""

    candidate: int
    live: int | None
    dataset: str
    cells: tuple[Cell, ...]
    baseline: str = ""
    latency_ms_p50: float | None = None
    latency_ms_p99: float | None = None
    trust: str = "people"
    notes: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] = ()

    def to_json(self) -> Json:
        """Return the report as plain JSON."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "cells": [asdict(cell) for cell in self.cells],
            "notes": list(self.notes),
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
        }

    @classmethod
    def from_json(cls, data: Json) -> Report:
        """Read what `to_json` wrote."""
        return cls(
            **{name: data[name] for name in _PLAIN},
            cells=tuple(Cell(**cell) for cell in data["cells"]),
            notes=tuple(data["notes"]),
            verdicts=tuple(Verdict.from_json(verdict) for verdict in data["verdicts"]),
        )

    def to_markdown(self) -> str:
        """Return the report as a page of Markdown."""
        against = "no live version yet" if self.live is None else f"live version {self.live}"
        title = f"# Version {self.candidate} against {against}"
        lines = [f"- **{verdict.outcome}** {verdict.by}: {verdict.reason}" for verdict in self.verdicts]
        lines += [f"- Note: {note}" for note in self.notes]
        return "\n\n".join([title, self._facts(), _table(self.cells), *(["\n".join(lines)] if lines else [])]) + "\n"

    def _facts(self) -> str:
        facts = [f"Dataset `{self.dataset}`, labels of trust {self.trust} or higher."]
        if self.latency_ms_p50 is not None and self.latency_ms_p99 is not None:
            facts.append(f"Latency: p50 {self.latency_ms_p50:.3g} ms, p99 {self.latency_ms_p99:.3g} ms.")
        if self.baseline:
            facts.append(f"Baseline: {self.baseline}.")
        return " ".join(facts)


def build_report(
    *,
    candidate: int,
    live: int | None,
    dataset: str,
    metrics: Sequence[Metric],
    candidate_judged: Judged,
    live_judged: Judged | None = None,
    cohorts: Mapping[str, Array] | None = None,
    probabilities: Array | None = None,
    train_targets: Array | None = None,
    needs: OfflineNeeds | None = None,
    latency_ms: tuple[float, float] | None = None,
    trust: Trust = Trust.PEOPLE,
    rng: np.random.Generator,
    alpha: float = ALPHA,
) -> Report:
    """Compare the versions on N labelled test rows.

    Args:
        candidate: the version on trial.
        live: the version that answers now, None before there is one.
        dataset: digest of the dataset version whose test rows these are.
        metrics: what to measure; the first is the one to optimise.
        candidate_judged: the candidate's N decisions beside the labels.
        live_judged: the live version's, on the same rows.
        cohorts: a mask bool (N,) by name; the rows of the newest window are `newest`.
        probabilities: inclusion probabilities float (N,), NaN where unknown; None when all rows count alike.
        train_targets: the targets that the candidate learnt from, for the baseline `Majority`.
        needs: what the gate reads (`offline.needs`); without it, every metric on every cohort.
        latency_ms: the candidate's p50 and p99.
        trust: the weakest trust of the labels.
        rng: for the bootstrap of metrics that are no mean over rows.
        alpha: the chance to see a candidate as worse that is as good, over all compared metrics and cohorts together.
    """
    baseline = None if train_targets is None else majority(candidate_judged, train_targets)
    versions = Versions(candidate=candidate_judged, live=live_judged, baseline=baseline)
    rows, notes = population(len(candidate_judged), cohorts or {}, probabilities)
    names = [metric.name for metric in metrics]
    compared = _meant(names, names if needs is None else needs.compared)
    by_cohort = _meant(names, names if needs is None else needs.by_cohort)
    cells: list[Cell] = []
    for metric in metrics:
        level = alpha / len(compared) if metric.name in compared else alpha
        cells += compare(metric, versions, rows, alpha=level, shared=metric.name in by_cohort, rng=rng)
    return Report(
        candidate=candidate,
        live=live,
        dataset=dataset,
        cells=tuple(cells),
        baseline="" if baseline is None else "Majority",
        latency_ms_p50=None if latency_ms is None else float(latency_ms[0]),
        latency_ms_p99=None if latency_ms is None else float(latency_ms[1]),
        trust=str(trust),
        notes=notes,
    )


def evidence(report: Report, *, approval: str | None, now: datetime) -> Evidence:
    """Return what the gate sees of a report. `approval` is `approved`, `rejected: why`, or None."""
    return Evidence(
        cells=report.cells,
        candidate=report.candidate,
        live=report.live,
        now=now,
        latency_ms_p50=report.latency_ms_p50,
        latency_ms_p99=report.latency_ms_p99,
        approval=approval,
        trust=report.trust,
    )


def _meant(names: Sequence[str], wanted: Sequence[str]) -> set[str]:
    return {names[match(names, name)] for name in wanted}


def _table(cells: Sequence[Cell]) -> str:
    lines = [
        "| metric | cohort | n | live | candidate | gain | interval | baseline |",
        "|---|---|--:|--:|--:|--:|---|--:|",
    ]
    for cell in cells:
        gain = "" if cell.gain is None else number(cell.gain, sign=True)
        span = "" if cell.low is None else f"{number(cell.low)} to {number(cell.high)}"
        values = [_shown(cell.live), _shown(cell.candidate), gain, span, _shown(cell.baseline)]
        lines.append(f"| {cell.metric} | {cell.cohort} | {cell.n} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "" if value is None else number(value)
