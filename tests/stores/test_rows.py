"""Rows are written once and replaced without any dialect's upsert."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from tidemill.stores.database import Database
from tidemill.stores.rows import insert_once, put
from tidemill.stores.tables import consumed, states, strategies

KEY = {"segment": "a"}
ROW = {"num_rows": 1, "committed_at": 0}


def test_a_key_is_inserted_once_and_the_first_row_stays(database: Database) -> None:
    with database.begin() as conn:
        assert insert_once(conn, consumed, KEY, ROW) is True
        assert insert_once(conn, consumed, KEY, {**ROW, "num_rows": 2}) is False
        assert conn.execute(select(consumed.c.num_rows)).scalars().all() == [1]


def test_of_transactions_that_insert_the_same_key_one_wins_and_none_fails(database: Database) -> None:
    def attempt(_: int) -> bool:
        with database.begin() as conn:
            return insert_once(conn, consumed, KEY, ROW)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(attempt, range(8))) == [False] * 7 + [True]


def test_another_constraint_than_the_key_is_not_taken_for_it_and_leaves_the_transaction_usable(
    database: Database,
) -> None:
    row = {"digest": "d", "body": "{}", "since": 0}
    with database.begin() as conn:
        conn.execute(insert(strategies).values(project="p", number=1, **row))
        with pytest.raises(IntegrityError):
            insert_once(conn, strategies, {"project": "p", "number": 2}, row)
        assert insert_once(conn, strategies, {"project": "p", "number": 2}, {**row, "digest": "e"})
    with database.read() as conn:
        assert conn.execute(select(strategies.c.number).order_by("number")).scalars().all() == [1, 2]


def test_put_replaces_the_values_of_its_key_and_no_other(database: Database) -> None:
    with database.begin() as conn:
        for name, body in [("a", "1"), ("b", "2"), ("a", "3")]:
            put(conn, states, {"project": "p", "name": name}, {"body": body, "updated_at": 0})
        rows = conn.execute(select(states.c.name, states.c.body).order_by("name")).all()
    assert [tuple(row) for row in rows] == [("a", "3"), ("b", "2")]
