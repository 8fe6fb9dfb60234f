"""The databases that the suites of the stores run on: another one is a parameter of `database_url`, no more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database
from tidemill.stores.journal import Journal

SOURCE = Path(__file__).parents[2] / "src"


# What runs on PostgreSQL too: of the modules that are about its tables every test, of those that stand on them the
# ones that neither try many examples nor kill processes; the rest would only say the same again, in another minute.
WHOLE = {"test_belonging", "test_catalog", "test_database", "test_journal", "test_leases", "test_rows", "test_upgrade"}
IN_PART = {"test_datasets", "test_labellings", "test_log", "test_log_outcomes", "test_reservoir", "test_struck"}
DEAR = {"start_child", "monkeypatch"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses a database on SQLite, and on PostgreSQL."""
    is_given = any(mark.args[0] == "database_url" for mark in metafunc.definition.iter_markers("parametrize"))
    if "database_url" not in metafunc.fixturenames or is_given:
        return
    is_dear = hasattr(metafunc.function, "hypothesis") or DEAR & set(metafunc.fixturenames)
    module = metafunc.module.__name__
    on_both = module in WHOLE or (module in IN_PART and not is_dear)
    metafunc.parametrize("database_url", ["sqlite", "postgresql"] if on_both else ["sqlite"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database; other processes of the test may open it too."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tidemill.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database with this program's tables."""
    with Database.open(database_url) as opened:
        yield opened


@pytest.fixture
def journal(database: Database, noon: datetime) -> Journal:
    """A journal with the project `shop` published."""
    with database.begin() as conn:
        Catalog(database).publish(conn, {"project": "shop"}, {}, file="/p.py", now=noon)
    return Journal(database)


@pytest.fixture
def noon() -> datetime:
    """A time to start from."""
    return datetime(2026, 3, 1, 12, tzinfo=UTC)


class Child:
    """A Python process of the test that answers lines with lines."""

    def __init__(self, code: str, *args: str, source: Path = SOURCE) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "PYTHONPATH": str(source)},
        )

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        """End the process and reap it, in whatever state it is."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start_child() -> Iterator[Callable[..., Child]]:
    """Start real processes, which end with the test."""
    children: list[Child] = []

    def start(code: str, *args: str, source: Path = SOURCE) -> Child:
        children.append(Child(code, *args, source=source))
        return children[-1]

    yield start
    for child in children:
        child.end()
