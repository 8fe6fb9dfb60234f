"""Training rows held against a pandera schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from tidemill.errors import MissingExtra
from tidemill.strategy.data_checked import Breach, DataChecked
from tidemill.strategy.data_schema import schema_text

_MOST = 5
_MAX_CHARS = 40


def check_data(
    frame: pl.DataFrame, schema: Any, *, digest: str, ids: Sequence[str], inputs: Sequence[str]
) -> DataChecked:
    """Hold `frame` against a schema, all checks of it, and return what does not hold.

    Args:
        frame: the rows, with the `inputs`, `label` and what else is known of them.
        schema: a `DataFrameSchema` or a `DataFrameModel` of `pandera.polars`.
        digest: of the member that asks.
        ids: of the rows, in order.
        inputs: the columns that a strict schema sees beside those that it names.

    Raises:
        MissingExtra: pandera is not installed.
    """
    try:
        from pandera.errors import SchemaErrors  # noqa: PLC0415 (an optional extra)
    except ImportError as error:
        raise MissingExtra("offline.DataChecks", "checks") from error
    name = schema_text(schema)
    found: Any = getattr(schema, "to_schema")() if isinstance(schema, type) else schema  # noqa: B009 (a model's own)
    known = [name for name in frame.columns if not found.strict or name in (*inputs, "label", *found.columns)]
    done = DataChecked(schema=digest, name=name, num_rows=len(frame))
    try:
        found.validate(frame.select(known), lazy=True)
    except SchemaErrors as errors:
        breaches = [_breach(error, len(frame), ids) for error in errors.schema_errors]
        return replace(done, breaches=tuple(breaches))
    except Exception as error:
        return replace(done, problem=f"{type(error).__name__}: {_short(str(error))}")
    return done


def _breach(error: Any, num_rows: int, ids: Sequence[str]) -> Breach:
    """Return one of pandera's errors as a breach; what is wrong with a whole column is wrong with all rows."""
    cases, kind = error.failure_cases, error.reason_code.name
    of_column = type(error.schema).__name__ == "Column"
    if not isinstance(cases, pl.DataFrame):
        column = str(error.schema.name) if of_column else str(cases)
        told = _WHOLE.get(kind, "{check}: {case}").format(check=_check_name(error.check), case=_short(str(cases)))
        return Breach(column=column, check=told, num_rows=num_rows)
    at = _failing(error.check_output, num_rows)
    column = str(error.schema.name) if of_column else ""
    values = cases[cases.columns[0]].unique(maintain_order=True).head(_MOST).to_list() if of_column else []
    return Breach(
        column=column,
        check=_check_name(error.check),
        num_rows=len(cases) if at is None else len(at),
        values=tuple(_short(repr(value)) for value in values[:3]),
        ids=() if at is None else tuple(ids[i] for i in at[:_MOST]),
    )


_WHOLE = {
    "COLUMN_NOT_IN_DATAFRAME": "is missing",
    "COLUMN_NOT_IN_SCHEMA": "is not in the schema",
    "COLUMN_NOT_ORDERED": "is out of order",
    "WRONG_DATATYPE": "is {case}, not {check}",
    "CHECK_ERROR": "the check {check} raised {case}",
}


def _failing(output: Any, num_rows: int) -> list[int] | None:
    """Return the positions of the rows that a check refuses, None where it judges the table as one."""
    if output is None:
        return None
    frame = output.collect() if isinstance(output, pl.LazyFrame) else output
    if not isinstance(frame, pl.DataFrame) or len(frame) != num_rows:
        return None
    bad = ~frame.to_series(frame.width - 1).cast(pl.Boolean).fill_null(value=False)
    return bad.arg_true().to_list()


def _check_name(check: Any) -> str:
    if isinstance(check, str):
        return (
            check.removeprefix("dtype('").removesuffix("')") if check.startswith("dtype") else _PLAIN.get(check, check)
        )
    return _short(str(check.error or check.name), 80)


_PLAIN = {"not_nullable": "must not be null", "field_uniqueness": "must be unique"}


def _short(text: str, most: int = _MAX_CHARS) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
