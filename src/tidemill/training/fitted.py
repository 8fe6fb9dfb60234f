"""Transforms together with what they learnt: the front of every model that Tidemill's own trainers make."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from tidemill.errors import ModelError
from tidemill.runtime.artefact import TRANSFORMS_NPZ, read_artefact, read_params
from tidemill.schema import Array, Columns
from tidemill.transforms import Pipeline

TRANSFORMS_JSON = "transforms.json"


@dataclass(frozen=True)
class Fitted:
    """A pipeline and its arrays, by `"<index>.<name>"`."""

    pipeline: Pipeline
    params: Mapping[str, Array]

    @classmethod
    def fit(cls, pipeline: Pipeline, columns: Columns) -> Self:
        """Fit `pipeline` to training rows."""
        return cls(pipeline, pipeline.fit(columns))

    @classmethod
    def of_version(cls, folder: Path) -> Self:
        """Read those of a stored version, of either format."""
        return cls(Pipeline.from_json(read_artefact(folder).transforms), read_params(folder))

    def apply(self, columns: Columns) -> dict[str, Array]:
        """Return the features of a batch."""
        return self.pipeline.apply(columns, self.params)

    def save(self, folder: Path) -> None:
        """Write both, so that a Python model can be loaded from its own files."""
        (folder / TRANSFORMS_JSON).write_text(json.dumps(self.pipeline.to_json()), encoding="utf-8")
        with (folder / TRANSFORMS_NPZ).open("wb") as file:
            np.savez(file, allow_pickle=False, **self.params)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ModelError: a file is missing or not readable.
        """
        try:
            data = json.loads((folder / TRANSFORMS_JSON).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{TRANSFORMS_JSON} is not readable: {error}", "train the version again") from error
        return cls(Pipeline.from_json(data), read_params(folder))
