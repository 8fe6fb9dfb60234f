"""DuckDB for what people write: it reaches no file, network, environment, extension or variable of this program."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import duckdb

_SETTINGS = {
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "python_enable_replacements": "false",
    "max_expression_depth": "100",
    "threads": "2",
    "temp_directory": "",  # what does not fit into memory fails: nothing of a log is written elsewhere
}

Node = dict[str, Any]
"""A part of a parsed statement, as DuckDB's own parser gives it."""

_own = threading.local()


def unlocked(**settings: str) -> duckdb.DuckDBPyConnection:
    """Return a new database in memory that can still be given files to read; `lock` it before it is asked anything."""
    return duckdb.connect(":memory:", config={**_SETTINGS, **settings})


def lock(connection: duckdb.DuckDBPyConnection) -> None:
    """Shut a connection in, for good."""
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def locked() -> duckdb.DuckDBPyConnection:
    """Return this thread's connection to an empty database: to open one takes longer than most questions do."""
    process, connection = getattr(_own, "connection", (0, None))
    if process != os.getpid() or connection is None:  # a database does not survive a fork
        connection = unlocked()
        lock(connection)
        _own.connection = (os.getpid(), connection)
    return connection


def parse(connection: duckdb.DuckDBPyConnection, sql: str) -> Node:
    """Return the statements of a text as DuckDB understands them: `error` is true where they are no SELECTs.

    Raises:
        duckdb.Error, RecursionError, UnicodeError: the text is too long, too deep or no text.
    """
    answer = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()
    tree: Node = json.loads(answer[0][0])
    return tree


def children(part: Any, mark: str = "class") -> Iterator[Node]:
    """Yield the nearest nodes below, wherever they hang: a part this program has never heard of is checked too.

    A node is what has `mark`: expressions have a `class`, tables only a `type`.
    """
    for value in part.values() if isinstance(part, dict) else part:
        if isinstance(value, dict) and mark in value:
            yield value
        elif isinstance(value, dict | list):
            yield from children(value, mark)


def first_line(error: BaseException) -> str:
    """Return what an error of DuckDB says, without the drawing below."""
    return str(error).split("\n", 1)[0].strip().rstrip(".")
