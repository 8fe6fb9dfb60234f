"""Checking a column at once gives each row what checking it by itself gives: the same rows, values and reasons."""

from __future__ import annotations

import base64
import datetime
import decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import InvalidInput
from tidemill.schema import Category, Classes, Image, Input, Number, Schema, Sensitive, Tensor, Text
from tidemill.stores.cells import canonical
from tidemill.stores.checked import check_column, check_table, numbers_of_text, plain

KEY = b"k" * 32
OUTPUT = Classes(["a", "b"])


def by_itself(kind: Input, value: Any) -> Any:
    """What the row-wise check makes of a value: canonical, or the reason as an error."""
    try:
        return canonical(value, kind, "it", KEY)
    except InvalidInput as error:
        return error


def agree(kind: Input, array: pa.Array) -> None:
    """Compare the check of a whole column with that of each of its rows."""
    array = plain(array)
    rows = [by_itself(kind, value) for value in array.to_pylist()]
    wanted = np.array([not isinstance(row, InvalidInput) for row in rows], dtype=bool)
    values, fits = check_column(kind, array, "it", key=KEY)
    assert fits.tolist() == wanted.tolist()
    assert values is not None
    expected = kind.column([row for row in rows if not isinstance(row, InvalidInput)])
    assert values[fits].dtype == expected.dtype and values.shape[1:] == expected.shape[1:]
    assert values[fits].tobytes() == expected.tobytes() or values[fits].tolist() == expected.tolist()
    checked = check_table(Schema({"it": kind}, OUTPUT), pa.table({"it": array}), wanted=["it"], key=KEY)
    assert checked.good.tolist() == wanted.tolist()
    told = {row.at: row.reason for row in checked.refused}
    assert told == {at: row.message for at, row in enumerate(rows) if isinstance(row, InvalidInput)}


def nullable(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.none() | values, max_size=12)


BOUNDS = st.none() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, 255.0, 256.0, 0.5, -1.0, 3.4e38, float("nan"), float("inf")])


@given(st.sampled_from([pa.float64(), pa.float32(), pa.float16()]), nullable(st.floats(width=16)), BOUNDS, BOUNDS)
def test_floats(kind: pa.DataType, values: list[Any], low: Any, high: Any) -> None:
    made = [None if v is None else np.float16(v) for v in values] if kind == pa.float16() else values
    agree(Number(low, high), pa.array(made, kind))
    agree(Number(low, high, default=-1), pa.array(made, kind))


@given(nullable(st.integers(-(2**63), 2**63 - 1)), BOUNDS, BOUNDS)
def test_integers(values: list[Any], low: Any, high: Any) -> None:
    agree(Number(low, high), pa.array(values, pa.int64()))
    agree(Number(low, high, default=-0.5), pa.array(values, pa.int64()))
    agree(Number(), pa.array([None if v is None else v % 2**64 for v in values], pa.uint64()))


@given(nullable(st.floats()), BOUNDS)
def test_large_bounds(values: list[Any], low: Any) -> None:
    agree(Number(low, None), pa.array(values, pa.float64()))
    agree(Number(None, low), pa.array(values, pa.float64()))


KINDS = [Number(), Text(), Category(["x"]), Sensitive(), Image((2, 2)), Tensor((4,))]
MAYBE_MISSING = [Number(default=-1), Text(default=""), Category(["x"], default="x")]


@pytest.mark.parametrize("kind", [*KINDS, *MAYBE_MISSING])
@pytest.mark.parametrize(
    "array",
    [
        pa.array([True, None]),
        pa.array(["x", "1", None]),
        pa.array([b"abcd", None]),
        pa.array([datetime.date(2026, 1, 1)]),
        pa.array([None, None]),
        pa.array([], pa.string()),
        pa.array([], pa.list_(pa.int64())),
        pa.array([{"a": 1}]),
        pa.array([[1, 2, 3, 4], None, [1], []]),
        pa.array([[True, False, True, False]]),
        pa.array([["1", "2", "3", "4"]]),
        pa.array([[1.0, None, 2.0, 3.0]]),
        pa.array([[[1, 2], [3, 4]], [[1, 2], [3]], [[1, 2], None]]),
        pa.array([decimal.Decimal("1.5"), None]),
        pa.array(["x", "y", "x"]).dictionary_encode(),
        pa.array(["x", "yy", None], pa.large_string()),
        pa.array(["x", "yy", None], pa.string_view()),
        pa.array([b"abcd", b"ab", None], pa.large_binary()),
        pa.array([b"abcd", None], pa.binary(4)),
        pa.array([b"abcd", None], pa.binary_view()),
    ],
    ids=lambda array: str(array.type),
)
def test_a_column_of_any_type(kind: Input, array: pa.Array) -> None:
    agree(kind, array)
    agree(kind, array[1:])  # an array may begin in the middle of its buffers


@given(nullable(st.text(max_size=6)))
def test_texts(values: list[Any]) -> None:
    values = [None if v is None else v.encode(errors="ignore").decode() for v in values]
    for kind in (Text(3), Category(), Category(["", "a", "é"]), Category(["a"], default="a"), Sensitive(max_chars=2)):
        agree(kind, pa.array(values, pa.string()))
        agree(kind, pa.array(values, pa.large_string())[1:])


@given(nullable(st.binary(max_size=5) | st.binary(min_size=4, max_size=4)))
def test_bytes(values: list[Any]) -> None:
    for kind in (Image((2, 2)), Tensor((1,))):
        agree(kind, pa.array(values, pa.binary()))
        agree(kind, pa.array(values, pa.large_binary())[1:])
        fixed = [v for v in values if v is None or len(v) == 4]
        agree(kind, pa.array(fixed, pa.binary(4))[1:])


@given(nullable(st.lists(st.none() | FLOATS, min_size=2, max_size=3)))
def test_lists(values: list[Any]) -> None:
    for type_ in (pa.float64(), pa.float32()):
        agree(Tensor((2,)), pa.array(values, pa.list_(type_)))
        agree(Tensor((2,)), pa.array(values, pa.large_list(type_))[1:])
        pairs = [v for v in values if v is None or len(v) == 2]
        agree(Tensor((2,)), pa.array(pairs, pa.list_(type_, 2))[1:])


@given(nullable(st.lists(st.lists(st.none() | FLOATS, min_size=2, max_size=2), min_size=1, max_size=2)))
def test_nested_lists(values: list[Any]) -> None:
    for kind in (Image((2, 2)), Tensor((2, 2))):
        agree(kind, pa.array(values, pa.list_(pa.list_(pa.float64()))))
        whole = [v for v in values if v is None or len(v) == 2]
        agree(kind, pa.array(whole, pa.list_(pa.list_(pa.float64(), 2), 2))[1:])


@given(nullable(st.lists(st.integers(-1, 257), min_size=4, max_size=4)))
def test_pixels_of_integers(values: list[Any]) -> None:
    nested = [None if v is None else [v[:2], v[2:]] for v in values]
    agree(Image((2, 2)), pa.array(nested, pa.list_(pa.list_(pa.int16()))))
    bytes_ = [None if v is None else [n % 256 for n in v] for v in values]
    nested = [None if v is None else [v[:2], v[2:]] for v in bytes_]
    agree(Image((2, 2)), pa.array(nested, pa.list_(pa.list_(pa.uint8(), 2), 2)))


@given(nullable(st.lists(FLOATS, min_size=4, max_size=4)))
def test_numbers_of_a_matrix_one_after_the_other_are_the_matrix(values: list[Any]) -> None:
    flat = pa.array(values, pa.list_(pa.float32(), 4))
    nested = pa.array([None if v is None else [v[:2], v[2:]] for v in values], pa.list_(pa.list_(pa.float32(), 2), 2))
    for kind in (Image((2, 2)), Tensor((2, 2))):
        (a, fits), (b, wanted) = (check_column(kind, array, "it") for array in (flat, nested))
        assert a is not None and b is not None
        assert fits.tolist() == wanted.tolist() and a[fits].tobytes() == b[wanted].tobytes()


@given(
    nullable(st.binary(min_size=4, max_size=4).map(lambda raw: base64.b64encode(raw).decode()) | st.text(max_size=4))
)
def test_base64(values: list[Any]) -> None:
    values = [None if v is None else v.encode(errors="ignore").decode() for v in values]
    agree(Image((2, 2)), pa.array(values, pa.string()))
    agree(Tensor((1,)), pa.array(values, pa.string()))


def test_bytes_that_a_file_calls_text_are_refused() -> None:
    wrong = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xff"]).buffers())
    for kind in (Text(), Category(), Sensitive()):
        _, fits = check_column(kind, wrong, "it")
        assert fits.tolist() == [True, False]
        checked = check_table(Schema({"it": kind}, OUTPUT), pa.table({"it": wrong}), wanted=["it"])
        assert [row.at for row in checked.refused] == [1]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_in_text_is_the_number(value: float) -> None:
    assert numbers_of_text(pa.array([repr(value), f" {value!r} ", "", "x1", "1,5", "nan", "0x10"])).to_pylist() == [
        value, value, None, None, None, None, None,
    ]  # fmt: skip


def test_the_first_input_that_does_not_fit_is_named_and_no_sensitive_value_is() -> None:
    schema = Schema({"age": Number(low=0), "name": Sensitive(max_chars=4)}, OUTPUT)
    table = pa.table({"age": [1.0, -1.0, 2.0], "name": ["ann", "robert", "robert"]})
    checked = check_table(schema, table, wanted=["age", "name"], key=KEY)
    assert [(row.at, row.field) for row in checked.refused] == [(1, "age"), (2, "name")]
    assert "robert" not in checked.refused[1].reason
    assert checked.columns["age"].tolist() == [1.0] and "ann" not in checked.columns["name"].tolist()


MAYBE = Schema(dict(zip(("n", "t", "c"), MAYBE_MISSING, strict=True)), OUTPUT)


@pytest.mark.parametrize("column", ["n", "t", "c"])
def test_a_column_that_is_not_there_has_the_default_in_every_row(column: str) -> None:
    table = pa.table({"n": [1.5, 2.0], "t": ["a", "b"], "c": ["x", "x"]}).drop_columns(column)
    checked = check_table(MAYBE, table, wanted=["n", "t", "c"])
    assert checked.good.all() and checked.columns[column].tolist() == [MAYBE.defaults[column]] * 2


def test_in_a_file_without_types_an_empty_cell_is_missing_and_a_wrong_one_wrong() -> None:
    table = pa.table({"n": ["", "7", "seven"], "t": ["", "b", "c"], "c": ["x", "", "x"]})
    checked = check_table(MAYBE, table, wanted=["n", "t", "c"], typed=False)
    assert checked.good.tolist() == [True, True, False]
    assert checked.columns["n"].tolist() == [-1, 7] and checked.columns["c"].tolist() == ["x", "x"]
    assert [(row.at, row.field) for row in checked.refused] == [(2, "n")] and "'seven'" in checked.refused[0].reason
