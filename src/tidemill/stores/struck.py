"""Rows that are taken out of the log for good: their files are written again without them, one transaction for each.

It goes on beside the compactor and needs no lease of its: a file that was merged meanwhile is not in the log any more,
so the transaction is undone, and the log is looked at again. What a killed process left is known by the mark in the
name and a token that is no newer than the holder's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import Connection

from tidemill.clock import micros
from tidemill.errors import Conflict, Fenced, StoreError
from tidemill.stores.database import Database
from tidemill.stores.folders import sync_folder
from tidemill.stores.logfiles import LogFile, LogFiles, add_files, drop_files

_MARK = "s"
_TRIES = 10
_BATCH_ROWS = 1 << 16

_NAME_LEN = 16  # the random part of a file's name

Swap = Callable[[str, int], AbstractContextManager[Connection]]
"""Gives the transaction that takes a file out of the log for one without so many of its rows."""


class Looked:
    """Which files were looked at, so that a look at a long log can be cut short and taken up again.

    A file never changes, and what is merged or written again has a new name: it is looked at whatever was in it before.

    Args:
        names: of files that were looked at before; kept as `names`, of the files that are there.
        at_most: how many may be looked at now; all by default.
    """

    def __init__(self, names: Iterable[str] = (), *, at_most: int | None = None) -> None:
        self.names = set(names)
        self.is_whole = False
        self._left = at_most

    def ahead(self, files: Sequence[LogFile]) -> Iterator[LogFile]:
        """Yield files that were not looked at, as many as there may be; each is noted when the next is asked for."""
        self.names &= {_name_of(file) for file in files}
        for file in files:
            if _name_of(file) in self.names:
                continue
            if self._left == 0:
                return
            yield file
            self.names.add(_name_of(file))
            self._left = None if self._left is None else self._left - 1
        self.is_whole = True


def _name_of(file: LogFile) -> str:
    return file.path.removesuffix(".parquet")[-_NAME_LEN:]


class Struck:
    """Finds and strikes rows of the log.

    Args:
        db: the catalog.
        folder: the log's folder.
    """

    def __init__(self, db: Database, folder: Path) -> None:
        self._files = LogFiles(db, folder)

    def found(
        self, project: str, kind: str, rows: pc.Expression, columns: list[str] | None, *, looked: Looked | None = None
    ) -> Iterator[pa.Table]:
        """Yield the rows that meet a condition, file by file, with those of `columns` that a file has; all by default.

        Files that were `looked` at are left out. One that is merged meanwhile may be yielded twice, as itself and as a
        part of the merged one.
        """
        looked = looked or Looked()
        for _ in range(_TRIES):
            try:
                for file in looked.ahead(self._files.find(project, kind)):
                    yield self._read(file, rows, columns)
                return
            except FileNotFoundError:
                continue  # merged since it was found: look again
        raise _restless(project)

    def strike(
        self, project: str, kind: str, rows: pc.Expression, *, token: int, now: datetime, swap: Swap, at_most: int,
        looked: Looked | None = None,
    ) -> bool:  # fmt: skip
        """Delete the rows that meet a condition, and the files that held them; return whether none is left.

        Args:
            project: whose.
            kind: predictions, feedback or profiles.
            rows: the condition, over the log's own columns.
            token: of the lease that `swap` checks.
            now: when.
            swap: gives the transaction of each file.
            at_most: how many files are written again before this returns.
            looked: at which files before; with how many more may be looked at before this returns.

        Raises:
            Fenced: the lease is lost.
        """
        left, looked = at_most, looked or Looked()
        for _ in range(_TRIES):
            try:
                for file in looked.ahead(self._files.find(project, kind)):
                    left -= self._strike(file, rows, token, now, swap)
                    if not left:
                        return False
                return looked.is_whole
            except (Conflict, FileNotFoundError):
                continue
        raise _restless(project)

    def tidy(self, project: str, *, token: int, compactor_token: int, left: list[str]) -> None:
        """Delete the files `left` after they were taken out of the log, and what killed writers never named.

        `token` is of the lease under which rows are struck, `compactor_token` the newest that was given to a compactor:
        what earlier ones did not name, they never will.
        """
        self._files.remove(left)
        self._files.sweep(token, mark=_MARK, project=project)
        self._files.sweep(compactor_token - 1, project=project)

    def _strike(self, file: LogFile, rows: pc.Expression, token: int, now: datetime, swap: Swap) -> bool:
        """Take rows out of a file, if there are any; return whether there were."""
        num = self._read(file, rows, ["received_at"]).num_rows
        if not num:
            return False
        place = {"project": file.project, "kind": file.kind, "day": file.day}
        kept: list[LogFile] = []
        if num < file.num_rows:
            kept = [self._files.write(self._others(file, rows), **place, fence=token, mark=_MARK)]
        try:
            with swap(file.path, num) as conn:
                if not drop_files(conn, [file.path]):
                    raise Conflict(f"a file of {file.day} is no longer in the log.", "look at the log again")
                add_files(conn, kept, now=micros(now))
        except (Fenced, Conflict):
            self._files.remove(one.path for one in kept)  # nobody can have named it
            raise
        self._files.remove([file.path])
        sync_folder((self._files.folder / file.path).parent)
        return True

    def _read(self, file: LogFile, rows: pc.Expression, columns: list[str] | None) -> pa.Table:
        path = self._files.folder / file.path
        if columns is not None:
            there = set(pq.read_schema(path).names)
            columns = [name for name in columns if name in there]
        return pq.read_table(path, columns=columns, filters=rows, partitioning=None)

    def _others(self, file: LogFile, rows: pc.Expression) -> Iterator[pa.Table]:
        """Yield the rows that do not meet a condition; one that is unknown is not met."""
        met = pc.if_else(pc.is_null(rows), pa.scalar(value=False), rows)
        with pq.ParquetFile(self._files.folder / file.path) as opened:
            for batch in opened.iter_batches(_BATCH_ROWS):
                table = pa.Table.from_batches([batch]).filter(~met)
                if table.num_rows:
                    yield table


def of_person(subject: str, *, by_unit: bool, until: datetime) -> pc.Expression:
    """Return the condition of the predictions about a person received until a time."""
    same: Any = pc.field("subject") == subject
    same = pc.if_else(pc.is_null(same), pa.scalar(value=False), same)
    if by_unit:
        same = same | (pc.field("unit") == subject)
    return same & (pc.field("received_at") <= micros(until))


def about(request_ids: set[str]) -> pc.Expression:
    """Return the condition of rows about requests. Ids lie in order of time, so their bounds skip row groups."""
    ids: Any = pc.field("request_id")
    bounds = (ids >= min(request_ids)) & (ids <= max(request_ids))
    return bounds & ids.isin(pa.array(sorted(request_ids), pa.string()))


def of_device(device: str, *, until: datetime) -> pc.Expression:
    """Return the condition of the profiles that a device posted until a time."""
    posted: Any = pc.field("device") == device
    return posted & (pc.field("received_at") <= micros(until))


def _restless(project: str) -> StoreError:
    return StoreError(f"the log's files of {project!r} changed at every look.", "do it again")
