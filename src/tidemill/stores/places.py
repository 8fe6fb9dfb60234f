"""Where a table of others lies: a Parquet or CSV file, or a table of an SQL database."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tidemill.errors import ProjectError

KINDS = {".parquet": "parquet", ".csv": "csv"}
WANTED = "name a file.parquet, a file.csv, or a table as sqlite:///file.db#table or postgresql://user@host/name#table"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A table of others: a file at `path`, or `table` of the database at `url`; `kind` is parquet, csv or sql.

    `shown` is how it may be told to anybody: without a password.
    """

    kind: str
    shown: str
    path: Path = Path()
    url: str = ""
    table: str = ""

    def __str__(self) -> str:
        return self.shown

    @property
    def refused(self) -> Place:
        """Where the rows go that were refused, unless somebody says otherwise: beside it."""
        if self.kind == "sql":
            return self.beside("refused")
        return file_place(self.path.with_name(f"{self.path.stem}.refused{self.path.suffix}"))

    def beside(self, suffix: str) -> Place:
        """Return another table of the same database."""
        return replace(self, shown=f"{self.shown}_{suffix}", table=f"{self.table}_{suffix}")


def file_place(path: Path) -> Place:
    """Return the place of a Parquet or CSV file.

    Raises:
        ProjectError: its name ends otherwise.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise ProjectError(f"{str(path)!r} is no Parquet or CSV file and no table.", WANTED)
    return Place(kind=kind, shown=str(path), path=path)
