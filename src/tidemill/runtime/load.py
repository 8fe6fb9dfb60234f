"""Load a stored artefact so that it answers, after it has reproduced its own example."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime

from tidemill.errors import ModelError
from tidemill.model import Artefact, check_scores
from tidemill.runtime.artefact import MODEL_ONNX, example_rows, read_artefact, read_example_scores, read_params
from tidemill.runtime.process import WorkerProcess
from tidemill.schema import Array, Columns, Schema
from tidemill.transforms import Pipeline

_TOLERANCE = 1e-4
_SLOW_S = 0.05


class Scorer(Protocol):
    """What gives scores for a batch: a model in this process, or one in a worker process."""

    is_python: bool

    def scores(self, columns: Columns) -> Any:
        """Return scores (N, K) for a batch of inputs."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class Loaded:
    """A version that answers. `inputs` names the inputs it reads; more in a batch do no harm."""

    def __init__(self, artefact: Artefact, schema: Schema, scorer: Scorer, inputs: Sequence[str]) -> None:
        self.artefact = artefact
        self.schema = schema
        self.inputs = tuple(inputs)
        self._scorer = scorer
        self._num_scores = schema.output.num_scores

    @property
    def is_python(self) -> bool:
        """Whether it runs in a worker process."""
        return self._scorer.is_python

    def predict(self, columns: Columns, *, finite: bool = True) -> Array:
        """Return scores float32 (N, K) for a batch of N rows.

        With `finite=False` a row may hold NaN or infinity, for callers that treat each row by itself.

        Raises:
            ModelHung: a Python model did not answer in time.
            ModelError: the model raised, crashed, or returned something other than such scores.
        """
        num_rows = len(next(iter(columns.values())))
        try:
            scores = np.asarray(self._scorer.scores(columns), dtype=np.float32)
            if finite or scores.shape != (num_rows, self._num_scores):
                return check_scores(scores, num_rows=num_rows, num_scores=self._num_scores)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"the model raised {type(error).__name__}: {_line(error)}") from error
        return scores

    def warm(self, num_rows: int = 1) -> float:
        """Run batches of `num_rows` example rows; return the seconds that a warm one takes."""
        rows = example_rows(self.artefact)
        columns = self.schema.columns([rows[i % len(rows)] for i in range(num_rows)], self.inputs)
        timings = []
        for _ in range(4):
            begun = time.perf_counter()
            self.predict(columns)
            timings.append(time.perf_counter() - begun)
            if timings[-1] > _SLOW_S:
                break
        return min(timings)

    def close(self) -> None:
        """Let go of the model, and end its worker process."""
        self._scorer.close()


class OnnxModel:
    """Transforms and an ONNX model in this process, on `threads` threads that never spin."""

    is_python = False

    def __init__(self, folder: Path, pipeline: Pipeline, *, threads: int) -> None:
        self._pipeline = pipeline
        self._params = read_params(folder)
        self._session = _session(folder / MODEL_ONNX, threads)
        self._names = [i.name for i in self._session.get_inputs()]

    def scores(self, columns: Columns) -> Any:
        """Transform and predict."""
        features = self._pipeline.apply(columns, self._params)
        return self._session.run(["scores"], {name: features[name] for name in self._names})[0]

    def close(self) -> None:
        """Nothing to end; the session goes with the object."""


def load(
    folder: Path,
    *,
    project_file: str | None = None,
    threads: int = 1,
    timeout_s: float = 10.0,
    start_timeout_s: float = 120.0,
) -> Loaded:
    """Load the artefact in `folder`, run its example rows and compare with the scores stored beside them.

    `project_file` is where a Python model's class may be defined; `timeout_s` is how long its worker may take for a
    batch, `start_timeout_s` how long to start.

    Raises:
        ModelError: it does not load, keeps data outside its file, or does not reproduce its example (1e-4).
    """
    artefact = read_artefact(folder)
    schema = Schema.from_json(artefact.schema)
    inputs = tuple(schema.inputs)
    scorer: Scorer
    if artefact.format == "onnx":
        pipeline = Pipeline.from_json(artefact.transforms)
        scorer, inputs = OnnxModel(folder, pipeline, threads=threads), pipeline.inputs
    else:
        scorer = WorkerProcess(
            folder,
            artefact.loader,
            project_file=project_file,
            threads=threads,
            timeout_s=timeout_s,
            start_timeout_s=start_timeout_s,
        )
    loaded = Loaded(artefact, schema, scorer, inputs)
    try:
        _check_example(loaded, folder)
    except BaseException:
        loaded.close()
        raise
    return loaded


def _check_example(loaded: Loaded, folder: Path) -> None:
    rows, wanted = example_rows(loaded.artefact), read_example_scores(folder)
    if not rows:
        raise ModelError(f"the artefact in {folder} holds no example to reproduce.", "train the version again")
    try:
        columns = loaded.schema.columns(rows, loaded.inputs)
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(f"the example in {folder} does not fit its schema: {error!r}", "train it again") from error
    scores = loaded.predict(columns)
    if wanted.shape != scores.shape:
        raise ModelError(f"the stored example has scores of shape {wanted.shape}, the model gives {scores.shape}.")
    if not np.allclose(scores, wanted, rtol=_TOLERANCE, atol=_TOLERANCE):
        worst = np.abs(scores - wanted).max()
        raise ModelError(
            f"the model in {folder} does not reproduce its example: a score is off by {worst:.3g}.",
            "train the version again; was it trained with other versions of its libraries?",
        )


def _session(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised, and told once
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # an idle gateway uses no CPU
    try:
        raw = path.read_bytes()
        external = _uses_external_data(onnx.load_model_from_string(raw))
    except Exception as error:  # protobuf and ONNX Runtime have no common base
        raise ModelError(f"{path.name} does not load: {_line(error)}", "train the version again") from error
    if external:
        raise ModelError(f"{path.name} keeps data outside its file, which is never loaded.", "export it in one file")
    try:
        return onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"{path.name} does not load: {_line(error)}", "train the version again") from error


def _uses_external_data(message: Any) -> bool:
    """Tell whether any tensor anywhere in a model (initialisers, attributes, subgraphs, functions) lies outside it."""
    if isinstance(message, onnx.TensorProto) and (
        message.data_location == onnx.TensorProto.EXTERNAL or message.external_data
    ):
        return True
    for spec, value in message.ListFields():
        if spec.message_type is None:
            continue
        if any(_uses_external_data(child) for child in ([value] if hasattr(value, "ListFields") else value)):
            return True
    return False


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
