"""Tables of others read in parts, in order, in bounded memory: Parquet by row groups, CSV by blocks.

A part is the rows `number * part_rows` to `(number + 1) * part_rows` of its table, counted from 0, so that the same
table always has the same parts, and one that was done need not be read again.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from tidemill.errors import ProjectError
from tidemill.records import Json
from tidemill.schema import Array
from tidemill.stores.parts import Lost, Part
from tidemill.stores.places import Place

_ENDS_BYTES = 1 << 16
_BLOCK_BYTES = 4 << 20
_HEAD_ROWS = 64


class Source(Protocol):
    """A table that can be read more than once."""

    names: tuple[str, ...]
    num_rows: int | None
    typed: bool

    def identity(self) -> Json:
        """Return what changes when the table does."""
        ...

    def head(self, columns: Sequence[str]) -> pa.Table:
        """Return the first few rows."""
        ...

    def parts(self, columns: Sequence[str], part_rows: int, done: Container[int]) -> Iterator[Part]:
        """Yield the parts that are not `done`, in order."""
        ...

    @property
    def fraction(self) -> float:
        """How much of the table was read, from 0 to 1."""
        ...


def open_source(place: Place) -> Source:
    """Open a file; a table in SQL is copied to one first (see `tidemill.stores.spool`).

    Raises:
        ProjectError: it does not exist, or cannot be read.
    """
    try:
        return ParquetSource(place.path) if place.kind == "parquet" else CsvSource(place.path)
    except FileNotFoundError:
        raise ProjectError(f"data file {str(place.path)!r} does not exist.", "name a file that is there") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(place.path, error) from error


def _unreadable(path: Path, error: Exception) -> ProjectError:
    return ProjectError(f"data file {str(path)!r} cannot be read: {str(error).rstrip('.')}.", "check that it is whole")


class ParquetSource:
    """A Parquet file."""

    typed = True

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as file:
            self.names = tuple(file.schema_arrow.names)
            self.num_rows: int | None = file.metadata.num_rows
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        self._begins = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._read = 0

    @property
    def fraction(self) -> float:
        """How much of the table was read, from 0 to 1."""
        return self._read / self.num_rows if self.num_rows else 1.0

    def identity(self) -> Json:
        """Return size, time and a hash of both ends, where Parquet keeps its directory."""
        return _identity(self._path)

    def head(self, columns: Sequence[str]) -> pa.Table:
        """Return the first few rows."""
        with self._open() as file:
            batches = [b for b, _ in zip(file.iter_batches(_HEAD_ROWS, columns=list(columns)), range(1), strict=False)]
            schema = pa.schema([file.schema_arrow.field(name) for name in columns])
        return pa.Table.from_batches(batches, schema if not batches else None)

    def parts(self, columns: Sequence[str], part_rows: int, done: Container[int]) -> Iterator[Part]:
        """Yield the parts that are not `done`, in order."""
        with self._open() as file:
            schema = pa.schema([file.schema_arrow.field(name) for name in columns])
        batches = _explained(self._path, self._batches(columns, part_rows, done))
        return _in_parts(batches, part_rows, done, schema)

    def _batches(self, columns: Sequence[str], part_rows: int, done: Container[int]) -> Iterator[_Batch]:
        with self._open() as file:
            for group, (first, end) in enumerate(zip(self._begins[:-1], self._begins[1:], strict=True)):
                at = int(first)
                if all(number in done for number in range(at // part_rows, (int(end) - 1) // part_rows + 1)):
                    continue
                for batch in file.iter_batches(part_rows, row_groups=[group], columns=list(columns)):
                    self._read = at + len(batch)
                    yield _Batch(batch, np.arange(at, at + len(batch)))
                    at += len(batch)

    def _open(self) -> pq.ParquetFile:
        # A buffer: of a row group that is larger than the memory, only pages are read at a time.
        return pq.ParquetFile(self._path, buffer_size=1 << 20)


class CsvSource:
    """A CSV file with a header. Every cell is text, as it was written; an empty one is empty text, never null."""

    typed = False
    num_rows: int | None = None

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = max(1, path.stat().st_size)
        with path.open(encoding="utf-8-sig", newline="") as file:
            self.names = tuple(next(csv.reader(file), ()))
        if not self.names or len(set(self.names)) < len(self.names):
            raise ProjectError(f"data file {str(path)!r} has no header of different names.", "give each column one")
        self._fraction = 0.0

    @property
    def fraction(self) -> float:
        """How much of the table was read, from 0 to 1."""
        return self._fraction

    def identity(self) -> Json:
        """Return size, time and a hash of both ends."""
        return _identity(self._path)

    def head(self, columns: Sequence[str]) -> pa.Table:
        """Return the first few rows."""
        lost: list[Lost] = []
        with self._open(columns, lost) as file:
            batch = next(iter(file.reader), None)
            return (file.reader.schema.empty_table() if batch is None else pa.table(batch))[:_HEAD_ROWS]

    def parts(self, columns: Sequence[str], part_rows: int, done: Container[int]) -> Iterator[Part]:
        """Yield the parts that are not `done`, in order."""
        schema = pa.schema([(name, pa.string()) for name in columns])
        return _in_parts(_explained(self._path, self._batches(columns)), part_rows, done, schema)

    def _batches(self, columns: Sequence[str]) -> Iterator[_Batch]:
        lost: list[Lost] = []
        at, seen = 0, 0
        with self._open(columns, lost) as file:
            for batch in file.reader:
                rows, found = _numbered(at, len(batch), [one.row for one in lost[seen:]])
                yield _Batch(batch, rows, lost[seen : seen + found])
                seen += found
                at = int(rows[-1]) + 1 if len(rows) else at
                self._fraction = min(1.0, file.raw.tell() / self._size)
            yield _Batch(None, np.zeros(0, dtype=np.int64), lost[seen:])
        self._fraction = 1.0

    def _open(self, columns: Sequence[str], lost: list[Lost]) -> _OpenCsv:
        def skip(row: pa_csv.InvalidRow) -> str:
            reason = f"the line has {row.actual_columns} cells, not {row.expected_columns}"
            lost.append(Lost(row.number - 2, reason))  # the header is line 1
            return "skip"

        raw = self._path.open("rb")
        try:
            reader = pa_csv.open_csv(
                raw,
                read_options=pa_csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
                parse_options=pa_csv.ParseOptions(
                    newlines_in_values=True, invalid_row_handler=skip, ignore_empty_lines=len(self.names) > 1
                ),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(self.names, pa.string()), include_columns=list(columns)
                ),
            )
        except BaseException:
            raw.close()
            raise
        return _OpenCsv(raw, reader)


@dataclass(frozen=True)
class _OpenCsv:
    raw: Any
    reader: Any

    def __enter__(self) -> _OpenCsv:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()
        self.raw.close()


class _Batch(NamedTuple):
    batch: pa.RecordBatch | None
    rows: Array
    lost: Sequence[Lost] = ()


def _numbered(first: int, num: int, lost: Sequence[int]) -> tuple[Array, int]:
    """Return the numbers of `num` rows from `first` on, past those that were lost, and how many of these there were."""
    found = 0
    rows = np.arange(first, first + num)
    for row in lost:
        if not num or row > rows[-1]:
            break
        rows[row - first - found :] += 1
        found += 1
    return rows, found


@dataclass
class _Growing:
    """The part that is being put together."""

    number: int
    batches: list[pa.RecordBatch] = field(default_factory=list)
    rows: list[Array] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)

    def part(self, schema: pa.Schema) -> Part:
        table = pa.Table.from_batches(self.batches, None if self.batches else schema)
        rows = np.concatenate(self.rows) if self.rows else np.zeros(0, dtype=np.int64)
        return Part(number=self.number, table=table, rows=rows, lost=self.lost)


def _explained(path: Path, batches: Iterator[_Batch]) -> Iterator[_Batch]:
    try:
        yield from batches
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _in_parts(batches: Iterator[_Batch], part_rows: int, done: Container[int], schema: pa.Schema) -> Iterator[Part]:
    """Cut a stream of batches at the bounds of parts."""
    growing: dict[int, _Growing] = {}
    for batch, rows, lost in batches:
        for one in lost:
            number = one.row // part_rows
            growing.setdefault(number, _Growing(number)).lost.append(one)
        if batch is None or not len(batch):
            continue
        last = int(rows[-1]) // part_rows
        for number in range(int(rows[0]) // part_rows, last + 1):
            begin, end = np.searchsorted(rows, [number * part_rows, (number + 1) * part_rows])
            if end > begin:
                grown = growing.setdefault(number, _Growing(number))
                grown.batches.append(batch.slice(begin, end - begin))
                grown.rows.append(rows[begin:end])
        for number in sorted(n for n in growing if n < last or rows[-1] == (n + 1) * part_rows - 1):
            whole = growing.pop(number)
            if number not in done:
                yield whole.part(schema)
    for number in sorted(set(growing) - {n for n in growing if n in done}):
        yield growing.pop(number).part(schema)


def _identity(path: Path) -> Json:
    about = path.stat()
    with path.open("rb") as file:
        ends = file.read(_ENDS_BYTES)
        file.seek(max(0, about.st_size - _ENDS_BYTES))
        ends += file.read()
    digest = hashlib.blake2b(ends, digest_size=16).hexdigest()
    return {"path": str(path), "size": about.st_size, "mtime_ns": about.st_mtime_ns, "digest": digest}
