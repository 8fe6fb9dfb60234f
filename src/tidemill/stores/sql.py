"""What people ask of one project's log in SQL: four tables, read where they lie, and nothing else.

| table | rows |
|---|---|
| `predictions` | one for each answer and each shadow, with inputs and tags by their names |
| `feedback` | whatever was learnt later |
| `outcomes` | answers, with the label that counts and the events that came within the horizon |
| `examples` | the reservoir, without inputs |

Times are timestamps in UTC. DuckDB reads the Parquet files itself, and of them the columns and row groups that a query
needs; no other file is in its reach. A projection of the project is a column where a query names it. Rows are as they
were written: unlike in frames of the `Log`, what somebody restored from a backup beside the log counts twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import duckdb
import polars as pl

from tidemill.errors import Corrupt, ProjectError, StoreError
from tidemill.projections import Projection
from tidemill.records import CONFIRM, JUDGEMENTS, LABEL_KINDS, Trust
from tidemill.schema import Schema
from tidemill.stores.columns import own_types
from tidemill.stores.declared import declared_types
from tidemill.stores.fence import first_line, lock, unlocked
from tidemill.stores.logfiles import LogFile, LogFiles
from tidemill.stores.projected import add_projection
from tidemill.stores.reading import quoted, reading, sql_type, text
from tidemill.stores.statement import Statement, read_statement

TABLES = ("predictions", "feedback", "outcomes", "examples")
_TRIES = 5


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a query gave: the names and types of its columns, its rows, and whether there are more than asked for."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    more: bool


@dataclass(frozen=True, kw_only=True)
class Sql:
    """Answers queries about one project.

    Args:
        files: the log's files.
        project: whose rows.
        schema: gives inputs, decision and label their types.
        horizon: how long after a request feedback counts in `outcomes`.
        events: kinds of feedback that are columns of `outcomes`.
        projections: functions of an example that are columns where a query names them.
        examples: gives the frame behind `examples`, times in microseconds.
    """

    files: LogFiles
    project: str
    schema: Schema
    horizon: timedelta
    events: Sequence[str] = ()
    projections: Mapping[str, Projection] = field(default_factory=dict)
    examples: Callable[[], pl.DataFrame] = pl.DataFrame

    def ask(self, query: str, *, limit: int = 1000, timeout_s: float = 60.0, memory: str = "1GB") -> Rows:
        """Run one SELECT and return its first `limit` rows.

        Raises:
            StoreError: it is no plain SELECT over the tables, it fails, or it takes too long or too much memory.
            ProjectError: two inputs or a projection cannot be columns of SQL.
        """
        if len({name.lower() for name in self.schema.inputs}) < len(self.schema.inputs):
            raise ProjectError("two inputs differ only in case, which SQL cannot tell apart.", "rename one of them")
        statement = read_statement(query, TABLES)
        for _ in range(_TRIES):
            files = self.files.find(self.project)
            try:
                return self._answer(statement, files, limit=limit, timeout_s=timeout_s, memory=memory)
            except (duckdb.IOException, FileNotFoundError) as error:  # merged into another file since: look again
                problem = first_line(error)
        raise Corrupt(f"the log names a file that cannot be read: {problem}.", "restore it from a backup")

    def _answer(
        self, statement: Statement, files: Sequence[LogFile], *, limit: int, timeout_s: float, memory: str
    ) -> Rows:
        with _connected(memory) as connection:
            try:
                with _limited(connection, timeout_s):
                    self._define(connection, statement, files)
                    lock(connection)
                    return _first(connection.execute(statement.sql), limit)
            except duckdb.IOException:
                raise
            except duckdb.InterruptException as error:
                problem = f"the query took longer than {timeout_s:g} s."
                raise StoreError(problem, "ask for less, or give it more time") from error
            except duckdb.OutOfMemoryException as error:
                problem = f"the query needs more than {memory} of memory."
                raise StoreError(problem, "ask for less, or give it more memory") from error
            except duckdb.Error as error:
                hint = f"`DESCRIBE {TABLES[0]}` tells the columns of a table"
                raise StoreError(f"the query fails: {first_line(error)}.", hint) from error

    # ---- tables

    def _define(self, connection: duckdb.DuckDBPyConnection, statement: Statement, files: Sequence[LogFile]) -> None:
        """Define the tables that the query reads."""
        paths = ", ".join(text(self.files.folder / file.path) for file in files)
        connection.execute(f"SET TimeZone = 'UTC'; SET allowed_paths = [{paths}]")
        asked = statement.tables
        if asked & {"predictions", "outcomes"}:
            self._predictions(connection, statement, files)
        if asked & {"feedback", "outcomes"}:
            _view(connection, "feedback", self._feedback(files))
        if "outcomes" in asked:
            _view(connection, "outcomes", self._outcomes())
        if "examples" in asked:
            connection.register("all_examples", self.examples().to_arrow())
            times = [f"make_timestamp({name}) AS {name}" for name in ("received_at", "picked_at", "labelled_at")]
            _view(connection, "examples", f"SELECT * REPLACE ({', '.join(times)}) FROM all_examples")

    def _predictions(
        self, connection: duckdb.DuckDBPyConnection, statement: Statement, files: Sequence[LogFile]
    ) -> None:
        first = {**own_types("predictions"), **declared_types(self.schema)}
        _view(connection, "logged", self._reading("predictions", files, first))
        named = {name: call for name, call in self.projections.items() if name.lower() in statement.columns}
        more = [add_projection(connection, self.schema, name, call, table="logged") for name, call in named.items()]
        _view(connection, "predictions", f"SELECT {', '.join(['*', *more])} FROM logged")

    def _feedback(self, files: Sequence[LogFile]) -> str:
        rows = self._reading("feedback", files, own_types("feedback"))
        value = 'coalesce("text", CAST("number" AS VARCHAR)) AS "value"'
        return f'SELECT DISTINCT request_id, received_at, kind, {value}, "number", source, trust FROM ({rows})'

    def _reading(self, kind: str, files: Sequence[LogFile], first: Mapping[str, pl.DataType]) -> str:
        rows = reading([self.files.folder / file.path for file in files if file.kind == kind], first=first)
        return f"SELECT * REPLACE (make_timestamp(received_at) AS received_at) FROM ({rows})"

    def _outcomes(self) -> str:
        """Return the join of answers with feedback: as in `hindsight`, whatever order it came in."""
        kind = sql_type(declared_types(self.schema).get("decision", pl.String()))
        kinds = ", ".join(map(text, LABEL_KINDS))
        decided = "decision" if kind == "DOUBLE" else "NULL"
        ranks = " ".join(f"WHEN {text(trust)} THEN {trust.rank}" for trust in Trust)
        value = "CASE WHEN f.amount IS NULL THEN f.label ELSE '' END, coalesce(f.amount, '-infinity')"
        order = f"CASE f.trust {ranks} END, f.received_at, f.source, {value}"
        label = f'arg_max(struct_pack(label := f.label, trust := f.trust, "at" := f.received_at), row({order}))'
        newest = "row(f.received_at, coalesce(f.number, '-infinity'), coalesce(f.value, ''))"
        events = "".join(
            f", arg_max({_event_value(name)}, {newest}) FILTER (f.kind = {text(name)}) AS {quoted(f'event_{name}')}"
            for name in self.events
        )
        shown = "".join(f", {_silence(name)}" for name in self.events)
        within = f"to_microseconds({self.horizon // timedelta(microseconds=1)})"
        return f"""
            WITH answers AS (SELECT * FROM predictions WHERE role = 'answer'),
            known AS (
                SELECT f.request_id, {label} FILTER (f.kind IN ({kinds}) AND f.label IS NOT NULL) AS best {events}
                FROM (SELECT *, CASE WHEN kind = {text(CONFIRM)} THEN CAST(decision AS VARCHAR) ELSE value END AS label,
                          CASE WHEN kind = {text(CONFIRM)} THEN {decided} ELSE number END AS amount
                      FROM feedback JOIN (SELECT request_id, received_at AS asked_at, decision FROM answers)
                      USING (request_id)) f
                WHERE f.received_at BETWEEN f.asked_at AND f.asked_at + {within}
                GROUP BY f.request_id)
            SELECT answers.*, TRY_CAST(best.label AS {kind}) AS label, best.trust AS label_trust,
                best."at" AS label_at {shown}
            FROM answers LEFT JOIN known USING (request_id)"""


def _connected(memory: str) -> duckdb.DuckDBPyConnection:
    try:
        return unlocked(memory_limit=memory)
    except duckdb.Error as error:
        raise StoreError(
            f"memory is {memory!r}: {first_line(error)}.", "give an amount such as 500MB or 2GB"
        ) from error


def _event_value(event: str) -> str:
    """Return the value of an event: its number, or that it was said at all."""
    return "1.0" if event in LABEL_KINDS else "coalesce(f.number, 1.0)"


def _silence(event: str) -> str:
    """Return the column of an event: nobody's silence is a rating of 0, but an act that did not come is."""
    column = quoted(f"event_{event}")
    return column if event in JUDGEMENTS else f"coalesce({column}, 0.0) AS {column}"


def _view(connection: duckdb.DuckDBPyConnection, name: str, sql: str) -> None:
    connection.execute(f"CREATE VIEW {name} AS {sql}")


def _first(result: duckdb.DuckDBPyConnection, limit: int) -> Rows:
    rows = result.fetchmany(limit + 1)
    described = result.description or []
    return Rows(
        columns=tuple(column[0] for column in described),
        types=tuple(str(column[1]) for column in described),
        rows=rows[:limit],
        more=len(rows) > limit,
    )


@contextmanager
def _limited(connection: duckdb.DuckDBPyConnection, timeout_s: float) -> Iterator[None]:
    """Interrupt what runs on a connection when the time is up."""
    timer = threading.Timer(timeout_s, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
