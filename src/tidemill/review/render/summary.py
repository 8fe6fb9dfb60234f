"""A report in plain English: what a person who decides has to know, before any table."""

from __future__ import annotations

from collections.abc import Iterator

from tidemill.records import Outcome, Verdict
from tidemill.review.report import Report
from tidemill.strategy.evidence import ALL, MIN_ROWS, Cell, number

_SHARES = ("accuracy", "f1", "event_rate")
_WHOLE = ("gate", "reject")
_MOST_NAMED = 4
_WORTH_TELLING = 0.05


def decision(report: Report) -> Verdict | None:
    """Return the verdict of the tests together, None before there is one."""
    first = report.verdicts[0] if report.verdicts else None
    return first if first is not None and first.by in _WHOLE else None


def headline(report: Report) -> str:
    """Return one sentence: what has become of the candidate."""
    name, whole = f"Version {report.candidate}", decision(report)
    if whole is None:
        return f"{name} is the first one" if report.live is None else f"{name} beside live version {report.live}"
    if whole.outcome is Outcome.FAIL:
        return f"{name} is stopped"
    if whole.outcome is Outcome.UNKNOWN:
        return f"{name} waits for a person"
    return f"{name} passes its tests and may meet traffic"


def summary(report: Report) -> tuple[str, ...]:
    """Return the sentences that follow, the weightiest first."""
    return tuple(
        sentence
        for part in (_stopped, _main, _cohorts, _baselines, _suites, _data, _forgotten, _failures, _change, _speed)
        for sentence in part(report)
    )


def _stopped(report: Report) -> Iterator[str]:
    failed = [v for v in report.verdicts if v.outcome is Outcome.FAIL and v is not decision(report)]
    whole = decision(report)
    if whole is not None and whole.by == "reject":
        yield f"{whole.reason[:1].upper()}{whole.reason[1:]}."
    for verdict in failed:
        mend = f" Go back to: {verdict.back_to}." if verdict.back_to else ""
        yield f"Stopped by {verdict.by}: {verdict.reason}.{mend}"
    unsure = [v.by for v in report.verdicts if v.outcome is Outcome.INCONCLUSIVE]
    if unsure:
        yield f"Not decided, for lack of evidence: {', '.join(unsure)}."


def _main(report: Report) -> Iterator[str]:
    cell = next((c for c in report.cells if c.cohort == ALL and not c.period and c.candidate is not None), None)
    if cell is None:
        yield "There are no labelled test rows to judge it by."
        return
    now = f"On {cell.n:,} test rows its {words(cell.metric)} is {amount(cell.metric, cell.candidate)}"
    if cell.live is None or cell.gain is None:
        yield f"{now}{_between(cell)}."
        return
    yield f"{now}; live version {report.live} has {amount(cell.metric, cell.live)}. {against(cell)}"


def _between(cell: Cell) -> str:
    if cell.candidate_low is None or cell.candidate_high is None:
        return ""
    ends = amount(cell.metric, cell.candidate_low), amount(cell.metric, cell.candidate_high)
    return f" (in truth between {ends[0]} and {ends[1]}, with 95 % confidence)"


def against(cell: Cell) -> str:
    """Say what the interval of the gain leaves open."""
    if cell.low is None or cell.high is None or cell.gain is None:
        return "Too few rows to compare."
    span = f"between {points(cell.metric, cell.low)} and {points(cell.metric, cell.high)}"
    if cell.low > 0:
        return f"It is better: the gain lies {span}."
    if cell.high < 0:
        return f"It is worse: the change lies {span}."
    return f"The rows cannot tell the two apart: the change lies {span}."


def _cohorts(report: Report) -> Iterator[str]:
    cells = [c for c in report.cells if c.cohort != ALL and not c.period and c.gain is not None]
    worse = [c for c in cells if c.outcome == "fail"]
    for cell in worse[:_MOST_NAMED]:
        yield f"Worse on {cell.cohort}: {words(cell.metric)} {_change_of(cell)} on {cell.n:,} rows."
    if len(worse) > _MOST_NAMED:
        yield f"And worse on {len(worse) - _MOST_NAMED} more."
    if cells and not worse and report.live is not None:
        yield f"On none of {len({c.cohort for c in cells})} groups of rows is it shown to be worse."
    thin = sorted({c.cohort for c in report.cells if not c.period and c.cohort != ALL and 0 < c.n < MIN_ROWS})
    if thin:
        yield f"Too few rows to judge: {', '.join(thin)}."


def _change_of(cell: Cell) -> str:
    return f"{amount(cell.metric, cell.live)} -> {amount(cell.metric, cell.candidate)}"


def _baselines(report: Report) -> Iterator[str]:
    cell = next((c for c in report.cells if c.cohort == ALL and not c.period and c.baselines), None)
    if cell is None or cell.candidate is None:
        return
    sign = 1 if cell.higher_is_better else -1
    known = {name: value for name, value in cell.baselines.items() if value is not None}
    lost = [name for name, value in known.items() if sign * (cell.candidate - value) <= 0]
    if lost:
        told = ", ".join(f"{name} with {amount(cell.metric, known[name])}" for name in lost)
        yield f"It is no better than {told}."
    elif known:
        best = max(known, key=lambda name: sign * known[name])
        yield f"It beats every baseline; the best, {best}, has {amount(cell.metric, known[best])}."


def _suites(report: Report) -> Iterator[str]:
    asked = [result for result in report.suites if result.num_cases]
    short = [result for result in asked if result.share is not None and result.share < result.at_least]
    new = sum(result.num_new for result in asked)
    if asked and not short:
        yield f"All {len(asked)} suites of test cases pass." if len(asked) > 1 else f"The suite {asked[0].name} passes."
    for result in short:
        yield f"The suite {result}, wanted {result.at_least:.0%}."
    if new:
        yield f"{_count(new, 'case')} that the live version passes now {'fails' if new == 1 else 'fail'}."
    for result in report.suites:
        if result.problem:
            yield f"The suite {result.name} could not be asked: {result.problem}"


def _data(report: Report) -> Iterator[str]:
    for checked in report.data:
        if checked.problem:
            yield f"The data check {checked.name} could not be made: {checked.problem}."
        elif checked.breaches:
            yield f"The training data break {_count(len(checked.breaches), 'check')} of {checked.name}."


def _forgotten(report: Report) -> Iterator[str]:
    found = next((f for f in report.forgotten if f.cohort == ALL), None)
    if found is not None and found.lost:
        yield f"Of {found.n:,} rows that the live version gets right, it gets {found.lost:,} wrong ({found.share:.1%})."


def _failures(report: Report) -> Iterator[str]:
    if not report.failures:
        return
    group = report.failures[0]
    typical = f": {'; '.join(group.typical[:2])}" if group.typical else ""
    yield f"Its costliest mistakes are {group.size:,} rows that are alike, {group.loss_share:.0%} of all loss{typical}."


def _change(report: Report) -> Iterator[str]:
    moved = [c for c in report.changes if c.distance > max(c.chance, _WORTH_TELLING)]
    if moved:
        told = "; ".join(f"{c.name} ({c.what}: {c.before} before, {c.after} now)" for c in moved[:2])
        yield f"The new training data differ from the old: {told}."


def _speed(report: Report) -> Iterator[str]:
    if report.latency_ms_p50 is None or report.latency_ms_p99 is None:
        return
    size = "" if report.size_mb is None else f", and takes {report.size_mb:.3g} MB on disk"
    yield f"It answers in {report.latency_ms_p50:.3g} ms, 99 times in 100 within {report.latency_ms_p99:.3g} ms{size}."


# --- words and numbers


def words(metric: str) -> str:
    """Return a metric's name as words: `mean_absolute_error` is `mean absolute error`."""
    return metric.replace("_", " ")


def amount(metric: str, value: float | None) -> str:
    """Return a value as people say it: a share in percent."""
    if value is None:
        return "unknown"
    return f"{_short(100 * value)} %" if metric.startswith(_SHARES) else number(value)


def points(metric: str, value: float) -> str:
    """Return a difference as people say it: of shares, in points."""
    return f"{_short(100 * value, sign=True)} points" if metric.startswith(_SHARES) else number(value, sign=True)


def _short(value: float, *, sign: bool = False) -> str:
    text = f"{value:+.1f}" if sign else f"{value:.1f}"
    return text.removesuffix(".0")


def _count(num: int, what: str) -> str:
    return f"{num:,} {what}{'' if num == 1 else 's'}"
