"""A first pandera schema, written from data: something to change, not something to trust.

It says what the data look like, with room: a number's range is widened by a tenth on both sides, a text may be half as
long again. So it holds for the data that it was written from.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

import polars as pl

from tidemill.schema import Category, Classes, Schema, Sensitive, Text

_MOST_CATEGORIES = 50
_LEAST_ROWS_EACH = 5  # of a category, on average: fewer, and new ones are to be expected
_DIGITS = 3
_TYPES = {pl.Float64(): "pl.Float64", pl.String(): "pl.String", pl.Binary(): "pl.Binary"}


def suggest_schema(frame: pl.DataFrame, schema: Schema, *, project: str) -> str:
    """Return the source of a Python file that defines `schema`, a pandera schema for polars.

    `frame` holds the inputs and `label`, in canonical form. The file needs pandera when it is imported.
    """
    lines = [f"        {name!r}: {_column(frame[name], name, schema)}," for name in (*schema.inputs, "label")]
    head = _HEAD.format(project=repr(project)[1:-1].replace('"', "'"), rows=f"{len(frame):,}")
    return "\n".join([head, *lines, "    },", f"    name={project!r},", ")", ""])


_HEAD = '''"""What the training data of {project} looked like: {rows} rows. Change it to what has to hold.

Written by `tidemill check DATA --suggest`. Import `schema` in the project file, and give the strategy
`tm.offline.DataChecks(schema)`.
"""

import pandera.polars as pa
import polars as pl

schema = pa.DataFrameSchema(
    {{'''


def _column(values: pl.Series, name: str, schema: Schema) -> str:
    checks = _label_checks(values, schema) if name == "label" else _checks(values, schema.inputs[name])
    nullable = ", nullable=True" if values.null_count() else ""
    told = "" if not checks else f", {checks[0]}" if len(checks) == 1 else f", [{', '.join(checks)}]"
    return f"pa.Column({_TYPES[values.dtype]}{told}{nullable})"


def _label_checks(values: pl.Series, schema: Schema) -> list[str]:
    return [_isin(schema.output.names)] if isinstance(schema.output, Classes) else _in_range(values)


def _checks(values: pl.Series, kind: object) -> list[str]:
    if isinstance(kind, Sensitive):
        return ["pa.Check.str_matches(r'^[0-9a-f]{32}$')"]
    if isinstance(kind, Category):
        return _categories(values, kind)
    if isinstance(kind, Text):
        return _lengths(values)
    return _in_range(values) if values.dtype == pl.Float64() else []


def _categories(values: pl.Series, kind: Category) -> list[str]:
    if kind.values is not None:
        return [_isin(kind.values)]
    there = values.drop_nulls().unique().sort()
    few = len(there) <= min(_MOST_CATEGORIES, max(2, len(values) // _LEAST_ROWS_EACH))
    return [_isin(there.to_list())] if few and len(there) else _lengths(values)


def _isin(values: Sequence[str]) -> str:
    return f"pa.Check.isin({list(values)!r})"


def _lengths(values: pl.Series) -> list[str]:
    lengths = values.drop_nulls().str.len_chars()
    if not len(lengths):
        return []
    least, most = int(lengths.min()), math.ceil(1.5 * int(lengths.max()))  # type: ignore[arg-type]
    return [f"pa.Check.str_length({min(1, least)}, {max(1, most)})"]


def _in_range(values: pl.Series) -> list[str]:
    known = values.drop_nulls()
    if not len(known):
        return []
    low, high = float(known.min()), float(known.max())  # type: ignore[arg-type]
    room = 0.1 * (high - low if math.isfinite(high - low) else sys.float_info.max) or 0.1 * abs(high) or 1.0
    return [f"pa.Check.in_range({_rounded(low - room, ROUND_FLOOR)}, {_rounded(high + room, ROUND_CEILING)})"]


def _rounded(value: float, outwards: str) -> str:
    """Return a number of three digits beyond `value`, as Python source."""
    if not math.isfinite(value):
        return repr(math.copysign(sys.float_info.max, value))
    number = float(Context(prec=_DIGITS, rounding=outwards).create_decimal(Decimal(repr(value))))
    return repr(number if math.isfinite(number) else math.copysign(sys.float_info.max, value))
