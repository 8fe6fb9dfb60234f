"""Small chunks of inputs become larger ones: each curation leaves one, and a year of them would be slow to open.

The examples are pointed at the larger chunk in one transaction. What nothing points at any more stays for an hour, for
those who looked just before, and is then deleted; so is what a transaction that failed left behind.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
from sqlalchemy import Connection, func, select, update

from tidemill.stores.chunks import Chunks
from tidemill.stores.rows import parts
from tidemill.stores.tables import examples

_SMALL_ROWS = 1024
_LEAST_CHUNKS = 16  # of one kind: fewer are not worth the writing
_MOST_CHUNKS = 2048  # in one transaction
_MAX_ROWS = 4096
_MAX_BYTES = 32 << 20
_GRACE = timedelta(hours=1)


def consolidate(conn: Connection, project: str, chunks: Chunks, *, now: datetime) -> int:
    """Merge the small chunks of a project, and delete those that nothing points at; return how many were merged.

    `conn` is a write transaction in which the project is locked.
    """
    alike: dict[pa.Schema, list[tuple[str, pa.Table]]] = defaultdict(list)
    for digest in _small(conn, project):
        table = chunks.get(digest)
        alike[table.schema].append((digest, table))
    num_merged = 0
    for group in alike.values():
        for run in _runs(group) if len(group) >= _LEAST_CHUNKS else ():
            if len(run) > 1:
                _merge(conn, project, chunks, run, now)
                num_merged += len(run)
    _sweep(conn, project, chunks, now)
    return num_merged


def _small(conn: Connection, project: str) -> list[str]:
    """Return chunks of few rows, in the order of the examples in them; none where they are few."""
    query = select(examples.c.chunk).where(examples.c.project == project).group_by(examples.c.chunk)
    query = query.having(func.max(examples.c.chunk_row) < _SMALL_ROWS).order_by(examples.c.chunk)
    small = conn.execute(query.limit(_MOST_CHUNKS)).scalars().all()
    if len(small) < _LEAST_CHUNKS:
        return []
    begun = select(func.min(examples.c.received_at), examples.c.chunk).where(examples.c.project == project)
    begun = begun.group_by(examples.c.chunk)
    rows = [tuple(row) for some in parts(small) for row in conn.execute(begun.where(examples.c.chunk.in_(some)))]
    return [chunk for _, chunk in sorted(rows)]


def _runs(group: Sequence[tuple[str, pa.Table]]) -> Iterator[list[tuple[str, pa.Table]]]:
    """Part chunks into runs that each make a chunk of bounded size."""
    run: list[tuple[str, pa.Table]] = []
    rows = size = 0
    for digest, table in group:
        rows, size = rows + len(table), size + table.nbytes
        if run and (rows > _MAX_ROWS or size > _MAX_BYTES):
            yield run
            run, rows, size = [], len(table), table.nbytes
        run.append((digest, table))
    yield run


def _merge(conn: Connection, project: str, chunks: Chunks, run: Sequence[tuple[str, pa.Table]], now: datetime) -> None:
    merged = chunks.put(pa.concat_tables([table for _, table in run]).combine_chunks())
    first = 0
    for digest, table in run:
        mine = (examples.c.project == project, examples.c.chunk == digest)
        conn.execute(update(examples).where(*mine).values(chunk=merged, chunk_row=examples.c.chunk_row + first))
        os.utime(chunks.path(digest), (now.timestamp(), now.timestamp()))  # its hour begins
        first += len(table)


def _sweep(conn: Connection, project: str, chunks: Chunks, now: datetime) -> None:
    wanted = set(conn.execute(select(examples.c.chunk).distinct().where(examples.c.project == project)).scalars())
    before = (now - _GRACE).timestamp()
    for path in chunks.folder.glob("*.arrow") if chunks.folder.is_dir() else ():
        if path.stem not in wanted and _written_at(path) < before:
            path.unlink(missing_ok=True)


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
