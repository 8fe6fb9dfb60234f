"""A body of the Open Inference Protocol gives the same rows however its tensors are written, or one clear refusal."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tidemill.errors import InvalidRequest, Malformed
from tidemill.schema import Category, Classes, Image, Number, Schema, Sensitive, Tensor, Text, Value, keyed_hash
from tidemill.serving.infer import OUTPUTS, InferForm
from tidemill.serving.protocol import Answer
from tidemill.serving.tensors import MAX_ROWS, InvalidTensor, packed

SCHEMA = Schema(
    {
        "x": Tensor((2, 3)),
        "picture": Image((2, 2)),
        "age": Number(0, 150, tag=True),
        "country": Category(["nl", "de"], tag=True),
        "words": Text(20),
        "mail": Sensitive(),
    },
    Classes(["cat", "dog"]),
)
FORM = InferForm("pets", SCHEMA)
finite = st.floats(-(2.0**99), 2.0**99, width=32)


def tensor(name, datatype, shape, data=None, **more):
    return {
        "name": name,
        "datatype": datatype,
        "shape": list(shape),
        **({} if data is None else {"data": data}),
        **more,
    }


def strings(values):
    return b"".join(struct.pack("<I", len(v.encode())) + v.encode() for v in values)


def with_bytes(tensors, **more):
    """A body whose tensors are (name, datatype, shape, bytes)."""
    inputs = [tensor(n, d, s, parameters={"binary_data_size": len(raw)}) for n, d, s, raw in tensors]
    head = json.dumps({"inputs": inputs, **more}).encode()
    return head + b"".join(raw for *_, raw in tensors), len(head)


def only(name, kind, output=None):
    return InferForm("m", Schema({name: kind}, output or Value()))


@st.composite
def batches(draw):
    num = draw(st.integers(1, 4))
    return {
        "x": draw(hnp.arrays(np.float32, (num, 2, 3), elements=finite)),
        "picture": draw(hnp.arrays(np.uint8, (num, 2, 2))),
        "age": draw(hnp.arrays(np.float64, (num,), elements=st.floats(0, 150))),
        "country": draw(st.lists(st.sampled_from(["nl", "de"]), min_size=num, max_size=num)),
        "words": draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=num, max_size=num)),
        "mail": draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=9), min_size=num, max_size=num)),
    }


@given(batches())
def test_flat_lists_nested_lists_and_bytes_say_the_same(batch):
    num = len(batch["age"])
    kinds = {"x": "FP32", "picture": "UINT8", "age": "FP64"}
    flat, nested, raw = [], [], []
    for name, values in batch.items():
        kind, array = kinds.get(name, "BYTES"), np.array(values, None if name in kinds else object)
        listed = array.ravel().tolist()
        flat.append(tensor(name, kind, array.shape, listed))
        nested.append(tensor(name, kind, array.shape, array.tolist()))
        raw.append((name, kind, array.shape, array.tobytes() if name in kinds else strings(listed)))
    want = [
        {
            "x": batch["x"][i].tobytes(),
            "picture": batch["picture"][i].tobytes(),
            "age": float(batch["age"][i]),
            **{name: batch[name][i] for name in ("country", "words", "mail")},
        }
        for i in range(num)
    ]
    for tensors in (flat, nested, flat[::-1]):
        assert FORM.read(json.dumps({"inputs": tensors}).encode()).rows == want
    assert FORM.read(*with_bytes(raw)).rows == want
    # And each is what the plain envelope would have made of the same values.
    named = {**want[0], "x": batch["x"][0].tolist(), "picture": batch["picture"][0].tolist()}
    read = FORM.read(json.dumps({"inputs": flat}).encode()).rows[0]
    assert SCHEMA.validate(read, key=b"k") == SCHEMA.validate(named, key=b"k")
    assert SCHEMA.validate(read, key=b"k")["mail"] == keyed_hash(batch["mail"][0], b"k")
    assert list(read) == list(SCHEMA.inputs)


@pytest.mark.parametrize("kind", ["FP16", "FP64", *(f"{s}INT{n}" for s in ("", "U") for n in (8, 16, 32, 64))])
def test_a_tensor_and_a_number_may_come_in_any_type_of_number(kind):
    numpy_kind = {"FP16": "<f2", "FP64": "<f8"}.get(
        kind
    ) or f"<{'u' if kind[0] == 'U' else 'i'}{int(kind[-2:].strip('T')) // 8}"
    values = np.array([[1, 2, 100]], numpy_kind)
    want = [{"x": np.array([1, 2, 100], "<f4").tobytes()}]
    form = only("x", Tensor((3,)))
    assert form.read(*with_bytes([("x", kind, [1, 3], values.tobytes())])).rows == want
    assert form.read(json.dumps({"inputs": [tensor("x", kind, [1, 3], values.ravel().tolist())]}).encode()).rows == want
    ages = only("age", Number()).read(*with_bytes([("age", kind, [3], values.tobytes())])).rows
    assert ages == [{"age": 1.0}, {"age": 2.0}, {"age": 100.0}]


def test_bf16_is_the_upper_half_of_a_float32():
    exact = np.array([1.5, -2.0, 0.0], "<f4")
    raw = (exact.view("<u4") >> 16).astype("<u2").tobytes()
    rows = only("x", Tensor((3,))).read(*with_bytes([("x", "BF16", [1, 3], raw)])).rows
    assert rows == [{"x": exact.tobytes()}]


def test_large_finite_numbers_are_not_taken_for_infinity():
    big = np.full((2, 3), 3e38, "<f4")
    rows = only("x", Tensor((3,))).read(*with_bytes([("x", "FP32", [2, 3], big.tobytes())])).rows
    assert [row["x"] for row in rows] == [big[0].tobytes()] * 2


X, AGE = tensor("x", "FP32", [2, 2], [1, 2, 3, 4]), tensor("age", "FP64", [2], [1, 2])
SMALL = InferForm("m", Schema({"x": Tensor((2,)), "age": Number(0, 150)}, Value()))


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([X], "'age' is missing"),
        ([X, AGE, AGE], "'age' is there twice"),
        ([X, AGE, tensor("z", "FP32", [1], [1])], "'z' is not declared"),
        ([X, tensor("age", "FP64", [1], [1])], "number of rows: x 2, age 1"),
        ([X, tensor("age", "BYTES", [2], ["1", "2"])], "'age' has datatype 'BYTES'"),
        ([X, tensor("age", "FP64", [2], [1, 200])], "row 1: 'age' is 200"),
        ([X, tensor("age", "FP64", [2], [1, True])], "'age' holds what is neither"),
        ([X, tensor("age", "FP64", [2], [1, None])], "'age' holds what is neither"),
        ([X, tensor("age", "FP64", [2], [1, "2"])], "row 1: 'age' is '2', not a number"),
        ([X, tensor("age", "FP64", [2])], "'age' has no data"),
        ([X, tensor("age", "FP64", [2], {"a": 1})], "'age' has data that is no list"),
        ([tensor("x", "FP32", [2, 2], [1, 2, 3, 1e39]), AGE], "row 1: input 'x' holds NaN, infinity"),
        (
            [tensor("x", "FP32", [2, 2], [1, 2, 3, 10**400]), AGE],
            "row 1: input 'x' holds what is no number for float32",
        ),
        ([tensor("x", "FP32", [2, 2], [1, 2, "3", 4]), AGE], "row 1: input 'x' holds what is no number"),
        ([tensor("x", "FP32", [2, 2], [1, 2, 3]), AGE], "'x' has 3 elements, not the 4"),
        ([tensor("x", "FP32", [2, 2], [[1, 2], [3]]), AGE], "'x' is nested otherwise"),
        ([tensor("x", "FP32", [2, 2], [[[1], [2]], [[3], [4]]]), AGE], "'x' holds what is neither"),
        ([tensor("x", "FP32", [2, 3], [1] * 6), AGE], "'x' has shape [2, 3], not [N, 2]"),
        ([tensor("x", "FP32", [2], [1, 2]), AGE], "'x' has shape [2], not [N, 2]"),
        ([tensor("x", "FP32", [0, 2], []), AGE], "'x' has shape [0, 2]"),
        ([tensor("x", "FP32", [-1, 2], [1, 2]), AGE], "'x' has shape [-1, 2]"),
        ([tensor("x", "FP32", [MAX_ROWS + 1, 2], [0.0] * (2 * MAX_ROWS + 2)), AGE], "send 1 to 1000 rows"),
        ([X, AGE, tensor("unit", "BYTES", [2], ["ann", ""])], "row 1: 'unit' has 0 characters"),
        ([X, AGE, tensor("unit", "BYTES", [2], ["ann", "b" * 257])], "row 1: 'unit' has 257 characters"),
    ],
)
def test_what_is_wrong_is_told_by_input_and_row(inputs, says):
    with pytest.raises(InvalidTensor) as caught:
        SMALL.read(json.dumps({"inputs": inputs}).encode())
    assert caught.value.status == 400
    assert says in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ([("x", "FP32", [1, 2], np.array([1, np.nan], "<f4").tobytes())], "row 0: input 'x' holds NaN"),
        ([("x", "FP64", [2, 2], np.array([1, 2, 3, 1e300]).tobytes())], "row 1: input 'x' holds NaN, infinity"),
        ([("x", "FP32", [1, 2], b"1234567")], "'x' has 7 bytes, not 8"),
        ([("age", "FP64", [2], np.array([1, np.inf]).tobytes())], "row 1: 'age' is inf"),
        ([("unit", "BYTES", [1], b"\x05\x00\x00\x00abc")], "'unit' does not hold 1 strings"),
        ([("unit", "BYTES", [1], strings(["a", "b"]))], "'unit' does not hold 1 strings"),
        ([("unit", "BYTES", [2], strings(["a"]) + b"\x01\x00\x00\x00\xff")], "row 1: input 'unit' is not UTF-8"),
        ([("unit", "BYTES", [2], b"\xff\xff\xff\xff")], "'unit' does not hold 2 strings"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(tensors, says):
    with pytest.raises(InvalidTensor, match=r".") as caught:
        SMALL.read(*with_bytes(tensors))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("body", "length", "error"),
    [
        (b"{}", None, Malformed),
        (b"[]", None, Malformed),
        (b"", None, Malformed),
        (b"\xff", None, Malformed),
        (b'{"inputs": 1}', None, Malformed),
        (b'{"inputs": []}', None, InvalidTensor),
        (b'{"inputs": [{"name": "x"}]}', None, Malformed),
        (b"[" * 100_000, None, Malformed),
        (b'{"inputs": [], "id": 5}', None, Malformed),
        (b'{"inputs": []}', 0, Malformed),
        (b'{"inputs": []}', 15, Malformed),
        (b'{"inputs": []}1234', 14, Malformed),
    ],
)
def test_a_body_that_is_no_request_is_refused(body, length, error):
    with pytest.raises(error):
        SMALL.read(body, length)


BODY, LENGTH = with_bytes(
    [("x", "FP32", [1, 2], b"\0" * 8), ("age", "FP64", [1], b"\0" * 8), ("unit", "BYTES", [1], strings(["ann"]))],
    id="a", parameters={"binary_data_output": True}, outputs=[{"name": "scores"}],
)  # fmt: skip


@settings(max_examples=300)
@given(
    at=st.integers(0, len(BODY) - 1),
    put=st.binary(max_size=4),
    cut=st.integers(0, 6),
    length=st.one_of(st.just(LENGTH), st.integers(-2, len(BODY) + 2), st.none()),
)
def test_a_damaged_body_is_read_or_refused_and_nothing_else(at, put, cut, length):
    damaged = BODY[:at] + put + BODY[at + cut :]
    try:
        request = SMALL.read(damaged, length)
    except InvalidRequest:
        return
    for row in request.rows:
        SMALL_VALID = Schema({"x": Tensor((2,)), "age": Number(0, 150)}, Value()).validate(row)
        assert len(SMALL_VALID["x"]) == 8 and 0 <= SMALL_VALID["age"] <= 150


def test_units_and_subjects_come_for_all_rows_or_for_each():
    body = {"inputs": [X, AGE], "id": "q", "parameters": {"unit": "ann", "subject": "s", "priority": 0, "x": [1]}}
    request = SMALL.read(json.dumps(body).encode())
    asked = request.predictions("m", 3)
    assert [(a.unit, a.subject, a.model, a.version) for a in asked] == [("ann", "s", "m", 3)] * 2
    body["inputs"] = [X, AGE, tensor("unit", "BYTES", [2, 1], ["bob", "cid"])]
    asked = SMALL.read(json.dumps(body).encode()).predictions("m", None)
    assert [(a.unit, a.subject) for a in asked] == [("bob", "s"), ("cid", "s")]


ANSWERS = [Answer(f"id-{i}", "pets", 2, ("cat", "dog")[i], [0.25, 0.75], bool(i), None) for i in range(2)]


def told(body, length):
    """What a reply says: outputs by name, read as the protocol says."""
    head = json.loads(body[:length])
    at, out = len(body) if length is None else length, {}
    kinds = {"FP32": "<f4", "INT64": "<i8", "BOOL": "?", "FP64": "<f8"}
    for output in head["outputs"]:
        if "data" in output:
            out[output["name"]] = output["data"]
            continue
        size = output["parameters"]["binary_data_size"]
        raw, at = body[at : at + size], at + size
        if output["datatype"] == "BYTES":
            out[output["name"]] = [s.decode() for s in taken_apart(raw)]
        else:
            out[output["name"]] = np.frombuffer(raw, kinds[output["datatype"]]).tolist()
    assert at == len(body)
    return head, out


def taken_apart(raw):
    while raw:
        (size,) = struct.unpack("<I", raw[:4])
        yield raw[4 : 4 + size]
        raw = raw[4 + size :]


@pytest.mark.parametrize("num", [1, 2])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("id_", [None, 'a "quoted" é'])
def test_a_reply_says_the_same_as_json_and_as_bytes(num, binary, id_):
    request = FORM.read(json.dumps({"inputs": one_row(num), "parameters": {"binary_data_output": binary}}).encode())
    request.id = id_
    head, outputs = told(*FORM.write(request, ANSWERS[:num]))
    assert (head["model_name"], head["model_version"], head.get("id")) == ("pets", "2", id_)
    assert [o["shape"] for o in head["outputs"]] == [[num, 2], *[[num]] * 4]
    assert [o["datatype"] for o in head["outputs"]] == ["FP32", "BYTES", "BOOL", "BYTES", "INT64"]
    assert outputs == {
        "scores": [0.25, 0.75] * num,
        "decision": ["cat", "dog"][:num],
        "abstained": [False, True][:num],
        "request_id": ["id-0", "id-1"][:num],
        "version": [2, 2][:num],
    }


def one_row(num=1):
    return [
        tensor("x", "FP32", [num, 2, 3], [0.5] * 6 * num),
        tensor("picture", "UINT8", [num, 2, 2], [7] * 4 * num),
        tensor("age", "FP64", [num], [3] * num),
        *(tensor(name, "BYTES", [num], ["nl"] * num) for name in ("country", "words", "mail")),
    ]


def test_a_reply_has_the_outputs_that_were_asked_for_each_as_asked():
    outputs = [{"name": "version", "parameters": {"binary_data": True}}, {"name": "scores"}]
    request = FORM.read(json.dumps({"inputs": one_row(), "outputs": outputs}).encode())
    body, length = FORM.write(request, ANSWERS[:1])
    head, said = told(body, length)
    assert [o["name"] for o in head["outputs"]] == ["version", "scores"]
    assert said == {"version": [2], "scores": [0.25, 0.75]}
    assert len(body) == length + 8


@pytest.mark.parametrize(
    "output",
    [
        {"name": "logits"},
        {"name": "scores", "parameters": {"classification": 3}},
        {"name": "scores", "parameters": {"shared_memory_region": "r"}},
    ],
)
def test_an_output_that_is_not_there_is_refused(output):
    with pytest.raises(InvalidTensor, match="output"):
        FORM.read(json.dumps({"inputs": one_row(), "outputs": [output]}).encode())


def test_metadata_names_every_tensor_that_a_request_and_a_reply_have():
    about = FORM.metadata([1, 3])
    assert (about["name"], about["versions"]) == ("pets", ["1", "3"])
    assert {i["name"]: (i["datatype"], i["shape"]) for i in about["inputs"]} == {
        "x": ("FP32", [-1, 2, 3]),
        "picture": ("UINT8", [-1, 2, 2]),
        "age": ("FP64", [-1]),
        **dict.fromkeys(("country", "words", "mail"), ("BYTES", [-1])),
    }
    assert [o["name"] for o in about["outputs"]] == list(OUTPUTS)


def test_the_decision_of_a_value_is_a_number():
    form = only("x", Tensor((1,)), Value())
    request = form.read(json.dumps({"inputs": [tensor("x", "FP32", [1, 1], [1])]}).encode())
    head, said = told(*form.write(request, [Answer("i", "m", 1, 0.5, [0.5], False, None)]))
    assert head["outputs"][1]["datatype"] == "FP64"
    assert said["decision"] == [0.5]
    assert packed("FP64", [0.5]) == struct.pack("<d", 0.5)
