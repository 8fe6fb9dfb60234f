"""PostgreSQL under the catalog: nobody is held up without limit, and what goes wrong is told with the next move."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, text

from tidemill.clock import micros
from tidemill.errors import MissingExtra, StoreError
from tidemill.stores.database import Database
from tidemill.stores.engines import without_password
from tidemill.stores.journal import Journal
from tidemill.stores.tables import consumed

ROW = {"num_rows": 0, "committed_at": 0}
TTL = timedelta(seconds=3)


def given(url: str, **settings: str) -> str:
    """Return the URL with settings of the session."""
    said = "".join(f" -c {name}={value}" for name, value in settings.items())
    return f"{url}&options={said.strip().replace(' ', '%20').replace('=', '%3D')}"


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    with Database.open(postgres_url) as opened:
        yield opened


def setting(conn: Connection, name: str) -> object:
    return conn.execute(text(f"SHOW {name}")).scalar()


# Limits


def test_a_session_holds_nobody_up_without_limit(database: Database) -> None:
    names = ("idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout")
    with database.begin() as writing, database.read() as reading:
        for conn in (writing, reading):
            assert [setting(conn, name) for name in names] == ["30s", "40s", "2min"]


def test_what_the_url_says_of_a_limit_wins(postgres_url: str) -> None:
    with Database.open(given(postgres_url, lock_timeout="5s")) as database, database.read() as conn:
        assert (setting(conn, "lock_timeout"), setting(conn, "statement_timeout")) == ("5s", "2min")


def test_who_waits_for_a_lock_is_told_in_the_end(postgres_url: str) -> None:
    with Database.open(given(postgres_url, lock_timeout="300ms")) as database, database.begin() as conn:
        conn.execute(text("LOCK TABLE consumed"))
        with pytest.raises(StoreError, match=r"lock timeout.*stopped or stuck"), database.begin() as other:
            other.execute(insert(consumed).values(segment="a", **ROW))


def test_who_is_stopped_in_a_transaction_loses_it_and_is_told(postgres_url: str) -> None:
    with Database.open(given(postgres_url, idle_in_transaction_session_timeout="300ms")) as database:
        said = r"idle-in-transaction timeout.*nothing was written"
        with pytest.raises(StoreError, match=said), database.begin() as conn:
            conn.execute(insert(consumed).values(segment="a", **ROW))
            time.sleep(0.6)
        with database.begin() as conn:  # and goes on
            assert conn.execute(select(consumed)).all() == []


HOLDER = """
import sys
from datetime import timedelta
from tidemill.clock import from_micros
from tidemill.errors import StoreError
from tidemill.stores.database import Database
from tidemill.stores.journal import Journal
now = from_micros(int(sys.argv[2]))
journal = Journal(Database.open(sys.argv[1]))
lease = journal.acquire("loop", "worker", now=now, ttl=timedelta(seconds=3))
for _ in range(2):
    try:
        with journal.write(lease, now=now) as conn:
            journal.put_state(conn, "shop", "worker", 1, now)
            print("in the middle", flush=True)
            sys.stdin.readline()
            journal.put_state(conn, "shop", "worker", 2, now)
        print("committed", flush=True)
    except StoreError as error:
        print(type(error).__name__, error, flush=True)
"""


def test_a_process_stopped_in_the_middle_of_a_write_is_replaced_and_then_fenced(
    postgres_url: str, noon: datetime, start_child: Callable[..., Any]
) -> None:
    """On SQLite it would keep the lock as long as it is stopped."""
    with Database.open(postgres_url) as database:
        journal = Journal(database)
        url = given(postgres_url, idle_in_transaction_session_timeout="1s")
        worker = start_child(HOLDER, url, str(micros(noon)))
        assert worker.hear() == "in the middle"
        worker.signal(signal.SIGSTOP)
        began = time.monotonic()
        heir = journal.acquire("loop", "heir", now=noon + TTL, ttl=TTL)
        assert heir is not None
        assert time.monotonic() - began < 5
        with journal.write(heir, now=noon + TTL) as conn:
            journal.put_state(conn, "shop", "heir", 1, noon)
        worker.signal(signal.SIGCONT)
        worker.tell("go on")
        assert re.match("StoreError .*idle-in-transaction.*nothing was written", worker.hear())
        assert re.match(r"Fenced lease 'loop' of 'worker' \(token 1\) was taken over: 'heir'", worker.hear())
        assert journal.state("shop", "worker") is None
        assert journal.state("shop", "heir") == 1


def test_of_two_writers_that_wait_for_each_other_one_goes_on_and_the_other_is_told(database: Database) -> None:
    with database.begin() as conn:
        conn.execute(insert(consumed), [{"segment": name, **ROW} for name in "ab"])
    both = Barrier(2)

    def take(names: str) -> str:
        with database.begin() as conn:
            for name in names:
                conn.execute(select(consumed).where(consumed.c.segment == name).with_for_update())
                if name == names[0]:
                    both.wait()
        return names

    with ThreadPoolExecutor(2) as pool:
        taking = [pool.submit(take, names) for names in ("ab", "ba")]
    [error] = [error for t in taking if (error := t.exception())]
    assert isinstance(error, StoreError)
    assert re.search("deadlock detected.*do it again", str(error))


# A server that goes away


def test_a_restart_of_the_server_costs_the_transactions_under_way_and_no_more(
    database: Database, postgres: Any
) -> None:
    with pytest.raises(StoreError, match=r"what was not committed is undone: do it again"), database.begin() as conn:
        conn.execute(insert(consumed).values(segment="a", **ROW))
        cut_off(postgres, database)
        conn.execute(insert(consumed).values(segment="b", **ROW))
    for connection in (database.read(), database.begin()):
        with connection as conn:
            assert conn.execute(select(consumed)).all() == []


def cut_off(postgres: Any, database: Database) -> None:
    name = database.name.partition("?")[0].rpartition("/")[2]
    postgres.do(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://ann:secret@127.0.0.1:1/db?connect_timeout=2", r"ann:\*\*\*@.* failed: .*check that it is there"),
        ("postgres://127.0.0.1:1/db?password=secret", r"failed: "),
        ("postgresql+psycopg2://ann:secret@host/db", r"'postgresql\+psycopg2://...@host/db' is not a database URL"),
        ("postgresql://ann:secret@host:port/db", r"'postgresql://...@host:port/db' is not a database URL"),
    ],
)
def test_a_server_that_is_not_there_is_named_without_the_password(url: str, said: str) -> None:
    with pytest.raises(StoreError, match=said) as caught:
        Database.open(url)
    assert "secret" not in str(caught.value)


def test_what_is_missing_on_the_server_is_named(postgres: Any, postgres_url: str) -> None:
    with pytest.raises(StoreError, match=r'database "nosuch" does not exist.*make it first'):
        Database.open(postgres.url("nosuch"))
    postgres.do("DROP ROLE IF EXISTS reader")
    postgres.do("CREATE ROLE reader LOGIN")
    with pytest.raises(StoreError, match=r"permission denied for schema public.*may create tables"):
        Database.open(postgres_url.replace("postgres:@", "reader@"))


def test_a_database_that_cannot_hold_all_text_is_refused(postgres: Any) -> None:
    postgres.do("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    with pytest.raises(StoreError, match=r"stores text as LATIN1.*ENCODING 'UTF8'"):
        Database.open(postgres.url("latin"))
    postgres.drop("latin")


def test_without_psycopg_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from tidemill.stores.database import Database; from tidemill.errors import MissingExtra\n"
        "try: Database.open('postgresql://host/db')\n"
        "except MissingExtra as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(MissingExtra("a catalog in PostgreSQL", "postgres"))
    assert "pip install 'tidemill[postgres]'" in run.stdout


# Values


def test_a_nul_in_text_does_not_stop_a_step(database: Database, noon: datetime) -> None:
    """SQLite keeps it, PostgreSQL cannot: it becomes U+FFFD, on the way in and when it is looked for."""
    with database.begin() as conn:
        conn.execute(insert(consumed).values(segment="a\0b", **ROW))
        assert conn.execute(select(consumed.c.segment)).scalar() == "a\ufffdb"
        assert conn.execute(select(consumed.c.num_rows).where(consumed.c.segment == "a\0b")).scalar() == 0


def test_text_that_is_too_long_is_refused_with_the_next_move(database: Database) -> None:
    with pytest.raises(StoreError, match=r"too long.*give a shorter value"), database.begin() as conn:
        conn.execute(insert(consumed).values(segment="x" * 201, **ROW))


@pytest.mark.parametrize(
    ("url", "bare", "password"),
    [
        ("postgresql://ann:p%40ss@h:5/db?a=b", "postgresql://ann@h:5/db?a=b", "p@ss"),
        ("postgresql://ann@h/db?password=x", "postgresql://ann@h/db", "x"),
        ("postgresql://ann@h/db", "postgresql://ann@h/db", None),
        ("sqlite:////a/b.db", "sqlite:////a/b.db", None),
    ],
)
def test_a_url_can_be_written_down_without_its_password(url: str, bare: str, password: str | None) -> None:
    assert without_password(url) == (bare, password)
