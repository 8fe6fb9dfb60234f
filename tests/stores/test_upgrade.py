"""A newer program upgrades what an older one left, whole or not at all; an older one refuses what it does not know.

The newer program is a real one: a copy of this one with one more migration.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, Float, Integer, LargeBinary, insert, text

from tidemill.clock import from_micros
from tidemill.errors import NewerStore, StoreError
from tidemill.policy import Policy
from tidemill.stores import engines
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import MIGRATIONS, Database, dumps, head
from tidemill.stores.tables import metadata
from tidemill.stores.upgrade import upgrade

NEXT = f"{int(head()) + 1:04}"
CHANGE = """
    op.add_column("consumed", sa.Column("note", sa.Text))
    with op.batch_alter_table("examples") as table:
        table.add_column(sa.Column("seen", sa.Integer, nullable=False, server_default="7"))
    op.create_table("notes", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("INSERT INTO notes SELECT num_rows FROM consumed")
    op.create_index("consumed_by_note", "consumed", ["note"])
"""
OPEN = "import sys; from tidemill.stores.database import Database; Database.open(sys.argv[1]).close()"
Rows = dict[str, list[dict[str, Any]]]


def newer_program(folder: Path, *, then: str = "") -> Path:
    """Return the source folder of a program that knows a revision more; `then` comes after its change."""
    source = folder / "newer"
    shutil.copytree(Path(engines.__file__).parents[1], source / "tidemill", ignore=shutil.ignore_patterns("*.pyc"))
    (source / f"tidemill/stores/migrations/versions/{NEXT}_note.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision, down_revision = {NEXT!r}, {head()!r}\n"
        f"def upgrade():{CHANGE}    {then}\n"
    )
    return source


def run_program(source: Path, database_url: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(source)}
    return subprocess.run(
        [sys.executable, "-c", OPEN, database_url], capture_output=True, text=True, env=env, check=False
    )


def value_of(column: Column[Any]) -> object:
    """Return a value of the column's type, the same for equal types: foreign keys then point at something."""
    kinds: Mapping[type, object] = {BigInteger: 2**40, Integer: 3, Float: 0.5, LargeBinary: b"\x00\xff"}
    return next((value for kind, value in kinds.items() if isinstance(column.type, kind)), "ä'\"\\")


@pytest.fixture
def old(database_url: str) -> Rows:
    """What a database of this program's revision has in it: a row in every table."""
    with Database.open(database_url) as database, database.begin() as conn:
        for table in metadata.sorted_tables:
            conn.execute(insert(table).values({column.name: value_of(column) for column in table.columns}))
    return rows_in(database_url)


def rows_in(database_url: str) -> Rows:
    """Return everything in a database, whatever its revision."""
    _, engine = engines.engines(database_url, create=False)
    with engine.begin() as conn:
        names = [*(table.name for table in metadata.sorted_tables), "alembic_version"]
        rows = {name: [dict(row) for row in conn.execute(text(f"SELECT * FROM {name}")).mappings()] for name in names}
    engine.dispose()
    return rows


def upgraded(old: Rows) -> Rows:
    """Return what the newer program shall make of it."""
    changes: Mapping[str, dict[str, Any]] = {
        "consumed": {"note": None}, "examples": {"seen": 7}, "alembic_version": {"version_num": NEXT},
    }  # fmt: skip
    return {name: [{**row, **changes.get(name, {})} for row in rows] for name, rows in old.items()}


def file_of(database_url: str) -> Path:
    return Path(database_url.removeprefix("sqlite:///"))


def test_a_newer_program_upgrades_what_is_there_and_loses_no_row(tmp_path: Path, database_url: str, old: Rows) -> None:
    run = run_program(newer_program(tmp_path), database_url)
    assert run.returncode == 0, run.stderr
    assert all(old.values())
    assert rows_in(database_url) == upgraded(old)


def test_an_older_program_refuses_what_a_newer_one_upgraded(tmp_path: Path, database_url: str, old: Rows) -> None:
    run_program(newer_program(tmp_path), database_url)
    for migrate in (True, False):
        with pytest.raises(NewerStore, match=rf"revision '{NEXT}'.*knows up to '{head()}'.*Next: upgrade tidemill"):
            Database.open(database_url, migrate=migrate)
    assert rows_in(database_url) == upgraded(old)


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path, database_url: str, old: Rows) -> None:
    run = run_program(newer_program(tmp_path, then="raise RuntimeError('half way')"), database_url)
    assert "StoreError" in run.stderr
    assert f"from revision {head()} to {NEXT} failed: half way. Nothing was changed." in run.stderr
    assert rows_in(database_url) == old
    Database.open(database_url).close()  # this program goes on


def test_a_program_killed_in_the_middle_of_an_upgrade_changes_nothing(
    tmp_path: Path, database_url: str, old: Rows
) -> None:
    source = newer_program(tmp_path, then="import os; os.kill(os.getpid(), 9)")
    assert run_program(source, database_url).returncode == -9
    assert rows_in(database_url) == old


def test_programs_that_upgrade_together_do_it_once(
    tmp_path: Path, database_url: str, old: Rows, start_child: Callable[..., Any]
) -> None:
    source = newer_program(tmp_path)
    code = OPEN.replace("Database.open", "sys.stdin.readline(); Database.open") + "; print('done')"
    children = [start_child(code, database_url, source=source) for _ in range(4)]
    for child in children:
        child.tell("go")
    assert [child.hear() for child in children] == ["done"] * 4
    assert rows_in(database_url) == upgraded(old)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_copy_of_the_file_as_it_was_is_kept(tmp_path: Path, database_url: str, old: Rows) -> None:
    run_program(newer_program(tmp_path), database_url)
    copy = file_of(database_url).with_name(f"tidemill.db.{head()}.backup")
    assert rows_in(f"sqlite:///{copy}") == old
    Database.open(f"sqlite:///{copy}", migrate=False).close()  # this program can go back to it
    assert copy.stat().st_mode & 0o077 == 0
    assert [path.name for path in copy.parent.glob("*.backup*")] == [copy.name]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_copy_is_named_when_an_upgrade_fails(tmp_path: Path, database_url: str, old: Rows) -> None:
    run = run_program(newer_program(tmp_path, then="raise RuntimeError('half way')"), database_url)
    assert f"A copy is at '{file_of(database_url)}.{head()}.backup'" in run.stderr


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_upgrade_that_cannot_be_copied_first_is_refused(tmp_path: Path, database_url: str, old: Rows) -> None:
    (file_of(database_url).with_name(f"tidemill.db.{head()}.backup.tmp")).mkdir()
    run = run_program(newer_program(tmp_path), database_url)
    assert "Nothing was changed" in run.stderr
    assert rows_in(database_url) == old


def test_the_level_that_a_manifest_declared_becomes_policy_1(database_url: str) -> None:
    _, engine = engines.engines(database_url, create=True)
    with engine.begin() as conn:
        upgrade(conn, engine.url, MIGRATIONS, current=None, wanted="0002")
        for name, level in (("shop", 0.6), ("blog", None)):
            values = {"strategy": "s", "secret": b"s", "file": "p.py", "updated_at": 7}
            manifest = dumps({"project": name, "abstain_below": level})
            conn.execute(insert(metadata.tables["projects"]).values(project=name, manifest=manifest, **values))
    engine.dispose()
    with Database.open(database_url) as database:
        catalog = Catalog(database)
        found = [catalog.policy_in_force(name) for name in ("shop", "blog")]
    assert [(v.number, v.policy, v.at) for v in found] == [
        (1, Policy(abstain_below=0.6), from_micros(7)), (1, Policy(), from_micros(7)),
    ]  # fmt: skip


def test_strategies_begin_with_the_last_spell_of_each(database_url: str) -> None:
    _, engine = engines.engines(database_url, create=True)
    with engine.begin() as conn:
        upgrade(conn, engine.url, MIGRATIONS, current=None, wanted="0008")
        for number, since in ((1, 30), (2, 10), (3, 20)):
            row = {"number": number, "digest": f"d{number}", "body": "{}", "since": since}
            conn.execute(insert(metadata.tables["strategies"]).values(project="shop", **row))
    engine.dispose()
    with Database.open(database_url) as database:
        spells = Catalog(database).strategy_spells("shop")
    assert [(s.number, s.digest, s.since) for s in spells] == [
        (2, "d2", from_micros(10)), (3, "d3", from_micros(20)), (1, "d1", from_micros(30)),
    ]  # fmt: skip


def test_a_revision_is_named_in_the_refusal_to_upgrade_in_passing(database_url: str) -> None:
    """The gateway never migrates: it says which program does."""
    if database_url.startswith("sqlite"):
        file_of(database_url).touch()
    with pytest.raises(StoreError, match=rf"revision none, and this program needs {head()}.*`tidemill up`"):
        Database.open(database_url, migrate=False)
