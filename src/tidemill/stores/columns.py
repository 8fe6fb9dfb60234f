"""Rows of the log as typed Arrow columns: the record's own fields, and one column per tag and input, by its name.

Text is `string`, a number `double`, an image or tensor `binary`, as in the canonical form (see `tidemill.schema`). A
column whose every value is unknown is left out, so that it cannot disagree with other files about its type.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Any

import polars as pl
import pyarrow as pa

from tidemill.records import DeviceProfile, Feedback, Prediction

PREDICTION_FIELDS: dict[str, pa.DataType] = {
    "request_id": pa.string(),
    "received_at": pa.int64(),
    "role": pa.string(),
    "unit": pa.string(),
    "subject": pa.string(),
    "rollout": pa.string(),
    "share": pa.float64(),
    "salt": pa.string(),
    "route_revision": pa.int64(),
    "assigned_version": pa.int64(),
    "answered_version": pa.int64(),
    "fallback_reason": pa.string(),
    "error": pa.string(),
    "policy_version": pa.int64(),
    "scores": pa.list_(pa.float32()),
    "abstained": pa.bool_(),
    "cached": pa.bool_(),
    "latency_ms": pa.float64(),
    "keep_probability": pa.float64(),
    "outlier": pa.list_(pa.string()),
    "top_k": pa.list_(pa.string()),
}
FEEDBACK_FIELDS: dict[str, pa.DataType] = {
    "request_id": pa.string(),
    "received_at": pa.int64(),
    "kind": pa.string(),
    "text": pa.string(),
    "number": pa.float64(),
    "source": pa.string(),
    "trust": pa.string(),
}
PROFILE_FIELDS: dict[str, pa.DataType] = {
    "device": pa.string(),
    "received_at": pa.int64(),
    "after": pa.int64(),
    "until": pa.int64(),
    "body": pa.binary(),
}
_TYPES = {str: pa.string(), float: pa.float64(), int: pa.float64(), bool: pa.float64(), bytes: pa.binary()}

_Values = dict[str, Any]


@cache
def own_types(kind: str) -> Mapping[str, pl.DataType]:
    """Return the columns that rows of a kind have always, with their types where no file says otherwise."""
    fields = {"feedback": FEEDBACK_FIELDS, "profiles": PROFILE_FIELDS}.get(
        kind, {**PREDICTION_FIELDS, "decision": pa.string()}
    )
    return dict(pl.DataFrame(pa.schema(fields).empty_table()).schema)


def prediction_tables(rows: Sequence[Prediction]) -> list[pa.Table]:
    """Return the rows as tables: one, or one for each type where an input or the decision was retyped among them."""
    values = [{**(row.inputs or {}), **row.tags, "decision": row.decision} for row in rows]
    types = {name: _types(values, name) for name in dict.fromkeys(name for row in values for name in row)}
    retyped = [name for name, kinds in types.items() if len(kinds) > 1]
    if not retyped:
        return [_table(rows, values, {name: kinds.pop() for name, kinds in types.items() if kinds})]
    groups: dict[tuple[Any, ...], list[Prediction]] = {}
    for row, by_name in zip(rows, values, strict=True):
        groups.setdefault(tuple(_type(by_name.get(name)) for name in retyped), []).append(row)
    return [table for group in groups.values() for table in prediction_tables(group)]


def feedback_table(rows: Sequence[Feedback]) -> pa.Table:
    """Return the rows as one table: `text` holds the values that are text, `number` those that are numbers or bools."""
    texts = [row.value if isinstance(row.value, str) else None for row in rows]
    numbers = [None if isinstance(row.value, str | None) else float(row.value) for row in rows]
    own = {name: _column(rows, name, FEEDBACK_FIELDS) for name in FEEDBACK_FIELDS if name not in ("text", "number")}
    columns = {**own, "text": pa.array(texts, pa.string()), "number": pa.array(numbers, pa.float64())}
    return pa.table({name: columns[name] for name in FEEDBACK_FIELDS})


def profile_table(rows: Sequence[DeviceProfile]) -> pa.Table:
    """Return the profiles as one table."""
    return pa.table({name: _column(rows, name, PROFILE_FIELDS) for name in PROFILE_FIELDS})


def value_array(values: Iterable[Any]) -> pa.Array:
    """Return canonical values of one type as an array; None is null."""
    values = list(values)
    kinds = {_type(value) for value in values} - {None}
    if len(kinds) > 1:
        raise TypeError(f"values of several types in one column: {kinds}")
    return _array(values, kinds.pop() if kinds else pa.null())


def _table(rows: Sequence[Prediction], values: list[_Values], types: dict[str, pa.DataType]) -> pa.Table:
    columns = {name: _column(rows, name, PREDICTION_FIELDS) for name in PREDICTION_FIELDS}
    for name in sorted(types):
        columns[name] = _array([row.get(name) for row in values], types[name])
    return pa.table(columns)


def _column(rows: Sequence[Any], name: str, fields: dict[str, pa.DataType]) -> pa.Array:
    return pa.array(list(map(attrgetter(name), rows)), fields[name])


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind == pa.float64():
        values = [None if value is None else float(value) for value in values]
    elif kind == pa.string():
        values = [value if isinstance(value, str | None) else str(value) for value in values]
    return pa.array(values, kind)


def _types(values: list[_Values], name: str) -> set[pa.DataType]:
    return {_TYPES.get(kind, pa.string()) for kind in {type(row.get(name)) for row in values} if kind is not type(None)}


def _type(value: Any) -> pa.DataType | None:
    return None if value is None else _TYPES.get(type(value), pa.string())
