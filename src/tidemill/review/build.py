"""Making a report: from what the versions decided on the test rows to cells, calibration, forgetting and failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tidemill.records import Trust
from tidemill.review.calibration import calibration
from tidemill.review.compare import Versions, compare
from tidemill.review.constant import majority
from tidemill.review.failures import FailureGroup, failure_groups
from tidemill.review.forgetting import forgotten
from tidemill.review.periods import periods
from tidemill.review.population import Rows, population
from tidemill.review.report import Report
from tidemill.schema import Array, Columns, Schema
from tidemill.stats.metrics import Judged, Metric, match
from tidemill.strategy.baseline import Human, Majority
from tidemill.strategy.evidence import ALL, MARGIN, Cell, Tolerated
from tidemill.strategy.gate import OfflineNeeds

ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What is known of the N test rows beside the answers to them; what is not given is left out of the report.

    `cohorts` are masks bool (N,) by name. `probabilities` are inclusion probabilities float (N,), NaN where unknown;
    None when all rows count alike. `received_at` is int64 (N,) in microseconds. `old` is the mask of the rows that the
    live version was tested on itself. `columns` are the inputs, with `schema` and `ids` (object, (N,)).
    """

    cohorts: Mapping[str, Array] = field(default_factory=dict)
    probabilities: Array | None = None
    received_at: Array | None = None
    old: Array | None = None
    schema: Schema | None = None
    columns: Columns = field(default_factory=dict)
    ids: Array | None = None


def build_report(
    *,
    candidate: int,
    live: int | None,
    dataset: str,
    metrics: Sequence[Metric],
    candidate_judged: Judged,
    live_judged: Judged | None = None,
    rows: HeldOut | None = None,
    train_targets: Array | None = None,
    baselines: Mapping[str, Judged] | None = None,
    needs: OfflineNeeds | None = None,
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
        rows: what else is known of the rows.
        train_targets: the targets that the candidate learnt from, for the baseline `Majority`.
        baselines: what other baselines decide on the same rows, by name.
        needs: what the gate reads (`gate.needs`); without it, every metric on every cohort.
        trust: the weakest trust of the labels.
        rng: for what is found by drawing.
        alpha: the chance to see a candidate as worse that is as good, over all compared metrics and cohorts together.
    """
    rows = rows or HeldOut()
    constant = {} if train_targets is None else {str(Majority()): majority(candidate_judged, train_targets)}
    versions = Versions(candidate=candidate_judged, live=live_judged, baselines={**constant, **(baselines or {})})
    cohorts, notes = population(len(candidate_judged), rows.cohorts, rows.probabilities)
    times = {} if rows.received_at is None else periods(rows.received_at)
    cells = _cells(metrics, versions, cohorts, times, needs or _everything(metrics), alpha, rng)
    judged_old = rows.old if rows.old is not None else np.ones(len(candidate_judged), dtype=bool)
    return Report(
        candidate=candidate,
        live=live,
        dataset=dataset,
        cells=cells,
        baselines=tuple(dict.fromkeys([*versions.baselines, *(n for cell in cells for n in cell.baselines)])),
        calibration=calibration(candidate_judged, cohorts[0], rng),
        forgotten=() if live_judged is None else forgotten(candidate_judged, live_judged, cohorts, judged_old),
        failures=_failures(candidate_judged, rows),
        trust=str(trust),
        notes=notes,
    )


def _everything(metrics: Sequence[Metric]) -> OfflineNeeds:
    names = tuple(metric.name for metric in metrics)
    return OfflineNeeds(metrics=names, cohorts=True, compared=names, by_cohort=names)


def _cells(
    metrics: Sequence[Metric], versions: Versions, cohorts: Sequence[Rows], times: Mapping[str, Array],
    needs: OfflineNeeds, alpha: float, rng: np.random.Generator,
) -> tuple[Cell, ...]:  # fmt: skip
    """Return the cells of all metrics; those of periods are by cohort for the first metric, else of all rows."""
    names = [metric.name for metric in metrics]
    compared, by_cohort = _meant(names, needs.compared), _meant(names, needs.by_cohort)
    margins = {names[match(names, name)]: margin for name, margin in needs.margins}
    relatives = {names[match(names, name)]: relative for name, relative in needs.relatives}
    cells: list[Cell] = []
    for metric in metrics:
        shown = cohorts if metric is metrics[0] else cohorts[:1]
        cells += compare(
            metric, versions, cohorts, rng=rng,
            alpha=alpha / len(compared) if metric.name in compared else alpha,
            shared=metric.name in by_cohort,
            periods=[part for rows in shown for part in _in_periods(rows, times)],
            tolerated=Tolerated(margins.get(metric.name, MARGIN), relatives.get(metric.name)),
        )  # fmt: skip
    return tuple(_with_people(cell, names, needs) for cell in cells)


def _in_periods(rows: Rows, times: Mapping[str, Array]) -> list[Rows]:
    return [part for name, mask in times.items() if len((part := rows.where(mask, period=name)).index)]


def _meant(names: Sequence[str], wanted: Sequence[str]) -> set[str]:
    return {names[match(names, name)] for name in wanted}


def _with_people(cell: Cell, names: Sequence[str], needs: OfflineNeeds) -> Cell:
    """Return the cell with what people are declared to reach on its metric."""
    if cell.cohort != ALL or cell.period:
        return cell
    declared = [(b, metric) for b, metric in needs.baselines if isinstance(b, Human)]
    found = {str(b): float(b.value) for b, metric in declared if names[match(names, metric)] == cell.metric}
    return replace(cell, baselines={**cell.baselines, **found}) if found else cell


def _failures(judged: Judged, rows: HeldOut) -> tuple[FailureGroup, ...]:
    if rows.schema is None or rows.ids is None:
        return ()
    return failure_groups(judged, rows.schema, rows.columns, rows.ids)
