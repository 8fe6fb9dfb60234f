"""Shadow predictions beside the answers that users got: two rows for a request, as if each arm had half the traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from tidemill.monitor.outcomes import Window, failures, judged, loss, matured_frame, scores_of
from tidemill.project import Project
from tidemill.records import Trust
from tidemill.schema import Array, Output, Value
from tidemill.stats.metrics import events_of
from tidemill.stores.log import Log
from tidemill.strategy.guard import Disagreement
from tidemill.strategy.outcomes import Outcomes

_SHARE = 0.5
_SAME = 1e-3  # relative: numbers nearer than that are one decision
_COLUMNS = [
    "request_id", "received_at", "unit", "rollout", "assigned_version", "answered_version", "decision", "scores",
    "error", "fallback_reason", "latency_ms", "abstained",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """N shadow predictions (`mine`) and their answers (`theirs`), row by row; each frame has the log's columns."""

    mine: pl.DataFrame
    theirs: pl.DataFrame

    def __len__(self) -> int:
        return len(self.mine)


def shadow_pairs(log: Log, project: Project, window: Window, rollout: str) -> Pairs:
    """Return a rollout's shadow predictions of a window beside what was answered, null where that is not in the log."""

    def read(role: Literal["answer", "shadow"]) -> pl.DataFrame:
        return log.predictions(
            project.name, after=window.after, until=window.until, role=role, columns=_COLUMNS, schema=project.schema
        )

    mine = read("shadow").filter(pl.col("rollout") == rollout)
    answers = read("answer") if len(mine) else mine
    return Pairs(
        mine=mine, theirs=mine.select("request_id").join(answers, on="request_id", how="left", maintain_order="left")
    )


def pair_requests(project: Project, pairs: Pairs) -> Outcomes:
    """Return both rows of each pair; `values` holds whether the decisions differ, in the shadow's rows."""
    if not len(pairs):
        return Outcomes.empty()
    apart = differ(project.output, pairs.mine["decision"].to_list(), pairs.theirs["decision"].to_list())
    apart[failures(pairs.mine) | failures(pairs.theirs)] = np.nan
    return _both(pairs, {Disagreement.metric: (apart, np.full(len(pairs), np.nan))})


def pair_outcomes(
    log: Log, project: Project, window: Window, rollout: str, *, metrics: Sequence[str], trust: Trust
) -> Outcomes:
    """Return the matured pairs of a window with losses; of a binary loss that both have, neither has it."""
    if not metrics:
        return Outcomes.empty()
    pairs = shadow_pairs(log, project, window, rollout)
    if not len(pairs):
        return Outcomes.empty()
    matured = matured_frame(log, project, window, trust=trust).select("request_id", "label")
    labels = pairs.mine.select("request_id").join(matured, on="request_id", how="left", maintain_order="left")["label"]
    losses = {}
    for name in metrics:
        mine, theirs = (_losses(project, frame, labels.to_list(), name) for frame in (pairs.mine, pairs.theirs))
        mine[np.isnan(theirs)], theirs[np.isnan(mine)] = np.nan, np.nan
        both = (mine == 1) & (theirs == 1) & (project.metric(name).bounds == (0.0, 1.0))
        losses[name] = (np.where(both, 0.0, mine), np.where(both, 0.0, theirs))
    return _both(pairs, losses)


def shadowable(project: Project, metrics: Sequence[str]) -> tuple[str, ...]:
    """Return the metrics that a prediction has which nobody saw: not what users did with an answer."""
    return tuple(name for name in metrics if not events_of([project.metric(name)]))


def differ(output: Output, one: Sequence[object], other: Sequence[object]) -> Array:
    """Return where decisions differ, float64 (N,): 1, 0, or NaN where one is missing. Numbers may be apart by 0.1 %."""
    missing = np.array([a is None or b is None for a, b in zip(one, other, strict=True)], dtype=bool)
    if isinstance(output, Value):
        a, b = (np.array([np.nan if v is None else v for v in side], dtype=np.float64) for side in (one, other))
        apart = ~np.isclose(a, b, rtol=_SAME, atol=0.0)
    else:
        apart = np.array([a != b for a, b in zip(one, other, strict=True)], dtype=bool)
    return np.where(missing, np.nan, apart.astype(np.float64))


def _losses(project: Project, frame: pl.DataFrame, labels: Sequence[object], metric: str) -> Array:
    known = judged(
        project.output, scores=scores_of(project, frame), labels=labels, decisions=frame["decision"].to_list()
    )
    return np.where(failures(frame), np.nan, loss(project.metric(metric), known))


def _both(pairs: Pairs, values: dict[str, tuple[Array, Array]]) -> Outcomes:
    """Lay both rows of each pair one after the other."""

    def column(name: str, dtype: type) -> Array:
        sides: list[Array] = [f[name].fill_null(0).to_numpy().astype(dtype) for f in (pairs.mine, pairs.theirs)]
        return np.stack(sides, axis=1).reshape(-1)

    num = len(pairs)
    unit = np.repeat(np.array([*pairs.mine["unit"].to_list(), None], dtype=object)[:-1], 2)
    return Outcomes(
        received_at=np.repeat(pairs.mine["received_at"].to_numpy().astype(np.int64), 2),
        unit=unit,
        version=column("assigned_version", np.int64),
        candidate=np.tile([True, False], num),
        share=np.full(2 * num, _SHARE),
        failed=np.stack([failures(pairs.mine), failures(pairs.theirs)], axis=1).reshape(-1),
        latency_ms=column("latency_ms", np.float64),
        values={name: np.stack(both, axis=1).reshape(-1) for name, both in values.items()},
        abstained=column("abstained", bool),
    )
