"""The Parquet files of the log: `<project>/<kind>/<day>/<fence>-<random>.parquet`, named by rows of the catalog.

A file counts only once a row of `log_files` names it, and never changes afterwards. The fence in its name is the token
of the lease it was written under: the holder of a later lease knows that an unnamed file with an earlier fence will
never be named, and may delete it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import Connection, Select, delete, func, insert, select

from tidemill.stores.database import Database
from tidemill.stores.folders import folder_name, make_folder, whole_file
from tidemill.stores.tables import log_files

_ROW_GROUP_BYTES = 32 << 20  # before compression
_ROW_GROUP_ROWS = 1 << 16
_NAME = re.compile(r"([a-z]?)(\d{12,})-[0-9a-f]{16}\.parquet(\.[0-9a-f]{8}\.part)?")
_MAX_NAMES = 500  # in one SQL statement
_SAMPLE_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class LogFile:
    """A file of the log, as the catalog keeps it; `path` is relative to the log's folder, times are microseconds."""

    path: str
    project: str
    kind: str  # predictions or feedback
    day: str
    num_rows: int
    num_bytes: int
    first_at: int
    last_at: int


class LogFiles:
    """Writes files into the log's folder, and finds them again."""

    def __init__(self, db: Database, folder: Path) -> None:
        self.folder = folder
        self._db = db

    def newest(self, project: str, kind: str) -> int | None:
        """Return the newest time in the files of a kind, microseconds."""
        wanted = select(func.max(log_files.c.last_at)).where(log_files.c.project == project, log_files.c.kind == kind)
        with self._db.read() as conn:
            found: int | None = conn.execute(wanted).scalar()
        return found

    def write(
        self, tables: Iterable[pa.Table], *, project: str, kind: str, day: str, fence: int, mark: str = ""
    ) -> LogFile:
        """Write tables of one schema as one file, on disk when this returns; `add_files` makes it part of the log.

        A `mark` before the fence says that it is of other leases than the compactor's, which leaves the file alone.
        """
        place = self.folder / folder_name(project) / kind / day
        make_folder(place, self.folder)
        path = place / f"{mark}{fence:012d}-{os.urandom(8).hex()}.parquet"
        num_rows, times = 0, []
        with whole_file(path) as file, _appending(file) as append:
            for table in tables:
                append(table)
                num_rows += table.num_rows
                times += [pc.min(table["received_at"]).as_py(), pc.max(table["received_at"]).as_py()]
        return LogFile(
            path=str(path.relative_to(self.folder)), project=project, kind=kind, day=day, num_rows=num_rows,
            num_bytes=path.stat().st_size, first_at=min(times), last_at=max(times),
        )  # fmt: skip

    def find(
        self, project: str | None = None, kind: str | None = None, *, first: int | None = None, last: int | None = None,
        ended_before: int | None = None, smaller_than: int | None = None,
    ) -> list[LogFile]:  # fmt: skip
        """Return the files of the log that may hold rows received from `first` to `last`, oldest first."""
        query: Select[Any] = select(*[column for column in log_files.c if column.name != "committed_at"])
        wanted = ((log_files.c.project, project), (log_files.c.kind, kind))
        query = query.where(*[column == value for column, value in wanted if value is not None])
        if first is not None:
            query = query.where(log_files.c.last_at >= first)
        if last is not None:
            query = query.where(log_files.c.first_at <= last)
        if ended_before is not None:
            query = query.where(log_files.c.last_at < ended_before)
        if smaller_than is not None:
            query = query.where(log_files.c.num_bytes < smaller_than)
        with self._db.read() as conn:
            rows = conn.execute(query.order_by(log_files.c.first_at, log_files.c.path)).mappings().all()
        return [LogFile(**row) for row in rows]

    def remove(self, paths: Iterable[str]) -> None:
        """Delete files that are not, or no longer, part of the log."""
        for path in paths:
            (self.folder / path).unlink(missing_ok=True)

    def sweep(self, fence: int, *, mark: str = "", project: str | None = None) -> None:
        """Delete what writers left behind that were killed: call it with the token of a lease that is held."""
        place = self.folder if project is None else self.folder / folder_name(project)
        left = [path for path in place.rglob("*.parquet*") if _is_older(path.name, fence, mark)]
        with self._db.read() as conn:  # after the listing: what was named meanwhile is not left behind
            named = set(conn.execute(select(log_files.c.path)).scalars())
        self.remove(path for path in (str(path.relative_to(self.folder)) for path in left) if path not in named)

    def clear_days(self, project: str, *, before: str, unless_after: float) -> None:
        """Delete what is left in the folders of the days before `before`, unless it was written after that time (s).

        A process that was killed between taking files out of the log and deleting them leaves some.
        """
        days = [day for day in (self.folder / folder_name(project)).glob("*/*") if day.name < before]
        left = [path for day in days for path in day.glob("*.parquet*") if _written_at(path) <= unless_after]
        with self._db.read() as conn:  # after the listing, as in `sweep`
            named = set(conn.execute(select(log_files.c.path).where(log_files.c.project == project)).scalars())
        self.remove(path for path in (str(path.relative_to(self.folder)) for path in left) if path not in named)
        for day in days:
            with suppress(OSError):  # a late row has come
                day.rmdir()


def add_files(conn: Connection, files: Sequence[LogFile], *, now: int) -> None:
    """Name files: from the commit on they are part of the log."""
    if files:
        conn.execute(insert(log_files), [{**asdict(file), "committed_at": now} for file in files])


def drop_files(conn: Connection, paths: Sequence[str]) -> int:
    """Take files out of the log; return how many were in it."""
    parts = [paths[at : at + _MAX_NAMES] for at in range(0, len(paths), _MAX_NAMES)]
    return sum(conn.execute(delete(log_files).where(log_files.c.path.in_(part))).rowcount for part in parts)


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _is_older(name: str, fence: int, mark: str) -> bool:
    ours = _NAME.fullmatch(name)
    return ours is not None and ours.group(1) == mark and int(ours.group(2)) <= fence


@contextmanager
def _appending(file: BinaryIO) -> Iterator[Callable[[pa.Table], None]]:
    """Give a function that appends a table to a Parquet file."""
    writer: pq.ParquetWriter | None = None

    def append(table: pa.Table) -> None:
        nonlocal writer
        writer = writer or _writer(file, table)
        rows = _ROW_GROUP_BYTES * table.num_rows // max(table.nbytes, 1)
        writer.write_table(table, row_group_size=max(1, min(rows, _ROW_GROUP_ROWS)))

    yield append
    if writer is not None:
        writer.close()


def _writer(file: BinaryIO, table: pa.Table) -> pq.ParquetWriter:
    """Return a writer with encodings for this table.

    A dictionary of values that do not repeat costs: without, 10 M narrow rows took half of the CPU time to write, three
    quarters of the bytes, and half of the CPU time to group by.
    """
    times = {"received_at": "DELTA_BINARY_PACKED"}
    repeating = [name for name in table.column_names if name not in times and _repeats(table[name])]
    return pq.ParquetWriter(file, table.schema, compression="zstd", use_dictionary=repeating, column_encoding=times)


def _repeats(column: pa.ChunkedArray) -> bool:
    """Say whether the values of a column repeat, by the first few."""
    sample = column.slice(0, _SAMPLE_ROWS)
    return not pa.types.is_list(column.type) and pc.count_distinct(sample).as_py() * 2 <= len(sample)
