"""Modules as torch.export programs, for those that have no ONNX form."""

from __future__ import annotations

import io
import json
import warnings

import numpy as np
import torch
from torch import nn

from tidemill.errors import NotExportable
from tidemill.runtime.pt2 import FEATURES, Program, open_program
from tidemill.schema import Array, Columns
from tidemill.training.fitted import Fitted
from tidemill.training.torch_onnx import Scores, dimensions, traced


def convert(module: nn.Module, fitted: Fitted, columns: Columns, *, num_scores: int, classes: bool) -> bytes:
    """Return a `.pt2` archive: from the features to scores float32 (N, K), for any N >= 1 and any number of terms.

    Raises:
        NotExportable: torch cannot export the module, or holds more of it than plain weights; the message is the first
            line of torch's.
    """
    features, written = traced(fitted, columns), io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            program = torch.export.export(
                Scores(module, list(features), num_scores, classes).eval(),
                tuple(torch.from_numpy(array) for array in features.values()),
                dynamic_shapes={"features": tuple(dimensions(fitted, name) for name in features)},
            )
            torch.export.save(program, written, extra_files={FEATURES: json.dumps(list(features))})
        open_program(written.getvalue())
    except Exception as error:  # it raises whatever the tracer met
        reason = str(error).strip().partition("\n")[0][:200]
        raise NotExportable(f"torch.export does not take it: {type(error).__name__}: {reason}") from error
    return written.getvalue()


def scores_of(raw: bytes, fitted: Fitted, columns: Columns) -> Array:
    """Return what the program in a `.pt2` archive makes of rows, float32 (N, K)."""
    program, names = open_program(raw)
    runner = Program(program, names, fitted.pipeline, dict(fitted.params))
    num_rows = len(next(iter(columns.values())))
    parts = [{n: c[at : at + 1_024] for n, c in columns.items()} for at in range(0, num_rows, 1_024)]
    return np.concatenate([runner.predict(part) for part in parts])
