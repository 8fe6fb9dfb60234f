"""A recorded stream: requests in order of time, each with what turned out to be true."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
import polars as pl

from tidemill.clock import micros
from tidemill.errors import InvalidInput, ProjectError
from tidemill.loop.backtest.values import Values
from tidemill.loop.world import World
from tidemill.monitor.cohorts import cohort_masks
from tidemill.project import Project
from tidemill.records import Example, Trust
from tidemill.schema import Array, Category, Image, Input, Number, Sensitive, Tensor, Text
from tidemill.stores.cells import canonical
from tidemill.stores.duplicates import Groups, Sameness
from tidemill.stores.examples import split_of
from tidemill.stores.memory import MemoryDatabase
from tidemill.stores.tabular import parse_label, read_table


@runtime_checkable
class ArrowTable(Protocol):
    """A table of Arrow's, whoever made it."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Hand the columns over."""
        ...


Source: TypeAlias = "pl.DataFrame | ArrowTable | Path | str | World"
"""What a stream is read from: a table, a file, or the log of a project."""

TICK = 4
"""Microseconds between requests at least: so that there are times after one and before the next."""

_TEXTS = (Text, Category)
_BINARY = (Image, Tensor)


@dataclass(frozen=True, eq=False)
class Stream:
    """N requests in order of time.

    `frame` has the columns request_id, received_at (microseconds, rising), unit and one for each input, canonical.
    `truth` float64 (N,) is what `Values` makes of the labels, NaN where nobody knows. `group` int64 (N,) numbers the
    groups of duplicates, made of each row and those before it; `is_test` bool (N,) is the split of a group that begins
    with the row.
    """

    frame: pl.DataFrame
    truth: Array
    group: Array
    is_test: Array
    digest: str

    def __len__(self) -> int:
        return len(self.frame)

    @cached_property
    def received_at(self) -> Array:
        """When each request came, int64 (N,)."""
        return self.frame["received_at"].to_numpy()

    @cached_property
    def ids(self) -> Array:
        """The ids of the requests, object (N,)."""
        return np.array(self.frame["request_id"].to_list(), dtype=object)

    @cached_property
    def units(self) -> Sequence[str]:
        """Whose each request is."""
        return self.frame["unit"].to_list()

    @property
    def coverage(self) -> float:
        """The share of requests whose truth is known."""
        return float((~np.isnan(self.truth)).mean()) if len(self) else 0.0

    def masks(self, project: Project) -> dict[str, Array]:
        """Return a mask bool (N,) for each cohort."""
        return cohort_masks(project, self.frame)

    @classmethod
    def read(
        cls, source: Source, project: Project, *, time: str = "time", label: str = "label", unit: str | None = None
    ) -> Self:
        """Read a stream and check it against the project's schema.

        Rows of the same time keep their order, four microseconds apart. Of a project's log, all answered requests whose
        inputs were kept are taken, with the labels that arrived.

        Raises:
            ProjectError: a column is missing, or a value does not fit the schema; the message names row and column.
        """
        if isinstance(source, World):
            table, time, label, unit = _recorded(source), "received_at", "label", "unit"
        else:
            table = _table(source, project, label)
        _check_columns(table, [time, label, *project.schema.required, *([unit] if unit else [])])
        table = table.with_columns(_times(table, time)).sort("\0at", maintain_order=True)
        at, steps = table["\0at"].to_numpy() // TICK * TICK, np.arange(len(table)) * TICK
        ids = pl.Series("request_id", np.arange(len(table))).cast(pl.String).str.zfill(9)
        units = ids if unit is None else table[unit].cast(pl.String).zip_with(table[unit].is_not_null(), ids)
        frame = pl.DataFrame({
            "request_id": ids, "received_at": np.maximum.accumulate(at - steps) + steps, "unit": units.alias("unit"),
            **{name: _input(_given(table, name), kind, name) for name, kind in project.schema.inputs.items()},
        })  # fmt: skip
        truth = _truth(table[label], project)
        group, is_test = _groups(frame, project)
        return cls(frame, truth, group, is_test, _digest(frame, truth, project))

    def save(self, folder: Path) -> None:
        """Write it, so that other processes can read it."""
        self.frame.write_ipc(folder / "stream.arrow")
        np.savez(folder / "stream.npz", truth=self.truth, group=self.group, is_test=self.is_test)
        (folder / "stream.json").write_text(json.dumps(self.digest))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        frame = pl.read_ipc(folder / "stream.arrow")
        with np.load(folder / "stream.npz") as arrays:
            truth, group, is_test = arrays["truth"], arrays["group"], arrays["is_test"]
        return cls(frame, truth, group, is_test, json.loads((folder / "stream.json").read_text()))


def _recorded(world: World) -> pl.DataFrame:
    """Return the answered requests of a log whose inputs were kept, with the best label that arrived at any time."""
    project = world.project
    names = ["request_id", "received_at", "unit", "decision", *project.inputs]
    ever = datetime(2200, 1, 1, tzinfo=UTC)
    rows = world.log.outcomes(
        project.name, after=None, until=ever, horizon=ever - datetime(1970, 1, 1, tzinfo=UTC), trust=Trust.FUNCTIONS,
        columns=names, schema=project.schema,
    )  # fmt: skip
    rows = rows.filter(pl.all_horizontal(pl.col(name).is_not_null() for name in project.inputs))
    if not len(rows):
        raise ProjectError(f"the log of {project.name!r} holds no request with its inputs.", "give a recorded stream")
    return rows.select("received_at", "unit", *project.inputs, "label")


def _table(source: pl.DataFrame | ArrowTable | Path | str, project: Project, label: str) -> pl.DataFrame:
    if isinstance(source, pl.DataFrame):
        return source
    if isinstance(source, ArrowTable):
        return pl.DataFrame(source)
    return read_table(Path(source), project.schema, label=label)


def _check_columns(table: pl.DataFrame, wanted: list[str]) -> None:
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        raise ProjectError(
            f"the stream has no column {', '.join(map(repr, missing))}; it has {', '.join(table.columns)}.",
            "rename its columns to the project's inputs, or name them with time=, label= and unit=",
        )
    if not len(table):
        raise ProjectError("the stream has no rows.", "give a recorded stream")


def _times(table: pl.DataFrame, time: str) -> pl.Expr:
    """Return the times as microseconds since 1970."""
    kind, column = table.schema[time], pl.col(time)
    if kind == pl.String():
        column = column.str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
    elif kind == pl.Date():
        column = column.cast(pl.Datetime("us"))
    elif not (kind.is_integer() or isinstance(kind, pl.Datetime)):
        raise ProjectError(f"column {time!r} holds {kind}, no times.", "give timestamps, or microseconds since 1970")
    if not kind.is_integer():
        column = column.dt.timestamp("us")
    if table.select(column.is_null().any()).item():
        raise ProjectError(f"column {time!r} lacks a time in some rows.", "leave these rows out")
    return column.cast(pl.Int64).alias("\0at")


def _given(table: pl.DataFrame, name: str) -> pl.Series:
    """Return a column, of nulls where the table lacks it: then the input has a default."""
    return table[name] if name in table.columns else pl.Series(name, [None] * len(table))


def _input(column: pl.Series, kind: Input, name: str) -> pl.Series:
    """Return a column in canonical form; a plain column is checked as a whole, others value by value."""
    quick = _plain(column, kind)
    if quick is not None:
        return quick.alias(name)
    values: list[Any] = []
    for number, value in enumerate(column.to_list()):
        try:
            values.append(canonical(value, kind, name))
        except InvalidInput as error:
            raise ProjectError(f"row {number}: {error.message}", error.hint) from error
    return pl.Series(name, values)


def _plain(column: pl.Series, kind: Input) -> pl.Series | None:
    """Return the column where its type alone makes it canonical, None where each value has to be looked at."""
    if column.null_count() or isinstance(kind, Sensitive):
        return None
    if isinstance(kind, Number) and column.dtype.is_numeric():
        numbers = column.cast(pl.Float64)
        low, high = kind.low if kind.low is not None else -np.inf, kind.high if kind.high is not None else np.inf
        fits = numbers.is_finite().all() and numbers.is_between(low, high).all()
        return numbers + 0.0 if fits else None
    if isinstance(kind, _BINARY) and column.dtype == pl.Binary():
        size = int(np.prod(kind.shape)) * (4 if isinstance(kind, Tensor) else 1)
        whole = bool((column.bin.size() == size).all())
        return column if whole and (isinstance(kind, Image) or _finite(column)) else None
    if isinstance(kind, _TEXTS) and column.dtype == pl.String():
        for value in column.unique() if isinstance(kind, Category) else ():
            canonical(value, kind, column.name)
        return column if isinstance(kind, Category) or (column.str.len_chars() <= kind.max_chars).all() else None
    return None


def _finite(column: pl.Series) -> bool:
    return bool(np.isfinite(np.frombuffer(b"".join(column.to_list()), dtype="<f4")).all())


def _truth(column: pl.Series, project: Project) -> Array:
    known: dict[Any, Any] = {}
    for value in column.unique().to_list():
        try:
            known[value] = None if value is None else parse_label(value, project.schema)
        except InvalidInput as error:
            raise ProjectError(f"column {column.name!r}: {error.message}", error.hint) from error
    return Values(project.output).codes([known[value] for value in column.to_list()])


def _groups(frame: pl.DataFrame, project: Project) -> tuple[Array, Array]:
    """Return the number of each row's duplicate group, and whether a group that begins with it is for tests.

    Rows join the groups of earlier rows only, as in a reservoir into which all of them are put in order of time.
    """
    sameness = Sameness.of(project.schema, near_duplicates=project.near_duplicates)
    ids, names = frame["request_id"].to_list(), sorted(project.inputs)
    rows = (dict(zip(names, values, strict=True)) for values in frame.select(names).iter_rows())
    if sameness.near:
        database = MemoryDatabase()
        with database.begin() as conn:
            groups = Groups(conn, "", sameness).assign(dict(zip(ids, rows, strict=True)), keep=False)
        database.close()
        keys = [groups[id_].duplicates for id_ in ids]
    else:
        keys = [sameness.content(row) for row in rows]
    numbers: dict[str, int] = {}
    group = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    is_test = [
        split_of(_bare(id_, unit), key) == "test" for id_, unit, key in zip(ids, frame["unit"], keys, strict=True)
    ]
    return group, np.array(is_test, dtype=bool)


def _bare(id_: str, unit: str) -> Example:
    never = datetime(1970, 1, 1, tzinfo=UTC)
    return Example(
        id=id_, request_id=id_, unit=unit, received_at=never, picked_at=never, reason="", probability=None, split="",
        inputs={},
    )  # fmt: skip


def _digest(frame: pl.DataFrame, truth: Array, project: Project) -> str:
    """Return the hash of everything that a strategy could be shown."""
    buffer = io.BytesIO()
    frame.write_ipc(buffer)
    whole = hashlib.sha256(buffer.getbuffer())
    whole.update(np.nan_to_num(truth, nan=-(2.0**60)).tobytes())
    whole.update(json.dumps(project.schema.to_json(), sort_keys=True).encode())
    return whole.hexdigest()[:32]


def first_at(value: float | datetime | str, received_at: Array) -> int:
    """Return the first microsecond that is not history: of a fraction of the rows, or a timestamp.

    Raises:
        ProjectError: it leaves no rows before or after it.
    """
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        at = micros(value if value.tzinfo else value.replace(tzinfo=UTC))
    else:
        at = int(received_at[min(int(value * len(received_at)), len(received_at) - 1)]) if 0 < value < 1 else -1
    if not received_at[0] < at <= received_at[-1]:
        raise ProjectError(
            f"start is {value}, which leaves no rows before it or none from it on.",
            "give a fraction such as 0.2, or a time inside the stream",
        )
    return -(-at // TICK) * TICK
