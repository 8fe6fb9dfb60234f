"""How verdicts, reports and quality look in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tidemill.monitor.quality import Quality
from tidemill.records import Outcome, Verdict
from tidemill.stores.journal import GivenVerdict

_COLOURS = {
    Outcome.PASS: "green", Outcome.FAIL: "red", Outcome.INCONCLUSIVE: "yellow",
    Outcome.FIRE: "magenta", Outcome.QUIET: "dim", Outcome.UNKNOWN: "dim",
}  # fmt: skip

_ANY_WIDTH = 100_000


def wide_console() -> Console:
    """Return a console that breaks no line but for a terminal: `grep` and files are given lines whole."""
    console = Console()
    return console if console.is_terminal else Console(width=_ANY_WIDTH)


def show_table(table: Table) -> None:
    """Print a table with every cell whole, and its text as it is: what looks like markup may be somebody's data.

    In a terminal that is too narrow for it, each row is shown as lines of `heading  cell`.
    """
    console = Console(markup=False, emoji=False, highlight=False)
    size = Measurement.get(console, console.options.update(max_width=_ANY_WIDTH), table)
    if not console.is_terminal:
        Console(markup=False, emoji=False, highlight=False, width=max(size.maximum, 1)).print(table)
    elif size.minimum <= console.width:
        console.print(table)
    else:
        _show_rows(console, table)


def _show_rows(console: Console, table: Table) -> None:
    headings = [str(column.header) for column in table.columns]
    width = max(map(len, headings)) + 2
    for row in zip(*(column.cells for column in table.columns), strict=True):
        for heading, cell in zip(headings, row, strict=True):
            console.print(f" {heading:<{width}}", cell, sep="", soft_wrap=True)
        console.print()


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
