"""Load a stored artefact so that it answers, after it has reproduced its own example."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tidemill.errors import MissingExtra, ModelError
from tidemill.model import Artefact, check_scores
from tidemill.runtime.artefact import example_rows, read_artefact, read_example_scores
from tidemill.runtime.fits import reads
from tidemill.runtime.onnx_model import OnnxModel, Providers, line
from tidemill.runtime.process import WorkerPool, WorkerProcess
from tidemill.runtime.ranges import Ranges
from tidemill.schema import Array, Columns, Schema
from tidemill.transforms import Pipeline

_TOLERANCE = 1e-4
_SLOW_S = 0.05


class Scorer(Protocol):
    """What gives scores for a batch: a model in this process, or one in a worker process."""

    is_python: bool
    copies: int

    @property
    def device(self) -> str:
        """What it is computed on, as far as it is known."""
        ...

    def scores(self, columns: Columns, *, batch_rows: int | None = None) -> Any:
        """Return scores (N, K) for inputs, which the model sees `batch_rows` at a time, or all at once."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class Loaded:
    """A version that answers.

    `inputs` names the inputs it reads; more in a batch do no harm. `ranges` knows what they were like in training.
    """

    def __init__(self, artefact: Artefact, schema: Schema, scorer: Scorer, inputs: Sequence[str]) -> None:
        self.artefact = artefact
        self.schema = schema
        self.inputs = tuple(inputs)
        self._scorer = scorer
        self._num_scores = schema.output.num_scores
        self.ranges = Ranges(schema, artefact.ranges, self.inputs)

    @property
    def is_python(self) -> bool:
        """Whether it runs in worker processes."""
        return self._scorer.is_python

    @property
    def copies(self) -> int:
        """How many threads may ask it at the same time, each of which gets a worker or a run of its own."""
        return self._scorer.copies

    @property
    def device(self) -> str:
        """What it is computed on: `cpu`, `cuda`, or `process` where its worker processes decide."""
        return self._scorer.device

    def predict(self, columns: Columns, *, finite: bool = True, batch_rows: int | None = None) -> Array:
        """Return scores float32 (N, K) for a batch of N rows.

        With `finite=False` a row may hold NaN or infinity, for callers that treat each row by itself. The model sees
        `batch_rows` at a time, all at once by default; what comes before it is done for all at once.

        Raises:
            ModelHung: a Python model did not answer in time.
            ModelError: the model raised, crashed, or returned something other than such scores.
        """
        num_rows = len(next(iter(columns.values())))
        try:
            scores = np.asarray(self._scorer.scores(columns, batch_rows=batch_rows), dtype=np.float32)
            if finite or scores.shape != (num_rows, self._num_scores):
                return check_scores(scores, num_rows=num_rows, num_scores=self._num_scores)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"the model raised {type(error).__name__}: {line(error)}") from error
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


def load(
    folder: Path,
    *,
    project_file: str | None = None,
    threads: int = 1,
    copies: int = 1,
    timeout_s: float = 10.0,
    start_timeout_s: float = 120.0,
    growth_bytes: int | None = None,
    providers: Providers | None = None,
) -> Loaded:
    """Load the artefact in `folder`, run its example rows and compare with the scores stored beside them.

    Args:
        folder: the artefact.
        project_file: where a Python model's class may be defined.
        threads: how many threads a run of the model has.
        copies: how many batches may run at the same time: as many worker processes, or threads on one ONNX model.
        timeout_s: how long a worker may take for a batch.
        start_timeout_s: how long a worker may take to start.
        growth_bytes: how much memory a worker may gain before it is replaced; None for any amount.
        providers: tells what ONNX Runtime can compute on; by default it is asked itself.

    Raises:
        ModelError: it does not load, keeps data outside its file, or does not reproduce its example (1e-4).
        MissingExtra: it is a torch.export program, and torch is not installed.
    """
    artefact = read_artefact(folder)
    schema = Schema.from_json(artefact.schema)
    pipeline = Pipeline.from_json(artefact.transforms)
    scorer: Scorer
    if artefact.format == "onnx":
        scorer = OnnxModel(folder, pipeline, threads=threads, copies=copies, providers=providers)
    else:
        make = partial(
            WorkerProcess,
            folder,
            _program() if artefact.format == "pt2" else artefact.loader,
            project_file=project_file,
            threads=threads,
            timeout_s=timeout_s,
            start_timeout_s=start_timeout_s,
            growth_bytes=growth_bytes,
        )
        scorer = make() if copies == 1 else WorkerPool(make, copies)
    loaded = Loaded(artefact, schema, scorer, reads(artefact))
    try:
        _check_example(loaded, folder)
    except BaseException:
        loaded.close()
        raise
    return loaded


def _program() -> str:
    """Return what loads a torch.export program in a worker: this process never imports torch."""
    if find_spec("torch") is None:
        raise MissingExtra("a version stored as a torch.export program", "torch")
    return "tidemill.runtime.pt2:Program"


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
