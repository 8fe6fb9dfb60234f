"""What a strategy's curation is handed: the candidates, and what its members said that they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl

from tidemill.loop.looked_for import inputs_looked_for, training_ids
from tidemill.loop.world import Turn
from tidemill.monitor.cohorts import cohort_masks, with_projections
from tidemill.monitor.outcomes import Window, horizon, matured_frame, scores_of
from tidemill.records import Trust
from tidemill.schema import Array, Image, Tensor, Text, Value
from tidemill.stats.embedding import Embedding
from tidemill.stats.near_duplicates import near_duplicates
from tidemill.stats.vectors import Vectors
from tidemill.strategy.curate import Candidates, CurateContext, CurateNeeds, Judgements

_ROWS_TO_FIT = 5_000
_ROWS_AT_ONCE = 4_096
_MAX_TRAINING = 2_000
_JUDGED_FOR = timedelta(days=30)
_MAX_JUDGED = 20_000


def gathered(turn: Turn, frame: pl.DataFrame, window: Window) -> tuple[Candidates, CurateContext]:
    """Return the rows of `frame`, the pickable requests of a window, and what is known beside them."""
    needs, project = turn.strategy.curate.needs(), turn.world.project
    embedding = _embedding(turn, frame, needs)
    vectors = None if embedding is None else Vectors(_embedded(embedding, frame))
    near = needs.distinct and vectors is not None and project.near_duplicates
    names = columns_of(turn, needs)
    candidates = Candidates(
        ids=tuple(frame["request_id"].to_list()),
        scores=scores_of(project, frame),
        decisions=tuple(frame["decision"].to_list()),
        columns=_columns(turn, frame, names),
        negative=_negative(frame),
        vectors=vectors,
        repeated=near_duplicates(vectors) if near and vectors is not None else None,
        shadow=_shadow(turn, frame, window) if needs.shadow else None,
    )
    return candidates, CurateContext(
        now=turn.now,
        cohorts=cohort_masks(project, frame),
        training=_training(turn, embedding) if needs.training and embedding is not None else None,
        targets=_targets(turn, embedding, needs) if embedding is not None else {},
        judged=_judged(turn, names) if needs.judged else None,
    )


def columns_of(turn: Turn, needs: CurateNeeds) -> tuple[str, ...]:
    """Return the names of the columns that are handed over."""
    return tuple(dict.fromkeys((*needs.columns, *(turn.world.project.schema.tags if needs.tags else ()))))


def _columns(turn: Turn, frame: pl.DataFrame, names: Sequence[str]) -> dict[str, Array]:
    seen = with_projections(turn.world.project, frame) if set(names) - set(frame.columns) else frame
    return {n: np.array([*seen[n].to_list(), None], dtype=object)[:-1] for n in names}


def _negative(frame: pl.DataFrame) -> Array:
    """Return which decisions feedback contradicts, bool (N,)."""
    differs = frame["label"] != frame["decision"]
    differs = differs.fill_null(value=False) if differs.has_nulls() else differs
    return np.asarray(differs.to_numpy(), dtype=bool)


# --- vectors


def _embedding(turn: Turn, frame: pl.DataFrame, needs: CurateNeeds) -> Embedding | None:
    """Return what makes vectors of examples, None where no member asks for them.

    Near-duplicates are looked for where there is text, an image or a tensor: rows of a table that are near each other
    are no repetitions.
    """
    project = turn.world.project
    kinds = [project.schema.inputs[name] for name in project.schema.features]
    near = needs.distinct and project.near_duplicates and any(isinstance(k, Text | Image | Tensor) for k in kinds)
    if not (needs.vectors or near) or not kinds:
        return None
    rows = np.unique(np.linspace(0, len(frame) - 1, num=min(_ROWS_TO_FIT, len(frame))).astype(np.int64))
    return Embedding.fit(project.schema, frame[rows].select(project.schema.features).to_dicts())


def _embedded(embedding: Embedding, frame: pl.DataFrame) -> Array:
    """Return a vector for each row, float32 (N, D), made in blocks."""
    names, found = embedding.schema.features, None
    for at in range(0, len(frame), _ROWS_AT_ONCE):
        block = embedding.of(frame[at : at + _ROWS_AT_ONCE].select(names).to_dicts())
        found = np.zeros((len(frame), block.shape[1]), dtype=np.float32) if found is None else found
        found[at : at + len(block)] = block
    return embedding.of([]) if found is None else found


def _training(turn: Turn, embedding: Embedding) -> Array:
    """Return vectors of training examples, evenly spread over time."""
    ids = training_ids(turn.world)
    some = np.unique(np.linspace(0, len(ids) - 1, num=min(_MAX_TRAINING, len(ids))).astype(np.int64))
    return _of_inputs(embedding, turn.world.inputs([ids[i] for i in some]))


def _targets(turn: Turn, embedding: Embedding, needs: CurateNeeds) -> dict[Any, Array]:
    return {to: _of_inputs(embedding, inputs_looked_for(turn.world, to)) for to in needs.similar}


def _of_inputs(embedding: Embedding, rows: Sequence[Mapping[str, Any]]) -> Array:
    """Return the vectors of the rows that have all features: an input may have been declared after a row was stored."""
    names = embedding.schema.features
    return embedding.of([row for row in rows if all(row.get(name) is not None for name in names)])


# --- what other versions and what feedback said


def _shadow(turn: Turn, frame: pl.DataFrame, window: Window) -> tuple[str | float | None, ...]:
    """Return what the newest version in shadow said to each request."""
    project = turn.world.project
    beside = turn.world.log.predictions(
        project.name, after=window.after, until=window.until, role="shadow", schema=project.schema,
        columns=["request_id", "answered_version", "decision"],
    )  # fmt: skip
    newest = beside.sort("answered_version").unique("request_id", keep="last").select("request_id", said="decision")
    rows = frame.select("request_id").join(newest, on="request_id", how="left", maintain_order="left")
    return tuple(rows["said"].to_list())


def _judged(turn: Turn, names: Sequence[str]) -> Judgements | None:
    """Return the requests of the last 30 days whose feedback has come, at most 20,000."""
    project = turn.world.project
    until = turn.known_until - horizon(project)
    window = Window(after=until - _JUDGED_FOR, until=until)
    beyond_tags = bool(set(names) - set(project.schema.tags))
    frame = _newest_judged(turn, window, inputs=beyond_tags)
    if not len(frame):
        return None
    return Judgements(
        scores=scores_of(project, frame),
        decisions=tuple(frame["decision"].to_list()),
        columns=_columns(turn, frame, names),
        losses=_losses(turn, frame),
    )


def _newest_judged(turn: Turn, window: Window, *, inputs: bool) -> pl.DataFrame:
    """Return the newest requests of a window whose feedback has come, read part by part until there are enough."""
    frames: list[pl.DataFrame] = []
    for after, until in reversed(turn.parts(window.after, window.until)):
        part = Window(after=after, until=until)
        frame = matured_frame(turn.world.log, turn.world.project, part, trust=Trust.FUNCTIONS, inputs=inputs)
        frames.append(frame.filter(pl.col("label").is_not_null() & pl.col("decision").is_not_null()))
        if sum(map(len, frames)) >= _MAX_JUDGED:
            break
    return pl.concat(frames[::-1], how="vertical_relaxed").tail(_MAX_JUDGED)


def _losses(turn: Turn, frame: pl.DataFrame) -> Array:
    """Return 0 where the answer was right and 1 where not; of numbers, how far off it was, 1 for the farthest."""
    if not isinstance(turn.world.project.output, Value):
        return _negative(frame).astype(np.float64)
    off = np.abs((frame["label"] - frame["decision"]).to_numpy().astype(np.float64))
    return np.asarray(off / max(float(off.max()), 1e-12))
