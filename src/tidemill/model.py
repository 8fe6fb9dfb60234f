"""What a trainer is given, what it returns, and how a model is stored.

An **artefact** is a folder of files, stored under the hash of its content:

| file | what |
|---|---|
| `artefact.json` | the `Artefact` below |
| `model.onnx` | format `onnx`: inputs named as the features, one output `scores` float32 (N, K) |
| `model.pt2` | format `pt2`: a torch.export program from the features to `scores`, with plain weights |
| `transforms.npz` | the transforms' fitted arrays, keys `"<index>.<name>"` (never pickled) |
| `example.npz` | canonical example rows are in artefact.json; here their `scores`, which a reload must reproduce |
| anything else | format `python`: whatever the model's own `save` wrote, read back by its `load` |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tidemill.records import Json
from tidemill.schema import Array, Columns, Schema

ARTEFACT_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Labelled rows to learn from; test rows are never among them.

    `columns` holds one array per input (see `tidemill.schema`), `targets` what `schema.output.targets` gives, `weights`
    float64 with mean 1, `ids` the example ids, all of length N and in dataset order.
    """

    schema: Schema
    columns: Columns
    targets: Array
    weights: Array
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Array) -> TrainingData:
        """Return the rows at `index` (int64, any order)."""
        return TrainingData(
            schema=self.schema,
            columns={n: c[index] for n, c in self.columns.items()},
            targets=self.targets[index],
            weights=self.weights[index],
            ids=tuple(self.ids[i] for i in index),
        )


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a training is: `fraction` from 0 to 1, and numbers worth showing such as the loss."""

    fraction: float
    message: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


Report = Callable[[Progress], None]


@runtime_checkable
class Model(Protocol):
    """A trained model. One of your own is served in a worker process: give it `save` and a classmethod `load`."""

    def predict(self, columns: Columns) -> Array:
        """Return scores float32 (N, K) for a batch of inputs."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything `load` needs into the empty `folder`."""
        ...


@runtime_checkable
class Trainer(Protocol):
    """Makes a model. Runs in a process of its own; the same data and seed must give the same predictions."""

    def train(
        self, data: TrainingData, *, start_from: Path | None, seed: int, workdir: Path, progress: Report
    ) -> Model:
        """Train and return a model.

        `start_from` is the artefact folder of the version to fine-tune, None to start afresh. `workdir` may be used
        for checkpoints and is thrown away.
        """
        ...

    def to_json(self) -> Json:
        """Return parameters and a fingerprint of the code, as JSON: equal JSON means an equal trainer."""
        ...


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """The contents of `artefact.json`.

    `format` is `onnx`, `pt2` or `python`. `transforms` is a list of `{"type": ..., parameters}`; their arrays are in
    `transforms.npz`. `loader` (`module:Class`) and `project` are for `python` only: the class whose `load(folder)` a
    worker process calls. `example` holds up to 8 canonical rows (bytes as base64 under `{"b64": ...}`). `ranges` says
    what the training rows looked like (see `tidemill.runtime.ranges`).
    """

    format: str
    schema: Json
    transforms: list[Json] = field(default_factory=list)
    loader: str = ""
    example: list[Json] = field(default_factory=list)
    ranges: Json = field(default_factory=dict)
    notes: str = ""  # e.g. why it could not be exported
    version: int = ARTEFACT_FORMAT


def check_scores(scores: Any, *, num_rows: int, num_scores: int) -> Array:
    """Return `scores` as float32 (N, K).

    Raises:
        ValueError: the shape is wrong or a score is not finite; the message gives both shapes.
    """
    array = np.asarray(scores, dtype=np.float32)
    if array.shape != (num_rows, num_scores):
        raise ValueError(f"the model returned scores of shape {array.shape}, not {(num_rows, num_scores)}")
    if not np.isfinite(array).all():
        raise ValueError(f"the model returned {int((~np.isfinite(array)).sum())} scores that are NaN or infinite")
    return array
