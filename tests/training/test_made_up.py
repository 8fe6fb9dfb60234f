"""Made-up rows fit the schema that they are made for, whatever it declares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.schema import Category, Classes, Image, Number, Schema, Sensitive, Tensor, Text, Value
from tidemill.training.made_up import made_up_data

BOUNDS = st.tuples(st.none() | st.floats(-1e6, 1e6), st.none() | st.floats(0, 1e6)).map(
    lambda b: {"low": b[0], "high": None if b[1] is None else (b[0] if b[0] is not None else -50.0) + b[1]}
)
KINDS = st.one_of(
    st.builds(Text, max_chars=st.integers(1, 100)),
    st.builds(Category, values=st.none() | st.just(("red", "green"))),
    BOUNDS.map(lambda b: Number(**b)),
    st.just(Image((2, 3))),
    st.just(Tensor((4,))),
    st.just(Sensitive()),
)
OUTPUTS = st.just(Classes(["a", "b", "c"])) | BOUNDS.map(lambda b: Value(**b))


@given(KINDS, OUTPUTS, st.integers(0, 20))
def test_made_up_rows_are_valid_inputs_and_labels(kind: Any, output: Any, num_rows: int) -> None:
    schema = Schema({"it": kind}, output)
    data = made_up_data(schema, num_rows=num_rows, rng=np.random.default_rng(0))
    values = data.columns["it"]
    parsed = [kind.parse(v.tolist() if isinstance(v, np.ndarray) else v, "it") for v in values]
    again = kind.column(parsed)
    assert again.dtype == values.dtype and again.shape == values.shape
    np.testing.assert_array_equal(again, values)
    assert len(data) == len(data.targets) == len(data.weights) == num_rows
    if isinstance(output, Value):
        assert all(output.parse_label(float(t)) == t for t in data.targets)


def test_every_class_occurs_and_the_same_generator_makes_the_same_rows() -> None:
    schema = Schema({"x": Number(), "text": Text()}, Classes(["a", "b", "c"]))
    one, other = (made_up_data(schema, num_rows=9, rng=np.random.default_rng(1)) for _ in range(2))
    assert sorted(set(one.targets.tolist())) == [0, 1, 2]
    assert one.columns["text"].tolist() == other.columns["text"].tolist()
    assert one.columns["x"].tolist() == other.columns["x"].tolist()


@pytest.mark.parametrize("num_rows", [0, 1])
def test_few_rows_may_be_asked_for(num_rows: int) -> None:
    schema = Schema({"x": Number()}, Value())
    assert len(made_up_data(schema, num_rows=num_rows, rng=np.random.default_rng(1))) == num_rows
