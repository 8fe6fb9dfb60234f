"""Small real models, stored as artefacts, for the suites of runtime and serving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tidemill.model import Artefact
from tidemill.runtime.artefact import MODEL_ONNX, encode_row, write_artefact
from tidemill.schema import Category, Classes, Number, Schema, Tensor

CLASSES = ("cat", "dog", "fish")
SCHEMA = Schema({"x": Tensor((4,)), "age": Number(0, 150, tag=True), "country": Category(tag=True)}, Classes(CLASSES))
PYTHON_MODELS = Path(__file__).with_name("python_models.py")
NAN, RAISES = 0.5, 1.5
"""What x[0] must be above for `touchy` models to give NaN, or to raise."""


def inputs(x: Sequence[float] = (0.1, 0.2, 0.3, 0.4), *, age: float = 30, country: str = "nl") -> dict[str, Any]:
    return {"x": list(map(float, x)), "age": age, "country": country}


def graph(seed: int, *, touchy: bool = False, width: int = 0) -> bytes:
    """A linear softmax model; `touchy` ones fail on some rows, `width` adds work."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(4, 3)).astype(np.float32)
    nodes, constants = [], [numpy_helper.from_array(weights, "w")]
    hidden = "x"
    if width:
        constants += [
            numpy_helper.from_array(rng.normal(size=(4, width)).astype(np.float32), "up"),
            numpy_helper.from_array(np.eye(width, dtype=np.float32), "same"),
            numpy_helper.from_array(rng.normal(size=(width, 4)).astype(np.float32) / width, "down"),
        ]
        nodes += [helper.make_node("MatMul", ["x", "up"], ["h0"])]
        nodes += [helper.make_node("MatMul", [f"h{i}", "same"], [f"h{i + 1}"]) for i in range(20)]
        nodes += [helper.make_node("MatMul", ["h20", "down"], ["h"])]
        hidden = "h"
    nodes += [helper.make_node("MatMul", [hidden, "w"], ["z"]), helper.make_node("Softmax", ["z"], ["p"], axis=1)]
    if touchy:
        constants += [
            numpy_helper.from_array(np.array([0], np.int64), "zero"),
            numpy_helper.from_array(np.array([NAN], np.float32), "nan_above"),
            numpy_helper.from_array(np.array([RAISES], np.float32), "raise_above"),
            numpy_helper.from_array(np.array([5], np.int64), "five"),
            numpy_helper.from_array(np.ones(1, np.float32), "table"),
        ]
        nodes += [
            helper.make_node("Gather", ["x", "zero"], ["first"], axis=1),  # (N, 1)
            helper.make_node("Sub", ["nan_above", "first"], ["left"]),
            helper.make_node("Sqrt", ["left"], ["root"]),
            helper.make_node("Greater", ["first", "raise_above"], ["bad"]),
            helper.make_node("Cast", ["bad"], ["bad_index"], to=TensorProto.INT64),
            helper.make_node("Mul", ["bad_index", "five"], ["index"]),
            helper.make_node("Gather", ["table", "index"], ["one"], axis=0),  # out of bounds raises
            helper.make_node("Mul", ["root", "zero_f"], ["nothing"]),
            helper.make_node("Add", ["p", "nothing"], ["q"]),
            helper.make_node("Mul", ["q", "one"], ["scores"]),
        ]
        constants.append(numpy_helper.from_array(np.zeros(1, np.float32), "zero_f"))
    else:
        nodes.append(helper.make_node("Identity", ["p"], ["scores"]))
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


EXAMPLE = [
    {"x": np.array(row, "<f4").tobytes(), "age": 30.0, "country": "nl"} for row in ([0.1, 0.2, 0.3, 0.4], [-1, 0, 1, 0])
]


def onnx_artefact(folder: Path, raw: bytes, *, schema: Schema = SCHEMA, scores: Any = None, ranges: Any = None) -> Path:
    folder.mkdir(parents=True)
    (folder / MODEL_ONNX).write_bytes(raw)
    artefact = Artefact(
        format="onnx",
        schema=schema.to_json(),
        transforms=[{"type": "Flatten", "names": ["x"]}],
        example=[encode_row(row) for row in EXAMPLE],
        ranges=ranges or {},
    )
    if scores is None:
        scores = expected(raw, [np.frombuffer(row["x"], "<f4") for row in EXAMPLE])
    write_artefact(folder, artefact, params={}, scores=scores)
    return folder


def python_artefact(folder: Path, kind: str, *, ranges: Any = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "weights.txt").write_text("1.0")
    artefact = Artefact(
        format="python",
        schema=SCHEMA.to_json(),
        loader=f"python_models:{kind}",
        example=[encode_row(row) for row in EXAMPLE],
        ranges=ranges or {},
    )
    write_artefact(folder, artefact, params={}, scores=np.full((2, 3), 1 / 3, np.float32))
    return folder


def expected(raw: bytes, rows: Any) -> Any:
    """What ONNX Runtime itself says to these rows."""
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    return session.run(["scores"], {"x": np.asarray(rows, np.float32)})[0]
