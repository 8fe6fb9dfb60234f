"""Linear and naive-Bayes models as a small ONNX graph that reads sparse features as they are.

skl2onnx wants a dense matrix; 2**18 columns of it would cost a megabyte a row. Here the terms of a text pick their
rows of the coefficients (Gather), which are summed by weight, so a request costs what its words cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tidemill.errors import NotExportable
from tidemill.schema import Array

OPSET, IR = 18, 10
_LARGEST_BYTES = 1_900_000_000  # a protobuf holds 2 GB
_CLOSE = 1e-5


@dataclass(frozen=True)
class Block:
    """A stretch of columns of the training matrix: an n-gram field, or the dense `x` (`name` "")."""

    name: str
    size: int


@dataclass(frozen=True)
class Linear:
    """Scores = link(X @ coef + bias), with coef (D, K) and bias (K,).

    `link` is "softmax", "ovr" (sigmoids divided by their sum) or "identity".
    """

    coef: Array
    bias: Array
    link: str

    def scores(self, matrix: Any) -> Array:
        """Return scores (N, K) of a dense or CSR matrix."""
        return link(np.asarray(matrix @ self.coef + self.bias), self.link)


def link(margins: Array, name: str) -> Array:
    """Turn margins (N, K) into scores."""
    if name == "softmax":
        raised = np.exp(margins - margins.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))
    if name == "ovr":
        chances = 0.5 * (1 + np.tanh(0.5 * margins))  # the sigmoid, without overflow
        return np.asarray(chances / np.maximum(chances.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny))
    return margins


def linear_form(estimator: Any, matrix: Any, scores: Array) -> Linear | None:
    """Return the linear form that gives `scores` (N, K) of the rows of `matrix`, None when no form does.

    Forms are tried, not looked up by class: what counts is that the numbers agree.
    """
    for form in _forms(estimator, scores.shape[1]):
        fits = form.coef.shape == (matrix.shape[1], scores.shape[1])
        if fits and np.allclose(form.scores(matrix), scores, rtol=_CLOSE, atol=_CLOSE):
            return form
    return None


def _forms(estimator: Any, num_scores: int) -> Iterator[Linear]:
    links = ("identity",) if num_scores == 1 else ("softmax", "ovr")
    for coef, bias in _weights(estimator):
        if num_scores == 2 and coef.shape[1] == 1:  # the margin of the second class against the first
            yield Linear(np.hstack([0 * coef, coef]), np.concatenate([0 * bias, bias]), "softmax")
        for name in links:
            yield Linear(coef, bias, name)


def _weights(estimator: Any) -> Iterator[tuple[Array, Array]]:
    """Yield (D, K) and (K,) as scikit-learn's linear and naive-Bayes models keep them."""
    logs = getattr(estimator, "feature_log_prob_", None)
    if logs is not None:
        yield logs.T, np.asarray(estimator.class_log_prior_)
        yield logs.T, np.zeros(len(logs))  # ComplementNB leaves the prior out
    coef = getattr(estimator, "coef_", None)
    if isinstance(coef, np.ndarray):
        coef = np.atleast_2d(coef.astype(np.float64)).T
        yield coef, np.broadcast_to(np.asarray(estimator.intercept_, dtype=np.float64), (coef.shape[1],)).copy()


def linear_graph(form: Linear, blocks: Sequence[Block], place: Array | None = None) -> bytes:
    """Return a serialised graph from the features of `blocks`, in matrix order, to `scores` float32 (N, K).

    `place` (K, all classes) spreads the scores over the schema's classes when training did not see all of them.

    Raises:
        NotExportable: the coefficients are too large for one file.
    """
    if 4 * form.coef.size > _LARGEST_BYTES:
        raise NotExportable(f"its {form.coef.size} coefficients are too large for one ONNX file")
    coef, bias = (_centred(form.coef), _centred(form.bias)) if form.link == "softmax" else (form.coef, form.bias)
    graph = _Graph()
    margins, at = graph.constant("bias", bias), 0
    for block in blocks:
        rows = coef[at : at + block.size]
        part = graph.sparse(block, rows) if block.name else graph.dense(rows)
        margins, at = graph.node("Add", part, margins), at + block.size
    graph.finish(margins, form.link, place)
    return graph.serialise(form.coef.shape[1] if place is None else place.shape[1])


def _centred(array: Array) -> Array:
    """Subtract the mean over classes: softmax is blind to it, and float32 keeps more of what is left."""
    return np.asarray(array - array.mean(axis=-1, keepdims=True))


class _Graph:
    """Builds the graph node by node; every method returns the name of what it made."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._inputs: list[Any] = []

    def constant(self, name: str, array: Array) -> str:
        dtype = np.int64 if array.dtype.kind == "i" else np.float32
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array, dtype=dtype), name))
        return name

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def _input(self, name: str, kind: int, shape: list[str | int]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def dense(self, coef: Array) -> str:
        x = self._input("x", TensorProto.FLOAT, ["N", len(coef)])
        return self.node("MatMul", x, self.constant("coef_x", coef))

    def sparse(self, block: Block, coef: Array) -> str:
        """(N, L) ids and weights -> (N, 1, L) @ (N, L, K) -> (N, K); padding picks a row of zeros."""
        length = f"L_{block.name}"
        ids = self._input(f"{block.name}_ids", TensorProto.INT64, ["N", length])
        weights = self._input(f"{block.name}_weights", TensorProto.FLOAT, ["N", length])
        padded = self.constant(f"coef_{block.name}", np.vstack([coef, np.zeros((1, coef.shape[1]))]))
        axis = self.constant(f"axis_{block.name}", np.array([1]))
        picked = self.node("Gather", padded, ids, axis=0)
        product = self.node("MatMul", self.node("Unsqueeze", weights, axis), picked)
        return self.node("Squeeze", product, axis)

    def finish(self, margins: str, link: str, place: Array | None) -> None:
        scores = margins
        if link == "softmax":
            scores = self.node("Softmax", margins, axis=1)
        elif link == "ovr":
            scores = self._ovr(margins)
        if place is not None:
            scores = self.node("MatMul", scores, self.constant("place", place))
        self.node("Identity", scores, output="scores")

    def _ovr(self, margins: str) -> str:
        chances = self.node("Sigmoid", margins)
        total = self.node("ReduceSum", chances, self.constant("classes", np.array([1])), keepdims=1)
        least = self.constant("least", np.array([np.finfo(np.float32).tiny]))
        return self.node("Div", chances, self.node("Max", total, least))

    def serialise(self, num_scores: int) -> bytes:
        output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", num_scores])
        graph = helper.make_graph(self._nodes, "linear", self._inputs, [output], self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
        onnx.checker.check_model(model)
        serialised: bytes = model.SerializeToString()
        return serialised
