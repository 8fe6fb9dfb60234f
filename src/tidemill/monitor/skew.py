"""Train/serve skew: what was served beside what the same version gives when it is asked again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import polars as pl

from tidemill.monitor.outcomes import scores_of
from tidemill.project import Project
from tidemill.schema import Array, Columns
from tidemill.stats.drift import Effect, number_effect
from tidemill.stats.intervals import wilson

_TOLERANCE = 1e-3  # of a score: other machines and batches round otherwise
_NUM_EXAMPLES = 5
_BATCH = 1_024


class Answers(Protocol):
    """A version that answers, such as `runtime.load.Loaded`."""

    def predict(self, columns: Columns, *, finite: bool = True) -> Array:
        """Return scores (N, K) for a batch."""
        ...


@dataclass(frozen=True, kw_only=True)
class Skew:
    """Of `num` served rows with their inputs, the share whose scores differ when they are computed again, with bounds.

    `effects` says how far each score has moved as a whole; `examples` are ids of the rows that differ by most.
    """

    num: int
    share: float
    low: float
    high: float
    largest: float
    effects: Mapping[str, Effect]
    examples: tuple[str, ...]


def served_skew(project: Project, version: int, answers: Answers, frame: pl.DataFrame) -> Skew | None:
    """Compare the logged scores of a version's answers with what it gives now; None where no row has both.

    Args:
        project: declares the inputs and the output.
        version: whose answers are compared; rows that another one answered are left out.
        answers: that version, loaded.
        frame: rows of the log with all inputs.
    """
    known = pl.all_horizontal(pl.col(name).is_not_null() for name in project.schema.inputs)
    mine = frame.filter(known & (pl.col("answered_version") == version) & pl.col("error").is_null())
    served = scores_of(project, mine)
    there = ~np.isnan(served).any(axis=1)
    mine, served = mine.filter(pl.Series(there, dtype=pl.Boolean)), served[there]
    if not len(mine):
        return None
    again = _asked(project, answers, mine)
    apart = np.abs(again - served).max(axis=1)
    scale = np.maximum(np.abs(served).max(axis=1), 1.0)
    differs = ~(apart <= _TOLERANCE * scale)
    span = wilson(float(differs.sum()), len(mine))
    order = np.argsort(-apart, kind="stable")
    worst = [int(at) for at in order if differs[at]][:_NUM_EXAMPLES]
    names = getattr(project.output, "names", ("score",))
    return Skew(
        num=len(mine), share=float(differs.mean()), low=span.low, high=span.high, largest=float(apart.max()),
        effects={name: number_effect(served[:, at], again[:, at]) for at, name in enumerate(names)},
        examples=tuple(mine["request_id"][worst].to_list()),
    )  # fmt: skip


def _asked(project: Project, answers: Answers, rows: pl.DataFrame) -> Array:
    parts = []
    for at in range(0, len(rows), _BATCH):
        some = rows[at : at + _BATCH]
        columns = {name: kind.column(some[name].to_list()) for name, kind in project.schema.inputs.items()}
        parts.append(answers.predict(columns, finite=False))
    return np.concatenate(parts).astype(np.float64)
