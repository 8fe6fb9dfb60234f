"""A report in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from tidemill.review.render.section import Section, Table
from tidemill.review.render.sections import sections
from tidemill.review.report import Report

_COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


def terminal(report: Report) -> Group:
    """Return what rich prints; no text of the report is taken for markup."""
    return Group(*(part for section in sections(report) for part in _section(section)))


def _section(section: Section) -> Iterator[RenderableType]:
    yield Text(section.title, style="bold")
    for sentence in section.says:
        yield Text(
            f"- {sentence}" if section.key in ("summary", "facts") else sentence,
            style="" if section.key == "summary" else "dim",
        )
    yield from (_table(table) for table in section.tables)
    yield Text()


def _table(table: Table) -> RichTable:
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(table.columns):
        shown.add_column(Text(name), justify="right" if i in table.right else "left", overflow="fold")
    for i, row in enumerate(table.rows):
        shown.add_row(*map(Text, row), style=_COLOURS.get(table.mark(i), ""))
    return shown
