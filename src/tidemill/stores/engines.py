"""The SQLAlchemy engines behind a database: one that reads, one that writes."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from tidemill.errors import MissingExtra, StoreError

BUSY_TIMEOUT_S = 30
_WIPE_TIMEOUT_S = 5


def engines(url: str, *, create: bool) -> tuple[Engine, Engine]:
    """Return the reader and the writer of a database; no connection is made yet.

    Raises:
        StoreError: the URL is wrong, or the file is not there and cannot be made.
        MissingExtra: it is of PostgreSQL, and psycopg is not installed.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the latter of a port that is no number
        raise _no_url(url) from None
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        return _sqlite(parsed, create=create)
    if parsed.drivername in ("postgresql+psycopg", "postgresql", "postgres"):
        return _postgresql(parsed)
    raise _no_url(url)


def shown(url: URL) -> str:
    """Return the URL as it may be told to anybody: without a password."""
    return url.difference_update_query(["password"]).render_as_string()


def without_password(url: str) -> tuple[str, str | None]:
    """Return a database URL that may be written to a file, and the password that was in it.

    Raises:
        StoreError: it is no URL.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise _no_url(url) from None
    password = next(iter(parsed.normalized_query.get("password", ())), parsed.password)
    bare = parsed.difference_update_query(["password"])._replace(password=None)
    return bare.render_as_string(), None if password is None else str(password)


def _no_url(url: str) -> StoreError:
    hidden = re.sub("//.*@", "//...@", url.partition("?")[0])  # no password in a message
    return StoreError(f"{hidden!r} is not a database URL.", "give sqlite:////path or postgresql://user@host/database")


def _postgresql(url: URL) -> tuple[Engine, Engine]:
    try:
        from tidemill.stores import postgresql  # noqa: PLC0415  psycopg is an extra
    except ImportError as error:  # of psycopg itself, or of the libpq that it needs
        raise MissingExtra("a catalog in PostgreSQL", "postgres") from error
    return postgresql.engines(url, pool_timeout_s=BUSY_TIMEOUT_S)


def _sqlite(url: URL, *, create: bool) -> tuple[Engine, Engine]:
    _check_file(url.database, create=create)
    # Writers of one process queue for one connection: fairer and quicker than SQLite's own polling for the lock.
    writer = create_engine(url, poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=BUSY_TIMEOUT_S)
    reader = create_engine(url, poolclass=QueuePool, pool_size=4, max_overflow=28, pool_timeout=BUSY_TIMEOUT_S)
    for engine, begin in ((writer, "BEGIN IMMEDIATE"), (reader, "BEGIN")):
        event.listen(engine, "connect", _set_up)
        event.listen(engine, "begin", _beginning(begin))
    event.listen(writer, "connect", _use_wal)
    event.listen(reader, "connect", _refuse_writes)
    return reader, writer


def rewrite(url: URL) -> bool:
    """Write an SQLite file anew, without what was deleted; return whether it could be done: not while others write."""
    # Deleted rows lie in free pages, and in the slack of others.
    return _file_of(url) is None or _answer(url, "VACUUM") is not None


def empty_log(url: URL) -> bool:
    """Empty the write-ahead log of an SQLite file and delete its older copies.

    Returns whether it could be done: not while somebody reads an older state.
    """
    path = _file_of(url)
    if path is None:
        return True
    told = _answer(url, "PRAGMA wal_checkpoint(TRUNCATE)")
    if told is None or told[0][0]:
        return False
    for copy in path.parent.glob(f"{path.name}.*.backup*"):
        copy.unlink(missing_ok=True)
    return True


def _file_of(url: URL) -> Path | None:
    return Path(url.database) if url.database and url.database != ":memory:" else None


def _answer(url: URL, statement: str) -> list[Any] | None:
    """Return what an SQLite file answers, None where it is busy."""
    try:
        # Not of the pool: those who renew leases need its one writer meanwhile.
        with closing(sqlite3.connect(url.database or "", isolation_level=None, timeout=_WIPE_TIMEOUT_S)) as connection:
            return connection.execute(statement).fetchall()
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            return None
        raise StoreError(
            f"{url.database!r} cannot be written anew: {error}.", "make room for a second copy of it"
        ) from error


def _check_file(path: str | None, *, create: bool) -> None:
    if not path or path == ":memory:":
        raise StoreError("an SQLite database in memory cannot be shared by processes.", "give the path of a file")
    try:
        if create:
            Path(path).touch(mode=0o600, exist_ok=True)  # for this user only: it holds the projects' secrets
        elif not Path(path).is_file():
            raise StoreError(f"there is no database {path!r}.", "start `tidemill up` once, or correct the home folder")
    except OSError as error:
        done, hint = ("written", "make it and its folder") if Path(path).exists() else ("made", "make its folder,")
        raise StoreError(
            f"the database {path!r} cannot be {done}: {error.strerror}.", f"{hint} writable by this user"
        ) from error


def _beginning(statement: str) -> Callable[[Connection], None]:
    def begin(conn: Connection) -> None:
        conn.exec_driver_sql(statement)

    return begin


def _set_up(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
    connection.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _refuse_writes(connection: Any, _: object) -> None:
    connection.execute("PRAGMA query_only = ON")


def _use_wal(connection: Any, _: object) -> None:
    """Switch the file to write-ahead logging, which it then keeps.

    SQLite does not wait for the lock here: of 480 connections that made 60 new files together, 7 were refused.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while (mode := _wal_mode(connection)) is None:
        if time.monotonic() > deadline:
            raise StoreError("the database stayed locked while it was made.", "look for a process that is stuck")
        time.sleep(0.01)
    if mode != "wal":
        raise StoreError(
            f"the file system of the database does not support write-ahead logging (mode {mode!r}).",
            "put the home folder on a local disk, or use PostgreSQL",
        )


def _wal_mode(connection: Any) -> str | None:
    """Return the journal mode after asking for WAL, None when the file was locked."""
    try:
        return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
    except connection.OperationalError as error:
        if "locked" not in str(error):
            raise
        return None
