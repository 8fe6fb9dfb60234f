"""A home folder and a database elsewhere stay together: neither is ever used with another one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tidemill.errors import StoreError
from tidemill.stores.belonging import open_database
from tidemill.stores.blobs import Blobs
from tidemill.stores.database import Database, head
from tidemill.stores.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").make()


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_without_a_url_the_catalog_is_in_the_home(home: Home) -> None:
    open_database(home).close()
    open_database(home, home.db_url).close()
    assert (home.folder / "tidemill.db").is_file()
    assert not (home.folder / "database-id").exists()


def test_a_home_and_a_database_belong_together_from_the_first_time(home: Home, database_url: str) -> None:
    for _ in range(2):
        open_database(home, database_url).close()
    Blobs(home.blobs).put_bytes(b"kept")
    open_database(home, database_url).close()
    assert not (home.folder / "tidemill.db").exists()


def test_another_folder_is_refused(home: Home, database_url: str, tmp_path: Path) -> None:
    open_database(home, database_url).close()
    other = Home(tmp_path / "other").make()
    before = everything(other.folder)
    with pytest.raises(StoreError, match=r"belongs to another home folder than '.*other'.*all machines must share"):
        open_database(other, database_url)
    assert everything(other.folder) == before


def test_forgetting_the_database_is_refused(home: Home, database_url: str) -> None:
    """The log's files would pass for leftovers in an empty catalog, and be deleted."""
    open_database(home, database_url).close()
    before = everything(home.folder)
    with pytest.raises(StoreError, match=r"is in a database elsewhere.*--database or TIDEMILL_DATABASE"):
        open_database(home)
    assert everything(home.folder) == before


def test_a_home_in_use_is_refused_by_an_empty_database(home: Home, database_url: str) -> None:
    open_database(home).close()
    for _ in range(2):
        with pytest.raises(StoreError, match=r"in use with another database.*an empty folder with --home"):
            open_database(home, database_url)
    open_database(home).close()


def test_a_home_of_another_database_is_refused(home: Home, database_url: str, tmp_path: Path) -> None:
    open_database(home, f"sqlite:///{tmp_path / 'first.db'}").close()
    Blobs(home.blobs).put_bytes(b"kept")
    with pytest.raises(StoreError, match="in use with another database"):
        open_database(home, database_url)


def test_processes_that_bind_them_together_all_agree(
    home: Home, database_url: str, start_child: Callable[..., Any]
) -> None:
    code = (
        "import sys; from tidemill.stores.belonging import open_database; from tidemill.stores.home import Home\n"
        "sys.stdin.readline(); open_database(Home(sys.argv[1]), sys.argv[2]).close(); print('ok')"
    )
    children = [start_child(code, str(home.folder), database_url) for _ in range(3)]
    for child in children:
        child.tell("go")
    assert [child.hear() for child in children] == ["ok"] * 3
    assert len((home.folder / "database-id").read_text()) == 32


def test_a_gateway_does_not_make_a_database(home: Home, database_url: str) -> None:
    if database_url.startswith("sqlite"):
        Path(database_url.removeprefix("sqlite:///")).touch()
    with pytest.raises(StoreError, match=f"needs {head()}"):
        open_database(home, database_url, migrate=False)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(open_database, home, database_url).result().close()
    with open_database(home, database_url, migrate=False) as database:
        assert isinstance(database, Database)
