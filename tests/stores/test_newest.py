"""The newest predictions, page by page, are those of the whole log, however it lies in files."""

from __future__ import annotations

from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_rows import Mill, feedback, prediction

from tidemill.clock import from_micros
from tidemill.errors import InvalidInput
from tidemill.stores import log, logfiles, newest
from tidemill.stores.database import Database
from tidemill.stores.newest import Newest, Place

DAY = timedelta(days=1)
NUMBERS = count()


@pytest.fixture
def mill(tmp_path: Path, database: Database, noon: Any) -> Mill:
    return Mill(tmp_path, database, noon)


def page(mill: Mill, project: str = "p", **asked: Any) -> Newest:
    given = {"after": None, "until": mill.now + DAY, "limit": 3, "at_most": 10**6, "columns": ["request_id", "age"]}
    return mill.log.newest(project, **{**given, **asked})


def pages(mill: Mill, project: str = "p", **asked: Any) -> list[list[str]]:
    """All pages until the last, as ids."""
    found, behind = [], None
    while True:
        one = page(mill, project, behind=behind, **asked)
        found.append(one.rows["request_id"].to_list() if len(one.rows) else [])
        behind = one.next
        if behind is None:
            return found


@given(
    files=st.lists(st.lists(st.integers(-30, 0), min_size=1, max_size=6), min_size=1, max_size=4),
    limit=st.integers(1, 7), least=st.integers(0, 12), at_most=st.sampled_from([1, 5, 10**6]),
)  # fmt: skip
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_pages_together_are_the_log_newest_first_whatever_is_asked(
    mill: Mill, files: list[list[int]], limit: int, least: int, at_most: int
) -> None:
    project, numbers = f"p{next(NUMBERS)}", count()
    rows = [[prediction(next(numbers), mill.at(second)) for second in seconds] for seconds in files]
    for some in rows:
        mill.put(*some, project=project)
    wanted = sorted(
        (row for some in rows for row in some if int(row.request_id[-6:]) >= least),
        key=lambda row: (row.received_at, row.request_id), reverse=True,
    )  # fmt: skip

    def meets(frame: pl.DataFrame) -> Any:
        return (frame["age"] >= least).to_numpy()

    found = pages(mill, project, limit=limit, meets=meets, needed=["age"], at_most=at_most)
    assert [id_ for one in found for id_ in one] == [row.request_id for row in wanted]
    assert all(len(one) <= limit for one in found)


def test_row_groups_of_a_large_file_are_read_from_its_end(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest, "_LARGE", 10)
    monkeypatch.setattr(newest, "_FIRST_LOOK", 5)
    monkeypatch.setattr(logfiles, "_ROW_GROUP_ROWS", 10)
    mill.put(*[prediction(i, mill.at(i - 200)) for i in range(100)])
    one = page(mill)
    assert one.rows["age"].to_list() == [99.0, 98.0, 97.0]
    assert one.num_looked == 10, "one row group"
    assert sum(len(found) for found in pages(mill, limit=8)) == 100


def test_heavy_rows_are_held_against_a_condition_a_few_row_groups_at_a_time(
    mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newest, "_HEAVY", 1)
    monkeypatch.setattr(logfiles, "_ROW_GROUP_ROWS", 10)
    mill.put(*[prediction(i, mill.at(i - 200)) for i in range(100)])
    asked = list[int]()

    def meets(frame: pl.DataFrame) -> Any:
        asked.append(len(frame))
        return (frame["age"] < 5).to_numpy()

    whole = pages(mill, meets=meets, needed=["age"])
    assert max(asked) == 100, "they are light"
    asked.clear()
    monkeypatch.setattr(log, "_MOST_READ", 1)
    assert pages(mill, meets=meets, needed=["age"]) == whole
    assert max(asked) == 10


def test_a_look_that_is_cut_says_so_and_goes_on_where_it_ended(mill: Mill) -> None:
    for i in range(6):
        mill.put(*[prediction(10 * i + k, mill.at(10 * i + k - 100)) for k in range(10)])
    asked: dict[str, Any] = {"where": pl.col("unit") == "u3", "limit": 50, "at_most": 1}
    first = page(mill, **asked)
    assert first.is_cut and first.next is not None
    everything = [int(id_[-6:]) for one in pages(mill, **asked) for id_ in one]
    assert everything == [number for number in range(59, -1, -1) if number % 7 == 3]


def test_only_the_time_the_role_and_the_columns_asked_for_are_there(mill: Mill) -> None:
    mill.put(
        *[prediction(i, mill.at(i)) for i in range(5)], prediction(3, mill.at(3), role="shadow", answered_version=2)
    )
    found = page(mill, after=mill.now + timedelta(seconds=1), until=mill.now + timedelta(seconds=3))
    assert found.rows.columns == ["request_id", "age"]
    assert found.rows["age"].to_list() == [3.0, 2.0] and found.next is None
    shadows = page(mill, role="shadow", columns=["answered_version"])
    assert shadows.rows["answered_version"].to_list() == [2]


def test_an_empty_log_has_an_empty_page_with_the_columns(mill: Mill) -> None:
    found = page(mill)
    assert found.rows.columns == ["request_id", "age"] and not len(found.rows) and found.next is None


def test_a_place_is_written_and_read_and_nonsense_is_refused() -> None:
    place = Place(12, "a.b", 3)
    assert Place.read(str(place)) == place
    for text in ("", "12", "x.1.a", "12.x.a"):
        with pytest.raises(InvalidInput):
            Place.read(text)


def test_feedback_about_requests_is_theirs_alone(mill: Mill) -> None:
    mill.put(*[prediction(i, mill.at(i)) for i in range(9)], *[feedback(i, mill.at(i + 20), "ok") for i in range(9)])
    found = mill.log.about("p", ["request-000002", "request-000007"], since=from_micros(mill.at(2)))
    assert found["request_id"].to_list() == ["request-000002", "request-000007"]
    assert not len(mill.log.about("p", [], since=mill.now))
    assert np.all(found["value"].to_numpy() == "ok")
