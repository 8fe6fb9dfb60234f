"""Reads Parquet files of different columns as one frame.

The files of a project differ when an input was declared, dropped or retyped in between. The frame has the union of
their columns; what a file lacks is null. A column is of the type that is asked for, null where a value cannot be had
so; else, where it has had several types, float64 where all are numbers, and text where not (bytes as base64). Files
without rows in question have no say in the type.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import polars as pl

_Schema = Mapping[str, pl.DataType]


def scan(
    paths: Sequence[Path], *, where: pl.Expr, columns: Sequence[str] | None, own: Mapping[str, pl.DataType],
    asked: Mapping[str, pl.DataType] | None = None, told: Collection[str] = (),
) -> pl.DataFrame:  # fmt: skip
    """Return the rows that meet `where`, reading only `columns` (all by default) and what `where` needs.

    Args:
        paths: the files, which are never changed.
        where: may use columns that all of them have.
        columns: the columns of the frame, in order; one that no file has is null.
        own: the columns that come first by default, with the types they have without any file.
        asked: the types that columns must have.
        told: columns of which `lost(name)` says where there was a value that cannot be had so; it is there only where
            a file has such a column in another type, and null in the rows of the others.

    Raises:
        FileNotFoundError: a file is gone.
    """
    alike: dict[tuple[tuple[str, pl.DataType], ...], list[Path]] = defaultdict(list)
    for path in paths:
        alike[tuple(schema_of(path).items())].append(path)
    frames = [_rows(some, dict(schema), where, columns) for schema, some in alike.items()]
    found = {name for frame in frames for name in frame.columns}
    names = [*own, *sorted(found - set(own))] if columns is None else columns
    types = {name: _common([frame for frame in frames if name in frame.columns], name, own) for name in names}
    types |= {name: kind for name, kind in (asked or {}).items() if name in types}
    parts = [pl.DataFrame(schema=types), *(_cast(frame, types, told) for frame in frames)]
    return pl.concat(parts, how="vertical" if all(part.width == len(types) for part in parts) else "diagonal")


def lost(name: str) -> str:
    """Return the name of the column that says which values of another could not be had in the type asked for."""
    return f"{name}?"  # no plain name, as those of inputs are


def of_other_type(paths: Sequence[Path], asked: Mapping[str, pl.DataType]) -> set[str]:
    """Return the columns that one of the files has in another type than is asked for.

    Raises:
        FileNotFoundError: a file is gone.
    """
    return {name for path in paths for name, had in schema_of(path).items() if asked.get(name, had) != had}


@lru_cache(maxsize=1 << 14)
def schema_of(path: Path) -> _Schema:
    """Files never change, so their schemas need reading once."""
    return pl.read_parquet_schema(path)


def _rows(paths: Sequence[Path], schema: _Schema, where: pl.Expr, columns: Sequence[str] | None) -> pl.DataFrame:
    wanted = [name for name in (schema if columns is None else columns) if name in schema]
    return pl.scan_parquet(list(paths), glob=False, hive_partitioning=False).filter(where).select(wanted).collect()


def common_type(types: Collection[pl.DataType]) -> pl.DataType:
    """Return the type of a column that has had these."""
    if len(types) == 1:
        return next(iter(types))
    return pl.Float64() if all(kind.is_numeric() for kind in types) else pl.String()


def _common(frames: Sequence[pl.DataFrame], name: str, own: _Schema) -> pl.DataType:
    types = {frame.schema[name] for frame in frames if len(frame)} or {frame.schema[name] for frame in frames}
    return common_type(types) if types else own.get(name, pl.Null())


def _cast(frame: pl.DataFrame, types: _Schema, told: Collection[str]) -> pl.DataFrame:
    had, other = frame.schema, [name for name in told if frame.schema.get(name, types.get(name)) != types.get(name)]
    return frame.select(
        *(_as(had.get(name), kind, name) for name, kind in types.items()),
        *((pl.col(n).is_not_null() & _as(had[n], types[n], n).is_null()).alias(lost(n)) for n in other),
    )


def _as(before: pl.DataType | None, after: pl.DataType, name: str) -> pl.Expr:
    if before is None or (before != after and (after == pl.Binary() or _is_lost(before, after))):
        return pl.lit(None, dtype=after).alias(name)
    if before == pl.Binary() and after == pl.String():
        return pl.col(name).bin.encode("base64")
    return pl.col(name) if before == after else pl.col(name).cast(after, strict=False)


def _is_lost(before: pl.DataType, after: pl.DataType) -> bool:
    """Say whether bytes would have to become numbers."""
    return before == pl.Binary() and after != pl.String()
