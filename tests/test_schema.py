"""What goes in is validated at the edge: valid values survive, all else is refused with the field and the next move."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import InvalidInput, ProjectError
from tidemill.schema import (
    INPUT_TYPES,
    OUTPUT_TYPES,
    RESERVED,
    Category,
    Classes,
    Image,
    Input,
    Number,
    Schema,
    Sensitive,
    Tensor,
    Text,
    Value,
    keyed_hash,
)

SECRET = "ann@example.org"
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
WORDS = st.text(max_size=30)  # hypothesis leaves surrogates out, as every JSON decoder of ours does
INPUTS: dict[str, Any] = {
    "text": Text(max_chars=30),
    "colour": Category(values=["red", "green"]),
    "tag": Category(tag=True),
    "age": Number(low=0, high=150),
    "any_number": Number(tag=True),
    "image": Image((2, 3)),
    "rgb": Image([2, 2, 3]),
    "vector": Tensor((4,)),
    "matrix": Tensor([2, 2]),
    "email": Sensitive(),
}
SCHEMA = Schema(INPUTS, Classes(["ok", "toxic"]))


def nested(values: st.SearchStrategy[Any], shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    for size in reversed(shape):
        values = st.lists(values, min_size=size, max_size=size)
    return values


VALID: dict[str, st.SearchStrategy[Any]] = {
    "text": WORDS,
    "colour": st.sampled_from(["red", "green"]),
    "tag": WORDS,
    "age": st.floats(0, 150) | st.integers(0, 150),
    "any_number": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**300), 10**300),
    "image": nested(st.integers(0, 255), (2, 3)),
    "rgb": nested(st.integers(0, 255), (2, 2, 3)),
    "vector": nested(FLOAT32 | st.integers(-(2**20), 2**20), (4,)),
    "matrix": nested(FLOAT32, (2, 2)),
    "email": WORDS,
}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


# --- wire -> canonical -> column


@given(st.fixed_dictionaries(VALID))
def test_every_valid_request_keeps_its_values_from_the_wire_to_the_column(raw: dict[str, Any]) -> None:
    row = SCHEMA.validate(json.loads(json.dumps(raw)), key=b"k")
    assert list(row) == list(INPUTS)
    columns = SCHEMA.columns([row, row])
    for name in ("text", "colour", "tag"):
        assert columns[name].dtype == object and columns[name].tolist() == [raw[name]] * 2
    for name in ("age", "any_number"):
        assert columns[name].dtype == np.float64 and columns[name].tolist() == [float(raw[name])] * 2
    for name, dtype in {"image": np.uint8, "rgb": np.uint8, "vector": np.float32, "matrix": np.float32}.items():
        assert columns[name].dtype == dtype and columns[name].shape == (2, *INPUTS[name].shape)
        np.testing.assert_array_equal(columns[name][1], np.array(raw[name], dtype=dtype))
    assert columns["email"].tolist() == [keyed_hash(raw["email"], b"k")] * 2


@given(nested(st.integers(0, 255), (2, 3)), nested(FLOAT32, (2, 2)))
def test_base64_says_the_same_as_nested_lists(image: list[list[int]], matrix: list[list[float]]) -> None:
    packed = base64.b64encode(np.array(image, dtype=np.uint8).tobytes()).decode()
    assert INPUTS["image"].parse(packed, "image") == INPUTS["image"].parse(image, "image")
    packed = base64.b64encode(np.array(matrix, dtype="<f4").tobytes()).decode()
    assert INPUTS["matrix"].parse(packed, "matrix") == INPUTS["matrix"].parse(matrix, "matrix")


@pytest.mark.parametrize("name", INPUTS)
def test_no_rows_are_a_column_of_length_0(name: str) -> None:
    assert INPUTS[name].column([]).shape == (0, *getattr(INPUTS[name], "shape", ()))


# --- what is refused


def good() -> dict[str, Any]:
    return {
        "text": "hi", "colour": "red", "tag": "v1", "age": 3, "any_number": 1.5, "image": [[0, 1, 2], [3, 4, 5]],
        "rgb": np.zeros((2, 2, 3), dtype=int).tolist(), "vector": [0.0] * 4, "matrix": [[0, 0], [0, 0]],
        "email": SECRET,
    }  # fmt: skip


HUGE = 10**6000  # more digits than Python turns into text
DEEP: list[Any] = []
for _ in range(2000):
    DEEP = [DEEP]
NUMBERS = [math.nan, math.inf, -math.inf, 10**400, HUGE, True, False, "1", "", None, [1], {}, b"1", 1j, DEEP]
ARRAYS = [
    math.nan, None, {}, 1.0, "", "not base64!", "ÿÿÿÿ", "AAAA", "AA=A", [], [[]], [1], [[1, 2, 3]], [[1, 2], [3]],
    [[1, 2, 3], [4, 5, None]], [[1, 2, 3], [4, 5, "6"]], [[True, True, True], [True, True, True]], DEEP, b"123456",
    [[1, 2, HUGE], [0, 0, 0]], [[10**40] * 3] * 2, [[math.nan] * 3] * 2, [[math.inf] * 3] * 2, [[1e39] * 3] * 2,
    [[{}] * 3] * 2,
]  # fmt: skip
BAD: dict[str, list[Any]] = {
    "text": ["x" * 31, 1, None, ["a"], {}, b"a", True, HUGE, "\ud800", DEEP],
    "colour": ["blue", "", "Red", 0, None, "\udfff", HUGE],
    "tag": ["x" * 201, 1, None, "\ud800"],
    "age": [*NUMBERS, -1, -1e-9, 151, 10**300],
    "any_number": NUMBERS,
    "image": [*ARRAYS, [[0, 0, 0], [0, 0, 256]], [[0, 0, 0], [0, 0, -1]], [[0, 0, 0], [0, 0, 0.5]]],
    "vector": [*ARRAYS, base64.b64encode(np.array([0, 0, 0, np.nan], dtype="<f4")).decode()],
    "email": [1, None, [SECRET], "x" * 1001, "\ud800", {SECRET: SECRET}],
}
BAD["rgb"] = BAD["matrix"] = ARRAYS


ALL_BAD = [(name, value) for name, values in BAD.items() for value in values]


@pytest.mark.parametrize(("name", "value"), ALL_BAD, ids=lambda v: type(v).__name__)
def test_what_is_not_as_declared_is_refused_with_the_field_and_the_next_move(name: str, value: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        SCHEMA.validate({**good(), name: value})
    assert caught.value.field == name and repr(name) in caught.value.message and caught.value.hint
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["text", "tag", "age"])
def test_what_is_missing_is_told_to_be_sent_or_declared_with_a_default(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"declare what stands for a missing one, as in \w+\(default="):
        SCHEMA.validate({**good(), name: None})


MAYBE = Schema({"age": Number(low=0, default=-1), "tag": Category(["a"], default="a"), "t": Text(default="")}, Value())


@pytest.mark.parametrize("raw", [{}, {"age": None, "tag": None, "t": None}, {"age": math.nan}, {"age": -1}])
def test_the_default_stands_for_what_is_missing(raw: dict[str, Any]) -> None:
    found = MAYBE.validate(raw)
    assert found == {"age": -1.0, "tag": "a", "t": ""}
    assert [column.tolist() for column in MAYBE.columns([found, {}]).values()] == [[-1, -1], ["a", "a"], ["", ""]]


def test_a_default_is_part_of_the_declaration_and_without_one_it_is_written_as_ever() -> None:
    assert Schema.from_json(MAYBE.to_json()) == MAYBE
    assert "default" not in Number().to_json() and MAYBE.to_json()["inputs"]["age"]["default"] == -1.0
    assert MAYBE.required == () and MAYBE.defaults == {"age": -1.0, "tag": "a", "t": ""}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Number(default=math.nan), lambda: Number(default=math.inf), lambda: Number(default="1"),  # type: ignore[arg-type]
        lambda: Category(["a"], default="b"), lambda: Text(max_chars=1, default="ab"), lambda: Text(default=3),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_a_default_that_no_request_could_send_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ProjectError, match="default="):
        make()


@pytest.mark.parametrize(
    ("kind", "told"),
    [(Number(low=0), "of at least 0"), (Number(high=9), "of at most 9"), (Number(low=0, high=9), "from 0 to 9")],
)
def test_a_number_out_of_range_is_told_the_range_that_there_is(kind: Number, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        kind.parse(-1 if kind.low == 0 else 10, "age")
    assert caught.value.hint == f"send a number {told}"


def parsed_or_refused(raw: object) -> None:
    try:
        SCHEMA.columns([SCHEMA.validate(raw)])
    except InvalidInput as error:
        assert error.field and error.hint and len(str(error)) < 500


@given(ANYTHING)
def test_any_body_is_taken_or_refused_and_nothing_else(raw: object) -> None:
    parsed_or_refused(raw)


@given(st.sampled_from(list(INPUTS)), ANYTHING)
def test_any_value_of_any_field_is_taken_or_refused_and_nothing_else(name: str, value: object) -> None:
    parsed_or_refused({**good(), name: value})


@given(st.dictionaries(st.text(max_size=8), st.none(), min_size=1, max_size=3))
def test_fields_that_are_not_declared_are_refused_by_name(extra: dict[str, None]) -> None:
    raw = {**extra, **good()}
    if len(raw) == len(INPUTS):
        return
    with pytest.raises(InvalidInput) as caught:
        SCHEMA.validate(raw)
    assert caught.value.field in extra and "not declared" in caught.value.message


@pytest.mark.parametrize("name", INPUTS)
def test_a_missing_field_is_refused_by_name(name: str) -> None:
    raw = good()
    del raw[name]
    with pytest.raises(InvalidInput, match="missing") as caught:
        SCHEMA.validate(raw)
    assert caught.value.field == name


@pytest.mark.parametrize("raw", [None, [], "text", 3, True])
def test_inputs_that_are_no_object_are_refused(raw: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        SCHEMA.validate(raw)
    assert caught.value.field == "inputs"


# --- sensitive values


def test_a_sensitive_value_is_replaced_by_a_hash_that_needs_the_key() -> None:
    one, again, other = (SCHEMA.validate(good(), key=key)["email"] for key in (b"k", b"k", b"l"))
    assert one == again != other
    assert len(one) == 32 and set(one) <= set("0123456789abcdef")
    assert SECRET not in str(SCHEMA.validate(good(), key=b"k"))


@pytest.mark.parametrize(
    "raw",
    [
        {**good(), "email": [SECRET]},
        {**good(), "email": SECRET * 100},
        {**good(), "text": 3},
        {**good(), "more": 1},
        [good()],
        [{"email": SECRET}],
        SECRET,
        {"email": SECRET},
    ],
)
def test_a_sensitive_value_is_in_no_message(raw: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        SCHEMA.validate(raw)
    assert SECRET not in str(caught.value)


# --- declarations


@pytest.mark.parametrize("name", [*sorted(RESERVED), "_x", "two words", "1st", "", "a-b"])
def test_names_of_the_logs_own_columns_and_what_is_no_name_are_refused(name: str) -> None:
    with pytest.raises(ProjectError, match="taken by the log"):
        Schema({name: Text()}, Value())


@pytest.mark.parametrize(
    "declare",
    [
        lambda: Schema({}, Value()),
        lambda: Schema({"x": Text}, Value()),
        lambda: Schema({"x": "text"}, Value()),
        lambda: Schema({"x": Text()}, ["ok", "toxic"]),
        lambda: Schema({"x": Text()}, Classes),
        lambda: Classes(["only"]),
        lambda: Classes(["a", "a"]),
        lambda: Classes("ab"),
        lambda: Category("ab"),
        lambda: Category([]),
        lambda: Image((28,)),
        lambda: Image((28, 28, 3, 1)),
        lambda: Image((28, 0)),
        lambda: Image(28),
        lambda: Tensor(()),
        lambda: Tensor((2.0, 3)),
        lambda: Tensor((True, 3)),
    ],
)
def test_a_declaration_that_cannot_work_is_refused_with_the_next_move(declare: Any) -> None:
    with pytest.raises(ProjectError) as caught:
        declare()
    assert caught.value.hint


def kinds() -> st.SearchStrategy[Input]:
    shapes = st.lists(st.integers(1, 5), min_size=2, max_size=3)
    return st.one_of(
        st.builds(Text, max_chars=st.integers(1, 10**6), tag=st.booleans()),
        st.builds(Category, values=st.none() | st.lists(WORDS, min_size=1, max_size=3, unique=True), tag=st.booleans()),
        st.builds(Number, low=st.none() | st.floats(-1, 0), high=st.none() | st.integers(1, 9), tag=st.booleans()),
        st.builds(Image, shape=shapes),
        st.builds(Tensor, shape=shapes),
        st.builds(Sensitive, tag=st.booleans(), max_chars=st.integers(1, 9)),
    )


OUTPUTS = st.one_of(
    st.builds(Classes, st.lists(WORDS, min_size=2, max_size=4, unique=True)),
    st.builds(Value, low=st.none() | st.floats(-1, 0), high=st.none() | st.floats(1, 9)),
)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda n: n not in RESERVED)


@given(st.dictionaries(NAMES, kinds(), min_size=1, max_size=4), OUTPUTS)
def test_every_declared_schema_comes_back_from_json(inputs: dict[str, Input], output: Any) -> None:
    schema = Schema(inputs, output)
    back = Schema.from_json(json.loads(json.dumps(schema.to_json())))
    assert back == schema and list(back.inputs) == list(schema.inputs)
    assert (back.tags, back.features) == (schema.tags, schema.features)


def test_every_type_is_found_again_by_its_name() -> None:
    assert {kind.to_json()["type"] for kind in INPUTS.values()} == set(INPUT_TYPES)
    assert {kind.to_json()["type"] for kind in (Classes(["a", "b"]), Value())} == set(OUTPUT_TYPES)


def test_a_type_of_a_newer_program_is_refused() -> None:
    with pytest.raises(ProjectError, match="Video"):
        Schema.from_json({"inputs": {"x": {"type": "Video"}}, "output": {"type": "Value"}})


@pytest.mark.parametrize("kind", [Text, Category, Number])
def test_what_becomes_of_outliers_is_declared_and_written_only_where_it_is_not_the_usual(kind: Any) -> None:
    usual, strict = Schema({"x": kind()}, Value()), Schema({"x": kind(outliers="refuse")}, Value())
    assert "outliers" not in usual.to_json()["inputs"]["x"]
    assert strict.to_json()["inputs"]["x"]["outliers"] == "refuse"
    assert [Schema.from_json(schema.to_json()) for schema in (usual, strict)] == [usual, strict]
    assert (usual.refused, strict.refused) == ((), ("x",))


# --- outputs


@given(st.lists(st.lists(FLOAT32, min_size=3, max_size=3), min_size=1, max_size=5))
def test_the_decision_is_the_name_of_the_highest_score_and_a_label_that_fits(scores: list[list[float]]) -> None:
    output = Classes(["a", "b", "c"])
    decisions = output.decide(np.array(scores, dtype=np.float32))
    targets = output.targets([output.parse_label(d) for d in decisions])
    assert targets.dtype == np.int64
    assert all(row[t] == max(row) for row, t in zip(scores, targets, strict=True))


@given(ANYTHING)
def test_any_label_is_taken_or_refused_by_name(label: object) -> None:
    for output in (Classes(["a", "b"]), Value(low=0, high=1)):
        try:
            parsed = output.parse_label(label)
        except InvalidInput as error:
            assert error.field == "label" and error.hint
        else:
            assert parsed == label and not isinstance(label, bool)


def test_a_number_is_its_own_decision() -> None:
    output = Value()
    assert output.decide(np.array([[1.5], [-2.0]], dtype=np.float32)) == [1.5, -2.0]
    assert output.targets([1.5, -2.0]).tolist() == [1.5, -2.0]
