"""One view model for every table of the page: drawn by the macro `table`, written as CSV by `to_csv`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple

from markupsafe import Markup

from tidemill.records import Outcome

Kind = Literal["text", "code", "count", "number", "share", "took", "bytes", "when", "pill", "interval", "picture"]


class Link(NamedTuple):
    """Words that lead somewhere; with `drawer`, the address of a fragment, it opens at the side instead."""

    text: str
    href: str
    drawer: str = ""


class Interval(NamedTuple):
    """A figure with its interval and the number of rows it is from; `unit` is number or share."""

    value: float | None
    low: float | None = None
    high: float | None = None
    num: int | None = None
    unit: str = "number"


Cell = str | int | float | bool | datetime | Outcome | Link | Interval | Markup | None


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: where its cells are in a row, what stands above them, and how they are shown.

    `sort` makes its head a link that sets `?sort=KEY` (`?sort=-KEY` for the greatest first), which the view reads.
    A `picture` is not written as CSV.
    """

    key: str
    title: str
    kind: Kind = "text"
    sort: bool = False
    help: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row: cells by the keys of the columns; `key` is what a tick box sends, `tone` is good, bad or unsure."""

    cells: Mapping[str, Cell]
    key: str = ""
    tone: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A page of rows.

    `total` is None where counting would be dear. `next` and `previous` are cursors for `?after=`, empty at the ends.
    `picks` puts a tick box before each row, for the form `pick-NAME`. `empty` says why there is no row, `command` what
    to run so that there is one.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    total: int | None = None
    next: str = ""
    previous: str = ""
    sort: str = ""
    picks: bool = False
    empty: str = "Nothing here yet."
    command: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)


def to_csv(table: Table, *, head: bool = True) -> str:
    """Return a table as CSV: times in ISO 8601, an interval as four columns, pictures left out.

    Without a `head` it goes on where a table of the same columns ended.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    shown = [column for column in table.columns if column.kind != "picture"]
    if head:
        writer.writerow([name for column in shown for name in _names(column)])
    for row in table.rows:
        writer.writerow([text for column in shown for text in _texts(column, row.cells.get(column.key))])
    return out.getvalue()


def _names(column: Column) -> list[str]:
    if column.kind != "interval":
        return [column.key]
    return [column.key, f"{column.key}_low", f"{column.key}_high", f"{column.key}_n"]


def _texts(column: Column, cell: Cell) -> list[str]:
    if column.kind == "interval":
        known = cell if isinstance(cell, Interval) else Interval(None)
        return [_text(part) for part in known[:4]]
    return [_text(cell)]


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, datetime):
        return cell.isoformat()
    if isinstance(cell, Link):
        return _harmless(cell.text)
    if isinstance(cell, bool | int | float):
        return str(cell)
    return _harmless(str(cell))


def _harmless(text: str) -> str:
    """Return text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text
