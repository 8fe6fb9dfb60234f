"""What the tables of `tidemill sql` hold, and that nothing else can be reached through them."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_rows import Mill, feedback, prediction

from tidemill.errors import Corrupt, ProjectError, StoreError
from tidemill.records import Trust
from tidemill.schema import Category, Classes, Image, Number, Output, Schema, Tensor, Text, Value
from tidemill.stores import sql as sql_module
from tidemill.stores.database import Database
from tidemill.stores.fence import lock, unlocked
from tidemill.stores.logfiles import LogFiles
from tidemill.stores.sql import Sql

INPUTS = {"text": Text(), "age": Number(), "country": Category(tag=True)}
HOUR = timedelta(hours=1)
NUMBERS = count()


@pytest.fixture
def mill(tmp_path: Path, database: Database, noon: datetime) -> Mill:
    return Mill(tmp_path, database, noon)


def utc(seconds: float) -> datetime:
    """A time after noon, as DuckDB gives it."""
    return (datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(seconds=seconds)).replace(tzinfo=None)


def sql(mill: Mill, *, inputs: Any = None, output: Output | None = None, **changes: Any) -> Sql:
    schema = Schema(inputs or INPUTS, output or Classes(["ok", "toxic"]))
    usual = {"files": LogFiles(mill.db, mill.folder / "log"), "project": "p", "schema": schema, "horizon": HOUR}
    return Sql(**{**usual, **changes})


def rows(mill: Mill, query: str, **changes: Any) -> list[tuple[Any, ...]]:
    return sql(mill, **changes).ask(query).rows


# --- predictions and feedback


def test_predictions_have_their_inputs_and_tags_as_columns_and_times_as_timestamps(mill: Mill) -> None:
    mill.put(prediction(1, mill.at(1)), prediction(2, mill.at(2.5), role="shadow"))
    found = sql(mill).ask(
        "SELECT request_id, received_at, role, text, age, country, scores FROM predictions ORDER BY 1"
    )
    assert found.columns == ("request_id", "received_at", "role", "text", "age", "country", "scores")
    assert found.rows[1] == (
        "request-000002", utc(2.5), "shadow", "text 2", 2.0, "NL", [0.25, 0.75]
    )  # fmt: skip


def test_without_a_row_the_tables_are_empty_and_have_their_columns(mill: Mill) -> None:
    for table in ("predictions", "feedback", "outcomes"):
        assert rows(mill, f"SELECT count(*) FROM {table}") == [(0,)]
    found = sql(mill, events=["click"]).ask("SELECT age, label, label_at, event_click FROM outcomes")
    assert found.types == ("DOUBLE", "VARCHAR", "TIMESTAMP", "DOUBLE")


def test_other_projects_rows_are_not_there(mill: Mill) -> None:
    mill.put(prediction(1, mill.at(1)), project="q")
    assert rows(mill, "SELECT count(*) FROM predictions") == [(0,)]


def test_a_window_reads_the_rows_received_in_it(mill: Mill) -> None:
    mill.put(*[prediction(i, mill.at(i * 3600)) for i in range(30)])
    query = "SELECT date_trunc('day', received_at), count(*) FROM predictions GROUP BY 1 ORDER BY 1"
    assert rows(mill, query) == [(utc(-12 * 3600), 12), (utc(12 * 3600), 18)]
    query = (
        "SELECT count(*) FROM predictions WHERE received_at > '2026-03-01 13:00' AND received_at <= '2026-03-01 15:00'"
    )
    assert rows(mill, query) == [(2,)]


def test_old_files_are_read_along_when_inputs_were_added_dropped_and_retyped(mill: Mill) -> None:
    mill.put(prediction(1, mill.at(1), inputs={"text": "a", "age": "old", "gone": 1.0}))
    mill.put(prediction(2, mill.at(2), inputs={"text": b"\x01", "age": 7.0}))
    mill.put(prediction(3, mill.at(3), inputs={"text": "c", "age": 8.0, "gone": "x", "image": b"1234"}))
    inputs = {**INPUTS, "image": Image((2, 2)), "new": Number()}
    query = "SELECT text, age, gone, image, new FROM predictions ORDER BY received_at"
    assert rows(mill, query, inputs=inputs) == [
        ("a", None, "1.0", None, None), ("AQ==", 7.0, None, None, None), ("c", 8.0, "x", b"1234", None)
    ]  # fmt: skip
    assert rows(mill, "SELECT sum(age) FROM predictions WHERE age < 8") == [(7.0,)]


def test_rows_of_before_there_were_outliers_have_none(mill: Mill) -> None:
    mill.put(prediction(1, mill.at(1)))
    (old,) = mill.files()
    pl.read_parquet(old).drop("outlier", "top_k").write_parquet(old)
    mill.put(prediction(2, mill.at(2), outlier=["age", "text"], top_k=["ok", "toxic"]), prediction(3, mill.at(3)))
    assert rows(mill, "SELECT outlier, top_k FROM predictions ORDER BY request_id") == [
        (None, None), (["age", "text"], ["ok", "toxic"]), (None, None),
    ]  # fmt: skip
    assert rows(mill, "SELECT request_id FROM predictions WHERE list_contains(outlier, 'age')") == [("request-000002",)]
    assert rows(mill, "SELECT count(*) FROM outcomes WHERE outlier IS NOT NULL") == [(1,)]
    frame = mill.log.predictions("p", after=None, until=mill.now + HOUR, columns=["outlier"])
    assert frame["outlier"].to_list() == [None, ["age", "text"], None]


def test_columns_that_differ_only_in_case_do_not_break_other_columns(mill: Mill) -> None:
    mill.put(prediction(1, mill.at(1), inputs={"Age": 1.0}))
    mill.put(prediction(2, mill.at(2), inputs={"age": 2.0}))
    assert rows(mill, "SELECT count(*), count(decision) FROM predictions") == [(2, 2)]
    with pytest.raises(ProjectError, match="only in case"):
        rows(mill, "SELECT 1", inputs={"a": Text(), "A": Text()})


def test_names_that_are_words_of_sql_are_columns_all_the_same(mill: Mill) -> None:
    inputs = {"select": Number(), "order": Text(), "from": Category(tag=True)}
    mill.put(prediction(1, mill.at(1), inputs={"select": 1.0, "order": "x"}, tags={"from": "NL"}))
    assert rows(mill, 'SELECT "select", "order", "from" FROM predictions', inputs=inputs) == [(1.0, "x", "NL")]


def test_feedback_has_its_value_as_text_and_as_a_number(mill: Mill) -> None:
    mill.put(feedback(1, mill.at(1), "toxic"), feedback(1, mill.at(2), 4.5, kind="rating"))
    mill.put(feedback(1, mill.at(3), None, kind="click"), feedback(1, mill.at(1), "toxic"))
    query = 'SELECT kind, "value", number, source, trust FROM feedback ORDER BY received_at'
    assert rows(mill, query) == [
        ("label", "toxic", None, "queue", "people"), ("rating", "4.5", 4.5, "queue", "people"),
        ("click", None, None, "queue", "people"),
    ]  # fmt: skip


# --- outcomes

FACTS = st.lists(
    st.tuples(
        st.integers(0, 3), st.sampled_from([-1, 0, 1, 30, 60, 61]),
        st.sampled_from(["label", "confirm", "correct", "override", "click", "rating"]),
        st.sampled_from(["x", "y", 1.0, 2.5, None]), st.sampled_from(["a", "b"]), st.sampled_from(list(Trust)),
    ), max_size=12, unique=True,
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(facts=FACTS, data=st.data())
def test_outcomes_are_those_of_the_log_in_whatever_order_feedback_came(mill: Mill, facts: Any, data: Any) -> None:
    """The same join is written twice, for frames and for SQL: they say the same."""
    project = f"p{next(NUMBERS)}"
    said = [feedback(n, mill.at(100 + s), v, kind=k, source=o, trust=str(t)) for n, s, k, v, o, t in facts]
    asked = [prediction(n, mill.at(100), decision=("x", "y", None)[n]) for n in range(3)]
    shadow = prediction(0, mill.at(100), role="shadow", answered_version=2)
    order = data.draw(st.permutations([*said, *asked, shadow]))
    half = data.draw(st.integers(0, len(order)))
    for some in (order[:half], order[half:]):
        mill.seal(*some, project=project)
        if data.draw(st.booleans()):
            mill.compact()
    mill.compact()
    minute, events = timedelta(minutes=1), ["click", "rating", "override"]
    frame = mill.log.outcomes(
        project, after=None, until=mill.now + HOUR, horizon=minute, trust=Trust.FUNCTIONS, events=events,
        schema=Schema(INPUTS, Classes(["x", "y"])),
    )  # fmt: skip
    columns = "request_id, label, label_trust, epoch_us(label_at), event_click, event_rating, event_override"
    found = rows(mill, f"SELECT {columns} FROM outcomes ORDER BY 1", project=project, horizon=minute, events=events)
    assert found == frame.select(
        "request_id", "label", "label_trust", "label_at", "event_click", "event_rating", "event_override"
    ).rows()  # fmt: skip


def test_what_confirms_a_number_is_that_number(mill: Mill) -> None:
    mill.put(prediction(1, mill.at(1), decision=2.5), feedback(1, mill.at(2), True, kind="confirm"))
    schema = Schema(INPUTS, Value())
    asked = {"after": None, "until": mill.now + HOUR, "schema": schema}
    frame = mill.log.outcomes("p", **asked, horizon=HOUR, trust=Trust.CROWD, events=["confirm"], columns=["age"])
    assert frame.columns == ["age", "request_id", "received_at", "label", "label_trust", "label_at", "event_confirm"]
    assert frame.select("label", "event_confirm").rows() == [(2.5, 1.0)]
    query = "SELECT label, event_confirm FROM outcomes"
    assert rows(mill, query, output=Value(), events=["confirm"]) == [(2.5, 1.0)]


def test_labels_of_numbers_are_numbers(mill: Mill) -> None:
    mill.put(prediction(1, mill.at(1), decision=2.5), prediction(2, mill.at(1), decision=1.0))
    mill.put(feedback(1, mill.at(2), 3.0), feedback(2, mill.at(2), "none"))
    query = "SELECT decision, label, abs(label - decision) FROM outcomes ORDER BY request_id"
    assert rows(mill, query, output=Value()) == [(2.5, 3.0, 0.5), (1.0, None, None)]


def test_feedback_that_is_months_late_counts_where_the_horizon_is_longer(mill: Mill) -> None:
    mill.put(feedback(1, mill.at(200 * 86_400), "toxic"))
    mill.put(prediction(1, mill.at(1)))
    for horizon, expected in ((timedelta(days=199), None), (timedelta(days=201), "toxic")):
        assert rows(mill, "SELECT label FROM outcomes", horizon=horizon) == [(expected,)]


# --- examples and projections


def test_examples_are_the_reservoirs_with_times_as_timestamps(mill: Mill) -> None:
    at = [mill.at(1)]
    frame = pl.DataFrame({"id": ["e1"], "received_at": at, "picked_at": at, "labelled_at": [None], "label": ["ok"]},
                         schema_overrides={"labelled_at": pl.Int64})  # fmt: skip
    found = rows(mill, "SELECT * FROM examples", examples=lambda: frame)
    assert found == [("e1", utc(1), utc(1), None, "ok")]


def test_the_reservoir_is_read_only_where_it_is_asked_for(mill: Mill) -> None:
    def never() -> pl.DataFrame:
        raise AssertionError

    mill.put(prediction(1, mill.at(1)))
    assert rows(mill, "SELECT count(*) FROM outcomes", examples=never) == [(1,)]


def test_a_projection_is_a_column_where_a_query_names_it(mill: Mill) -> None:
    calls = []

    def loud(row: Any) -> bool:
        calls.append(row["text"])
        return str(row["text"]).isupper()

    projections = {"loud": loud, "words": lambda row: len(row["text"].split()), "first": lambda row: row["text"][0]}
    texts = ["AH", "oh no", "HM"]
    mill.put(*[prediction(i, mill.at(i), inputs={"text": t, "age": 1.0}) for i, t in enumerate(texts)])
    mill.put(prediction(3, mill.at(3), inputs=None))
    assert rows(mill, "SELECT * FROM predictions LIMIT 0", projections=projections) == []
    assert calls == []
    query = "SELECT loud, words, first FROM predictions ORDER BY received_at"
    assert rows(mill, query, projections=projections) == [
        (True, 1.0, "A"), (False, 2.0, "o"), (True, 1.0, "H"), (None, None, None)
    ]  # fmt: skip
    query = "SELECT loud, count(*) FROM outcomes WHERE loud IS NOT NULL GROUP BY 1 ORDER BY 1"
    assert rows(mill, query, projections=projections) == [(False, 1), (True, 2)]


def test_a_projection_sees_images_and_tensors_as_arrays(mill: Mill) -> None:
    inputs = {"photo": Image((2, 2)), "vector": Tensor((3,))}
    values = {"photo": bytes([0, 10, 20, 30]), "vector": b"\0\0\x80?" * 3}
    mill.put(prediction(1, mill.at(1), inputs=values, tags={}))
    projections = {"bright": lambda row: row["photo"].mean() + row["vector"].sum()}
    assert rows(mill, "SELECT bright FROM predictions", inputs=inputs, projections=projections) == [(18.0,)]


def test_a_projection_that_raises_is_named(mill: Mill) -> None:
    mill.put(prediction(1, mill.at(1)))
    with pytest.raises(ProjectError, match="'broken' raised ZeroDivisionError"):
        rows(mill, "SELECT broken FROM predictions", projections={"broken": lambda row: 1 / 0})


# --- fences


def test_only_so_many_rows_are_returned_and_it_is_told_that_there_are_more(mill: Mill) -> None:
    mill.put(*[prediction(i, mill.at(i)) for i in range(5)])
    for limit, more in ((4, True), (5, False), (6, False)):
        found = sql(mill).ask("SELECT request_id FROM predictions", limit=limit)
        assert (len(found.rows), found.more) == (min(limit, 5), more)


def test_a_query_that_takes_too_long_is_ended(mill: Mill) -> None:
    begun = time.monotonic()
    with pytest.raises(StoreError, match=r"longer than 0\.3 s"):
        sql(mill).ask(
            "SELECT count(*) FROM range(100000000000) a, range(1000) b WHERE a.range = b.range + 1", timeout_s=0.3
        )
    assert time.monotonic() - begun < 10
    assert not [t for t in threading.enumerate() if isinstance(t, threading.Timer)]


def test_a_query_that_needs_too_much_memory_is_ended_and_writes_no_file(
    mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mill.folder)
    before = sorted(mill.folder.rglob("*"))
    with pytest.raises(StoreError, match="more than 60MB of memory"):
        sql(mill).ask("SELECT count(*) FROM (SELECT DISTINCT hash(range), range FROM range(30000000))", memory="60MB")
    assert sorted(mill.folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("query", "named"),
    [("SELECT nothing FROM predictions", "nothing"), ("SELECT age + text FROM predictions", "DOUBLE, VARCHAR"),
     ("SELECT $1", "parameters"), ("SELECT 1 / 'x'", "x")],
)  # fmt: skip
def test_a_query_that_fails_says_why(mill: Mill, query: str, named: str) -> None:
    mill.put(prediction(1, mill.at(1)))
    with pytest.raises(StoreError, match="the query fails") as refusal:
        sql(mill).ask(query)
    assert named in refusal.value.message


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_csv('/dev/stdin')",
        "SELECT * FROM read_parquet('{other}')",
        "COPY (SELECT 1) TO '/tmp/tidemill-escaped'",
        "COPY (SELECT 1) TO '{own}'",
        "ATTACH '/tmp/tidemill-escaped.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET allowed_paths = ['/etc/passwd']",
        "SET memory_limit = '100GB'",
        "RESET lock_configuration",
        "EXPORT DATABASE '/tmp/tidemill-escaped'",
        "SELECT * FROM read_json('http://127.0.0.1:1/x')",
    ],
)
def test_even_what_passed_the_check_could_reach_nothing_else(mill: Mill, query: str) -> None:
    """The connection itself is shut in: the check of the statement is not all that stands between."""
    mill.put(prediction(1, mill.at(1)))
    mill.put(prediction(1, mill.at(1)), project="other")
    own, other = (next((mill.folder / "log" / name).rglob("*.parquet")) for name in ("p", "other"))
    before = own.read_bytes()
    with unlocked() as connection:
        connection.execute(f"SET allowed_paths = ['{own}']")
        lock(connection)
        assert connection.execute(f"SELECT count(*) FROM read_parquet('{own}')").fetchall() == [(1,)]
        with pytest.raises(Exception, match=r"(?i)permission|disabled|locked|cannot"):
            connection.execute(query.format(own=own, other=other)).fetchall()
    assert own.read_bytes() == before
    assert not list(Path("/tmp").glob("tidemill-escaped*"))


def test_nobodys_variables_can_be_read(mill: Mill) -> None:
    secret = pl.DataFrame({"word": ["hush"]})
    with pytest.raises(StoreError, match="secret"):
        sql(mill).ask("SELECT * FROM secret")
    with unlocked() as connection:
        lock(connection)
        with pytest.raises(Exception, match="secret"):
            connection.execute("SELECT * FROM secret")
    assert len(secret) == 1


# --- files that move


def test_a_file_that_is_merged_while_a_query_begins_is_found_again(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        mill.put(prediction(number, mill.at(number)))
    read = sql_module.reading
    merged = []

    def then_merged(*given: Any, **named: Any) -> str:
        made = read(*given, **named)
        if not merged:
            merged.append(mill.compactor.merge_small(mill.lease(), now=mill.now + 24 * HOUR))
        return made

    monkeypatch.setattr(sql_module, "reading", then_merged)
    assert rows(mill, "SELECT count(*) FROM predictions") == [(3,)]
    assert merged == [3]


def test_a_named_file_that_is_gone_is_said_by_name(mill: Mill) -> None:
    mill.put(prediction(1, mill.at(1)))
    mill.files()[0].unlink()
    with pytest.raises(Corrupt, match="parquet"):
        rows(mill, "SELECT count(*) FROM predictions")


def test_a_project_and_a_folder_with_quotes_in_their_names_are_read(tmp_path: Path, noon: datetime) -> None:
    folder = tmp_path / 'it\'s "mine"'
    folder.mkdir()
    with Database.open(f"sqlite:///{tmp_path}/x.db") as db:
        mill = Mill(folder, db, noon)
        mill.put(prediction(1, mill.at(1)))
        assert rows(mill, "SELECT count(*) FROM predictions") == [(1,)]
