"""A torch.export program in a worker process. Imported only there, where torch is installed.

Before torch opens the file it is looked through, because torch would follow what it says: only weights as plain bytes
are taken, no pickled objects, no compiled code, and no expression but arithmetic of sizes.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch.export.passes import move_to_device_pass

from tidemill.errors import ModelError
from tidemill.records import Json
from tidemill.runtime.artefact import MODEL_PT2, read_artefact, read_params
from tidemill.schema import Array, Columns
from tidemill.transforms import Pipeline

FEATURES = "features"
"""The extra file in the archive that lists the features in the order the program takes them."""
_PARTS = re.compile(
    r"(models/model\.json|data/(weights|constants)/((weight|tensor)_\d+|model_(weights|constants)_config\.json)"
    rf"|data/sample_inputs/model\.pt|extra/{FEATURES}|archive_format|archive_version|byteorder|version"
    r"|\.data/(version|serialization_id|alignment))"
)
_ARITHMETIC = re.compile(r"[A-Za-z0-9_+\-*/%(),.<>=&|~ ]*")
_NAME = re.compile(r"'[A-Za-z]\w{0,40}'")
_CALLED = re.compile(r"([A-Za-z_]\w*)\s*\(")
_FUNCTIONS = frozenset({
    "Abs", "Add", "And", "CeilDiv", "CeilToInt", "CleanDiv", "Eq", "FloatTrueDiv", "FloorDiv", "FloorToInt", "Ge", "Gt",
    "IntTrueDiv", "Integer", "Le", "Lt", "Max", "Min", "Mod", "ModularIndexing", "Mul", "Ne", "Not", "Or", "Pow",
    "PowByNatural", "PythonMod", "Rational", "Symbol", "ToFloat", "TruncToInt", "ceiling", "floor",
})  # fmt: skip


class Program:
    """Transforms and a torch.export program, on a GPU where torch has one."""

    def __init__(self, program: Any, names: list[str], pipeline: Pipeline, params: dict[str, Array]) -> None:
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.backends.cudnn.allow_tf32 = False  # its scores are not those that the version was tested with
        if self._device == "cuda":
            program = move_to_device_pass(program, self._device)
        self._run = program.module(check_guards=False)  # guards are code in the file
        self._names, self._pipeline, self._params = names, pipeline, params

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open the program of an artefact.

        Raises:
            ModelError: its file holds more than a program and plain weights, or is not readable.
        """
        program, names = open_program((folder / MODEL_PT2).read_bytes())
        pipeline = Pipeline.from_json(read_artefact(folder).transforms)
        return cls(program, names, pipeline, read_params(folder))

    def predict(self, columns: Columns) -> Array:
        """Return scores float32 (N, K)."""
        return self.run(self._pipeline.apply(columns, self._params))

    def run(self, features: dict[str, Array]) -> Array:
        """Return scores float32 (N, K) of features."""
        given = [torch.from_numpy(features[name]).to(self._device) for name in self._names]
        with torch.inference_mode():
            scores: Array = self._run(*given).float().cpu().numpy()
        return scores


def open_program(raw: bytes) -> tuple[Any, list[str]]:
    """Return a program and the names of the features that it takes, in order.

    Raises:
        ModelError: the file holds more than a program and plain weights, or is not readable.
    """
    _refuse_code(raw)
    extra = {FEATURES: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        program = torch.export.load(io.BytesIO(raw), extra_files=extra)
    return program, json.loads(extra[FEATURES])


def _refuse_code(raw: bytes) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            for name in archive.namelist():
                if not _PARTS.fullmatch(name.partition("/")[2]):
                    raise _refused(f"a part {name[:80]!r}")
                if name.endswith(".json"):
                    _check_json(json.loads(archive.read(name)))
                elif name.endswith(".pt"):
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
    except ModelError:
        raise
    except Exception as error:  # torch's and zipfile's have no common base
        raise _refused(f"what cannot be read ({type(error).__name__})") from error


def _check_json(data: Json) -> None:
    for key, value in _items(data):
        if key == "use_pickle" and value:
            raise _refused("pickled weights")
        if key == "expr_str" and not _is_arithmetic(str(value)):
            raise _refused(f"an expression {str(value)[:80]!r}")


def _is_arithmetic(text: str) -> bool:
    text = _NAME.sub("", text)
    return bool(_ARITHMETIC.fullmatch(text)) and "__" not in text and set(_CALLED.findall(text)) <= _FUNCTIONS


def _items(data: Json) -> Iterator[tuple[str, Json]]:
    """Yield every key with its value, wherever it hangs."""
    for key, value in data.items() if isinstance(data, dict) else (("", part) for part in data):
        yield key, value
        if isinstance(value, dict | list):
            yield from _items(value)


def _refused(what: str) -> ModelError:
    return ModelError(f"{MODEL_PT2} holds {what}, which is never loaded.", "train the version again")
