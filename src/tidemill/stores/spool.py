"""A table of somebody's SQL database, copied once in one transaction: what a job then reads, as often as it must.

The transaction ends when the copy does, however long the job goes on: a reader that stayed would hold up writers on
SQLite and cleaning on PostgreSQL. Rows come in the order of the primary key, where there is one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Column, Connection, Engine, MetaData, Table, create_engine, make_url, select
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, NoSuchTableError, SQLAlchemyError

from tidemill.errors import MissingExtra, ProjectError, StoreError
from tidemill.records import Json
from tidemill.schema import Image, Number, Schema, Tensor
from tidemill.stores.folders import whole_file
from tidemill.stores.places import Place

_CHUNK_ROWS = 10_000
_TYPES: dict[type, pa.DataType] = {
    bool: pa.bool_(), int: pa.int64(), float: pa.float64(), Decimal: pa.float64(), bytes: pa.binary(),
    date: pa.date32(), datetime: pa.timestamp("us"),
}  # fmt: skip


@contextmanager
def connected(place: Place, *, writing: bool = False) -> Iterator[Connection]:
    """Give a connection in one transaction; with `writing` it commits when the block ends, and is undone if it raises.

    Raises:
        MissingExtra: the database's driver is not installed.
        StoreError: the database cannot be reached, read or written.
    """
    engine = _engine(place)
    try:
        with engine.connect() as conn:
            _begin(conn, writing=writing)
            yield conn
            if writing:
                conn.commit()
    except SQLAlchemyError as error:
        told = (str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise StoreError(
            f"the table {place} failed: {told}.", "check that it is there, and the user's rights"
        ) from error
    finally:
        engine.dispose()


def reflected(conn: Connection, place: Place) -> Table:
    """Return the table's columns as its database tells them.

    Raises:
        ProjectError: there is no such table.
    """
    schema, _, name = place.table.rpartition(".")
    try:
        return Table(name, MetaData(), schema=schema or None, autoload_with=conn, resolve_fks=False)
    except NoSuchTableError:
        raise ProjectError(f"there is no table {place}.", "correct the name behind the '#'") from None


def table_identity(place: Place) -> Json:
    """Return the table's name and columns: what a copy holds is as it was when it was made."""
    with connected(place) as conn:
        columns = [[str(column.name), str(column.type)] for column in reflected(conn, place).columns]
    return {"table": str(place), "columns": columns}


def spool(place: Place, path: Path, schema: Schema) -> None:
    """Copy a table to a Parquet file, which appears whole.

    Raises:
        StoreError: the table cannot be read.
        ProjectError: there is no such table, or a value has another type than its column.
    """
    with connected(place) as conn, whole_file(path) as file:
        table = reflected(conn, place)
        fields = pa.schema([(str(column.name), _type(column, schema)) for column in table.columns])
        wanted = select(table).order_by(*table.primary_key.columns)
        with pq.ParquetWriter(file, fields, compression="zstd") as writer:
            for rows in conn.execution_options(yield_per=_CHUNK_ROWS).execute(wanted).partitions():
                writer.write_table(_arrow(rows, fields, schema))


def _engine(place: Place) -> Engine:
    try:
        return create_engine(make_url(place.url))
    except (ImportError, NoSuchModuleError, ArgumentError) as error:
        if place.url.startswith("postgresql"):
            raise MissingExtra("a table in PostgreSQL", "postgres") from error
        raise ProjectError(f"there is no driver for {place}: {error}.", "install SQLAlchemy's driver for it") from error


def _begin(conn: Connection, *, writing: bool) -> None:
    if conn.dialect.name == "sqlite":
        raw: Any = conn.connection.driver_connection
        raw.isolation_level = None  # pysqlite begins too late, and commits before it makes a table
        conn.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
    elif conn.dialect.name == "postgresql" and not writing:
        conn.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _type(column: Column[Any], schema: Schema) -> pa.DataType:
    kind = schema.inputs.get(column.name)
    if isinstance(kind, Number):
        return pa.float64()
    if isinstance(kind, Image | Tensor) and "ARRAY" in str(column.type).upper():
        return pa.list_(pa.float64())
    with suppress(NotImplementedError):
        python = column.type.python_type
        if python is datetime and getattr(column.type, "timezone", False):
            return pa.timestamp("us", tz="UTC")
        return _TYPES.get(python, pa.string())
    return pa.string()


def _arrow(rows: Sequence[Any], fields: pa.Schema, schema: Schema) -> pa.Table:
    columns = zip(*rows, strict=True)
    arrays = [
        _array(list(values), field, is_input=field.name in schema.inputs)
        for values, field in zip(columns, fields, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=fields)


def _array(values: list[Any], field: pa.Field, *, is_input: bool) -> pa.Array:
    with suppress(pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return pa.array(values, type=field.type)
    converted = [_converted(value, field, is_input=is_input) for value in values]
    try:
        return pa.array(converted, type=field.type)
    except (pa.ArrowException, OverflowError) as error:
        raise ProjectError(f"column {field.name!r} holds what its type does not: {error}.", "leave it out") from error


def _converted(value: Any, field: pa.Field, *, is_input: bool) -> Any:
    """Return a value as its column's type; an input that has another becomes unknown, and its row is refused."""
    if pa.types.is_floating(field.type) and isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        with suppress(OverflowError):
            return float(value)
    if value is None or (is_input and pa.types.is_floating(field.type)):
        return None
    if pa.types.is_string(field.type) and not isinstance(value, str):
        if is_input:
            return None
        return json.dumps(value) if isinstance(value, dict | list) else str(value)
    if is_input and pa.types.is_binary(field.type) and not isinstance(value, bytes):
        return None
    return value
