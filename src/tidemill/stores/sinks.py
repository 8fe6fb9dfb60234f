"""Tables for others that appear at once: a file under its name when it is whole, a table of SQL in one transaction.

CSV and SQL have no lists: there a list of scores is its JSON, as text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Date,
    DateTime,
    Double,
    LargeBinary,
    MetaData,
    Table,
    Text,
    func,
    insert,
    inspect,
    select,
)
from sqlalchemy.types import TypeEngine

from tidemill.errors import Conflict, ProjectError, StoreError
from tidemill.stores.folders import sync_folder, whole_file
from tidemill.stores.places import Place
from tidemill.stores.spool import connected

_INSERT_ROWS = 5_000
_PARTS = ".[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f].part"


@dataclass(frozen=True)
class FileSink:
    """A file being written; `inode` is what it is known by before it has its name, and afterwards."""

    writer: Any
    inode: int
    is_flat: bool

    def add(self, table: pa.Table) -> None:
        """Write more rows."""
        self.writer.write_table(flat(table) if self.is_flat else table)


@contextmanager
def file_sink(place: Place, schema: pa.Schema) -> Iterator[FileSink]:
    """Give a file to write rows of `schema` to: it has its name when the block ends, or is gone when it raises.

    Raises:
        StoreError: the file cannot be written.
        ProjectError: CSV has no form for a column.
    """
    is_flat = place.kind == "csv"
    fields = flat(schema.empty_table()).schema if is_flat else schema
    try:
        with whole_file(place.path) as file:
            make = pa_csv.CSVWriter if is_flat else pq.ParquetWriter
            repeating = {} if is_flat else {"use_dictionary": [f.name for f in fields if _repeats(f)]}
            with make(file, fields, **repeating) as writer:
                yield FileSink(writer, os.fstat(file.fileno()).st_ino, is_flat)
    except OSError as error:
        problem = f"{str(place.path)!r} cannot be written: {error.strerror}."
        raise StoreError(problem, "choose a folder with room that this user may write to") from error


def sweep(place: Place) -> None:
    """Delete what a killed process left of the file; for whoever knows that nobody else writes it."""
    for left in place.path.parent.glob(f"{place.path.name}{_PARTS}"):
        left.unlink(missing_ok=True)


def is_written(place: Place, inode: int | None) -> bool:
    """Tell whether the file is the one that was written under this inode."""
    with suppress(OSError):
        return inode is not None and place.path.stat().st_ino == inode
    return False


def exists(place: Place) -> bool:
    """Tell whether there is such a file or table already."""
    if place.kind != "sql":
        return place.path.exists()
    schema, name = _name(place)
    with connected(place) as conn:
        return inspect(conn).has_table(name, schema=schema)


def remove(place: Place) -> None:
    """Delete a file or table, if it is there."""
    if place.kind != "sql":
        place.path.unlink(missing_ok=True)
        sync_folder(place.path.parent)
        return
    with connected(place, writing=True) as conn:
        _table(place, pa.schema([("any", pa.string())])).drop(conn, checkfirst=True)


def write_table(place: Place, schema: pa.Schema, tables: Iterable[pa.Table], *, replace: bool) -> None:
    """Make a table of these rows in one transaction; with `replace`, instead of the one of that name.

    Raises:
        Conflict: there is one of that name already.
        StoreError: the database cannot be written.
        ProjectError: SQL has no form for a column.
    """
    fields = flat(schema.empty_table()).schema
    made = _table(place.beside("unfinished"), fields)
    with connected(place, writing=True) as conn:
        taken = inspect(conn).has_table(_name(place)[1], schema=_name(place)[0])
        if taken and not replace:
            raise Conflict(f"there is a table {place} already.", "give another name, or --replace")
        made.drop(conn, checkfirst=True)
        made.create(conn)
        for table in tables:
            _insert(conn, made, flat(table))
        if taken:
            _table(place, fields).drop(conn)
        quote = conn.dialect.identifier_preparer
        conn.exec_driver_sql(f"ALTER TABLE {quote.format_table(made)} RENAME TO {quote.quote(_name(place)[1])}")


def holds(place: Place, schema: pa.Schema, *, num_rows: int, first: Any, last: Any) -> bool:
    """Tell whether the table holds this many rows, predicted from `first` to `last`: those of one job, and no other."""
    at = "predicted_at"
    with connected(place) as conn:
        table = _table(place, flat(schema.empty_table()).schema)
        if not inspect(conn).has_table(table.name, schema=table.schema):
            return False
        names = {column["name"] for column in inspect(conn).get_columns(table.name, schema=table.schema)}
        if names != set(table.columns.keys()):
            return False
        found = conn.execute(select(func.count(), func.min(table.c[at]), func.max(table.c[at]))).one()
    return tuple(found) == (num_rows, *(_naive(t, conn) for t in (first, last)))


# ---- forms


def flat(table: pa.Table) -> pa.Table:
    """Return a table without lists.

    Raises:
        ProjectError: a column is neither plain nor a list of plain values.
    """
    columns = {}
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        columns[name] = _listed(column, name) if pa.types.is_nested(column.type) else column
    return pa.table(columns)


def _listed(column: pa.ChunkedArray, name: str) -> pa.Array | pa.ChunkedArray:
    inner = getattr(column.type, "value_type", None)
    if inner is None or pa.types.is_nested(inner) or pa.types.is_binary(inner):
        raise ProjectError(f"column {name!r} has no form as text.", "name the columns to keep with --keep, without it")
    if pa.types.is_floating(inner) and pa.types.is_fixed_size_list(column.type) and column.null_count == 0:
        return _numbers(column.combine_chunks(), column.type.list_size)
    return pa.array([None if v is None else json.dumps(v, ensure_ascii=False) for v in column.to_pylist()], pa.string())


def _numbers(array: pa.Array, size: int) -> pa.Array:
    """Write lists of numbers as JSON, each in its shortest form."""
    array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
    texts = array.flatten().cast(pa.string())
    bounds = pa.array(np.arange(0, len(texts) + 1, size, dtype=np.int32))
    joined = pc.binary_join(pa.ListArray.from_arrays(bounds, texts), ", ")
    return pc.binary_join_element_wise("[", joined, "]", "")


def _repeats(field: pa.Field) -> bool:
    """Tell whether a column is worth a dictionary: scores hardly ever come twice."""
    return not pa.types.is_nested(field.type) and not pa.types.is_floating(field.type)


# ---- SQL


def _name(place: Place) -> tuple[str | None, str]:
    schema, _, name = place.table.rpartition(".")
    return schema or None, name


def _table(place: Place, fields: pa.Schema) -> Table:
    schema, name = _name(place)
    return Table(name, MetaData(), *(Column(f.name, _type(f)) for f in fields), schema=schema)


def _type(field: pa.Field) -> TypeEngine[Any]:
    is_ = pa.types
    kinds: list[tuple[Any, TypeEngine[Any]]] = [
        (is_.is_boolean, Boolean()), (is_.is_integer, BigInteger()), (is_.is_floating, Double()),
        (is_.is_date, Date()), (is_.is_string, Text()), (is_.is_large_string, Text()),
        (is_.is_binary, LargeBinary()), (is_.is_large_binary, LargeBinary()),
    ]  # fmt: skip
    if is_.is_timestamp(field.type):
        return DateTime(timezone=field.type.tz is not None)
    for fits, kind in kinds:
        if fits(field.type):
            return kind
    raise ProjectError(
        f"column {field.name!r} has no form in SQL ({field.type}).", "name the columns to keep, without it"
    )


def _insert(conn: Connection, table: Table, rows: pa.Table) -> None:
    for at in range(0, len(rows), _INSERT_ROWS):
        conn.execute(insert(table), rows.slice(at, _INSERT_ROWS).to_pylist())


def _naive(at: Any, conn: Connection) -> Any:
    """Return a time as this database gives it back: SQLite knows no zones."""
    return at.replace(tzinfo=None) if conn.dialect.name == "sqlite" else at
