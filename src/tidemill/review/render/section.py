"""A part of a report that is shown: a title, sentences, tables. The same for every medium."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")  # control characters, and what reorders or hides text
_JOINERS = "\u200c\u200d"  # parts of words and of emoji


@dataclass(frozen=True)
class Table:
    """Cells of text. `right` are the columns of numbers, `marks` an outcome per row to colour it by, "" for none."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[int, ...] = ()
    marks: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = (),
        marks: Sequence[str] = (),
    ) -> Table:  # fmt: skip
        """Return a table without the columns that are empty throughout, but for the first."""
        kept = [i for i in range(len(columns)) if i == 0 or any(row[i] for row in rows)]
        return cls(
            columns=tuple(clean(columns[i]) for i in kept),
            rows=tuple(tuple(clean(row[i]) for i in kept) for row in rows),
            right=tuple(at for at, i in enumerate(kept) if i in right),
            marks=tuple(marks),
        )

    def mark(self, row: int) -> str:
        """Return the outcome of a row."""
        return self.marks[row] if self.marks else ""


@dataclass(frozen=True)
class Section:
    """A part of a report. `key` is what a plot of it goes by."""

    key: str
    title: str
    says: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", clean(self.title))
        object.__setattr__(self, "says", tuple(map(clean, self.says)))


def clean(text: str) -> str:
    """Return text on one line without characters that control a terminal, or that hide or reorder what is read."""
    line = " ".join(text.split())
    return "".join(
        c if c in _JOINERS or unicodedata.category(c) not in _HIDDEN else "\N{REPLACEMENT CHARACTER}" for c in line
    )
