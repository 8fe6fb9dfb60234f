"""The folder an artefact is stored as: `artefact.json`, the transforms' arrays, and example rows with their scores.

What is in which file is told in `tidemill.model`. Nothing here unpickles.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.errors import ModelError
from tidemill.model import ARTEFACT_FORMAT, Artefact
from tidemill.records import Json
from tidemill.schema import Array

ARTEFACT_JSON = "artefact.json"
MODEL_ONNX = "model.onnx"
TRANSFORMS_NPZ = "transforms.npz"
EXAMPLE_NPZ = "example.npz"
MODEL_PT2 = "model.pt2"
FORMATS = ("onnx", "pt2", "python")
MAX_EXAMPLE_ROWS = 8


def write_artefact(folder: Path, artefact: Artefact, *, params: Mapping[str, Array], scores: Array) -> None:
    """Write everything of an artefact but the model itself into `folder`.

    `params` holds what the transforms learnt, by `"<index>.<name>"`; `scores` float32 (N, K) are the model's answers
    to the N example rows of `artefact`.

    Raises:
        ModelError: there are no example rows, too many, or not one row of scores for each; or a fitted array holds
            Python objects, which are never loaded.
    """
    num_rows = len(artefact.example)
    if not 0 < num_rows <= MAX_EXAMPLE_ROWS or len(scores) != num_rows:
        raise ModelError(
            f"an artefact has {num_rows} example rows and {len(scores)} rows of scores.",
            f"store 1 to {MAX_EXAMPLE_ROWS} rows, each with its scores",
        )
    text = json.dumps(asdict(artefact), ensure_ascii=False, allow_nan=False, indent=1)
    (folder / ARTEFACT_JSON).write_text(text + "\n", encoding="utf-8")
    for name, array in params.items():
        if array.dtype.hasobject:
            raise ModelError(f"the fitted array {name!r} holds Python objects.", "keep numbers, or the bytes of JSON")
    np.savez(folder / TRANSFORMS_NPZ, **params)  # type: ignore[arg-type]  # the stub takes them for allow_pickle
    np.savez(folder / EXAMPLE_NPZ, scores=np.asarray(scores, dtype=np.float32))


def read_artefact(folder: Path) -> Artefact:
    """Read `artefact.json`.

    Raises:
        ModelError: it is missing, not readable, or written by a newer program.
    """
    try:
        data = json.loads((folder / ARTEFACT_JSON).read_text(encoding="utf-8"))
        artefact = Artefact(**{name: data[name] for name in (f.name for f in fields(Artefact)) if name in data})
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"the artefact in {folder} has no readable {ARTEFACT_JSON}: {error}", "train the version again"
        ) from error
    if artefact.version > ARTEFACT_FORMAT:
        raise ModelError(
            f"the artefact in {folder} has format {artefact.version}, newer than {ARTEFACT_FORMAT}.",
            "load it with the program that wrote it, or a newer one",
        )
    if artefact.format not in FORMATS:
        raise ModelError(f"the artefact in {folder} has unknown format {artefact.format!r}.", "train the version again")
    return artefact


def read_params(folder: Path) -> dict[str, Array]:
    """Read what the transforms learnt, by `"<index>.<name>"`.

    Raises:
        ModelError: the file is missing or not readable.
    """
    return _arrays(folder / TRANSFORMS_NPZ)


def read_example_scores(folder: Path) -> Array:
    """Read the scores float32 (N, K) that the example rows must give again.

    Raises:
        ModelError: the file is missing or not readable.
    """
    return _arrays(folder / EXAMPLE_NPZ, "scores")["scores"]


def _arrays(path: Path, *wanted: str) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in wanted or archive.files}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ModelError(f"the artefact's {path.name} is not readable: {error}", "train the version again") from error


def encode_row(row: Mapping[str, Any]) -> Json:
    """Return a canonical row as JSON; bytes become `{"b64": ...}`."""
    return {
        name: {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
        for name, value in row.items()
    }


def decode_row(row: Json) -> dict[str, Any]:
    """Read what `encode_row` wrote."""
    return {name: base64.b64decode(value["b64"]) if isinstance(value, dict) else value for name, value in row.items()}


def example_rows(artefact: Artefact) -> Sequence[dict[str, Any]]:
    """Return the canonical example rows."""
    return [decode_row(row) for row in artefact.example]
