"""What became of a schema that training rows were held against."""

from __future__ import annotations

from dataclasses import dataclass

_MAX_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class Breach:
    """One check that does not hold: of which column, by how many rows, with some of the values and the rows' ids.

    `column` is empty where the check is of the whole table.
    """

    column: str
    check: str
    num_rows: int
    values: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Write it as people read it: `'x' in_range(0, 1): 3 rows, such as 7.5 (r12)`."""
        where = f"{self.column!r} " if self.column else ""
        rows = f"{self.num_rows} row{'' if self.num_rows == 1 else 's'}"
        values = f", such as {', '.join(self.values)}" if self.values else ""
        return f"{where}{self.check}: {rows}{values}{f' ({self.ids[0]})' if self.ids else ''}"


@dataclass(frozen=True, kw_only=True)
class DataChecked:
    """A schema, by the digest of its member, held against `num_rows` rows; `problem` says why it could not be."""

    schema: str
    name: str
    num_rows: int
    breaches: tuple[Breach, ...] = ()
    problem: str = ""

    def told(self) -> str:
        """Return all that does not hold in one line, the most rows first."""
        first = sorted(self.breaches, key=lambda breach: -breach.num_rows)[:_MAX_NAMED]
        more = len(self.breaches) - len(first)
        told = "; ".join(map(str, first))
        return f"of {self.num_rows} training rows, {told}{f'; and {more} more checks' if more else ''}"
