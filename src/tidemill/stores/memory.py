"""A database in the memory of this process, for one thread: what a backtest keeps its catalog and journal in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, StaticPool, create_engine

from tidemill.stores.database import Database
from tidemill.stores.tables import metadata


class MemoryDatabase(Database):
    """Has the tables of this program's revision, in SQLite. It is gone with the object.

    There is one connection: a read within a write sees what was written so far.
    """

    def __init__(self) -> None:
        engine = create_engine("sqlite://", poolclass=StaticPool)
        super().__init__(engine, engine)
        self._conn = engine.connect()
        metadata.create_all(self._conn)
        self._conn.commit()

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Give the connection in a transaction: committed when the block ends, undone when it raises."""
        with self._explained():
            try:
                yield self._conn
            except BaseException:
                self._conn.rollback()
                raise
            self._conn.commit()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give the connection."""
        with self._explained():
            yield self._conn

    def close(self) -> None:
        """Let go of everything in it."""
        self._conn.close()
        super().close()
