"""Estimators over dense features as ONNX, by skl2onnx."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.base import is_classifier

from tidemill.errors import NotExportable
from tidemill.schema import Array
from tidemill.training.linear import OPSET
from tidemill.transforms import DENSE

_ML_OPSET = 3


def convert(estimator: Any, *, num_features: int, place: Array | None) -> bytes:
    """Return a serialised graph from `x` float32 (N, D) to `scores` float32 (N, K).

    `place` (the estimator's classes, K) spreads its scores over the schema's classes.

    Raises:
        NotExportable: skl2onnx does not know the estimator, or it gives no probabilities.
    """
    classifier = is_classifier(estimator)
    if classifier and not hasattr(estimator, "predict_proba"):
        raise NotExportable(f"{type(estimator).__name__} gives no probabilities")
    model = _converted(estimator, num_features, classifier)
    outputs = {output.name: output for output in model.graph.output}
    raw = outputs.get("probabilities" if classifier else "variable")
    if raw is None or not raw.type.HasField("tensor_type"):
        raise NotExportable(
            f"skl2onnx gives {', '.join(outputs)} for {type(estimator).__name__}, not one array of scores"
        )
    _finish(model, raw.name, place)
    serialised: bytes = model.SerializeToString()
    return serialised


def _converted(estimator: Any, num_features: int, classifier: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of skl2onnx about protobuf, which the user can do nothing about
            return to_onnx(
                estimator,
                initial_types=[(DENSE, FloatTensorType([None, num_features]))],
                options={id(estimator): {"zipmap": False}} if classifier else None,
                target_opset={"": OPSET, "ai.onnx.ml": _ML_OPSET},
            )
    except Exception as error:  # it raises whatever its converters raise
        reason = " ".join(str(error).split())[:200]
        raise NotExportable(f"skl2onnx does not convert {type(estimator).__name__}: {reason}") from error


def _finish(model: Any, raw: str, place: Array | None) -> None:
    """Make `scores` float32 (N, K) the only output."""
    graph = model.graph
    graph.node.append(helper.make_node("Cast", [raw], ["scores_cast"], to=TensorProto.FLOAT))
    if place is None:
        graph.node.append(helper.make_node("Identity", ["scores_cast"], ["scores"]))
    else:
        graph.initializer.append(numpy_helper.from_array(place.astype(np.float32), "scores_place"))
        graph.node.append(helper.make_node("MatMul", ["scores_cast", "scores_place"], ["scores"]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", "K"]))
    onnx.checker.check_model(model)
