"""Projections as columns of SQL: a function of the project, called for the rows that a query wants it of."""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from tidemill.projections import Projection, project_columns
from tidemill.schema import Array, Schema
from tidemill.stores.declared import declared_types
from tidemill.stores.reading import quoted, sql_type

_KINDS = {"b": "BOOLEAN", "U": "VARCHAR"}
_ARROW = {"BOOLEAN": pa.bool_(), "VARCHAR": pa.string(), "DOUBLE": pa.float64()}


def add_projection(
    connection: duckdb.DuckDBPyConnection, schema: Schema, name: str, projection: Projection, *, table: str
) -> str:
    """Register a projection with a connection, and return the column that it is; null where an input is unknown.

    Its type is that of its value for one row of `table`: text, true or false, or a number.

    Raises:
        ProjectError: it raises on that row.
    """
    types = {n: sql_type(kind) for n, kind in declared_types(schema).items() if n in schema.inputs}
    example = f"struct_pack({', '.join(f'{quoted(n)} := {quoted(n)}' for n in types)})"
    known = " AND ".join(f"{quoted(n)} IS NOT NULL" for n in types)
    rows = connection.execute(f"SELECT {example} FROM {table} WHERE {known} LIMIT 1").fetchall()
    kind = _KINDS.get(_values(schema, name, projection, [rows[0][0]]).dtype.kind, "DOUBLE") if rows else "DOUBLE"

    def call(given: pa.ChunkedArray) -> pa.Array:
        found = _values(schema, name, projection, given.to_pylist())
        return pa.array(found.tolist(), _ARROW[kind])

    argument = f"STRUCT({', '.join(f'{quoted(n)} {kind}' for n, kind in types.items())})"
    function = f"project_{name}"
    connection.create_function(function, call, [duckdb.sqltype(argument)], kind, type="arrow")
    return f"CASE WHEN {known} THEN {quoted(function)}({example}) END AS {quoted(name)}"


def _values(schema: Schema, name: str, projection: Projection, examples: list[dict[str, Any]]) -> Array:
    """Return the values for whole examples, (N,)."""
    columns = schema.columns(examples, list(examples[0]))
    return np.asarray(project_columns({name: projection}, columns, len(examples))[name])
