"""A version knows what its training rows were like, and finds the inputs of a request that were not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tidemill.errors import InvalidInput
from tidemill.runtime.ranges import Ranges, learn_ranges
from tidemill.schema import Category, Image, Number, Schema, Sensitive, Tensor, Text, Value

RNG = np.random.default_rng(7)
SCHEMA = Schema(
    {
        "age": Number(), "words": Text(), "country": Category(), "photo": Image((40, 40, 3)), "vector": Tensor((8,)),
        "mail": Sensitive(),
    },
    Value(),
)  # fmt: skip


def objects(values: list[Any]) -> Any:
    return np.array([*values, None], dtype=object)[:-1]


def rows(num: int) -> dict[str, Any]:
    return {
        "age": RNG.uniform(20, 60, num),
        "words": objects(["word " * n for n in RNG.integers(5, 20, num)]),
        "country": objects(RNG.choice(["nl", "de", "fr"], num).tolist()),
        "photo": RNG.integers(80, 160, (num, 40, 40, 3)).astype(np.uint8),
        "vector": RNG.normal(size=(num, 8)).astype(np.float32),
        "mail": objects([f"{n:032x}" for n in range(num)]),
    }


TRAINED = rows(500)
RANGES = Ranges(SCHEMA, json.loads(json.dumps(learn_ranges(SCHEMA, TRAINED))), list(SCHEMA.inputs))


def test_what_is_like_the_training_rows_is_no_outlier() -> None:
    assert RANGES.outliers(rows(2000)) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("age", 400.0),
        ("age", -400.0),
        ("words", "x" * 1000),
        ("country", "us"),
        ("photo", np.full((40, 40, 3), 255, np.uint8)),
        ("photo", np.zeros((40, 40, 3), np.uint8)),
        ("vector", np.full(8, 1e38, np.float32)),
    ],
)
def test_what_is_not_is_found_in_its_row_by_the_name_of_its_input(name: str, value: Any) -> None:
    batch = rows(5)
    batch[name][3] = value
    assert RANGES.outliers(batch) == {3: [name]}


def test_several_outliers_of_a_row_are_all_named_and_only_inputs_that_are_read_are_looked_at() -> None:
    batch = rows(2)
    batch["age"][0], batch["country"][0] = 999.0, "us"
    assert RANGES.outliers(batch) == {0: ["age", "country"]}
    ages = Ranges(SCHEMA, learn_ranges(SCHEMA, TRAINED), ["age"])
    assert ages.outliers({"age": batch["age"]}) == {0: ["age"]}


def test_a_version_of_before_knows_of_no_range_and_finds_nothing() -> None:
    batch = rows(1)
    batch["age"][0] = 1e300
    assert Ranges(SCHEMA, {}, list(SCHEMA.inputs)).outliers(batch) == {}


def test_a_category_with_new_values_all_the_time_is_not_checked() -> None:
    schema = Schema({"user": Category()}, Value())
    learnt = learn_ranges(schema, {"user": objects([f"u{n}" for n in range(100)])})
    assert Ranges(schema, learnt, ["user"]).outliers({"user": objects(["somebody new"])}) == {}


def test_a_number_that_was_rarely_anything_else_may_be_what_it_rarely_was() -> None:
    schema = Schema({"flag": Number()}, Value())
    ranges = Ranges(schema, learn_ranges(schema, {"flag": np.array([0.0] * 999 + [1.0])}), ["flag"])
    assert ranges.outliers({"flag": np.array([0.0, 1.0, 2.0])}) == {2: ["flag"]}


@given(hnp.arrays(np.float64, st.integers(1, 50), elements=st.floats(allow_nan=False, allow_infinity=False)))
def test_the_middle_of_any_numbers_is_inside_and_the_range_is_json(values: Any) -> None:
    schema = Schema({"x": Number()}, Value())
    learnt = learn_ranges(schema, {"x": values})
    json.dumps(learnt, allow_nan=False)
    middle = np.sort(values)[len(values) // 2 :][:1]
    assert Ranges(schema, learnt, ["x"]).outliers({"x": middle}) == {}


def test_a_row_is_flagged_alone_as_in_a_batch() -> None:
    batch = rows(64)
    batch["age"][5], batch["words"][9], batch["country"][63] = -1000.0, "x" * 999, "us"
    found = RANGES.outliers(batch)
    alone = {i: RANGES.outliers({n: c[i : i + 1] for n, c in batch.items()}).get(0) for i in range(64)}
    assert found == {i: names for i, names in alone.items() if names} and set(found) == {5, 9, 63}


def test_an_outlier_to_be_refused_is_told_what_was_learnt() -> None:
    inputs = {n: c[0].tobytes() if isinstance(c[0], np.ndarray) else c[0] for n, c in rows(1).items()}
    RANGES.refuse(inputs, ["age", "country"])
    with pytest.raises(InvalidInput, match=r"input 'age' lies outside .* send a number from -?\d"):
        RANGES.refuse({**inputs, "age": 1e6}, ["age"])
    with pytest.raises(InvalidInput, match=r"input 'country' lies outside .* send one of de, fr, nl"):
        RANGES.refuse({**inputs, "country": "us"}, ["country"])
    RANGES.refuse({**inputs, "country": "us"}, ["age"])
