"""Modules as ONNX, by torch's exporter."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import Dim

from tidemill.errors import NotExportable
from tidemill.schema import Array, Columns
from tidemill.training.fitted import Fitted
from tidemill.transforms import HashedNgrams

_OPSET = 18


class Scores(nn.Module):  # type: ignore[misc, unused-ignore]
    """The module as served: features in a fixed order in, scores out."""

    def __init__(self, module: nn.Module, names: list[str], num_scores: int, classes: bool) -> None:
        super().__init__()
        self.module, self.names, self.num_scores, self.classes = module, names, num_scores, classes

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        """Return scores float32 (N, K)."""
        out = self.module(**dict(zip(self.names, features, strict=True)))
        out = out.reshape(-1, self.num_scores).to(torch.float32)
        return torch.softmax(out, dim=1) if self.classes else out


def convert(module: nn.Module, fitted: Fitted, columns: Columns, *, num_scores: int, classes: bool) -> bytes:
    """Return a serialised graph from the features to `scores` float32 (N, K), for any N >= 1 and any number of terms.

    Raises:
        NotExportable: torch cannot export the module; the message is torch's first line.
    """
    features = traced(fitted, columns)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            program = torch.onnx.export(
                Scores(module, list(features), num_scores, classes).eval(),
                tuple(torch.from_numpy(array) for array in features.values()),
                input_names=list(features),
                output_names=["scores"],
                opset_version=_OPSET,
                dynamo=True,
                dynamic_shapes={"features": tuple(dimensions(fitted, name) for name in features)},
                external_data=False,
                verbose=False,
            )
        assert program is not None, "with dynamo=True the exporter returns the program"
        serialised: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # it raises whatever the tracer met
        reason = str(error).strip().partition("\n")[0][:200]
        raise NotExportable(f"torch does not export it: {type(error).__name__}: {reason}") from error
    return serialised


def traced(fitted: Fitted, columns: Columns) -> dict[str, Array]:
    """Return features of three rows and at least three terms: torch takes a size of 0 or 1 for a constant."""
    num_rows = len(next(iter(columns.values())))
    index = np.arange(3) % num_rows
    features = fitted.apply({name: column[index] for name, column in columns.items()})
    for field in fitted.pipeline.transforms:
        if isinstance(field, HashedNgrams):
            for name, fill in ((f"{field.name}_ids", field.size), (f"{field.name}_weights", 0)):
                short = max(3 - features[name].shape[1], 0)
                features[name] = np.pad(features[name], ((0, 0), (0, short)), constant_values=fill)
    return features


def dimensions(fitted: Fitted, name: str) -> dict[int, Any]:
    """Return which sizes of a feature differ from batch to batch."""
    for field in fitted.pipeline.transforms:
        if isinstance(field, HashedNgrams) and name in (f"{field.name}_ids", f"{field.name}_weights"):
            return {0: Dim("N", min=1), 1: Dim(f"L_{field.name}", min=1)}
    return {0: Dim("N", min=1)}
