"""Labelled rows of others (Parquet, CSV, JSON lines, Hugging Face) into examples, checked by the project's schema."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from tidemill.clock import from_micros
from tidemill.errors import InvalidInput, ProjectError
from tidemill.records import Example, Trust
from tidemill.schema import Category, Classes, Schema, Sensitive, Text
from tidemill.stores import huggingface
from tidemill.stores.cells import canonical

_READERS: dict[str, Callable[[Path, Mapping[str, Any]], pl.DataFrame]] = {
    ".parquet": lambda path, _: pl.read_parquet(path),
    ".csv": lambda path, types: pl.read_csv(path, infer_schema_length=None, schema_overrides=types),
    ".jsonl": lambda path, _: pl.read_ndjson(path, infer_schema_length=None),
    ".ndjson": lambda path, _: pl.read_ndjson(path, infer_schema_length=None),
}


def read_table(path: Path, schema: Schema | None = None, *, label: str = "label") -> pl.DataFrame:
    """Read a file by its ending, or a folder that Hugging Face `datasets` saved.

    CSV has no types: with `schema`, what the project declares as text stays text there, such as `007`.

    Raises:
        ProjectError: it does not exist, has an unknown ending, or cannot be read.
    """
    if huggingface.is_folder(path):
        return huggingface.read_folder(path, [*schema.inputs, label] if schema is not None else ())
    reader = _READERS.get(path.suffix.lower())
    if reader is None or not path.is_file():
        problem = "does not exist" if reader else "is no Parquet, CSV or JSON lines file"
        hint = f"name a file that ends in {', '.join(_READERS)}, or a folder of `datasets.Dataset.save_to_disk`"
        raise ProjectError(f"data file {str(path)!r} {problem}.", hint)
    try:
        return reader(path, _texts(schema, label) if schema is not None else {})
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ProjectError(f"data file {str(path)!r} cannot be read: {error}.", "check that it is whole") from error


def _texts(schema: Schema, label: str) -> dict[str, pl.DataType]:
    names = [name for name, kind in schema.inputs.items() if isinstance(kind, Text | Category | Sensitive)]
    return dict.fromkeys([*names, *([label] if isinstance(schema.output, Classes) else [])], pl.String())


def examples_from(
    frame: pl.DataFrame, schema: Schema, *, now: datetime, key: bytes = b"", label: str = "label",
    time: str | None = None, unit: str | None = None, trust: Trust = Trust.TRUTH, source: str = "import",
) -> list[Example]:  # fmt: skip
    """Return one labelled example per row; the same rows give the same ids.

    `time` and `unit` name optional columns: when the row happened (a timestamp, ISO 8601 or whole microseconds since
    1970; UTC unless it says otherwise) and whose it is.

    Raises:
        ProjectError: a column that has no default is missing, or a value does not fit the schema; the message names row
            and column.
    """
    _check_columns(frame, [*schema.required, label, *(c for c in (time, unit) if c)])
    seen: Counter[str] = Counter()
    examples = []
    for number, row in enumerate(frame.iter_rows(named=True)):
        inputs, answer = _parse(row, number, schema, label, key)
        content = hashlib.sha256(repr((sorted(inputs.items()), answer)).encode()).hexdigest()[:32]
        seen[content] += 1
        id_ = f"import-{content}-{seen[content]}"
        received_at = _time(row[time], number, time) if time else now
        examples.append(
            Example(
                id=id_,
                request_id=None,
                unit=id_ if unit is None or row[unit] is None else str(row[unit]),
                received_at=received_at,
                picked_at=now,
                reason=source,
                probability=1.0,  # all of the imported population is here
                split="",
                inputs=inputs,
                label=answer,
                trust=trust,
                source=source,
                labelled_at=received_at,
            )
        )
    return examples


def _check_columns(frame: pl.DataFrame, wanted: list[str]) -> None:
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise ProjectError(
            f"the data has no column {', '.join(map(repr, missing))}; it has {', '.join(frame.columns)}.",
            "rename the columns to the project's inputs, or name the label with --label",
        )


def _parse(
    row: Mapping[str, Any], number: int, schema: Schema, label: str, key: bytes
) -> tuple[dict[str, Any], str | float]:
    try:
        inputs = {name: canonical(row.get(name), kind, name, key) for name, kind in schema.inputs.items()}
        return inputs, parse_label(row[label], schema)
    except InvalidInput as error:
        raise ProjectError(f"row {number}: {error.message}", error.hint) from error


def parse_label(value: object, schema: Schema) -> str | float:
    """Return a label from a table; whole numbers are read as the names of classes where those are digits."""
    if isinstance(value, int) and not isinstance(value, bool) and str(value) in getattr(schema.output, "names", ()):
        return schema.output.parse_label(str(value))
    return schema.output.parse_label(value)


def _time(value: object, number: int, column: str) -> datetime:
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
        if isinstance(value, int) and not isinstance(value, bool):
            return from_micros(value)
    except (ValueError, OverflowError):
        pass  # it says so below
    raise ProjectError(
        f"row {number}: {column!r} is {value!r}, not a time.", "give a timestamp, ISO 8601 or microseconds, in UTC"
    )
