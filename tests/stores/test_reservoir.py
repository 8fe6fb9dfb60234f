"""What the reservoir keeps of an example, and which label counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count, permutations
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.clock import micros
from tidemill.errors import Corrupt, NotFound, StoreError
from tidemill.records import Example, Trust
from tidemill.stores.database import Database
from tidemill.stores.duplicates import Sameness
from tidemill.stores.reservoir import Reservoir

NUMBERS = count()
MINUTE = timedelta(minutes=1)


@pytest.fixture
def reservoir(tmp_path: Path, database: Database) -> Reservoir:
    return Reservoir(database, tmp_path / "reservoir")


@pytest.fixture
def example(noon: datetime) -> Example:
    return Example(
        id="e1", request_id="e1", unit="ann", received_at=noon, picked_at=noon, reason="Random", probability=0.25,
        split="", inputs={"text": "hi", "age": 3.0, "image": b"\x00\x01"}, decision="ok", version=4,
    )  # fmt: skip


def add(reservoir: Reservoir, *examples: Example, project: str = "p", **asked: Any) -> int:
    with reservoir._db.begin() as conn:
        return reservoir.add(conn, project, examples, **asked)


def label(reservoir: Reservoir, id: str, value: str | float, trust: Trust, at: datetime, source: str = "s") -> bool:
    with reservoir._db.begin() as conn:
        return reservoir.label(conn, "p", id, value=value, trust=trust, source=source, at=at)


def splits(reservoir: Reservoir, project: str = "p") -> dict[str, str]:
    index = reservoir.index(project)
    return dict(zip(index["id"], index["split"], strict=True))


def test_an_example_comes_back_as_it_was_but_for_its_split(reservoir: Reservoir, example: Example) -> None:
    labelled = replace(
        example, id="e2", request_id=None, probability=None, decision=None, version=None, label=1.5, trust=Trust.TRUTH,
        source="import", labelled_at=example.received_at + MINUTE,
    )  # fmt: skip
    assert add(reservoir, example, labelled) == 2
    found = reservoir.examples("p", ["e2", "e1"])
    assert [replace(e, split="") for e in found] == [labelled, example]
    assert {e.split for e in found} <= {"train", "test"}


def test_an_example_is_added_once_however_often_it_is_given(reservoir: Reservoir, example: Example) -> None:
    other = replace(example, inputs={"text": "changed"})
    assert add(reservoir, example, other) == 1
    assert add(reservoir, other, replace(example, id="e2")) == 1
    assert reservoir.inputs("p", ["e1"]) == [dict(example.inputs)]
    assert add(reservoir) == 0


def test_projects_do_not_see_each_other(reservoir: Reservoir, example: Example) -> None:
    add(reservoir, example)
    assert add(reservoir, replace(example, inputs={"text": "theirs"}), project="q") == 1
    assert reservoir.inputs("q", ["e1"]) == [{"text": "theirs"}]
    assert reservoir.inputs("p", ["e1"]) == [dict(example.inputs)]
    assert reservoir.present("r", ["e1"]) == set()


def test_nothing_is_kept_of_a_transaction_that_failed(reservoir: Reservoir, example: Example) -> None:
    with pytest.raises(RuntimeError), reservoir._db.begin() as conn:
        reservoir.add(conn, "p", [example])
        raise RuntimeError
    assert reservoir.index("p").is_empty()
    assert add(reservoir, example) == 1
    assert reservoir.inputs("p", ["e1"]) == [dict(example.inputs)]


VALUES = st.text(max_size=8) | st.floats(allow_nan=False) | st.binary(max_size=8)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_inputs_of_any_names_and_types_come_back_in_any_order(
    reservoir: Reservoir, example: Example, data: st.DataObject
) -> None:
    project = f"p{next(NUMBERS)}"
    row = st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES, min_size=1)
    rows = data.draw(st.lists(row, min_size=1, max_size=8))
    examples = [replace(example, id=str(i), inputs=row) for i, row in enumerate(rows)]
    half = data.draw(st.integers(0, len(rows)))
    add(reservoir, *examples[:half], project=project)
    add(reservoir, *examples[half:], project=project)
    wanted = data.draw(st.lists(st.sampled_from(range(len(rows))), max_size=10))
    found = reservoir.inputs(project, [str(i) for i in wanted])
    assert found == [rows[i] for i in wanted]
    assert [{n: type(v) for n, v in row.items()} for row in found] == [
        {n: type(v) for n, v in rows[i].items()} for i in wanted
    ]


def test_only_the_chunks_of_the_asked_examples_are_read(reservoir: Reservoir, example: Example, tmp_path: Path) -> None:
    add(reservoir, example)
    add(reservoir, replace(example, id="e2", inputs={"text": "other"}))
    chunks = {path: path.read_bytes() for path in (tmp_path / "reservoir" / "p").iterdir()}
    assert len(chunks) == 2
    (other,) = [path for path, data in chunks.items() if b"other" in data]
    other.unlink()
    assert reservoir.inputs("p", ["e1"]) == [dict(example.inputs)]
    with pytest.raises(StoreError, match="backup"):
        reservoir.inputs("p", ["e1", "e2"])


def test_a_chunk_that_changed_on_the_disk_is_not_believed(
    reservoir: Reservoir, example: Example, tmp_path: Path
) -> None:
    add(reservoir, example)
    (path,) = (tmp_path / "reservoir" / "p").iterdir()
    data = path.read_bytes()
    path.write_bytes(data.replace(b"hi", b"ho"))
    with pytest.raises(Corrupt):
        reservoir.inputs("p", ["e1"])


@pytest.mark.parametrize("bad", [None, True, ["a"]])
def test_an_input_that_is_not_canonical_is_refused_by_name(reservoir: Reservoir, example: Example, bad: Any) -> None:
    with pytest.raises(StoreError, match="'age' of example 'e1'"):
        add(reservoir, replace(example, inputs={"age": bad}))


def test_an_example_without_inputs_is_refused(reservoir: Reservoir, example: Example) -> None:
    with pytest.raises(StoreError, match="e1"):
        add(reservoir, replace(example, inputs={}))


def test_a_label_without_its_source_is_refused(reservoir: Reservoir, example: Example) -> None:
    with pytest.raises(StoreError, match="e1"):
        add(reservoir, replace(example, label="ok", trust=Trust.TRUTH, labelled_at=example.received_at))


def test_an_unknown_id_is_not_found_by_name(reservoir: Reservoir, example: Example) -> None:
    add(reservoir, example)
    for ask in (reservoir.inputs, reservoir.examples):
        with pytest.raises(NotFound, match="nobody"):
            ask("p", ["e1", "nobody"])
    with pytest.raises(NotFound, match="nobody"):
        label(reservoir, "nobody", "ok", Trust.TRUTH, example.received_at)
    assert reservoir.present("p", ["e1", "nobody"]) == {"e1"}


# --- split


def many(example: Example, num: int, **changes: Any) -> list[Example]:
    return [replace(example, id=f"{i}", request_id=f"{i}", **{n: f(i) for n, f in changes.items()}) for i in range(num)]


def test_a_fifth_is_for_tests(reservoir: Reservoir, example: Example) -> None:
    add(reservoir, *many(example, 1000, unit=str, inputs=lambda i: {"text": str(i)}))
    share = list(splits(reservoir).values()).count("test") / 1000
    assert 0.15 < share < 0.25


def test_all_examples_of_a_unit_have_one_split(reservoir: Reservoir, example: Example) -> None:
    add(reservoir, *many(example, 200, unit=lambda i: f"user {i % 20}", inputs=lambda i: {"text": str(i)}))
    found = splits(reservoir)
    assert all(len({found[str(i)] for i in range(user, 200, 20)}) == 1 for user in range(20))
    assert set(found.values()) == {"train", "test"}


def test_without_a_unit_of_its_own_an_example_is_split_by_its_content(reservoir: Reservoir, example: Example) -> None:
    contents = many(example, 100, unit=str, inputs=lambda i: {"text": str(i)})
    add(reservoir, *contents)
    again = [replace(e, id=f"x{e.id}", request_id=None, unit=f"x{e.id}") for e in contents]
    add(reservoir, *again, project="q")
    assert splits(reservoir) == {id_[1:]: split for id_, split in splits(reservoir, "q").items()}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_split_of_a_duplicate_group_never_changes_and_never_differs(
    reservoir: Reservoir, example: Example, data: st.DataObject
) -> None:
    project = f"p{next(NUMBERS)}"
    picks = data.draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=16))
    examples = [
        replace(example, id=str(i), unit=f"user {unit}", inputs={"text": str(content), "age": -0.0 if i % 2 else 0.0})
        for i, (content, unit) in enumerate(picks)
    ]
    seen: dict[int, str] = {}
    while examples:
        size = data.draw(st.integers(1, 6))
        add(reservoir, *examples[:size], project=project)
        examples = examples[size:]
        for id_, split in splits(reservoir, project).items():
            assert seen.setdefault(picks[int(id_)][0], split) == split


def test_examples_that_differ_in_a_tag_alone_are_duplicates_where_the_project_says_so(
    reservoir: Reservoir, example: Example
) -> None:
    rows = many(example, 60, unit=lambda i: f"user {i}", inputs=lambda i: {"text": str(i % 3), "age": float(i)})
    add(reservoir, *rows, sameness=Sameness(["text"]))
    found = splits(reservoir)
    assert all(len({found[str(i)] for i in range(text, 60, 3)}) == 1 for text in range(3))
    add(reservoir, *rows, project="q")
    assert set(splits(reservoir, "q").values()) == {"train", "test"}
    others = many(example, 60, unit=str, inputs=lambda i: {"other": str(i)})
    add(reservoir, *others, project="r", sameness=Sameness(["text"]))
    assert set(splits(reservoir, "r").values()) == {"train", "test"}, "without any of those inputs all of them count"


# --- index


def test_the_index_has_all_metadata_in_order_of_time(reservoir: Reservoir, example: Example) -> None:
    later = replace(example, id="e0", received_at=example.received_at + MINUTE, decision="toxic")
    add(reservoir, later, example)
    label(reservoir, "e1", "toxic", Trust.PEOPLE, example.received_at + 2 * MINUTE, source="ann")
    index = reservoir.index("p")
    assert index["id"].to_list() == ["e1", "e0"]
    row = index.to_dicts()[0]
    assert row | {"split": "", "duplicates": ""} == {
        "id": "e1", "request_id": "e1", "unit": "ann", "received_at": micros(example.received_at),
        "picked_at": micros(example.received_at), "reason": "Random", "probability": 0.25, "split": "",
        "duplicates": "", "decision": "ok", "version": 4, "label": "toxic", "trust": "people", "source": "ann",
        "labelled_at": micros(example.received_at + 2 * MINUTE),
    }  # fmt: skip
    assert index["duplicates"].n_unique() == 1


def test_labels_in_the_index_have_the_type_of_their_values(reservoir: Reservoir, example: Example) -> None:
    assert reservoir.index("p").schema["label"] == pl.String()
    add(reservoir, example, replace(example, id="e2"))
    label(reservoir, "e1", 3, Trust.PEOPLE, example.received_at)
    assert reservoir.index("p")["label"].to_list() == [3.0, None]
    label(reservoir, "e2", "three", Trust.PEOPLE, example.received_at)
    assert reservoir.index("p")["label"].to_list() == ["3", "three"]


def test_labelled_train_examples_are_counted(reservoir: Reservoir, example: Example) -> None:
    add(reservoir, *many(example, 40, unit=str, inputs=lambda i: {"text": str(i)}))
    for i in range(30):
        label(reservoir, str(i), "ok", Trust.CROWD, example.received_at)
    expected = sum(split == "train" for id_, split in splits(reservoir).items() if int(id_) < 30)
    assert reservoir.num_labelled("p") == expected
    assert 0 < expected < 30


# --- labels


def test_the_highest_trust_then_the_newest_label_wins_in_whatever_order_they_come(
    reservoir: Reservoir, example: Example
) -> None:
    at = example.received_at
    given = [
        ("a", Trust.CROWD, at + 9 * MINUTE),
        ("b", Trust.PEOPLE, at + 2 * MINUTE),
        ("c", Trust.PEOPLE, at + 5 * MINUTE),
    ]
    for number, order in enumerate(permutations(given)):
        id_ = f"e{number}"
        add(reservoir, replace(example, id=id_))
        counted = [label(reservoir, id_, *one) for one in order]
        (found,) = reservoir.examples("p", [id_])
        assert (found.label, found.trust, found.labelled_at) == given[2]
        assert counted[order.index(given[2])]
        assert not label(reservoir, id_, *given[2]), "the same label again changes nothing"


def test_two_labels_of_one_moment_are_decided_alike_in_both_orders(reservoir: Reservoir, example: Example) -> None:
    for id_, order in [("e1", "ab"), ("e2", "ba")]:
        add(reservoir, replace(example, id=id_))
        for value in order:
            label(reservoir, id_, value, Trust.PEOPLE, example.received_at)
    first, second = reservoir.examples("p", ["e1", "e2"])
    assert first.label == second.label


# --- queue


def ask(reservoir: Reservoir, ids: Sequence[str], priority: float, now: datetime) -> None:
    with reservoir._db.begin() as conn:
        reservoir.ask(conn, "p", ids, priority=priority, now=now)


def waiting(reservoir: Reservoir) -> list[str]:
    return [e.id for e in reservoir.next_in_queue("p", 100)]


def test_the_queue_gives_the_highest_priority_then_the_longest_waiting(reservoir: Reservoir, example: Example) -> None:
    now = example.received_at
    add(reservoir, *many(example, 5))
    ask(reservoir, ["0", "1"], 0.0, now + MINUTE)
    ask(reservoir, ["2"], 1.0, now + 2 * MINUTE)
    ask(reservoir, ["3"], 0.0, now)
    ask(reservoir, ["3", "2"], 9.0, now + 3 * MINUTE)
    assert waiting(reservoir) == ["2", "3", "0", "1"]
    assert reservoir.num_waiting("p") == 4
    (first,) = reservoir.next_in_queue("p", 1)
    assert first.inputs == example.inputs
    assert reservoir.next_in_queue("q", 1) == []


def test_an_answer_labels_the_example_and_takes_it_off_the_queue(reservoir: Reservoir, example: Example) -> None:
    now = example.received_at
    add(reservoir, *many(example, 3))
    ask(reservoir, ["0", "1", "2"], 0.0, now)
    with reservoir._db.begin() as conn:
        assert reservoir.answer(conn, "p", "1", value="toxic", by="ann", now=now + MINUTE, trust=Trust.PEOPLE)
        reservoir.skip(conn, "p", "2", by="ann", now=now + MINUTE)
    assert waiting(reservoir) == ["0"]
    answered, skipped = reservoir.examples("p", ["1", "2"])
    assert (answered.label, answered.trust, answered.source) == ("toxic", Trust.PEOPLE, "queue")
    assert skipped.label is None
    ask(reservoir, ["1", "2"], 5.0, now + 2 * MINUTE)
    assert waiting(reservoir) == ["0"], "nobody is asked twice"


def test_an_answer_below_the_label_that_counts_is_taken_off_the_queue_without_effect(
    reservoir: Reservoir, example: Example
) -> None:
    now = example.received_at
    add(reservoir, example)
    ask(reservoir, ["e1"], 0.0, now)
    label(reservoir, "e1", "ok", Trust.TRUTH, now)
    with reservoir._db.begin() as conn:
        assert not reservoir.answer(conn, "p", "e1", value="toxic", by="ann", now=now + MINUTE, trust=Trust.PEOPLE)
    assert reservoir.num_waiting("p") == 0
    assert reservoir.examples("p", ["e1"])[0].label == "ok"


def test_an_answer_to_an_unknown_example_is_not_found(reservoir: Reservoir, noon: datetime) -> None:
    with pytest.raises(NotFound), reservoir._db.begin() as conn:
        reservoir.answer(conn, "p", "e9", value="ok", by="ann", now=noon, trust=Trust.PEOPLE)
