"""Fakes that are quick and whole: a labeller who errs, and two trainers whose models need NumPy only."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from tidemill.errors import TrainingError
from tidemill.model import Progress, Report, TrainingData
from tidemill.records import Json
from tidemill.schema import Array, Columns


class Labeller:
    """Somebody who labels: says the truth with probability `accuracy`, else another of `classes`.

    ```python
    ann = Labeller(lambda inputs: "toxic" if "!" in inputs["text"] else "ok", ["ok", "toxic"], accuracy=0.9, rng=rng)
    ann({"text": "hello"})
    ```
    """

    def __init__(
        self,
        truth: Callable[[Mapping[str, Any]], str],
        classes: Sequence[str],
        *,
        accuracy: float = 1.0,
        rng: np.random.Generator,
    ) -> None:
        self.truth, self.classes, self.accuracy = truth, tuple(classes), accuracy
        self._rng = rng

    def __call__(self, inputs: Mapping[str, Any]) -> str:
        """Return a label for one request's inputs."""
        true = self.truth(inputs)
        if self._rng.random() < self.accuracy:
            return true
        return str(self._rng.choice([name for name in self.classes if name != true]))


class MajorityModel:
    """Gives every request the same scores."""

    def __init__(self, scores: Array) -> None:
        self.scores = np.asarray(scores, dtype=np.float32)

    def predict(self, columns: Columns) -> Array:
        """Return the same row N times."""
        return np.tile(self.scores, (_num_rows(columns), 1))

    def save(self, folder: Path) -> None:
        """Write the scores."""
        (folder / "majority.json").write_text(json.dumps(self.scores.tolist()))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        return cls(np.array(json.loads((folder / "majority.json").read_text())))


@dataclass(frozen=True)
class MajorityTrainer:
    """Learns how often each class comes, or the mean of the numbers, and nothing of the inputs."""

    def train(
        self, data: TrainingData, *, start_from: Path | None, seed: int, workdir: Path, progress: Report
    ) -> MajorityModel:
        """Count."""
        progress(Progress(fraction=1.0, message="counted"))
        if np.issubdtype(data.targets.dtype, np.integer):
            counts = np.bincount(data.targets, weights=data.weights, minlength=data.schema.output.num_scores)
            return MajorityModel(counts / counts.sum())
        return MajorityModel(np.array([np.average(data.targets, weights=data.weights)]))

    def to_json(self) -> Json:
        """Return that there are no parameters."""
        return {"trainer": "MajorityTrainer"}


class CentroidModel:
    """Scores classes by the softmax of minus the squared distance to their centroids, over all numeric inputs."""

    def __init__(self, names: Sequence[str], centroids: Array, scale: float) -> None:
        self.names, self.centroids, self.scale = tuple(names), centroids, scale

    def predict(self, columns: Columns) -> Array:
        """Return probabilities float32 (N, K)."""
        far = ((_features(columns, self.names)[:, None, :] - self.centroids) ** 2).sum(axis=2) / self.scale
        near = np.exp(far.min(axis=1, keepdims=True) - far)
        return np.asarray(near / near.sum(axis=1, keepdims=True), dtype=np.float32)

    def save(self, folder: Path) -> None:
        """Write the centroids."""
        names = np.array(self.names, dtype=np.str_)
        np.savez(folder / "centroids.npz", names=names, centroids=self.centroids, scale=np.float64(self.scale))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(folder / "centroids.npz", allow_pickle=False) as stored:
            return cls(stored["names"].tolist(), stored["centroids"], float(stored["scale"]))


@dataclass(frozen=True)
class CentroidTrainer:
    """Learns the centroid of each class over all numeric inputs (numbers, images, tensors): one pass, no torch.

    A class without rows is put where all rows are, and so never wins by much. `temperature` widens the scores.

    Raises:
        TrainingError: the output has no classes, or no input is numeric.
    """

    temperature: float = 1.0

    def train(
        self, data: TrainingData, *, start_from: Path | None, seed: int, workdir: Path, progress: Report
    ) -> CentroidModel:
        """Average the rows of each class."""
        names = tuple(name for name, column in data.columns.items() if column.dtype != object)
        if not names or not np.issubdtype(data.targets.dtype, np.integer):
            raise TrainingError("CentroidTrainer needs classes and a numeric input.", "use MajorityTrainer")
        rows = _features(data.columns, names)
        member = np.eye(data.schema.output.num_scores)[data.targets] * data.weights[:, None]
        totals = member.sum(axis=0)
        middle = np.average(rows, axis=0, weights=data.weights)
        centroids = np.where(totals[:, None] > 0, member.T @ rows / np.maximum(totals, 1e-12)[:, None], middle)
        scale = float(((rows - middle) ** 2).sum(axis=1).mean()) or 1.0
        progress(Progress(fraction=1.0, message="averaged", numbers={"num_rows": float(len(rows))}))
        return CentroidModel(names, centroids, scale * self.temperature)

    def to_json(self) -> Json:
        """Return the temperature."""
        return {"trainer": "CentroidTrainer", **asdict(self)}


def _num_rows(columns: Columns) -> int:
    return len(next(iter(columns.values())))


def _features(columns: Columns, names: Sequence[str]) -> Array:
    flat = [columns[name].reshape(_num_rows(columns), -1).astype(np.float64) for name in names]
    return np.concatenate(flat, axis=1)
