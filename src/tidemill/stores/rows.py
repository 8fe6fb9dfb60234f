"""Writing rows in ways that both databases understand: no dialect's upsert."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Column, Connection, Table, func, insert, literal, select, update
from sqlalchemy.exc import IntegrityError

_MAX_NAMES = 500  # in one SQL statement
_T = TypeVar("_T")


def insert_once(conn: Connection, table: Table, key: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Insert the row unless `key` is taken; return whether it was inserted.

    Two transactions that insert the same key agree on one winner: the loser waits for it, and gets False.

    Raises:
        IntegrityError: another constraint than the key refuses the row.
    """
    if _is_there(conn, table, key):
        return False
    try:
        with conn.begin_nested():  # a savepoint: a refused insert must not undo the transaction
            conn.execute(insert(table).values(**key, **values))
    except IntegrityError:
        if not _is_there(conn, table, key):
            raise
        return False
    return True


def put(conn: Connection, table: Table, key: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Insert the row, or give the row of that key these values."""
    if not insert_once(conn, table, key, values):
        conn.execute(update(table).where(*_match(table, key)).values(**values))


def next_number(conn: Connection, column: Column[Any], project: str) -> int:
    """Return one more than the greatest number in `column`, 1 for the first. Lock the project before."""
    greatest = conn.execute(select(func.max(column)).where(column.table.c.project == project)).scalar()
    return int(greatest or 0) + 1


def parts(values: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Part values into as many as one statement may name."""
    return (values[at : at + _MAX_NAMES] for at in range(0, len(values), _MAX_NAMES))


def _is_there(conn: Connection, table: Table, key: Mapping[str, Any]) -> bool:
    found = conn.execute(select(literal(1)).select_from(table).where(*_match(table, key))).first()
    return found is not None


def _match(table: Table, key: Mapping[str, Any]) -> list[Any]:
    return [table.c[name] == value for name, value in key.items()]
