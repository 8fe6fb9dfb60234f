"""What `tm.trainers.Sklearn` trains, and how it is stored: as ONNX, or by skops without pickle."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import scipy.sparse
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.pipeline import Pipeline as SklearnPipeline
from sklearn.utils.validation import has_fit_parameter

from tidemill.errors import ModelError, NotExportable, ProjectError, TrainingError
from tidemill.model import Progress, Report, TrainingData
from tidemill.schema import Array, Columns
from tidemill.training.fitted import Fitted
from tidemill.training.known import KnownRows
from tidemill.training.linear import Block, linear_form, linear_graph, link
from tidemill.training.sklearn_onnx import convert
from tidemill.transforms import DENSE, HashedNgrams, Pipeline

_CHUNK = 8_192  # rows made sparse at a time: padded n-grams take far more room than CSR
_ESTIMATOR, _ABOUT = "estimator.skops", "sklearn.json"


def fit(
    estimator: Any, pipeline: Pipeline, data: TrainingData, *, seed: int, progress: Report,
    rows: TrainingData | None = None,
) -> SklearnModel:  # fmt: skip
    """Train a seeded clone of `estimator` on the features of `rows`; the transforms learn from `data`, as it came.

    Raises:
        ProjectError: a classifier for values, or a regressor for classes.
        TrainingError: the estimator raised.
    """
    _check_kind(estimator, data)
    fitted = Fitted.fit(pipeline, data.columns)
    rows = data if rows is None else rows
    matrix = matrix_of(fitted, rows.columns)
    progress(Progress(fraction=0.1, message=f"{len(rows)} rows of {matrix.shape[1]} features"))
    trained = _seeded(estimator, seed)
    arguments, notes = _weights(trained, rows.weights)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            trained.fit(matrix, rows.targets, **arguments)
        except Exception as error:
            what = type(estimator).__name__
            raise TrainingError(
                f"{what}.fit raised {type(error).__name__}: {error}", "change the estimator, its parameters or the data"
            ) from error
    for text in dict.fromkeys([notes, *(f"{w.category.__name__}: {w.message}" for w in caught)]):
        if text:
            progress(Progress(fraction=0.9, message=text))
    return SklearnModel(trained, fitted, data.schema.output.num_scores, notes)


@dataclass(frozen=True, eq=False)
class SklearnModel:
    """A trained estimator behind its transforms; `num_scores` is K, the schema's and not the estimator's."""

    estimator: Any
    fitted: Fitted
    num_scores: int
    notes: str = ""

    def predict(self, columns: Columns) -> Array:
        """Return scores float32 (N, K), for classes in the schema's order."""
        matrix = matrix_of(self.fitted, columns)
        place = self._place()
        scores = raw_scores(self.estimator, matrix)
        return (scores if place is None else scores @ place).astype(np.float32)

    def _place(self) -> Array | None:
        """Return the 0/1 matrix that spreads the estimator's classes over the schema's; None when they are the same."""
        classes = getattr(self.estimator, "classes_", None)
        if classes is None or np.array_equal(classes, np.arange(self.num_scores)):
            return None
        return np.eye(self.num_scores)[np.asarray(classes, dtype=np.int64)]

    def to_onnx(self, columns: Columns) -> bytes:
        """Return a graph of the estimator, without its transforms.

        Raises:
            NotExportable: it is not linear, and skl2onnx does not know it or wants dense features.
        """
        matrix, blocks = matrix_of(self.fitted, columns), blocks_of(self.fitted, columns)
        form = linear_form(self.estimator, matrix, raw_scores(self.estimator, matrix))
        if form is not None:
            return linear_graph(form, blocks, self._place())
        if any(block.name for block in blocks):
            raise NotExportable(f"{type(self.estimator).__name__} is not linear, and the features are sparse")
        return convert(self.estimator, num_features=blocks[0].size, place=self._place())

    def save_weights(self, folder: Path) -> None:
        """Write nothing: scikit-learn trains afresh."""

    def save(self, folder: Path) -> None:
        """Write the estimator by skops, with the list of types in it that skops does not trust by itself.

        Raises:
            ModelError: skops cannot store it.
        """
        import skops.io  # noqa: PLC0415 - takes three seconds, and most models go out as ONNX

        path = folder / _ESTIMATOR
        try:
            skops.io.dump(self.estimator, path)
            types = sorted(skops.io.get_untrusted_types(file=path))
        except Exception as error:
            raise ModelError(
                f"{type(self.estimator).__name__} cannot be stored without pickle: {error}",
                "choose another estimator, or write a trainer whose model has save and load",
            ) from error
        about = {"trusted": types, "num_scores": self.num_scores, "notes": self.notes}
        (folder / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
        self.fitted.save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ModelError: the file holds a type that was not in it when it was saved.
        """
        import skops.io  # noqa: PLC0415 - as above

        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        found = set(skops.io.get_untrusted_types(file=folder / _ESTIMATOR))
        strange = sorted(found - set(about["trusted"]))
        if strange:
            raise ModelError(f"{_ESTIMATOR} holds {strange[0]}, which was not in it when saved.", "train it again")
        estimator = skops.io.load(folder / _ESTIMATOR, trusted=about["trusted"])
        return cls(estimator, Fitted.load(folder), about["num_scores"], about["notes"])


def raw_scores(estimator: Any, matrix: Any) -> Array:
    """Return the estimator's own scores float64 (N, its classes): probabilities, or softmax of margins, or 0/1."""
    if not is_classifier(estimator):
        return np.asarray(estimator.predict(matrix), dtype=np.float64).reshape(matrix.shape[0], -1)
    if hasattr(estimator, "predict_proba"):
        return np.asarray(estimator.predict_proba(matrix), dtype=np.float64)
    if hasattr(estimator, "decision_function"):
        margins = np.asarray(estimator.decision_function(matrix), dtype=np.float64)
        return link(margins if margins.ndim == 2 else np.stack([0 * margins, margins], axis=1), "softmax")
    decided = estimator.predict(matrix)
    return np.asarray(decided[:, None] == estimator.classes_[None, :], dtype=np.float64)


def matrix_of(fitted: Fitted, columns: Columns) -> Any:
    """Return the features as one matrix: dense float32 (N, D), or CSR when there are n-grams."""
    if isinstance(columns, KnownRows) and not fitted.params:
        return columns.features.of(fitted.pipeline, columns.rows)
    num_rows = len(next(iter(columns.values())))
    fields = _sparse(fitted)
    if not fields:
        return _dense(fitted.apply(columns))
    parts = []
    for at in range(0, max(num_rows, 1), _CHUNK):
        features = fitted.apply({name: column[at : at + _CHUNK] for name, column in columns.items()})
        blocks = [csr(features, field) for field in fields]
        if DENSE in features:
            blocks.append(scipy.sparse.csr_matrix(_dense(features)))
        parts.append(scipy.sparse.hstack(blocks, format="csr", dtype=np.float32))
    return scipy.sparse.vstack(parts, format="csr")


def blocks_of(fitted: Fitted, columns: Columns) -> list[Block]:
    """Return which features the columns of the matrix are, in order."""
    features = fitted.apply({name: column[:1] for name, column in columns.items()})
    dense = [Block("", features[DENSE].shape[1])] if DENSE in features else []
    return [*(Block(field.name, field.size) for field in _sparse(fitted)), *dense]


def csr(features: Columns, field: HashedNgrams) -> Any:
    """Return padded ids and weights as a CSR matrix (N, 2**bits)."""
    ids, weights = features[f"{field.name}_ids"], features[f"{field.name}_weights"]
    there = ids < field.size
    starts = np.concatenate([[0], there.sum(axis=1).cumsum()])
    # 32-bit indices: liblinear takes no others.
    return scipy.sparse.csr_matrix(
        (weights[there], ids[there].astype(np.int32), starts.astype(np.int32)), shape=(len(ids), field.size)
    )


def _sparse(fitted: Fitted) -> Sequence[HashedNgrams]:
    return [t for t in fitted.pipeline.transforms if isinstance(t, HashedNgrams)]


def _dense(features: Columns) -> Array:
    x = features.get(DENSE)
    if x is None or x.ndim != 2:
        raise ProjectError(
            f"Sklearn is given the features {', '.join(features)}, and none of them is a matrix `x`.",
            "use transforms that flatten, such as ScaleImage(..., flatten=True)",
        )
    return x


def _check_kind(estimator: Any, data: TrainingData) -> None:
    classes = np.issubdtype(data.targets.dtype, np.integer)
    if not (is_classifier(estimator) if classes else is_regressor(estimator)):
        wanted = "a classifier" if classes else "a regressor"
        raise ProjectError(
            f"{type(estimator).__name__} is not {wanted}, which {type(data.schema.output).__name__} needs.",
            f"give the trainer {wanted}",
        )


def _seeded(estimator: Any, seed: int) -> Any:
    """Return a clone with every `random_state` set, those of nested estimators too."""
    copy = clone(estimator)
    states = [name for name in copy.get_params(deep=True) if name.rpartition("__")[2] == "random_state"]
    return copy.set_params(**dict.fromkeys(states, seed % 2**32))


def _weights(estimator: Any, weights: Array) -> tuple[dict[str, Array], str]:
    """Return the arguments that hand the weights to `fit`, or a note that it takes none."""
    if np.ptp(weights) < 1e-12:
        return {}, ""
    name, last = "sample_weight", estimator
    while isinstance(last, SklearnPipeline):
        step, last = last.steps[-1]
        name = f"{step}__{name}"
    if has_fit_parameter(last, "sample_weight"):
        return {name: weights}, ""
    return {}, f"the examples' weights were ignored: {type(last).__name__}.fit takes none"
