"""The trainers that a project file names: what to train, as parameters.

Every command loads the project file, so nothing heavy is imported here. scikit-learn's exporters, skops and torch come
with `train`, in the training process.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np

from tidemill.errors import MissingExtra, ProjectError
from tidemill.fingerprint import callable_json
from tidemill.model import Model, Report, TrainingData
from tidemill.records import Json
from tidemill.schema import Schema
from tidemill.strategy.member import plain
from tidemill.training.augment import Augment, checked, with_copies
from tidemill.transforms import Pipeline, Transform, default_transforms

_SMOKE_STEPS = 60
_OF_DATA = ("module", "transforms", "augment")
_TORCH = ("torch", "safetensors", "onnxscript")


class _WithTransforms:
    """Shared by the trainers: the transforms in front of the model, the schema's usual ones unless given."""

    transforms: Sequence[Transform] | None
    augment: Sequence[Augment]

    def pipeline(self, schema: Schema) -> Pipeline:
        """Return the transforms for `schema`, not fitted.

        Raises:
            ProjectError: a transform does not fit the schema.
        """
        pipeline = Pipeline(tuple(default_transforms(schema) if self.transforms is None else self.transforms))
        pipeline.check(schema)
        return pipeline

    def _transforms_json(self) -> Json:
        return None if self.transforms is None else Pipeline(tuple(self.transforms)).to_json()

    def _augment_json(self) -> dict[str, Json]:
        """Return nothing where nothing is augmented: equal declarations stay equal to those of before there was it."""
        return {"augment": [one.to_json() for one in self.augment]} if self.augment else {}


@dataclass(frozen=True, eq=False)
class Sklearn(_WithTransforms):
    """Train a scikit-learn classifier or regressor.

    The estimator is cloned, and every `random_state` in it set to the run's seed. Text stays sparse: `HashedNgrams`
    becomes a CSR matrix in training. Sample weights are passed where `fit` takes them. The model is served as ONNX
    where that reproduces its scores, else by scikit-learn itself in a worker process. A class that no training row
    has gets probability 0. It always trains afresh: a version to start from is ignored. With `augment`
    (`tm.augment`), it learns from `copies` changed copies of each row too.

    >>> from sklearn.linear_model import LogisticRegression
    >>> Sklearn(LogisticRegression(C=2.0)).to_json()["estimator"]["params"]["C"]
    2.0

    Raises:
        ProjectError: it is no estimator, or a class where an instance is wanted.
    """

    estimator: Any
    transforms: Sequence[Transform] | None = None
    augment: Sequence[Augment] = ()
    copies: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "augment", checked(self.augment))
        if type(self.copies) is not int or self.copies < 1:
            raise ProjectError(f"Sklearn(copies={self.copies!r}) makes no sense.", "give a number of copies, 1 or more")
        if inspect.isclass(self.estimator) or not all(hasattr(self.estimator, verb) for verb in ("fit", "get_params")):
            raise ProjectError(
                f"Sklearn({self.estimator!r}) is not given an estimator.",
                "pass an instance, such as tm.trainers.Sklearn(LogisticRegression())",
            )

    def train(
        self, data: TrainingData, *, start_from: Path | None, seed: int, workdir: Path, progress: Report
    ) -> Model:
        """Train a clone of the estimator."""
        from tidemill.training.sklearn_trainer import fit  # noqa: PLC0415 - heavy: see the top

        rows = with_copies(data, self.augment, copies=self.copies, seed=seed)
        return fit(self.estimator, self.pipeline(data.schema), data, rows=rows, seed=seed, progress=progress)

    def to_json(self) -> Json:
        """Return class and parameters of the estimator, and the transforms."""
        return {
            "trainer": "Sklearn",
            "estimator": _estimator_json(self.estimator, "Sklearn.estimator"),
            "transforms": self._transforms_json(),
            **({**self._augment_json(), "copies": self.copies} if self.augment else {}),
        }


@dataclass(frozen=True, eq=False)
class Torch(_WithTransforms):
    """Train a PyTorch module with AdamW on cross-entropy (classes) or squared error (values).

    `module` is a class, or a function, that takes no arguments and gives an `nn.Module`; it is defined in a file, so
    that it is found again by name. Its `forward` takes the features by name (such as `x`, or `text_ids` and
    `text_weights`) and returns logits (N, K), or values (N,) or (N, 1). `clip` bounds the norm of the gradient.
    `device` is "auto" (CUDA where there is one), "cpu" or "cuda". `augment` (`tm.augment`) changes every batch anew.

    The same seed gives the same weights on the same machine. With a version to start from, training goes on from its
    weights and keeps what its transforms learnt. The model is served as ONNX where that reproduces its scores, else by
    torch in a worker process.

    Raises:
        ProjectError: a parameter makes no sense, or `module` is a lambda or an instance.
    """

    module: Callable[[], Any]
    transforms: Sequence[Transform] | None = None
    epochs: int = 10
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.0
    clip: float | None = None
    device: str = "auto"
    augment: Sequence[Augment] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "augment", checked(self.augment))
        named = inspect.isclass(self.module) or inspect.isfunction(self.module)
        if not named or "<" in self.module.__qualname__:  # <lambda>, <locals>
            raise ProjectError(
                f"Torch({self.module!r}) is not given a class or function that is found by its name.",
                "write `def make(): return MyModule(...)` at the top level of a file, and pass `make`",
            )
        for name in ("epochs", "batch_size", "lr"):
            self._require(getattr(self, name) > 0, name, "give a positive number")
        self._require(self.weight_decay >= 0, "weight_decay", "give 0 or more")
        self._require(self.clip is None or self.clip > 0, "clip", "give a positive number, or None")
        self._require(self.device in ("auto", "cpu", "cuda"), "device", "give 'auto', 'cpu' or 'cuda'")

    def _require(self, ok: bool, name: str, hint: str) -> None:
        if not ok:
            raise ProjectError(f"Torch({name}={getattr(self, name)!r}) makes no sense.", hint)

    def train(
        self, data: TrainingData, *, start_from: Path | None, seed: int, workdir: Path, progress: Report
    ) -> Model:
        """Train a module, or go on training the one in `start_from`.

        Raises:
            MissingExtra: torch, or what it takes to store and export a module, is not installed.
        """
        if any(find_spec(name) is None for name in _TORCH):
            raise MissingExtra("tm.trainers.Torch", "torch")
        from tidemill.training.torch_trainer import How, fit  # noqa: PLC0415 - an optional extra

        pipeline, how = self.pipeline(data.schema), How(**self._how(), augment=tuple(self.augment))
        return fit(self.module, pipeline, data, how=how, start_from=start_from, seed=seed, progress=progress)

    def _how(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _OF_DATA}

    def for_smoke(self, num_rows: int) -> Self:
        """Return a copy that takes enough steps to memorise `num_rows` rows."""
        steps = math.ceil(num_rows / self.batch_size)
        return replace(self, epochs=math.ceil(_SMOKE_STEPS / steps), weight_decay=0.0, augment=())

    def to_json(self) -> Json:
        """Return the parameters, and the module by name and source."""
        return {
            "trainer": "Torch",
            "module": callable_json(self.module, "Torch.module"),
            "transforms": self._transforms_json(),
            **self._how(),
            **self._augment_json(),
        }


def _estimator_json(value: Any, where: str) -> Json:
    """Return an estimator, or a parameter of one, as JSON; arrays are known by their hash."""
    if hasattr(value, "get_params") and not inspect.isclass(value):
        kind = type(value)
        params = value.get_params(deep=False)
        return {
            "estimator": f"{kind.__module__}:{kind.__qualname__}",
            "params": {name: _estimator_json(inner, f"{where}.{name}") for name, inner in params.items()},
        }
    if isinstance(value, list | tuple):
        return [_estimator_json(inner, where) for inner in value]
    if isinstance(value, Mapping):
        return {str(name): _estimator_json(inner, where) for name, inner in value.items()}
    if isinstance(value, np.ndarray):
        return {"array": hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return plain(value, where)
