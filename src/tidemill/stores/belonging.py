"""Keeps a home folder and a database elsewhere together, so that neither is ever used with another.

The log's files are named in the database: with another one they would pass for leftovers, and be deleted.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from sqlalchemy import select

from tidemill.errors import StoreError
from tidemill.stores.database import Database
from tidemill.stores.folders import whole_file
from tidemill.stores.home import Home
from tidemill.stores.rows import insert_once
from tidemill.stores.tables import states

_KEY = {"project": "", "name": "home"}  # of no project


def open_database(home: Home, url: str | None = None, *, migrate: bool = True) -> Database:
    """Open the catalog of a home: the SQLite file in it, or the database at `url` if there is one.

    A database elsewhere and an empty home are bound to each other when they are first opened together.

    Raises:
        StoreError: the database belongs to another home, the home to another database, or see `Database.open`.
    """
    if url is None or url == home.db_url:
        if _mark(home).exists():
            raise StoreError(
                f"the catalog of {str(home.folder)!r} is in a database elsewhere.",
                "name it with --database or TIDEMILL_DATABASE",
            )
        return Database.open(home.db_url, migrate=migrate)
    database = Database.open(url, migrate=migrate)
    try:
        _check(home, database)
    except BaseException:
        database.close()
        raise
    return database


def _check(home: Home, database: Database) -> None:
    bound = _bound(database) or _bind(home, database)
    if not _mark(home).exists() or _mark(home).read_text().strip() != bound:
        raise StoreError(
            f"the database {database.name} belongs to another home folder than {str(home.folder)!r}.",
            "give the folder that it was first used with, which all machines must share, or an empty database",
        )


def _bound(database: Database) -> str | None:
    with database.read() as conn:
        wanted = (states.c.project == _KEY["project"], states.c.name == _KEY["name"])
        return conn.execute(select(states.c.body).where(*wanted)).scalar()


def _bind(home: Home, database: Database) -> str | None:
    """Bind an empty home and a database that has none; return what it is bound by, whoever was first."""
    new = uuid.uuid4().hex
    with database.begin() as conn:
        if insert_once(conn, states, _KEY, {"body": new, "updated_at": 0}):
            if home.is_used:
                raise StoreError(
                    f"the folder {str(home.folder)!r} is in use with another database than {database.name}.",
                    "give that one, or an empty folder with --home",
                )
            with whole_file(_mark(home)) as file:  # before the commit: who sees the row finds the file
                file.write(new.encode())
    return _bound(database)


def _mark(home: Home) -> Path:
    return home.folder / "database-id"
