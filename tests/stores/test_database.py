"""The database keeps what was committed, shows one moment to a reader, and follows the program's revisions."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, insert, select, update

from disks import unwritable
from tidemill.errors import StoreError
from tidemill.stores import engines
from tidemill.stores.database import MIGRATIONS, Database, dumps, head, loads, revisions
from tidemill.stores.journal import Journal
from tidemill.stores.tables import consumed, metadata

ROW = {"num_rows": 0, "committed_at": 0}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def count(database: Database) -> int:
    with database.read() as conn:
        return conn.execute(select(func.count()).select_from(consumed)).scalar_one()


# Transactions


def test_a_block_that_raises_leaves_nothing_behind(database: Database) -> None:
    with pytest.raises(KeyError), database.begin() as conn:
        conn.execute(insert(consumed).values(segment="a", **ROW))
        raise KeyError("stop")
    assert count(database) == 0


def test_a_reader_sees_one_moment_while_others_write(database: Database) -> None:
    with database.read() as conn:
        before = conn.execute(select(func.count()).select_from(consumed)).scalar()
        with database.begin() as other:
            other.execute(insert(consumed).values(segment="a", **ROW))
        assert conn.execute(select(func.count()).select_from(consumed)).scalar() == before == 0
    assert count(database) == 1


def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(StoreError, match=r"(?i)read-?only"), database.read() as conn:
        conn.execute(insert(consumed).values(segment="a", **ROW))
    assert count(database) == 0


def test_what_a_writer_read_cannot_change_before_it_commits(database: Database) -> None:
    """Threads that read, add one and write never lose a step."""
    with database.begin() as conn:
        conn.execute(insert(consumed).values(segment="a", **ROW))

    def add_one(_: int) -> None:
        with database.begin() as conn:
            seen = conn.execute(select(consumed.c.num_rows).with_for_update()).scalar_one()
            conn.execute(update(consumed).values(num_rows=seen + 1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add_one, range(60)))
    with database.read() as conn:
        assert conn.execute(select(consumed.c.num_rows)).scalar() == 60


def test_a_lock_that_is_never_freed_is_reported_with_the_next_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "BUSY_TIMEOUT_S", 0.2)
    path = tmp_path / "tidemill.db"
    with Database.open(f"sqlite:///{path}") as database, closing(sqlite3.connect(path, isolation_level=None)) as stuck:
        stuck.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"tidemill\.db.* locked.*stopped or stuck"), database.begin():
            pass
        assert count(database) == 0  # readers go on


# Opening


def test_opening_brings_exactly_the_tables_of_the_schema(database: Database) -> None:
    with database.read() as conn:
        assert compare_metadata(MigrationContext.configure(conn), metadata) == []


def test_the_revisions_are_one_line_named_by_their_files() -> None:
    scripts = ScriptDirectory(str(MIGRATIONS))
    line = [script.revision for script in scripts.walk_revisions("base", "heads")]
    assert line[::-1] == revisions()
    assert scripts.get_heads() == [head()]


def test_processes_that_make_a_database_together_all_get_it(database_url: str, start_child: Callable[..., Any]) -> None:
    code = "import sys; from tidemill.stores.database import Database, head; sys.stdin.readline();"
    code += "Database.open(sys.argv[1]).close(); print(head())"
    children = [start_child(code, database_url) for _ in range(5)]
    for child in children:
        child.tell("go")
    assert [child.hear() for child in children] == [head()] * 5


def test_opening_waits_for_one_that_is_just_making_the_database(tmp_path: Path) -> None:
    """SQLite itself refuses at once to switch to write-ahead logging while another one writes."""
    path = tmp_path / "tidemill.db"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as first:
        first.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(Database.open, f"sqlite:///{path}")
            time.sleep(0.2)
            assert not opening.done()
            first.execute("COMMIT")
            opening.result().close()
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_opening_an_up_to_date_database_imports_nothing_heavy(database: Database, database_url: str) -> None:
    """The gateway opens it: no migrations, frames, Arrow or SQL engines in its process."""
    code = (
        "import sys; import tidemill.stores.home, tidemill.stores.blobs, tidemill.stores.catalog;"
        "import tidemill.stores.journal as journal; from tidemill.stores.database import Database\n"
        "with Database.open(sys.argv[1]) as db: journal.Journal(db).cycles('p')\n"
        "print(*{m.partition('.')[0] for m in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code, database_url], capture_output=True, text=True, check=True)
    assert "sqlalchemy" in run.stdout
    heavy = {"alembic", "duckdb", "polars", "pyarrow", "pandas", "sklearn", "scipy", "torch", "onnx"}
    assert heavy.isdisjoint(run.stdout.split())


def test_without_migrate_a_missing_database_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no database .*tidemill\.db"):
        Database.open(f"sqlite:///{tmp_path / 'tidemill.db'}", migrate=False)
    assert list(tmp_path.iterdir()) == []


def test_without_migrate_an_empty_database_is_refused_and_an_up_to_date_one_opens(tmp_path: Path) -> None:
    path = tmp_path / "tidemill.db"
    path.touch()
    with pytest.raises(StoreError, match=f"revision none.* needs {head()}"):
        Database.open(f"sqlite:///{path}", migrate=False)
    Database.open(f"sqlite:///{path}").close()
    Database.open(f"sqlite:///{path}", migrate=False).close()


def test_a_database_is_for_its_user_only(tmp_path: Path) -> None:
    Database.open(f"sqlite:///{tmp_path / 'tidemill.db'}").close()
    assert (tmp_path / "tidemill.db").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://", "in memory"),
        ("sqlite:////no/such/folder/tidemill.db", "'/no/such/folder/tidemill.db' cannot be made"),
        ("nonsense", "'nonsense' is not a database URL"),
        ("mysql://host/db", "'mysql://host/db' is not a database URL"),
        ("postgresql+nodriver://ann:pass@word@host/db", r"'postgresql\+nodriver://...@host/db' is not a database URL"),
    ],
)
def test_a_url_that_cannot_work_is_refused_by_name(url: str, said: str) -> None:
    with pytest.raises(StoreError, match=said):
        Database.open(url)


def test_a_file_that_may_not_be_written_is_not_said_to_be_missing(tmp_path: Path) -> None:
    file = tmp_path / "tidemill.db"
    Database.open(f"sqlite:///{file}").close()
    with unwritable(file), pytest.raises(StoreError, match="cannot be written") as told:
        Database.open(f"sqlite:///{file}")
    assert told.value.hint == "make it and its folder writable by this user"


def test_a_file_that_is_no_database_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database at all, but quite long enough to have a header " * 40)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"notes\.txt cannot be read: file is not a database"):
        Database.open(f"sqlite:///{path}")
    assert path.read_bytes() == before


# JSON


@given(JSON)
def test_json_comes_back_as_it_went_in(value: Any) -> None:
    assert loads(dumps(value)) == value


@given(st.dictionaries(st.text(), JSON, max_size=6), st.randoms())
def test_equal_json_is_equal_text(value: dict[str, Any], random: Any) -> None:
    names = list(value)
    random.shuffle(names)
    assert dumps({name: value[name] for name in names}) == dumps(json.loads(dumps(value)))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "the value is nan"),
        ({"a": [1, {"b": float("inf")}]}, r"the value\['a'\]\[1\]\['b'\] is inf"),
        ([datetime(2026, 1, 1)], r"the value\[0\] is datetime"),  # noqa: DTZ001
        ({"half": "\ud800"}, r"the value\['half'\] is '\\ud800'"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_place(value: Any, said: str) -> None:
    with pytest.raises(StoreError, match=said):
        dumps(value)


def test_any_text_that_json_holds_survives_the_database(database: Database, noon: datetime) -> None:
    awkward = {"nul": "\x00", "emoji": "🦊", "quote": "'\"\\", "line": "a\nb", "big": 2**70, "tiny": 5e-324}
    journal = Journal(database)
    with database.begin() as conn:
        journal.put_state(conn, "p", "s", awkward, noon)
    assert journal.state("p", "s") == awkward
