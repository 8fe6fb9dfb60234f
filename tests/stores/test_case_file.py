"""A suite's file: what a line holds, what is refused and where, and that it grows whole however many add at once."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.errors import Conflict, ProjectError
from tidemill.schema import Classes, Image, Number, Schema, Sensitive, Tensor, Text
from tidemill.stores.case_file import add_case, read_cases
from tidemill.suites import Case

SCHEMA = Schema({"text": Text(), "age": Number()}, Classes(("ok", "toxic")))
RICH = Schema(
    {"image": Image((2, 2)), "vector": Tensor((2,)), "who": Sensitive(), "note": Text()}, Classes(("ok", "toxic"))
)


def case(text: str, label: str = "toxic", note: str = "") -> Case:
    return Case(id="", inputs={"text": text, "age": 1.0}, label=label, note=note)


def line(**changes: object) -> str:
    return json.dumps({"inputs": {"text": "a", "age": 1}, "label": "ok", **changes})


def test_what_was_added_is_read_again_with_its_note_and_says_where_it_came_from(tmp_path: Path):
    file = tmp_path / "suites" / "bugs.jsonl"
    assert add_case(file, SCHEMA, case("ünïcode\n", note="seen in May"), origin={"request_id": "r1"}) == "line 1"
    assert add_case(file, SCHEMA, case("two", "ok"), origin={"request_id": "r2"}) == "line 2"
    read = read_cases(file, SCHEMA)
    assert [(c.id, c.inputs["text"], c.label, c.note) for c in read] == [
        ("line 1", "ünïcode\n", "toxic", "seen in May"), ("line 2", "two", "ok", ""),
    ]  # fmt: skip
    assert [json.loads(text)["from"] for text in file.read_text().splitlines()] == [
        {"request_id": "r1"}, {"request_id": "r2"},
    ]  # fmt: skip
    assert [path.name for path in file.parent.iterdir()] == ["bugs.jsonl"]


def test_images_tensors_and_hashes_come_back_as_they_were(tmp_path: Path):
    inputs = {"image": bytes(range(4)), "vector": b"\0\0\x80?\0\0\0@", "who": "ab" * 16, "note": ""}
    add_case(tmp_path / "rich.jsonl", RICH, Case(id="", inputs=inputs, label="ok"), origin={})
    assert read_cases(tmp_path / "rich.jsonl", RICH)[0].inputs == inputs


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), unique=True, max_size=8))
@settings(max_examples=30)
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, texts: list[str]):
    file = tmp_path_factory.mktemp("suite") / "texts.jsonl"
    file.touch()
    for number, text in enumerate(texts, start=1):
        assert add_case(file, SCHEMA, case(text), origin={}) == f"line {number}"
    assert [c.inputs["text"] for c in read_cases(file, SCHEMA)] == texts


def test_what_people_wrote_stays_as_it_is(tmp_path: Path):
    file = tmp_path / "bugs.jsonl"
    file.write_bytes(f"{line()}\r\n\n{line(inputs={'age': 2, 'text': 'b'})}".encode())  # no newline at the end
    before = file.read_bytes()
    assert add_case(file, SCHEMA, case("c"), origin={}) == "line 4"
    assert file.read_bytes().startswith(before + b"\n")
    assert [c.id for c in read_cases(file, SCHEMA)] == ["line 1", "line 3", "line 4"]


def test_a_case_that_is_there_is_not_written_again_and_another_answer_to_it_is_refused(tmp_path: Path):
    file = tmp_path / "bugs.jsonl"
    add_case(file, SCHEMA, case("a"), origin={})
    before = file.read_bytes()
    assert add_case(file, SCHEMA, case("a", note="again"), origin={}) == "line 1"
    with pytest.raises(Conflict, match="line 1 has these inputs with the label 'toxic', not 'ok'"):
        add_case(file, SCHEMA, case("a", "ok"), origin={})
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "bugs.jsonl, line 2: it is not JSON"),
        ("[" * 100_000, "bugs.jsonl, line 2: it is not JSON"),
        ("[]", "it has no `inputs` or no `label`"),
        (line(lable="ok"), "'lable' is no part of a case"),
        (line(label="rude"), "bugs.jsonl, line 2: label 'rude' is no class"),
        (line(inputs={"text": "a"}), "line 2: input 'age' is missing"),
        (line(inputs={"text": "a", "age": 1, "x": 2}), "input 'x' is not declared"),
        (line(inputs={"text": "a", "age": "old"}), "'age' is 'old', not a number"),
        (line(inputs=[1]), "inputs are of type list"),
        (line(label="toxic"), "bugs.jsonl, line 2: the inputs of line 1 with another label, 'toxic' and not 'ok'"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_wrong_and_the_next_move(tmp_path: Path, text: str, told: str):
    file = tmp_path / "bugs.jsonl"
    file.write_text(f"{line()}\n{text}\n")
    with pytest.raises(ProjectError) as raised:
        read_cases(file, SCHEMA)
    assert told in raised.value.message
    assert raised.value.hint
    before = file.read_bytes()
    with pytest.raises(ProjectError):
        add_case(file, SCHEMA, case("new"), origin={})
    assert file.read_bytes() == before


def test_a_sensitive_input_in_the_clear_is_refused_without_being_repeated(tmp_path: Path):
    inputs = {"image": [[1, 2], [3, 4]], "vector": [1, 2], "who": "ann@example.org", "note": ""}
    (tmp_path / "rich.jsonl").write_text(line(inputs=inputs))
    with pytest.raises(ProjectError, match="'who' is sensitive, and not given as a hash") as raised:
        read_cases(tmp_path / "rich.jsonl", RICH)
    assert "ann" not in str(raised.value)


def test_a_file_that_is_not_there_or_no_text_is_said_so_and_an_empty_one_has_no_cases(tmp_path: Path):
    with pytest.raises(ProjectError, match="does not exist"):
        read_cases(tmp_path / "none.jsonl", SCHEMA)
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ProjectError, match="cannot be read"):
        read_cases(tmp_path / "bytes.jsonl", SCHEMA)
    (tmp_path / "empty.jsonl").touch()
    assert read_cases(tmp_path / "empty.jsonl", SCHEMA) == ()


def _add_many(file: str, who: int) -> None:
    for number in range(10):
        add_case(Path(file), SCHEMA, case(f"{who}/{number}"), origin={"by": who})


def test_processes_that_add_at_once_lose_nothing(tmp_path: Path):
    file, spawn = tmp_path / "bugs.jsonl", multiprocessing.get_context("spawn")
    adders = [spawn.Process(target=_add_many, args=(str(file), who)) for who in range(3)]
    for adder in adders:
        adder.start()
    for adder in adders:
        adder.join(60)
    assert [adder.exitcode for adder in adders] == [0, 0, 0]
    texts = {c.inputs["text"] for c in read_cases(file, SCHEMA)}
    assert texts == {f"{who}/{number}" for who in range(3) for number in range(10)}
