"""The quick ways to read a body take exactly what the careful ones take, and make the same of it."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.errors import InvalidRequest
from tidemill.schema import Category, Classes, Image, Number, Schema, Sensitive, Tensor, Text
from tidemill.serving.infer import InferForm
from tidemill.serving.protocol import read_predict
from tidemill.serving.reading import Reader

SCHEMA = Schema(
    {
        "x": Tensor((2, 2)),
        "flat": Tensor((3,)),
        "n": Number(low=-2, high=7),
        "any_n": Number(),
        "c": Category(values=["é", "b", "x" * 300]),
        "any_c": Category(),
        "t": Text(max_chars=3),
        "s": Sensitive(max_chars=4),
        "i": Image((1, 2)),
        "may_n": Number(low=0, default=-1),
        "may_c": Category(values=["é", "b"], default="b"),
        "may_t": Text(max_chars=3, default=""),
    },
    Classes(["a", "b"]),
)
GOOD: dict[str, Any] = {
    "x": [[1, 2.5], [-3e30, 0]],
    "flat": [1e-40, -0.0, 3],
    "n": 3,
    "any_n": 1e300,
    "c": "é",
    "any_c": "",
    "t": "😀éb",
    "s": "mine",
    "i": [[0, 255]],
    "may_n": 4,
    "may_c": "é",
    "may_t": "a",
}
MAY = {"may_n": -1.0, "may_c": "b", "may_t": ""}
numbers = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([1e39, 2**70]))
odd = st.one_of(numbers, st.text(max_size=5), st.booleans(), st.none(), st.lists(numbers, max_size=4))
nested = st.lists(st.lists(st.one_of(numbers, st.booleans()), min_size=1, max_size=3), min_size=1, max_size=3)


@settings(max_examples=400, deadline=None)
@given(name=st.sampled_from([*GOOD, "more"]), value=st.one_of(odd, nested, st.sampled_from(list(GOOD.values()))))
def test_a_body_is_read_quickly_as_it_is_read_carefully(name: str, value: Any) -> None:
    body = json.dumps({"inputs": {**GOOD, name: value}, "unit": "u", "version": 3}).encode()
    quick = Reader(SCHEMA).read(body)
    if quick is None:
        return  # read carefully, then; what must never happen is that the quick way takes what the other refuses
    careful = read_predict(body)
    assert quick.inputs == SCHEMA.validate(careful.inputs) | {"s": quick.inputs["s"]}
    assert (quick.unit, quick.subject, quick.model, quick.version) == ("u", None, None, 3)


def test_what_is_as_declared_is_read_quickly() -> None:
    reader = Reader(SCHEMA)
    assert reader.read(json.dumps({"inputs": GOOD}).encode()) is not None
    for wrong in ({"unit": ""}, {"unit": "u" * 257}, {"unit": 3}, {"units": "u"}, {"inputs": {**GOOD, "n": 8}}):
        assert reader.read(json.dumps({"inputs": GOOD, **wrong}).encode()) is None
    for body in (b"", b"{", b"[]", b"\xff", b'{"inputs":' + b"[" * 5000):
        assert reader.read(body) is None


@pytest.mark.parametrize("given", [{}, dict.fromkeys(MAY), {"may_n": None, "may_t": "b"}])
def test_what_is_left_out_or_null_has_its_default(given: dict[str, Any]) -> None:
    needed = {name: value for name, value in GOOD.items() if name not in MAY}
    body = json.dumps({"inputs": {**needed, **given}}).encode()
    wanted = {name: MAY[name] if given.get(name) is None else given[name] for name in MAY}
    for read in (Reader(SCHEMA).read(body), read_predict(body)):
        assert read is not None
        found = SCHEMA.validate(read.inputs)
        assert {name: found[name] for name in MAY} == wanted and list(found) == list(SCHEMA.inputs)


def test_rows_of_tensors_may_lack_one_hold_null_or_nan_where_there_is_a_default() -> None:
    form = InferForm("m", Schema({"n": Number(default=-1), "c": Category(default="none")}, Classes(["a", "b"])))
    n = {"name": "n", "shape": [2], "datatype": "FP64", "data": [7, None]}
    read = form.read(json.dumps({"inputs": [n]}).encode())
    assert read.rows == [{"n": 7.0, "c": "none"}, {"n": -1.0, "c": "none"}]
    nan = struct.pack("<2d", math.nan, 3.0)
    binary = {"name": "n", "shape": [2], "datatype": "FP64", "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [binary]})
    assert [row["n"] for row in form.read(head.encode() + nan, len(head)).rows] == [-1.0, 3.0]
    with pytest.raises(InvalidRequest, match="input 'n' is missing"):
        form.read(b'{"inputs": []}')


ROW = Schema({"x": Tensor((3,)), "n": Number(), "c": Category(), "i": Image((1, 2))}, Classes(["a", "b"]))
TENSORS = [
    {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2.5, -3]},
    {"name": "n", "shape": [1], "datatype": "FP64", "data": [7]},
    {"name": "c", "shape": [1], "datatype": "BYTES", "data": ["é"]},
    {"name": "i", "shape": [1, 1, 2], "datatype": "UINT8", "data": [0, 255]},
]


@settings(max_examples=400, deadline=None)
@given(
    at=st.integers(0, 3),
    field=st.sampled_from(["name", "shape", "datatype", "data"]),
    value=st.one_of(odd, nested, st.sampled_from([t[f] for t in TENSORS for f in t])),
    id_=st.one_of(st.none(), st.text(max_size=3)),
)
def test_a_row_of_tensors_is_read_quickly_as_it_is_read_carefully(at: int, field: str, value: Any, id_: Any) -> None:
    tensors = [{**tensor, field: value} if place == at else tensor for place, tensor in enumerate(TENSORS)]
    body = json.dumps({"inputs": tensors, **({} if id_ is None else {"id": id_})}).encode()
    form = InferForm("m", ROW)
    quick = form.quick(body)
    try:
        careful = form.read(body)
    except InvalidRequest:
        assert quick is None
    else:
        assert quick is None or (quick == (careful.rows[0], careful.id) and len(careful.rows) == 1)


def test_a_row_as_declared_is_read_quickly() -> None:
    form = InferForm("m", ROW)
    assert form.quick(json.dumps({"id": "a", "inputs": TENSORS}).encode()) is not None
    for wish in ({"outputs": [{"name": "scores"}]}, {"parameters": {"unit": "u"}}):
        assert form.quick(json.dumps({"inputs": TENSORS, **wish}).encode()) is None, "more is asked than the row"
