"""Many small chunks become few: nothing is lost or changed, and what is not needed any more goes, an hour later."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_pool import SCHEMA, Pool

from tidemill.stores.database import Database

HOUR = timedelta(hours=1)


@pytest.fixture
def pool(tmp_path: Path, database: Database) -> Pool:
    # The times of files are compared with the time passed in, so that it must not be long before these.
    return Pool(database, tmp_path, datetime.now().astimezone())  # noqa: TID251


def consolidate(pool: Pool, now: datetime | None = None, project: str = "p") -> int:
    with pool.db.begin() as conn:
        return pool.reservoir.consolidate(conn, project, now=now or pool.now)


def chunks(pool: Pool, project: str = "p") -> set[Path]:
    return set((pool.folder / "reservoir" / project).glob("*.arrow"))


def everything(pool: Pool) -> list[Any]:
    index = pool.reservoir.index("p")
    return pool.reservoir.examples("p", index["id"].to_list())


def test_every_example_is_as_it_was_and_reading_all_opens_one_file(pool: Pool) -> None:
    pool.fill(60)
    for i in range(3):
        pool.add("p", f"other {i}", text="", inputs={"other": bytes([i])})
    before, old = everything(pool), chunks(pool)
    digest = pool.form().digest
    assert consolidate(pool) == 60
    assert everything(pool) == before
    assert pool.form().digest == digest, "a version is known by content, wherever it lay"
    assert len(chunks(pool) - old) == 1
    assert consolidate(pool) == 0, "three of another kind are not worth the writing"


def test_what_nothing_points_at_stays_an_hour_and_then_goes(pool: Pool) -> None:
    pool.fill(40)
    old = chunks(pool)
    consolidate(pool)
    assert chunks(pool) > old
    consolidate(pool, pool.now + HOUR / 2)
    assert chunks(pool) > old
    consolidate(pool, pool.now + 2 * HOUR)
    assert not chunks(pool) & old and len(chunks(pool)) == 1
    assert len(everything(pool)) == 40


def test_a_transaction_that_fails_changes_nothing_and_what_it_wrote_goes_later(pool: Pool) -> None:
    pool.fill(40)
    before, old = everything(pool), chunks(pool)
    with pytest.raises(RuntimeError), pool.db.begin() as conn:
        pool.reservoir.consolidate(conn, "p", now=pool.now)
        raise RuntimeError
    assert everything(pool) == before
    assert len(chunks(pool) - old) == 1
    with pytest.raises(RuntimeError), pool.db.begin() as conn:
        pool.reservoir.consolidate(conn, "p", now=pool.now + 2 * HOUR)
        raise RuntimeError
    assert everything(pool) == before


def test_inputs_that_come_again_after_their_chunk_was_merged_are_kept(pool: Pool) -> None:
    pool.fill(40)
    consolidate(pool)
    pool.add("p", "again", text="text 3")
    consolidate(pool, pool.now + 2 * HOUR)
    assert pool.reservoir.inputs("p", ["again", "3"]) == [{"text": "text 3", "age": 4.0}] * 2


def test_large_chunks_and_other_projects_are_left_alone(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.fill(40)
    pool.fill(40, "q")
    theirs = chunks(pool, "q")
    monkeypatch.setattr("tidemill.stores.consolidate._SMALL_ROWS", 0)
    assert consolidate(pool) == 0
    monkeypatch.undo()
    consolidate(pool, pool.now + 2 * HOUR)
    assert chunks(pool, "q") == theirs


def test_merged_chunks_are_of_bounded_size(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.stores.consolidate._MAX_ROWS", 16)
    pool.fill(40)
    old, before = chunks(pool), everything(pool)
    assert consolidate(pool) == 40
    assert len(chunks(pool) - old) == 3
    assert everything(pool) == before


def test_what_was_formed_before_is_what_is_trained_on_after(pool: Pool) -> None:
    pool.fill(40)
    version = pool.form()
    before = pool.datasets.training_data("p", version.digest, SCHEMA)
    consolidate(pool)
    consolidate(pool, pool.now + 2 * HOUR)
    after = pool.datasets.training_data("p", pool.form().digest, SCHEMA)
    assert before.ids == after.ids
    assert np.array_equal(before.columns["text"], after.columns["text"])


def test_a_project_without_examples_has_nothing_to_merge(pool: Pool) -> None:
    assert consolidate(pool, project="nobody") == 0
