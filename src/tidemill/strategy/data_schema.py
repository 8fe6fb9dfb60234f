"""A pandera schema as canonical JSON: what tells one data test from another, without importing pandera.

Checks of pandera's own are known by name and numbers, a user's function or lambda by its source and by the plain values
that it closes over.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from tidemill.errors import ProjectError
from tidemill.fingerprint import callable_json, digest, source_hash
from tidemill.records import Json

_OF_COLUMN = ("nullable", "unique", "required", "regex", "coerce", "default")
_OF_CHECK = {"element_wise": False, "ignore_na": True, "raise_warning": False, "n_failure_cases": None}
_OF_FRAME = ("name", "strict", "ordered", "unique", "coerce")
_DEEPEST = 4


def is_data_schema(value: object) -> bool:
    """Tell whether it is a `DataFrameSchema` or a `DataFrameModel` class of `pandera.polars`."""
    kinds = value.__mro__ if isinstance(value, type) else type(value).__mro__
    wanted = "pandera.api.polars.model" if isinstance(value, type) else "pandera.api.polars.container"
    return any(kind.__module__ == wanted for kind in kinds)


def schema_json(schema: Any) -> Json:
    """Return a schema as JSON: equal JSON means that the same is tested.

    Raises:
        ProjectError: it is no schema of `pandera.polars`.
    """
    if not is_data_schema(schema):
        raise ProjectError(
            f"offline.DataChecks: {type(schema).__name__} is no schema for polars.",
            "import pandera.polars as pa, and give a pa.DataFrameSchema or a pa.DataFrameModel",
        )
    if isinstance(schema, type):
        own = [kind for kind in schema.__mro__ if not kind.__module__.startswith(("pandera", "typing", "builtins"))]
        return {**callable_json(schema, "offline.DataChecks"), "bases": [source_hash(kind) for kind in own[1:]]}
    columns = {name: _column(column) for name, column in schema.columns.items()}
    checks = [_check(check) for check in schema.checks]
    return {"callable": "pandera:DataFrameSchema", **_plain(schema, _OF_FRAME), "columns": columns, "checks": checks}


def schema_text(schema: Any) -> str:
    """Return a schema in a few words."""
    if isinstance(schema, type):
        return schema.__qualname__
    num = len(schema.columns)
    return f"{f'{schema.name!r}, ' if schema.name else ''}{num} column{'' if num == 1 else 's'}"


def _column(column: Any) -> Json:
    checks = [_check(check) for check in column.checks]
    return {"dtype": str(column.dtype), **_plain(column, _OF_COLUMN), "checks": checks}


def _check(check: Any) -> str:
    """Return a check as one text: `in_range(max_value=1, min_value=0)`; a user's function is known by a hash."""
    given = {name: _value(value) for name, value in (check.statistics or {}).items()}
    given |= {name: value for name, usual in _OF_CHECK.items() if (value := _value(getattr(check, name))) != usual}
    function = check._check_fn  # its public name is what pandera calls it, which every lambda shares
    own = type(function).__module__.startswith("pandera")
    text = f"{check.name}({', '.join(f'{name}={given[name]}' for name in sorted(given))})"
    return text if own else f"{text} {digest(_function(function))}"


def _function(function: Callable[..., Any], depth: int = 0) -> Json:
    if isinstance(function, functools.partial):
        given = [*map(_value, function.args), *((k, _value(v)) for k, v in sorted(function.keywords.items()))]
        return {"function": _function(function.func, depth), "given": given}
    cells = getattr(function, "__closure__", None) or ()
    closed = [_closed(cell.cell_contents, depth + 1) for cell in cells]
    return {"source": source_hash(function), "closed": closed}


def _closed(value: Any, depth: int) -> Json:
    if callable(value) and not isinstance(value, type) and depth < _DEEPEST:
        return _function(value, depth)
    return _value(value)


def _plain(value: Any, names: tuple[str, ...]) -> dict[str, Json]:
    return {name: _value(getattr(value, name, None)) for name in names}


def _value(value: Any) -> Json:
    """Return a parameter as JSON; what has none is known by its kind alone, because an address would change."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return repr(value)  # NaN and infinity too
    if isinstance(value, Mapping):
        return {str(k): _value(v) for k, v in sorted(value.items(), key=lambda pair: str(pair[0]))}
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, list | tuple):
        return [_value(v) for v in value]
    text = repr(value)
    return type(value).__qualname__ if " at 0x" in text else text
