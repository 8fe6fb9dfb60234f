"""Examples that leave the reservoir for good, and all that hangs on them.

The chunks that their inputs lay in are written again without them, and the examples that stay are pointed there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from sqlalchemy import Connection, delete, func, select, update

from tidemill.stores.chunks import Chunks
from tidemill.stores.duplicates import Sameness, lead_anew
from tidemill.stores.rows import parts
from tidemill.stores.tables import examples, golden, labellings, queue


class Removed(NamedTuple):
    """How many rows were deleted: examples, tasks of the label queue, and what labellers were given and said."""

    examples: int = 0
    tasks: int = 0
    labellings: int = 0


def remove(
    conn: Connection, project: str, ids: Sequence[str], chunks: Chunks, sameness: Sameness,
    inputs_of: Callable[[str], Mapping[str, Any]],
) -> Removed:  # fmt: skip
    """Delete examples in a write transaction in which the project is locked; return what was deleted."""
    removed, places, groups = Removed(), defaultdict[str, set[int]](set), set[str]()
    query = select(examples.c.chunk, examples.c.chunk_row, examples.c.duplicates)
    for some in parts(ids):
        mine = (examples.c.project == project, examples.c.id.in_(some))
        for chunk, row, group in conn.execute(query.where(*mine)):
            places[chunk].add(row)
            groups.add(group)
        conn.execute(delete(golden).where(golden.c.project == project, golden.c.example.in_(some)))
        removed = Removed(
            examples=removed.examples + conn.execute(delete(examples).where(*mine)).rowcount,
            tasks=removed.tasks + _delete(conn, queue, project, some),
            labellings=removed.labellings + _delete(conn, labellings, project, some),
        )
    for chunk, rows in sorted(places.items()):
        _rewrite(conn, project, chunks, chunk, rows)
    lead_anew(conn, project, groups, sameness, inputs_of)
    return removed


def num_about(conn: Connection, table: Any, project: str, ids: Sequence[str]) -> int:
    """Return how many rows of a table are about examples."""
    count = select(func.count()).select_from(table).where(table.c.project == project)
    return sum(int(conn.execute(count.where(table.c.example.in_(some))).scalar_one()) for some in parts(ids))


def _delete(conn: Connection, table: Any, project: str, ids: Sequence[str]) -> int:
    return int(conn.execute(delete(table).where(table.c.project == project, table.c.example.in_(ids))).rowcount)


def _rewrite(conn: Connection, project: str, chunks: Chunks, chunk: str, doomed: set[int]) -> None:
    """Point what stays of a chunk at one without the doomed rows, unless another example's inputs are in them."""
    mine = (examples.c.project == project, examples.c.chunk == chunk)
    used = set(conn.execute(select(examples.c.chunk_row).distinct().where(*mine)).scalars())
    if not used or not doomed - used:
        return
    table = chunks.get(chunk)
    kept = [row for row in range(len(table)) if row in used or row not in doomed]
    smaller = chunks.put(table.take(pa.array(kept)).combine_chunks())
    for at, row in enumerate(kept):
        if row in used:
            one = (*mine, examples.c.chunk_row == row)
            conn.execute(update(examples).where(*one).values(chunk=smaller, chunk_row=at))
