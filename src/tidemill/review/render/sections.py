"""From a Report to the sections that are shown: every public field of it has its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tidemill.records import Outcome, Verdict
from tidemill.review.render.section import Section, Table
from tidemill.review.render.summary import headline, summary, words
from tidemill.review.report import Report
from tidemill.strategy.evidence import ALL, Cell, number
from tidemill.strategy.suite_result import SuiteResult

_MOST_CASES = 20


def sections(report: Report) -> tuple[Section, ...]:
    """Return what a report holds, the summary first; what it does not hold is left out."""
    return tuple(section for part in _PARTS for section in part(report))


def _summary(report: Report) -> Iterator[Section]:
    yield Section("summary", headline(report), summary(report))


def _verdicts(report: Report) -> Iterator[Section]:
    if not report.verdicts:
        return
    rows = [(str(v.outcome), v.by, v.reason, v.back_to) for v in report.verdicts]
    marks = [_mark(v) for v in report.verdicts]
    yield Section(
        "verdicts", "Verdicts", ("What each test says, and where to mend what fails.",),
        (Table.of(("verdict", "test", "why", "back to"), rows, marks=marks),),
    )  # fmt: skip


def _mark(verdict: Verdict) -> str:
    return str(verdict.outcome) if verdict.outcome in (Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE) else ""


def _metrics(report: Report) -> Iterator[Section]:
    cells = [cell for cell in report.cells if not cell.period]
    for metric in dict.fromkeys(cell.metric for cell in cells):
        of_metric = [cell for cell in cells if cell.metric == metric]
        better = "higher is better" if of_metric[0].higher_is_better else "lower is better"
        says = [f"By group of test rows; {better}. A gain above 0 is better, whichever way the metric points."]
        if report.live is not None:
            says.append("The interval is what these rows leave open; a verdict follows from it and not from the gain.")
        yield Section(
            f"metric:{metric}", words(metric).capitalize(), tuple(says), (_cells(of_metric, report.baselines),)
        )


def _cells(cells: Sequence[Cell], baselines: Sequence[str], *, by: str = "cohort") -> Table:
    columns = (by, "rows", "live", "candidate", "its interval", "gain", "interval", *baselines, "verdict")
    rows = [(str(getattr(cell, by)), *_values(cell), *_beside(cell, baselines), _verdict(cell)) for cell in cells]
    right = (1, 2, 3, 5, *range(7, 7 + len(baselines)))
    return Table.of(columns, rows, right=right, marks=[cell.outcome for cell in cells])


def _values(cell: Cell) -> tuple[str, ...]:
    own = "" if cell.candidate is None else _span(cell.candidate_low, cell.candidate_high)
    gain = "" if cell.gain is None else number(cell.gain, sign=True)
    return f"{cell.n:,}", _shown(cell.live), _shown(cell.candidate), own, gain, _span(cell.low, cell.high)


def _beside(cell: Cell, baselines: Sequence[str]) -> list[str]:
    return [_shown(cell.baselines.get(name)) for name in baselines]


def _verdict(cell: Cell) -> str:
    """Return what the gain shows; that there is no live version to compare with need not be said in each row."""
    if cell.live is None and cell.outcome == "unknown":
        return ""
    return f"{cell.outcome}: {cell.reason}" if cell.outcome and cell.reason else cell.outcome


def _shown(value: float | None) -> str:
    return "" if value is None else number(value)


def _span(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def _periods(report: Report) -> Iterator[Section]:
    cells = [cell for cell in report.cells if cell.period]
    for metric in dict.fromkeys(cell.metric for cell in cells):
        some = [cell for cell in cells if cell.metric == metric and cell.cohort == ALL]
        others = [cell for cell in cells if cell.metric == metric and cell.cohort != ALL]
        tables = [_cells(some, (), by="period")] if some else []
        tables += [_by_both(others)] if others else []
        says = "By when the requests came. What falls towards the end may go on falling."
        yield Section(f"periods:{metric}", f"{words(metric).capitalize()} over time", (says,), tuple(tables))


def _by_both(cells: Sequence[Cell]) -> Table:
    table = _cells(cells, (), by="period")
    rows = [(cell.cohort, *row) for cell, row in zip(cells, table.rows, strict=True)]
    return Table.of(("cohort", *table.columns), rows, right=[1 + i for i in table.right], marks=table.marks)


def _baselines(report: Report) -> Iterator[Section]:
    cells = [c for c in report.cells if c.cohort == ALL and not c.period and c.baselines and c.candidate is not None]
    for cell in cells[:1]:
        values = {"candidate": cell.candidate, "live": cell.live, **cell.baselines}
        rows = [(name, _shown(value)) for name, value in values.items() if value is not None]
        says = f"The {words(cell.metric)} of simple answers on the same {cell.n:,} rows: what a model has to be worth."
        yield Section("baselines", "Against baselines", (says,), (Table.of(("who", cell.metric), rows, right=(1,)),))


def _suites(report: Report) -> Iterator[Section]:
    if not report.suites:
        return
    columns = ("suite", "kind", "cases", "pass", "live", "newly failing", "fixed", "wanted", "version", "problem")
    rows = [_suite_row(result) for result in report.suites]
    tables = [Table.of(columns, rows, right=(2, 3, 4, 5, 6, 7), marks=[_suite_mark(r) for r in report.suites])]
    failed = [(result.name, case) for result in report.suites for case in result.failed]
    if failed:
        failed.sort(key=lambda pair: not pair[1].new)
        shown = [
            (name, "newly failing" if case.new else "failing", case.id, case.inputs, case.wanted, case.candidate,
             case.live or "", case.note)
            for name, case in failed[:_MOST_CASES]
        ]  # fmt: skip
        names = ("suite", "which", "case", "inputs", "wanted", "candidate", "live", "note")
        tables.append(Table.of(names, shown, marks=["fail" if case.new else "" for _, case in failed[:_MOST_CASES]]))
    yield Section(
        "suites", "Test cases", ("Cases with a known answer, and changes that must not matter.",), tuple(tables)
    )


def _suite_row(result: SuiteResult) -> tuple[str, ...]:
    live = "" if result.share_live is None else f"{result.share_live:.1%}"
    share = "" if result.share is None else f"{result.share:.1%}"
    return (
        result.name, result.kind, f"{result.num_cases:,}", share, live, str(result.num_new or ""),
        str(result.num_fixed or ""), f"{result.at_least:.0%}", result.version, result.problem,
    )  # fmt: skip


def _suite_mark(result: SuiteResult) -> str:
    if result.problem or result.share is None:
        return "inconclusive"
    return "pass" if result.share >= result.at_least else "fail"


def _data(report: Report) -> Iterator[Section]:
    for checked in report.data:
        rows = [
            (breach.column, breach.check, f"{breach.num_rows:,}", ", ".join(breach.values), ", ".join(breach.ids))
            for breach in checked.breaches
        ]
        says = f"{checked.num_rows:,} training rows held against {checked.name}: " + (
            checked.problem or (f"{len(rows)} checks do not hold." if rows else "all checks hold.")
        )
        names = ("column", "check", "rows", "values", "examples")
        yield Section("data", "Training data", (says,), (Table.of(names, rows, right=(2,)),) if rows else ())


def _changes(report: Report) -> Iterator[Section]:
    if not report.changes:
        return
    rows = [
        (
            c.name,
            c.what,
            number(c.distance),
            number(c.chance),
            c.before,
            c.after,
            f"{c.num_before:,}",
            f"{c.num_after:,}",
        )
        for c in report.changes
    ]
    marks = ["inconclusive" if c.distance > c.chance else "" for c in report.changes]
    names = ("of", "what", "distance", "by chance", "before", "after", "rows before", "rows after")
    says = (
        "New training examples against the last training set. Distances are 0 to 1; chance alone stays below its mark."
    )
    yield Section(
        "changes", "What is new in the data", (says,), (Table.of(names, rows, right=(2, 3, 6, 7), marks=marks),)
    )


def _forgotten(report: Report) -> Iterator[Section]:
    if not report.forgotten:
        return
    rows = [(f.cohort, f"{f.n:,}", f"{f.lost:,}", f"{f.share:.1%}", _span(f.low, f.high)) for f in report.forgotten]
    names = ("cohort", "right before", "wrong now", "share", "interval")
    says = "Rows that the live version gets right, and the candidate does not."
    yield Section("forgotten", "Forgotten", (says,), (Table.of(names, rows, right=(1, 2, 3)),))


def _calibration(report: Report) -> Iterator[Section]:
    found = report.calibration
    if found is None:
        return
    rows = [(number(b.confidence), number(b.accuracy), f"{b.n:,}") for b in found.bins]
    says = (
        f"How often it is right, beside how sure it says it is: off by {number(found.error)} on average "
        f"({_span(found.low, found.high)}, {found.n:,} rows)."
    )
    table = Table.of(("says", "is right", "rows"), rows, right=(0, 1, 2))
    yield Section("calibration", "Calibration", (says,), (table,) if rows else ())


def _failures(report: Report) -> Iterator[Section]:
    if not report.failures:
        return
    rows = [(f"{g.size:,}", f"{g.loss_share:.1%}", "; ".join(g.typical), ", ".join(g.ids)) for g in report.failures]
    table = Table.of(("rows", "share of loss", "typical", "examples"), rows, right=(0, 1))
    says = "The costliest mistakes, grouped by likeness: each is a thing to label more of, or to make a test case."
    yield Section("failures", "Where it fails", (says,), (table,))


def _facts(report: Report) -> Iterator[Section]:
    says = [f"Dataset {report.dataset}, labels of trust {report.trust} or higher."]
    if report.evaluation is not None:
        says.append(f"Judged by {report.evaluation}.")
    if report.latency_ms_p50 is not None and report.latency_ms_p99 is not None:
        says.append(f"Latency: p50 {report.latency_ms_p50:.3g} ms, p99 {report.latency_ms_p99:.3g} ms.")
    if report.size_mb is not None:
        says.append(f"Size: {report.size_mb:.3g} MB.")
    says += [f"Note: {note}" for note in report.notes]
    yield Section("facts", "How this was measured", tuple(says))


_PARTS = (
    _summary, _verdicts, _metrics, _baselines, _suites, _failures, _periods, _calibration, _forgotten, _changes, _data,
    _facts,
)  # fmt: skip
