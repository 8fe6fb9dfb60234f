"""The newest predictions that meet a condition, page by page: of the log only the newest parts are read.

The parts are row groups, known by the statistics in the files' ends. They are read from the newest back, more at a time
the longer nothing is found, until there are as many rows as a page takes or as many were looked at as may be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from tidemill.errors import InvalidInput
from tidemill.schema import Array
from tidemill.stores.logfiles import LogFile, LogFiles

KEY = ("received_at", "request_id", "answered_version")
_FIRST_LOOK, _GROWS = 4_000, 4
_LARGE, _HEAVY = 100_000, 8 << 20  # rows and bytes of a file from which on its row groups are told apart
_DIGITS = re.compile(r"-?[0-9]{1,18}")  # of a number that fits 64 bits
_AT_ONCE = 2_048  # rows that are asked first whether they meet a condition, then more

Meets = Callable[[pl.DataFrame], Array]
"""Says which of N rows are wanted, bool (N,)."""


class Place(NamedTuple):
    """Where in the log a row is: pages go on from there to what is older."""

    received_at: int
    request_id: str
    version: int

    def __str__(self) -> str:
        """Return it as text that an address can hold."""
        return f"{self.received_at}.{self.version}.{self.request_id}"

    @classmethod
    def read(cls, text: str) -> Place:
        """Read what `str` wrote.

        Raises:
            InvalidInput: it is no place.
        """
        at, _, rest = text.partition(".")
        version, _, request_id = rest.partition(".")
        if not all(_DIGITS.fullmatch(number) for number in (at, version)):
            raise InvalidInput(f"{text[:60]!r} is no place in the log.", "go back to the first page", "after")
        return cls(int(at), request_id, int(version))

    @property
    def last(self) -> int:
        """The last microsecond in which there may be rows behind it."""
        return self.received_at if self.request_id else self.received_at - 1

    def older(self) -> pl.Expr:
        """Return what is true of the rows behind it."""
        at, id_, version = (pl.col(name) for name in KEY)
        same = (id_ < self.request_id) | ((id_ == self.request_id) & (version < self.version))
        return (at < self.received_at) | ((at == self.received_at) & same)


@dataclass(frozen=True, kw_only=True)
class Newest:
    """Rows, the newest first. `next` is where the next page begins, None where there is nothing older.

    `num_looked` is about how many rows of the log were looked at; `is_cut` says that the look ended there, not the log.
    """

    rows: pl.DataFrame
    next: Place | None
    num_looked: int
    is_cut: bool = False


class Part(NamedTuple):
    """A span of time, in microseconds and both ends in it, with about how many rows and bytes lie there."""

    first: int
    last: int
    num: int
    num_bytes: int = 0


def parts_back(
    files: LogFiles, project: str, *, first: int, last: int, most: int, most_bytes: int | None = None
) -> Iterator[Part]:
    """Yield spans that follow each other from `last` back to `first`, of more and more rows up to about `most`.

    With `most_bytes` none is much larger than that, as far as the files can be told apart.
    """
    found = files.find(project, "predictions", first=first, last=last)
    units = [unit for file in found for unit in _units(files.folder, file)]
    units = sorted((unit for unit in units if unit.last >= first), key=lambda unit: unit.last)
    wanted = min(_FIRST_LOOK, most)
    while units:
        units = sorted((u for u in units if u.first <= last), key=lambda unit: min(unit.last, last))
        some = _newest_units(units, wanted, most_bytes)
        if not some:
            return
        # Half of them lie whole behind this time: one that reaches far back does not draw all others in.
        starts = sorted(unit.first for unit in some)
        low = first if len(some) == len(units) else max(first, starts[len(starts) // 2])
        yield Part(low, last, sum(unit.num for unit in some if unit.first >= low))
        last, wanted = low - 1, min(wanted * _GROWS, most)
        if last < first:
            return


def _newest_units(units: Sequence[Part], num: int, most_bytes: int | None) -> list[Part]:
    some: list[Part] = []
    num_bytes = 0
    for unit in reversed(units):
        num_bytes += unit.num_bytes
        if some and most_bytes is not None and num_bytes > most_bytes:
            break
        some.append(unit)
        num -= unit.num
        if num <= 0:
            break
    return some


def _units(folder: Path, file: LogFile) -> Sequence[Part]:
    whole = (Part(file.first_at, file.last_at, file.num_rows, file.num_bytes),)
    if file.num_rows < _LARGE and file.num_bytes < _HEAVY:
        return whole
    try:
        return _groups(folder / file.path) or whole
    except FileNotFoundError:  # merged into another since: whoever reads the rows looks again
        return whole


@lru_cache(maxsize=1 << 12)
def _groups(path: Path) -> tuple[Part, ...]:
    """Return the row groups of a file, none where it does not say when they are from; files never change."""
    with pq.ParquetFile(path) as file:
        at = file.schema_arrow.get_field_index("received_at")
        known = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    times = [group.column(at).statistics for group in known]
    if any(one is None or not one.has_min_max for one in times):
        return ()
    return tuple(
        Part(one.min, one.max, group.num_rows, group.total_byte_size) for one, group in zip(times, known, strict=True)
    )


def newest(
    parts: Iterator[Part], read: Callable[[Part], pl.DataFrame], *, limit: int, at_most: int, meets: Meets | None
) -> Newest:
    """Return the newest `limit` rows of parts, read from the newest back.

    Args:
        parts: the spans, as `parts_back` yields them.
        read: returns the rows of a span in order of time, with the columns of `KEY` and what `meets` needs.
        limit: how many rows.
        at_most: about how many rows are looked at; at least one part is.
        meets: which rows are wanted; all by default.
    """
    pages: list[pl.DataFrame] = []
    num, looked = 0, 0
    for part in parts:
        if looked >= at_most:
            return Newest(rows=_together(pages), next=Place(part.last + 1, "", -1), num_looked=looked, is_cut=True)
        rows, asked, to = _picked(read(part), limit + 1 - num, meets, at_most - looked)
        pages.append(rows)
        num += len(rows)
        looked += part.num if meets is None else asked
        if num > limit:  # there is more
            rows = _together(pages)[:limit]
            return Newest(rows=rows, next=_place(rows, -1), num_looked=looked)
        if to is not None:
            return Newest(rows=_together(pages), next=to, num_looked=looked, is_cut=True)
    return Newest(rows=_together(pages), next=None, num_looked=looked)


def _picked(
    rows: pl.DataFrame, limit: int, meets: Meets | None, at_most: int
) -> tuple[pl.DataFrame, int, Place | None]:
    """Return the newest wanted rows, newest first, how many were asked, and where the asking ended before the rows."""
    rows = rows.sort(KEY, descending=True)
    if meets is None:
        return rows.head(limit), len(rows), None
    found: list[pl.DataFrame] = [rows.clear()]
    num, asked = 0, 0
    while asked < len(rows):
        some = rows[asked : 2 * asked + _AT_ONCE]
        found.append(some.filter(pl.Series(np.asarray(meets(some)), dtype=pl.Boolean)))
        num += len(found[-1])
        asked += len(some)
        if num >= limit:
            return pl.concat(found).head(limit), asked, None
        if asked >= at_most and asked < len(rows):
            return pl.concat(found), asked, _place(some, -1)
    return pl.concat(found), len(rows), None


def _together(pages: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return frames as one; an input that was retyped has another type in older ones."""
    return pl.concat(pages, how="vertical_relaxed") if pages else pl.DataFrame()


def _place(rows: pl.DataFrame, at: int) -> Place:
    at_, id_, version = rows.select(KEY).row(at)
    return Place(int(at_), str(id_), int(version))
