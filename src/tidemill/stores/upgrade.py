"""Brings a database to this program's revision, by Alembic. Imported only when there is something to do."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection

from tidemill.errors import StoreError
from tidemill.stores.engines import shown


def upgrade(conn: Connection, url: URL, migrations: Path, *, current: str | None, wanted: str) -> None:
    """Run the migrations after `current` (None: all) in the transaction that `conn` is in.

    The caller holds the write lock, so that no other process upgrades the same database. An SQLite file with contents
    is first copied to `<file>.<current>.backup`.

    Raises:
        StoreError: a migration raised; the transaction will be undone, so the database stays as it was.
    """
    copy: Path | None = None
    try:
        if current is not None and url.get_backend_name() == "sqlite" and url.database:
            copy = backup(Path(url.database), current)
        command.upgrade(_config(conn, migrations), wanted)
    except Exception as error:
        kept = f" A copy is at {str(copy)!r}." if copy else ""
        raise StoreError(
            f"the upgrade of {shown(url)} from revision {current or 'none'} to {wanted} failed: {_first_line(error)}."
            f" Nothing was changed.{kept}",
            "go on with the program version used before, and report this"
            if current
            else "check that this user may create tables there",
        ) from error


def backup(path: Path, revision: str) -> Path:
    """Copy an SQLite database, as last committed, beside itself; an earlier copy of that revision is replaced.

    A second connection reads the old state while the upgrading one holds the write lock: nothing comes in between.
    """
    target = path.with_name(f"{path.name}.{revision}.backup")
    unfinished = target.with_name(target.name + ".tmp")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)  # as private as the database; VACUUM INTO accepts an empty file
    with closing(sqlite3.connect(path, isolation_level=None)) as source:
        source.execute("VACUUM INTO ?", (str(unfinished),))
    _sync(unfinished)
    unfinished.replace(target)
    _sync(target.parent)
    return target


def _first_line(error: Exception) -> str:
    said = str(error).splitlines()
    return said[0].rstrip(".") if said else type(error).__name__


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _config(conn: Connection, migrations: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = conn
    return config
