"""Write a trained model as an artefact, and refuse it unless what was written answers as the model did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnxruntime

from tidemill.errors import ModelError, NotExportable, TrainingError
from tidemill.model import Artefact, Model, TrainingData, check_scores
from tidemill.runtime.artefact import (
    ARTEFACT_JSON,
    EXAMPLE_NPZ,
    MAX_EXAMPLE_ROWS,
    MODEL_ONNX,
    MODEL_PT2,
    TRANSFORMS_NPZ,
    encode_row,
    write_artefact,
)
from tidemill.runtime.load import load
from tidemill.runtime.ranges import learn_ranges
from tidemill.schema import Array, Columns
from tidemill.training.fitted import Fitted
from tidemill.transforms import Pipeline

TOLERANCE = 1e-4
_PARITY_ROWS = 2_000
_BATCH = 1_024


@runtime_checkable
class Exportable(Protocol):
    """A model of Tidemill's own trainers: transforms in front, and perhaps an ONNX form."""

    fitted: Fitted
    notes: str

    def predict(self, columns: Columns) -> Array:
        """Return scores float32 (N, K)."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `load` needs."""
        ...

    def save_weights(self, folder: Path) -> None:
        """Write what a later fine-tuning starts from, beside `model.onnx`; nothing if there is no such thing."""
        ...

    def to_onnx(self, columns: Columns) -> bytes:
        """Return a graph from the features to `scores`; `columns` are training rows to trace and compare with.

        Raises:
            NotExportable: it has no ONNX form; the message says why.
        """
        ...


@runtime_checkable
class Portable(Protocol):
    """A model that has a form as a torch.export program."""

    def to_pt2(self, columns: Columns) -> bytes:
        """Return a `.pt2` archive that gives the model's scores on `columns`.

        Raises:
            NotExportable: there is none.
        """
        ...


@dataclass(frozen=True)
class Exported:
    """What was written: `onnx`, `pt2` or `python`, and why not ONNX."""

    format: str
    notes: str


def export(model: Model, data: TrainingData, folder: Path, *, project_file: str | None = None) -> Exported:
    """Write `model` as a complete artefact into `folder`, load it as a gateway would, and compare.

    An ONNX form must give the model's scores on the training rows (the first 2,000) within 1e-4; else a model of torch
    is stored as a torch.export program, of which the same is asked, and any other, and what torch cannot export, as a
    Python model; the notes say why. `project_file` is where a class of the user's own is found.

    Raises:
        TrainingError: the scores are of the wrong shape or not finite.
        ModelError: it does not load, or a reload answers otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = data.take(np.arange(min(len(data), _PARITY_ROWS)))
    scores = predict(model, rows)
    kind, notes = "python", ""
    fitted = Fitted(Pipeline(()), {})
    if isinstance(model, Exportable):
        fitted = model.fitted
        kind, reason = _write_model(model, rows.columns, scores, folder)
        notes = "; ".join(part for part in (model.notes, reason) if part)
    else:
        model.save(folder)
        _refuse_taken_names(folder)
    shown = _spread(len(rows))
    artefact = Artefact(
        format=kind,
        schema=data.schema.to_json(),
        transforms=fitted.pipeline.to_json(),
        loader=_loader(model) if kind == "python" else "",
        example=[encode_row(row) for row in canonical(rows.take(shown).columns)],
        ranges=learn_ranges(data.schema, data.columns),
        notes=notes,
    )
    write_artefact(folder, artefact, params=fitted.params, scores=scores[shown])
    load(folder, project_file=project_file).close()
    return Exported(kind, notes)


def _write_model(model: Exportable, columns: Columns, scores: Array, folder: Path) -> tuple[str, str]:
    """Write the ONNX form if there is one that agrees, else a program of torch's, else what the model itself saves."""
    try:
        graph = model.to_onnx(columns)
        _check_parity(graph, model.fitted.apply(columns), scores)
    except NotExportable as error:
        return _write_otherwise(model, columns, folder, error.message)
    (folder / MODEL_ONNX).write_bytes(graph)
    model.save_weights(folder)
    return "onnx", ""


def _write_otherwise(model: Exportable, columns: Columns, folder: Path, reason: str) -> tuple[str, str]:
    """Write a model without an ONNX form, best as a program that needs none of its own code."""
    if isinstance(model, Portable):
        try:
            program = model.to_pt2(columns)
        except NotExportable as error:
            reason = f"{reason}; {error.message}"
        else:
            (folder / MODEL_PT2).write_bytes(program)
            model.save_weights(folder)
            return "pt2", reason
    model.save(folder)
    return "python", reason


def _check_parity(graph: bytes, features: Mapping[str, Array], scores: Array) -> None:
    try:
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        wanted = {i.name: features[i.name] for i in session.get_inputs()}
        parts = [
            session.run(["scores"], {name: array[at : at + _BATCH] for name, array in wanted.items()})[0]
            for at in range(0, len(scores), _BATCH)
        ]
        served = check_scores(np.concatenate(parts), num_rows=len(scores), num_scores=scores.shape[1])
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise NotExportable(f"its ONNX form does not run: {' '.join(str(error).split())[:300]}") from error
    if not np.allclose(served, scores, rtol=TOLERANCE, atol=TOLERANCE):
        off = ~np.isclose(served, scores, rtol=TOLERANCE, atol=TOLERANCE).all(axis=1)
        worst = float(np.abs(served - scores).max())
        raise NotExportable(
            f"its ONNX form differs on {int(off.sum())} of {len(scores)} training rows, by up to {worst:.2g}"
        )


def predict(model: Model, data: TrainingData) -> Array:
    """Return the model's scores for all rows, float32 (N, K), batch by batch.

    Raises:
        TrainingError: they are of the wrong shape or not finite, or the model raised.
    """
    num_scores = data.schema.output.num_scores
    parts = []
    for at in range(0, len(data), _BATCH):
        columns = {name: column[at : at + _BATCH] for name, column in data.columns.items()}
        try:
            parts.append(
                check_scores(model.predict(columns), num_rows=len(next(iter(columns.values()))), num_scores=num_scores)
            )
        except Exception as error:
            raise TrainingError(
                f"the trained model does not predict its own training rows: {type(error).__name__}: {error}",
                "look at its inputs and, for NaN, at the learning rate",
            ) from error
    return np.concatenate(parts)


def canonical(columns: Columns) -> list[dict[str, Any]]:
    """Turn a batch back into canonical rows (see `tidemill.schema`)."""
    num_rows = len(next(iter(columns.values())))
    return [{name: _canonical(column[i]) for name, column in columns.items()} for i in range(num_rows)]


def _canonical(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return value.item() if isinstance(value, np.generic) else value


def _spread(num_rows: int) -> Array:
    """Return up to 8 positions spread evenly over the rows."""
    return np.unique(np.linspace(0, num_rows - 1, min(num_rows, MAX_EXAMPLE_ROWS)).astype(np.int64))


def _loader(model: Model) -> str:
    kind = type(model)
    if "<" in kind.__qualname__ or not hasattr(kind, "load"):
        raise ModelError(
            f"{kind.__qualname__} cannot be loaded again by a worker process.",
            "define it at the top level of a file, with a classmethod load(folder)",
        )
    return f"{kind.__module__}:{kind.__qualname__}"


def _refuse_taken_names(folder: Path) -> None:
    taken = [name for name in (ARTEFACT_JSON, EXAMPLE_NPZ, TRANSFORMS_NPZ) if (folder / name).exists()]
    if taken:
        raise ModelError(
            f"the model's save wrote {taken[0]!r}, a name of the artefact's own.", "call that file otherwise"
        )


__all__ = ["Exportable", "Exported", "canonical", "export", "predict"]
