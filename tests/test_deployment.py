"""Where the catalog is, is said by flag or variable, the same for every command; nobody sees a password."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import text

import waiting
from tidemill.cli import main
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database, head
from tidemill.stores.home import Home
from tidemill.training import runner

PROJECT = """
import tidemill as tm
from sklearn.linear_model import LogisticRegression

project = tm.Project(
    name="waves", inputs={"x": tm.Number()}, output=tm.Classes(["a", "b"]),
    trainer=tm.trainers.Sklearn(LogisticRegression()),
)
"""
PATIENCE_S = 30.0

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands run in, with a project file."""
    (tmp_path / "waves_deployed.py").write_text(PROJECT)
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "HOST", "PORT", "DURABILITY", "DATABASE"):
        monkeypatch.delenv(f"TIDEMILL_{name}", raising=False)
    monkeypatch.setenv("TIDEMILL_PROJECT", "waves_deployed.py")
    return tmp_path


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a command in this process; return its exit code and what it said of errors."""
    path = list(sys.path)

    def run(*arguments: str) -> tuple[int, str]:
        try:
            main.run(arguments)
        except SystemExit as end:
            return int(end.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    yield run
    sys.path[:] = path
    sys.modules.pop("waves_deployed", None)


def paused(database_url: str) -> bool:
    with Database.open(database_url, migrate=False) as database:
        return Catalog(database).paused_at("waves") is not None


def test_a_flag_or_a_variable_says_where_the_catalog_is(
    run: Run, folder: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("status", "--database", postgres_url)[0] == 0  # makes the home, and publishes the project
    assert run("pause", "--database", postgres_url)[0] == 0
    assert paused(postgres_url)
    monkeypatch.setenv("TIDEMILL_DATABASE", postgres_url)
    assert run("resume")[0] == 0
    assert not paused(postgres_url)
    assert not (folder / ".tidemill" / "tidemill.db").exists()


def test_without_either_it_is_in_the_home(run: Run, folder: Path) -> None:
    assert run("status")[0] == 0
    assert run("pause")[0] == 0
    assert paused(Home(folder / ".tidemill").db_url)


def test_to_forget_where_it_is_is_an_error_with_the_next_move(run: Run, postgres_url: str) -> None:
    run("status", "--database", postgres_url)
    code, said = run("status")
    assert code == 1
    assert "error: the catalog of" in said
    assert "\n next: name it with --database or TIDEMILL_DATABASE" in said


@pytest.mark.parametrize("where", ["sqlite", "postgresql"])
def test_every_command_of_an_older_program_refuses_what_a_newer_one_upgraded(
    run: Run, folder: Path, where: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = Home(folder / ".tidemill").db_url
    if where == "postgresql":
        url = request.getfixturevalue("postgres_url")
        monkeypatch.setenv("TIDEMILL_DATABASE", url)
    run("status")
    with Database.open(url) as database, database.begin() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for command in (["status"], ["serve", "--port", "0"], ["loop"], ["up"], ["rollback"]):
        code, said = run(*command)
        assert code == 1
        problem, next_move = said.strip().splitlines()
        assert problem.startswith("error: the database ")
        assert f"is at revision '9999', which this program does not know; it knows up to '{head()}'." in problem
        assert next_move.startswith(" next: upgrade tidemill to the version that upgraded the database")


def test_without_the_extra_the_pip_command_is_told(folder: Path) -> None:
    code = "import sys; sys.modules['psycopg'] = None; from tidemill.cli.main import run; run(['status'])"
    env = {**os.environ, "TIDEMILL_DATABASE": "postgresql://ann:secret@host/db"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "error: a catalog in PostgreSQL needs the extra 'postgres'.\n next: pip install 'tidemill[postgres]'\n"
    )


until = partial(waiting.until, seconds=PATIENCE_S)


def test_up_hands_the_database_to_gateway_and_loop_where_nobody_sees_it(
    folder: Path, postgres_url: str, postgres: Any
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "up.log").open("wb") as log:
        up = subprocess.Popen(
            [sys.executable, "-m", "tidemill.cli", "up", "--port", str(port)],
            stdout=log, stderr=log, env={**os.environ, "TIDEMILL_DATABASE": postgres_url},
        )  # fmt: skip
    try:
        name = postgres_url.partition("?")[0].rpartition("/")[2]
        asked = f"SELECT 1 FROM pg_stat_activity WHERE datname = '{name}' AND query LIKE 'LISTEN%'"
        until(lambda: postgres.do(asked))  # by the gateway
        with Database.open(postgres_url) as database:
            until(lambda: has_lease(database))  # by the loop
        children = psutil.Process(up.pid).children()
        assert sorted(child.cmdline()[3] for child in children) == ["loop", "page", "serve"]
        assert not any("postgresql" in word for child in children for word in child.cmdline())
    finally:
        up.terminate()
        assert up.wait(PATIENCE_S) == 0
    assert "ended with code" not in (folder / "up.log").read_text()


def has_lease(database: Database) -> bool:
    with database.read() as conn:
        return conn.execute(text("SELECT 1 FROM leases WHERE holder <> ''")).first() is not None


def test_a_training_gets_the_password_but_does_not_write_it_down(folder: Path) -> None:
    (folder / "told.py").write_text("import os; raise RuntimeError('it is ' + os.environ['PGPASSWORD'][::-1])")
    job = runner.Job(
        project_file=str(folder / "told.py"), home=str(folder), project="waves", dataset="d", seed=1, run="r",
        workdir=str(folder / "work"), db_url="postgresql://ann:secret@host/db",
    )  # fmt: skip
    runner.launch(job)
    until(lambda: runner.poll(folder / "work").state == "failed")
    assert "it is terces" in str(runner.poll(folder / "work").error)
    written = [path.read_text() for path in (folder / "work").rglob("*") if path.is_file()]
    assert not any("secret" in said for said in written)
    assert any(json.loads(said).get("db_url") == "postgresql://ann@host/db" for said in written if said[:1] == "{")
