"""The database of the catalog and the journal: SQLite in a file, or PostgreSQL where machines share it.

One write transaction at a time on SQLite (`BEGIN IMMEDIATE`, so that what it has read cannot change under it), and a
commit is on disk when `begin` returns (WAL, `synchronous=FULL`). A read sees one snapshot on both databases, and cannot
write. Open a database after `fork`, never before: SQLite connections do not survive it.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from sqlalchemy import Connection, Engine, func, inspect, select, text
from sqlalchemy.exc import DatabaseError, DataError, DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tidemill.errors import NewerStore, StoreError
from tidemill.records import Json
from tidemill.stores.engines import BUSY_TIMEOUT_S, empty_log, engines, rewrite, shown

MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x71DE_0001  # of PostgreSQL's advisory locks
_OF_THE_STORE = (OperationalError, InterfaceError, InternalError, DataError)
_STUCK = "another process has been writing for a long time; look for one that is stopped or stuck"
_REMEDIES = {
    "database is locked": _STUCK,
    "lock timeout": _STUCK,
    "idle-in-transaction": "nothing was written: this process was stopped in the middle of a transaction; do it again",
    "deadlock": "nothing was written, because another process was about to write the same; do it again",
    "readonly": "write inside `begin`, on a file that this user may write to",
    "read-only": "write inside `begin`, on a server that takes writes",
    "too long": "give a shorter value",
    "permission denied": "give this user the right to it, or choose another user or database",
    "password authentication": "give the password in PGPASSWORD, ~/.pgpass or the URL",
    "does not exist": "make it first, or correct the URL",
}


class Database:
    """Gives transactions on one database; threads may share it. Make it with `open`."""

    def __init__(self, reader: Engine, writer: Engine) -> None:
        self._reader, self._writer = reader, writer
        self.name = shown(writer.url)
        weakref.finalize(self, _dispose, reader, writer)  # at the latest when nobody has it any more

    @classmethod
    def open(cls, url: str, *, migrate: bool = True) -> Self:
        """Open a database, bringing its tables to this program's revision first.

        `url` is `sqlite:////absolute/path.db` or `postgresql://user@host/database`. An existing SQLite database of an
        older revision is copied beside itself before it is changed. Processes may open the same database at the same
        time.

        Raises:
            NewerStore: a newer program has upgraded it.
            StoreError: it cannot be opened or upgraded, or `migrate` is false and it would have to be.
            MissingExtra: it is in PostgreSQL, and the extra `postgres` is not installed.
        """
        database = cls(*engines(url, create=migrate))
        try:
            database._settle(migrate=migrate)
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Give a connection in a write transaction: committed when the block ends, undone when it raises.

        Raises:
            StoreError: the database stays locked, is full, or cannot be reached; or a value does not fit its column.
        """
        with self._explained(), self._writer.begin() as conn:
            yield conn

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection that sees the state of one moment and refuses to write.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._explained(), self._reader.connect() as conn:
            yield conn

    @property
    def can_notify(self) -> bool:
        """Whether this database can tell processes of a change: see `listening`."""
        return self._writer.dialect.name == "postgresql"

    @contextmanager
    def listening(self, channel: str) -> Iterator[Callable[[float], bool]]:
        """Give a function that waits for at most so many seconds and returns whether `channel` was notified.

        It has a connection of its own for as long as the block lasts. Only where `can_notify`.

        Raises:
            StoreError: the database cannot be reached, or no longer.
        """
        from tidemill.stores import postgresql  # noqa: PLC0415  psycopg is an extra

        with self._explained(), postgresql.listening(self._writer, channel) as heard:
            yield heard

    def rewrite(self) -> bool:
        """Write SQLite's file anew, without what was deleted; what PostgreSQL keeps is its own affair.

        Returns whether it is done: not while others write. Then `empty_log` is to follow.

        Raises:
            StoreError: the database cannot be written, or its disk has no room for a second copy.
        """
        return self._writer.dialect.name != "sqlite" or rewrite(self._writer.url)

    def empty_log(self) -> bool:
        """Empty SQLite's write-ahead log, and delete the copies made before upgrades.

        Returns whether it is done: not while somebody still reads an older state.

        Raises:
            StoreError: the database cannot be written.
        """
        return self._writer.dialect.name != "sqlite" or empty_log(self._writer.url)

    def close(self) -> None:
        """Close the connections."""
        _dispose(self._reader, self._writer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _settle(self, *, migrate: bool) -> None:
        with self.read() as conn:
            current = _revision(conn)
        if current == head():
            return
        self._check_known(current)
        if not migrate:
            raise StoreError(
                f"the database {self.name} is at revision {current or 'none'}, and this program needs {head()}.",
                "start `tidemill up` or `tidemill loop` once, which upgrades it",
            )
        with self.begin() as conn:
            if conn.dialect.name == "postgresql":
                _prepare_postgresql(conn, self.name)
            current = _revision(conn)  # another process may have been first
            if current != head():
                self._check_known(current)
                from tidemill.stores.upgrade import upgrade  # noqa: PLC0415  Alembic is slow to import, and seldom needed

                upgrade(conn, self._writer.url, MIGRATIONS, current=current, wanted=head())

    def _check_known(self, revision: str | None) -> None:
        if revision is not None and revision not in revisions():
            raise NewerStore(
                f"the database {self.name} is at revision {revision!r}, which this program does not know; it knows up"
                f" to {head()!r}.",
                "upgrade tidemill to the version that upgraded the database, or go back to the copy made before that",
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except PoolTimeout as error:
            raise StoreError(
                f"no connection to the database {self.name} was free within {BUSY_TIMEOUT_S} s.",
                "look for a transaction of this process that does not end",
            ) from error
        except DBAPIError as error:
            if isinstance(error, _OF_THE_STORE) or _is_forbidden(error):
                raise StoreError(f"the database {self.name} failed: {_told(error)}.", _remedy(error)) from error
            if type(error) is not DatabaseError:
                raise  # a constraint or a programming error: the caller's to judge
            raise StoreError(
                f"the database {self.name} cannot be read: {_told(error)}.", "restore the file from a backup"
            ) from error


def _dispose(reader: Engine, writer: Engine) -> None:
    """Close the connections, the writer's last, so that it folds the write-ahead log into the file."""
    reader.dispose()
    writer.dispose()


def revisions() -> list[str]:
    """Return the revisions this program knows, oldest first: the leading digits of its migrations' file names."""
    return sorted(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def head() -> str:
    """Return the revision this program works with."""
    return revisions()[-1]


def _revision(conn: Connection) -> str | None:
    if not inspect(conn).has_table("alembic_version"):
        return None
    revision: str | None = conn.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def _prepare_postgresql(conn: Connection, name: str) -> None:
    """Let one process at a time upgrade, for as long as that takes."""
    encoding = conn.execute(text("SHOW server_encoding")).scalar()
    if encoding != "UTF8":
        raise StoreError(
            f"the database {name} stores text as {encoding}.", "make another one: CREATE DATABASE ... ENCODING 'UTF8'"
        )
    conn.execute(text("SET LOCAL statement_timeout = 0"))
    conn.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))


def _is_forbidden(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) == "42501"  # which is said of a programming error too


def _told(error: DBAPIError) -> str:
    """Return what went wrong, without the driver's guesses after it."""
    return (str(error.orig).splitlines() or [type(error.orig).__name__])[0].removeprefix("FATAL:").strip().rstrip(".")


def _remedy(error: DBAPIError) -> str:
    problem = _told(error)
    for words, remedy in _REMEDIES.items():
        if words in problem:
            return remedy
    if error.connection_invalidated:
        return "what was not committed is undone: do it again, once the server answers"
    return "check that it is there and reachable, that this user may write to it, and that its disk has room"


def dumps(value: Json) -> str:
    """Return canonical JSON: equal values give equal text.

    Raises:
        StoreError: JSON has no form for a part of it, such as NaN or a NumPy number; the message says where.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        text.encode()  # half of a surrogate pair has no UTF-8
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"{_misfit(value, 'the value')}, which JSON cannot hold.", "store a plain number, text or None"
        ) from error
    return text


def loads(text: str) -> Json:
    """Read what `dumps` wrote."""
    return json.loads(text)


def _misfit(value: Json, where: str) -> str:
    """Say which part of `value` has no JSON form."""
    parts: list[tuple[str, Json]] = []
    if isinstance(value, dict):
        parts = [(f"{where}[{key!r}]", part) for key, part in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(f"{where}[{at}]", part) for at, part in enumerate(value)]
    for place, part in parts:
        try:
            dumps(part)
        except StoreError:
            return _misfit(part, place)
    return f"{where} is {value!r}"
