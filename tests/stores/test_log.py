"""What is asked of the log, and what it answers."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_rows import Mill, feedback, payload, prediction

from tidemill.clock import from_micros
from tidemill.schema import Category, Classes, Number, Schema, Text
from tidemill.stores.database import Database

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
NUMBERS = count()  # for projects of their own: one log serves all examples of a property


@pytest.fixture
def mill(tmp_path: Path, database: Database, noon: datetime) -> Mill:
    return Mill(tmp_path, database, noon)


# --- complete_until


def test_without_a_gateway_the_log_is_complete_up_to_now(mill: Mill) -> None:
    assert mill.log.complete_until(mill.now) == mill.now


def test_the_log_is_complete_up_to_just_before_what_an_open_segment_may_hold(mill: Mill) -> None:
    writer = mill.writer(mill.at(-5))
    assert mill.log.complete_until(mill.now) == mill.now - 5 * SECOND - timedelta(microseconds=1)
    writer.idle(mill.at(-2))
    assert mill.log.complete_until(mill.now) == mill.now - 2 * SECOND - timedelta(microseconds=1)
    writer.idle(mill.at(3))
    assert mill.log.complete_until(mill.now) == mill.now
    writer.close()


def test_the_slowest_gateway_holds_completeness_back_until_its_segment_is_in_the_log(mill: Mill) -> None:
    slow, quick = mill.writer(mill.at(-9)), mill.writer(mill.at(-1))
    slow.append(payload(prediction(1, mill.at(-9))))
    slow.rotate(mill.at(1))
    quick.idle(mill.at(1))
    assert mill.log.complete_until(mill.now) < mill.now - 9 * SECOND
    assert mill.ids() == []
    mill.compact()
    assert mill.log.complete_until(mill.now) == mill.now
    assert mill.ids() == ["request-000001"]
    slow.close()
    quick.close()


def test_a_segment_that_is_named_consumed_but_not_yet_deleted_holds_nothing_back(
    mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    mill.seal(prediction(1, mill.at(-9)))
    monkeypatch.setattr(type(mill.segments), "remove", lambda *_: None)
    mill.compact()
    assert len(mill.segments.present()) == 1
    assert mill.log.complete_until(mill.now) == mill.now
    assert mill.ids() == ["request-000001"]


def test_a_segment_consumed_between_listing_and_asking_is_already_in_the_log(
    mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    mill.seal(prediction(1, mill.at(-9)))
    present = mill.segments.present

    def then_compacted() -> Any:
        found = present()
        mill.another_compactor().compact(mill.lease(), now=mill.now)
        return found

    monkeypatch.setattr(mill.segments, "present", then_compacted)
    until = mill.log.complete_until(mill.now)
    assert until == mill.now
    assert mill.ids() == ["request-000001"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=st.lists(st.sampled_from(["row", "wait", "rotate", "idle", "compact"]), max_size=14))
def test_every_fact_up_to_complete_until_is_in_the_log_at_any_moment(mill: Mill, acts: list[str]) -> None:
    writer, project = mill.writer(mill.at(0)), f"p{next(NUMBERS)}"
    written: list[float] = []
    for second, act in enumerate([*acts, "compact"], start=1):
        if act == "row":
            writer.append(payload(prediction(second, mill.at(second)), project=project))
            written.append(second)
        elif act == "rotate":
            writer.rotate(mill.at(second))
        elif act == "idle":
            writer.idle(mill.at(second))
        elif act == "compact":
            mill.compact()
        until = mill.log.complete_until(mill.now + second * SECOND)
        seconds = (until - mill.now).total_seconds()
        found = mill.log.predictions(project, after=None, until=until, columns=["received_at"])["received_at"]
        assert found.to_list() == [mill.at(at) for at in written if at <= seconds]
    writer.close()
    mill.compact()
    assert mill.log.complete_until(mill.now) == mill.now


# --- predictions


def test_a_window_is_open_below_and_closed_above(mill: Mill) -> None:
    mill.put(*[prediction(i, mill.at(i)) for i in range(5)])
    asked = {"after": mill.now + SECOND, "until": mill.now + 3 * SECOND, "columns": ["request_id"]}
    assert mill.log.predictions("p", **asked)["request_id"].to_list() == ["request-000002", "request-000003"]
    assert mill.log.predictions("q", **asked).is_empty()


def test_rows_come_in_order_of_time_then_id_from_any_number_of_files(mill: Mill) -> None:
    for number, at in [(3, 5), (1, 5), (2, 1), (4, 9), (0, 5)]:
        mill.put(prediction(number, mill.at(at)))
    assert [int(id_[-6:]) for id_ in mill.ids()] == [2, 0, 1, 3, 4]


@pytest.mark.parametrize("at_most", [1, 4, 30])
def test_spans_follow_each_other_and_hold_every_row_once(mill: Mill, at_most: int) -> None:
    for start in (0, 5, 1_000):  # a quiet time in between
        mill.put(*(prediction(start + i, mill.at(start + i)) for i in range(10)))
    for after in (None, mill.now, mill.now + timedelta(seconds=3)):
        until = mill.now + timedelta(seconds=1_005)
        spans = mill.log.spans("p", after=after, until=until, at_most=at_most)
        assert spans[0][0] == after and spans[-1][1] == until
        assert all(end == start for (_, end), (start, _) in pairwise(spans))
        ids = [mill.log.predictions("p", after=a, until=b)["request_id"].to_list() for a, b in spans]
        assert [one for part in ids for one in part] == mill.ids(after=after, until=until)
        assert max(len(part) for part in ids) <= 2 * at_most, "files say when rows came, not how they are spread"
    assert mill.log.spans("other", after=None, until=mill.now, at_most=1) == [(None, mill.now)]


def test_answers_and_shadows_are_asked_for_apart(mill: Mill) -> None:
    shadow = prediction(1, mill.at(1), role="shadow", answered_version=2)
    mill.put(prediction(1, mill.at(1)), shadow)
    assert mill.log.predictions("p", after=None, until=mill.now + DAY)["answered_version"].to_list() == [1]
    assert mill.log.predictions("p", after=None, until=mill.now + DAY, role="shadow")["answered_version"].to_list() == [
        2
    ]


def test_a_row_written_twice_is_there_once_and_two_shadows_of_a_request_are_two(mill: Mill) -> None:
    shadows = [prediction(1, mill.at(1), role="shadow", answered_version=version) for version in (2, 3)]
    mill.put(prediction(1, mill.at(1)), *shadows)
    mill.put(prediction(1, mill.at(1)), *shadows)
    assert len(mill.ids()) == 1
    assert len(mill.ids(role="shadow")) == 2


def test_every_field_of_a_row_comes_back(mill: Mill) -> None:
    row = prediction(
        1, mill.at(1), subject="s", rollout="r", share=0.25, salt="x", fallback_reason="slow", error="boom",
        tags={"country": "NL"}, inputs={"text": "hi", "age": 4.0, "image": b"\x01"}, decision=2.5, abstained=True,
        cached=True, keep_probability=0.5, scores=[0.5],
    )  # fmt: skip
    mill.put(row)
    (found,) = mill.log.predictions("p", after=None, until=mill.now + DAY).to_dicts()
    own = {name: getattr(row, name) for name in row.__struct_fields__ if name not in ("tags", "inputs")}
    assert found == {**own, "country": "NL", "text": "hi", "age": 4.0, "image": b"\x01"}


def test_dropped_inputs_and_failed_requests_are_null_and_tags_are_kept(mill: Mill) -> None:
    mill.put(
        prediction(1, mill.at(1)),
        prediction(2, mill.at(2), inputs=None, decision=None, scores=None, error="boom", answered_version=0),
    )
    row = mill.log.predictions("p", after=None, until=mill.now + DAY).to_dicts()[1]
    assert (row["text"], row["age"], row["decision"], row["scores"], row["country"]) == (None, None, None, None, "NL")


def test_an_empty_answer_has_the_columns_of_the_log(mill: Mill) -> None:
    nothing = mill.log.predictions("p", after=None, until=mill.now)
    assert {
        "request_id": pl.String(),
        "received_at": pl.Int64(),
        "decision": pl.String(),
    }.items() <= nothing.schema.items()
    mill.put(prediction(1, mill.at(1)))
    later = mill.log.predictions("p", after=mill.now + SECOND * 5, until=mill.now + DAY)
    asked = mill.log.predictions("p", after=None, until=mill.now, columns=["text", "age", "never"])
    assert later.is_empty()
    assert asked.columns == ["text", "age", "never"]


def test_only_the_asked_columns_are_read(mill: Mill) -> None:
    """The bytes of another column are destroyed on the disk: nobody notices until it is asked for."""
    mill.put(*[prediction(i, mill.at(i), inputs={"text": "x" * 4000 + str(i)}) for i in range(50)])
    (path,) = mill.files()
    group = pq.ParquetFile(path).metadata.row_group(0)
    (chunk,) = [c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "text"]
    with path.open("r+b") as file:
        file.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
        file.write(b"\xff" * chunk.total_compressed_size)
    frame = mill.log.predictions("p", after=None, until=mill.now + DAY, columns=["decision", "request_id"])
    assert (frame.columns, len(frame)) == (["decision", "request_id"], 50)
    with pytest.raises(pl.exceptions.PolarsError):
        mill.log.predictions("p", after=None, until=mill.now + DAY, columns=["text"])


def test_files_from_before_an_input_was_declared_are_read_along(mill: Mill) -> None:
    mill.put(prediction(1, mill.at(1), inputs={"text": "a"}))
    mill.put(prediction(2, mill.at(2), inputs={"text": "b", "image": b"\x00"}))
    frame = mill.log.predictions("p", after=None, until=mill.now + DAY, columns=["image", "text"])
    assert frame.rows() == [(None, "a"), (b"\x00", "b")]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (1.5, "old", ["1.5", "old"]),
        (b"\x00\x01", "old", ["AAE=", "old"]),
        (b"\x00\x01", 2.0, ["AAE=", "2.0"]),
        (True, 2.5, [1.0, 2.5]),
        (3, 2.5, [3.0, 2.5]),
    ],
)
def test_a_retyped_input_does_not_break_reading(mill: Mill, first: Any, second: Any, expected: list[Any]) -> None:
    mill.put(prediction(1, mill.at(1), inputs={"it": first}), prediction(3, mill.at(9), inputs={"it": second}))
    mill.put(prediction(2, mill.at(2), inputs={"it": second}))
    frame = mill.log.predictions("p", after=None, until=mill.now + 3 * SECOND)
    assert frame["it"].to_list() == expected
    only_new = mill.log.predictions("p", after=mill.now + SECOND, until=mill.now + DAY)
    assert only_new["it"].to_list() == [second, second], "rows of one type keep it, whatever lies before them"
    assert mill.log.lookup("p", ["request-000003"])["it"].to_list() == [second], "or in other files"


def test_an_old_value_that_cannot_be_read_is_missing_and_not_the_default(mill: Mill) -> None:
    schema = Schema({"text": Text(), "it": Number(default=-1), "at": Number(default=-2, tag=True)}, Classes(["a", "b"]))
    said = [({"it": "old"}, {"at": "noon"}), ({"it": "5"}, {"at": "6"}), ({}, {})]
    mill.put(*[prediction(n, mill.at(n), inputs={"text": "x", **i}, tags=t) for n, (i, t) in enumerate(said)])
    mill.put(prediction(3, mill.at(3), inputs={"text": "x", "it": 7.0}, tags={"at": 8.0}))
    mill.put(prediction(4, mill.at(4), inputs={"text": "x"}, tags={}))
    asked: Any = {"after": None, "until": mill.now + DAY, "schema": schema}
    wanted = [(None, None), (5.0, 6.0), (-1.0, -2.0), (7.0, 8.0), (-1.0, -2.0)]
    whole = mill.log.predictions("p", **asked)
    assert whole["it", "at"].rows() == wanted and not [name for name in whole.columns if "?" in name]
    assert mill.log.predictions("p", columns=["it", "at"], **asked).rows() == wanted
    assert mill.log.retyped("p", **asked) == ["at", "it"]
    assert mill.log.retyped("p", **{**asked, "after": mill.now + 3 * SECOND}) == []


def test_requests_are_looked_up_by_id_whenever_they_came(mill: Mill) -> None:
    mill.put(*[prediction(i, mill.at(i * 86_400)) for i in range(5)])
    found = mill.log.lookup("p", ["request-000003", "request-000001", "request-999999"], columns=["request_id", "age"])
    assert found.rows() == [("request-000001", 1.0), ("request-000003", 3.0)]
    assert mill.log.lookup("p", []).is_empty()


# --- feedback


def test_feedback_is_typed_by_what_was_asked_for(mill: Mill) -> None:
    mill.put(
        feedback(1, mill.at(1), "toxic"),
        feedback(2, mill.at(2), 4.0, kind="rating"),
        feedback(3, mill.at(3), True, kind="thumbs"),
        feedback(4, mill.at(4), None, kind="copy"),
    )
    asked = {"after": None, "until": mill.now + DAY}
    assert mill.log.feedback("p", **asked, kinds=["label"])["value"].to_list() == ["toxic"]
    assert mill.log.feedback("p", **asked, kinds=["rating", "thumbs", "copy"])["value"].to_list() == [4.0, 1.0, None]
    assert mill.log.feedback("p", **asked)["value"].to_list() == ["toxic", "4.0", "1.0", None]
    assert mill.log.feedback("p", **asked).columns == ["request_id", "received_at", "kind", "value", "source", "trust"]


def test_feedback_sent_twice_counts_once_and_said_again_later_twice(mill: Mill) -> None:
    mill.put(feedback(1, mill.at(1), "toxic"), feedback(1, mill.at(1), "toxic"))
    mill.put(feedback(1, mill.at(1), "toxic"), feedback(1, mill.at(2), "toxic"))
    assert len(mill.log.feedback("p", after=None, until=mill.now + DAY)) == 2


# --- times, and inputs that came later


def test_times_go_through_the_log_unchanged(mill: Mill) -> None:
    mill.put(prediction(1, mill.at(0.123456)))
    frame = mill.log.predictions("p", after=None, until=mill.now + DAY)
    assert from_micros(frame["received_at"][0]) == mill.now + timedelta(microseconds=123456)


NEWER = Schema(
    {"text": Text(), "age": Number(), "speed": Number(default=-1), "plan": Category(tag=True, default="none")},
    Classes(["ok", "spam"]),
)


def test_rows_that_are_older_than_an_input_have_its_default_whatever_file_they_lie_in(mill: Mill) -> None:
    newer = {"inputs": {"text": "a", "age": 1.0, "speed": 7.0}, "tags": {"country": "NL", "plan": "gold"}}
    mill.put(prediction(1, mill.at(1)), prediction(2, mill.at(2), **newer))  # in one file
    mill.put(prediction(3, mill.at(3)))  # in a file without the columns
    rows = mill.log.predictions("p", after=None, until=mill.now + DAY, schema=NEWER)
    assert rows["speed"].to_list() == [-1.0, 7.0, -1.0] and rows["plan"].to_list() == ["none", "gold", "none"]
    only = mill.log.predictions("p", after=None, until=mill.now + DAY, schema=NEWER, columns=["speed"])
    assert only.columns == ["speed"] and only["speed"].to_list() == [-1.0, 7.0, -1.0]


def test_inputs_that_the_log_stage_dropped_stay_dropped(mill: Mill) -> None:
    kept = {"keep_probability": 0.5, "inputs": {"text": "a", "age": 1.0}}
    shadow = {"role": "shadow", "keep_probability": 0.0, "tags": {}}
    mill.put(prediction(1, mill.at(1), **kept), prediction(2, mill.at(2), keep_probability=0.5, inputs=None))
    mill.put(prediction(2, mill.at(2), inputs=None, **shadow))
    rows = mill.log.predictions("p", after=None, until=mill.now + DAY, schema=NEWER)
    assert rows["speed"].to_list() == [-1.0, None] and rows["plan"].to_list() == ["none", "none"]
    only = mill.log.predictions("p", after=None, until=mill.now + DAY, schema=NEWER, columns=["speed"])
    assert only["speed"].to_list() == [-1.0, None], "whatever else is asked for"
    shadows = mill.log.predictions("p", after=None, until=mill.now + DAY, schema=NEWER, role="shadow")
    assert shadows["speed"].to_list() == [None] and shadows["plan"].to_list() == [None]
