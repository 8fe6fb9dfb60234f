"""How verdicts, reports and quality look in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from tidemill.monitor.quality import Quality
from tidemill.records import Outcome, Verdict
from tidemill.stores.journal import GivenVerdict

_COLOURS = {
    Outcome.PASS: "green", Outcome.FAIL: "red", Outcome.INCONCLUSIVE: "yellow",
    Outcome.FIRE: "magenta", Outcome.QUIET: "dim", Outcome.UNKNOWN: "dim",
}  # fmt: skip


def verdict_line(verdict: Verdict, *, step: str = "") -> Text:
    """Return one line: step, outcome, reason."""
    line = Text(f"{step:<8} " if step else "")
    line.append(f"{verdict.outcome.upper():<13}", style=_COLOURS[verdict.outcome])
    line.append(verdict.reason)
    if verdict.back_to:
        line.append(f" (back to {verdict.back_to})", style="dim")
    return line


def verdict_lines(given: Iterable[GivenVerdict]) -> list[Text]:
    """Return a line per verdict, given the newest first and shown the newest last."""
    lines = []
    for entry in list(given)[::-1]:
        stamp = f"{entry.at:%Y-%m-%d %H:%M:%S}  #{entry.cycle or '-'} "
        lines.append(Text.assemble((stamp, "dim"), verdict_line(entry.verdict, step=entry.step)))
    return lines


def quality_table(quality: Sequence[Quality], *, title: str) -> Table:
    """Return metrics by cohort."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("cohort", "metric", "value", "95 % interval", "labelled"):
        table.add_column(heading, justify="left" if heading in ("cohort", "metric") else "right")
    for q in quality:
        value = "-" if q.value is None else f"{q.value:.3f}"
        interval = "" if q.low is None or q.high is None else f"{q.low:.3f} to {q.high:.3f}"
        table.add_row(q.cohort, q.metric, value, interval, str(q.num))
    return table
