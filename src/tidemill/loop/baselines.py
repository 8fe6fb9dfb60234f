"""Baselines trained along with a candidate, and what they decide on its test rows."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tidemill.errors import TidemillError
from tidemill.model import TrainingData
from tidemill.monitor.outcomes import judged
from tidemill.review.constant import by_rule
from tidemill.schema import Classes, Columns, Output
from tidemill.stats.metrics import Judged
from tidemill.strategy.baseline import Baseline, Linear, Rule
from tidemill.training.trainers import Sklearn


def baselines_judged(
    wanted: Mapping[str, Baseline], data: TrainingData, candidate: Judged, columns: Columns, rng: np.random.Generator
) -> tuple[dict[str, Judged], tuple[str, ...]]:
    """Return what the rules and linear models among `wanted` decide on the test rows, and a note on each that cannot.

    A linear model learns from the candidate's training rows, of which `rng` draws some where there are many.
    """
    found: dict[str, Judged] = {}
    notes = []
    for name, baseline in wanted.items():
        try:
            if isinstance(baseline, Rule):
                found[name] = by_rule(candidate, baseline, data.schema.output, columns)
            elif isinstance(baseline, Linear):
                found[name] = _linear(baseline, data, candidate, columns, rng)
        except TidemillError as error:
            notes.append(f"the baseline {name} is not known: {error.message}")
    return found, tuple(notes)


def _linear(
    baseline: Linear, data: TrainingData, candidate: Judged, columns: Columns, rng: np.random.Generator
) -> Judged:
    output = data.schema.output
    some = data
    if len(data) > baseline.max_rows:
        some = data.take(np.sort(rng.choice(len(data), baseline.max_rows, replace=False)))
    with tempfile.TemporaryDirectory() as folder:
        model = Sklearn(_estimator(output)).train(
            some, start_from=None, seed=0, workdir=Path(folder), progress=lambda _: None
        )
    scores = model.predict(columns) if len(candidate) else np.zeros((0, output.num_scores), dtype=np.float32)
    return judged(output, scores=scores, labels=_labels(candidate))


def _estimator(output: Output) -> object:
    from sklearn.linear_model import LogisticRegression, Ridge  # noqa: PLC0415 - half a second, for those who ask

    return LogisticRegression(max_iter=300) if isinstance(output, Classes) else Ridge()


def _labels(candidate: Judged) -> list[str | float | None]:
    return [None if label is None or label != label else label for label in candidate.labels.tolist()]  # noqa: PLR0124
