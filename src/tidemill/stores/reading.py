"""SQL that reads Parquet files of different columns as one table, as `scan` does for frames."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl

from tidemill.stores.scan import common_type, schema_of

_SQL_TYPES = {
    pl.String(): "VARCHAR", pl.Float64(): "DOUBLE", pl.Int64(): "BIGINT", pl.Boolean(): "BOOLEAN",
    pl.Binary(): "BLOB", pl.List(pl.Float32()): "FLOAT[]",
    pl.List(pl.String()): "VARCHAR[]",
}  # fmt: skip

_Schema = tuple[tuple[str, pl.DataType], ...]


def reading(paths: Iterable[Path], *, first: Mapping[str, pl.DataType]) -> str:
    """Return a SELECT over files: the columns of `first` in those types, then what else they have, by name.

    A column that a file lacks is null, and so is a value that cannot be had in the column's type.
    """
    alike: dict[_Schema, list[Path]] = defaultdict(list)
    for path in paths:
        alike[tuple(schema_of(path).items())].append(path)
    types = _types(alike, first)
    if not alike:
        return f"SELECT {', '.join(_column(name, None, kind) for name, kind in types.items())} WHERE false"
    groups = {schema: files for schema, files in alike.items() if _differs(schema, types)}
    plain = {schema: files for schema, files in alike.items() if schema not in groups}
    parts = [_part(dict(schema), files, types) for schema, files in groups.items()]
    if plain:  # all at once: what they share need not be said for each
        together = {name: kind for schema in plain for name, kind in schema}
        parts.append(_part(together, [file for files in plain.values() for file in files], types))
    return " UNION ALL BY NAME ".join(parts)


def quoted(name: str) -> str:
    """Return a name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def text(value: object) -> str:
    """Return a text as SQL."""
    return "'" + str(value).replace("'", "''") + "'"


def sql_type(kind: pl.DataType) -> str:
    """Return the SQL type of a column."""
    return _SQL_TYPES.get(kind, "VARCHAR")


def _types(alike: Iterable[_Schema], first: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
    found: dict[str, set[pl.DataType]] = defaultdict(set)
    for schema in alike:
        for name, kind in schema:
            found[name].add(kind)
    types, taken = dict(first), {name.lower() for name in first}  # SQL does not tell names apart by case
    for name in sorted(found):
        if name.lower() not in taken:
            types[name] = common_type(found[name])
            taken.add(name.lower())
    return types


def _differs(schema: _Schema, types: Mapping[str, pl.DataType]) -> bool:
    return any(types.get(name, kind) != kind for name, kind in schema)


def _part(schema: Mapping[str, pl.DataType], files: Sequence[Path], types: Mapping[str, pl.DataType]) -> str:
    columns = ", ".join(_column(name, schema.get(name), kind) for name, kind in types.items())
    return f"SELECT {columns} FROM read_parquet([{', '.join(map(text, files))}], union_by_name = true)"


def _column(name: str, before: pl.DataType | None, after: pl.DataType) -> str:
    column, kind = quoted(name), sql_type(after)
    if before == after:
        return column
    if before is None or after == pl.Binary() or (before == pl.Binary() and after != pl.String()):
        return f"CAST(NULL AS {kind}) AS {column}"
    value = f"base64({column})" if before == pl.Binary() else f"TRY_CAST({column} AS {kind})"
    return f"{value} AS {column}"
