"""Drift: one window of requests beside the training data or earlier traffic, over all columns that a stage asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

import numpy as np
import polars as pl

from tidemill.errors import ProjectError
from tidemill.monitor.cohorts import cohort_masks, columns_needed
from tidemill.monitor.profiled import profiled_look
from tidemill.monitor.trained import Lacking, as_declared, compared
from tidemill.monitor.views import check_columns, view_names, views
from tidemill.project import Project
from tidemill.schema import Array
from tidemill.stats.alarm import Compared, Raised, raised
from tidemill.stats.cells import Cells, missing_cells, number_cells, word_cells
from tidemill.stats.drift import Effect, number_effect, word_effect
from tidemill.stats.drift_report import ColumnDrift, DriftReport
from tidemill.stats.separation import separation
from tidemill.stores.log import Log
from tidemill.strategy.drift_needs import EVERYONE, DriftNeeds
from tidemill.strategy.log import Profile

BLOCKS_A_WINDOW = 20
MOST_ROWS = 20_000
"""Rows of a window that are compared, drawn by a hash of the request id; of its reference four times as many."""
_REFERENCE = 4
_NUM_EXAMPLES = 5
_FACTS = ["request_id", "received_at", "scores", "decision", "abstained", "outlier", "keep_probability"]

Training = Callable[[], pl.DataFrame]
"""Reads the rows that the live version was trained on: the inputs, `received_at` and `probability`."""


def check_drift(project: Project) -> None:
    """Refuse looks at drift of columns that the project does not have.

    Raises:
        ProjectError: the message names the member and the column.
    """
    asking = [(str(alert), alert.needs()) for alert in project.alerts]
    for by, needs in [(str(project.strategy.trigger), project.strategy.trigger.needs()), *asking]:
        for one in () if needs is None else needs.drift:
            if isinstance(project.strategy.log, Profile):
                _check_profiled(one, by)
            else:
                check_columns(project, one.columns, traffic=one.past is not None, by=by)


def _check_profiled(needs: DriftNeeds, by: str) -> None:
    """Profiles have the columns that devices gave them, and know of no cohorts."""
    if needs.cohort != EVERYONE:
        raise ProjectError(f"{by} watches a cohort, and log.Profile keeps no rows.", "leave the cohort out")


def look(
    project: Project, log: Log, training: Training, needs: DriftNeeds, until: datetime, rng: np.random.Generator
) -> DriftReport:
    """Compare the window that ends at `until` with its reference."""
    if isinstance(project.strategy.log, Profile):
        trained = _thinned(training(), "probability", rng) if needs.past is None else None
        return profiled_look(project, log, trained, needs, until, rng)
    after = until - needs.window
    now = _traffic(project, log, needs, after, until, MOST_ROWS, rng)
    if len(now) < needs.min_rows:
        return _too_few(after, until, len(now), 0, f"{len(now):,} of {needs.min_rows:,} rows in the window")
    if needs.past is None:
        rows, lacking = as_declared(project, training())
        needs = replace(needs, columns=compared(project, _names(project, needs), lacking))
        if not needs.columns:
            return _too_few(after, until, len(now), 0, "the live version was trained on none of these columns")
        before = _thinned(_of_cohort(project, rows, needs.cohort), "probability", rng)
        before = before.sort("received_at").sample(
            min(len(before), _REFERENCE * MOST_ROWS), seed=int(rng.integers(1 << 32))
        )
        before = before.sort("received_at")
    else:
        first = after - needs.past
        retyped = log.retyped(project.name, after=first, until=until, schema=project.schema)
        needs = replace(needs, columns=compared(project, _names(project, needs), Lacking(unknown=retyped)))
        if not needs.columns:
            return _too_few(after, until, len(now), 0, "the reference has these columns in another type")
        before = _traffic(project, log, needs, first, after, _REFERENCE * MOST_ROWS, rng)
    if len(before) < needs.min_rows:
        other = "" if needs.past is not None else "; traffic is one for sure: reference='30d'"
        problem = f"{len(before):,} of {needs.min_rows:,} rows that stand for their traffic in the reference{other}"
        return _too_few(after, until, len(now), len(before), problem)
    return report(project, before, now, needs, after=after, until=until, rng=rng)


def report(
    project: Project, before: pl.DataFrame, now: pl.DataFrame, needs: DriftNeeds, *, after: datetime, until: datetime,
    rng: np.random.Generator,
) -> DriftReport:  # fmt: skip
    """Compare two frames of rows, each in order of time."""
    names = _names(project, needs)
    blocks = _blocks(len(before), len(now))
    sides = [views(project, frame.tail(num), names) for frame, num in ((before, blocks.before), (now, blocks.now))]
    looks = [_compared(name, sides[0][name], sides[1][name], blocks) for name in names]
    parts = [part for one in looks for part in one.parts]
    found = raised(parts, num_blocks=blocks.num, num_now=blocks.num_now, alpha=needs.alpha, rng=rng)
    columns = [_column(one, found) for one in looks]
    examples = _examples(now.tail(blocks.now), [one for one, c in zip(looks, columns, strict=True) if c.moved], blocks)
    return DriftReport(
        after=after, until=until, num_rows=len(now), num_reference=len(before), rank=found.rank, examples=examples,
        columns=tuple(sorted(columns, key=lambda c: (not c.moved, -c.unusual, c.name))),
    )  # fmt: skip


# --- rows


def _names(project: Project, needs: DriftNeeds) -> Sequence[str]:
    return needs.columns or view_names(project, traffic=needs.past is not None)


def _traffic(
    project: Project, log: Log, needs: DriftNeeds, after: datetime, until: datetime, most: int, rng: np.random.Generator
) -> pl.DataFrame:
    names = _names(project, needs)
    inputs = _inputs(project, names, needs.cohort)
    columns = list(dict.fromkeys([*_FACTS, *inputs]))
    frame = log.sample(project.name, after=after, until=until, at_most=most, columns=columns, schema=project.schema)
    kept = [name for name in inputs if name not in project.schema.tags]
    if kept:  # the log stage may have dropped the inputs of some requests: those left stand for them
        frame = _thinned(frame.filter(pl.any_horizontal(pl.col(kept).is_not_null())), "keep_probability", rng)
    return _of_cohort(project, frame, needs.cohort)


def _inputs(project: Project, names: Sequence[str], cohort: str) -> list[str]:
    """Return the inputs that must be read."""
    if set(names) & set(project.projections):
        return list(project.inputs)
    of_cohort = columns_needed(project) if cohort != EVERYONE else []
    return [name for name in project.inputs if name in names or f"{name}.length" in names or name in of_cohort]


def _of_cohort(project: Project, frame: pl.DataFrame, cohort: str) -> pl.DataFrame:
    return (
        frame if cohort == EVERYONE else frame.filter(pl.Series(cohort_masks(project, frame)[cohort], dtype=pl.Boolean))
    )


def _thinned(frame: pl.DataFrame, by: str, rng: np.random.Generator) -> pl.DataFrame:
    """Return rows that stand for all alike: of those kept or picked with a probability, the rarer the more stay.

    Rows whose probability is not known, or 0, stand for nothing.
    """
    frame = frame.filter(pl.col(by) > 0)
    chances = frame[by].to_numpy()
    if not len(frame) or chances.min() == chances.max():
        return frame
    return frame.filter(pl.Series(rng.random(len(frame)) * chances < chances.min(), dtype=pl.Boolean))


def _too_few(after: datetime, until: datetime, num: int, num_reference: int, problem: str) -> DriftReport:
    return DriftReport(after=after, until=until, num_rows=num, num_reference=num_reference, problem=problem)


# --- columns


class _Blocks(NamedTuple):
    """Rows in time order, cut into blocks of equal size: the oldest rows that fill no block are left out."""

    size: int
    num_before: int
    num_now: int

    @property
    def num(self) -> int:
        return self.num_before + self.num_now

    @property
    def before(self) -> int:
        return self.size * self.num_before

    @property
    def now(self) -> int:
        return self.size * self.num_now

    def of_rows(self) -> Array:
        return np.repeat(np.arange(self.num), self.size)


def _blocks(num_before: int, num_now: int) -> _Blocks:
    size = max(1, min(num_before, num_now) // BLOCKS_A_WINDOW)
    return _Blocks(size, num_before // size, num_now // size)


class _Look(NamedTuple):
    """One column: what the alarm compares of it, its effects, and the cell of each row of the window."""

    name: str
    parts: list[Compared]
    effect: Effect | None
    cells: Cells | None
    codes: Array


def _compared(name: str, before: pl.Series, now: pl.Series, blocks: _Blocks) -> _Look:
    rows = blocks.of_rows()
    if before.dtype == pl.Float64 and now.dtype == pl.Float64:
        sides = [side.to_numpy(allow_copy=True).astype(np.float64) for side in (before, now)]
        both = np.concatenate(sides)
        cells, codes = number_cells(name, both, rows, blocks.num)
        effect, missing = number_effect(*sides), np.isnan(both)
    elif pl.String in (before.dtype, now.dtype):
        words = pl.concat([before.cast(pl.String), now.cast(pl.String)])
        cells, codes = word_cells(name, _numbered(words), rows, blocks.num)
        first, second = (_counted(side.cast(pl.String)) for side in (before, now))
        effect = word_effect(first, second, (before.null_count(), now.null_count()))
        missing = words.is_null().to_numpy()
    else:
        return _vectors_compared(name, before, now, rows, blocks)
    gone = missing_cells(f"{name} missing", missing, rows, blocks.num)
    return _Look(name, [cells, *([] if gone is None else [gone])], effect, cells, codes[-blocks.now :])


def _vectors_compared(name: str, before: pl.Series, now: pl.Series, rows: Array, blocks: _Blocks) -> _Look:
    sides = [np.asarray(side.drop_nulls().to_numpy(), dtype=np.float64) for side in (before, now)]
    if not all(len(side) for side in sides):
        return _Look(name, [], None, None, np.zeros(0, dtype=np.int64))
    known = np.concatenate([before.is_not_null().to_numpy(), now.is_not_null().to_numpy()])
    return _Look(
        name,
        [separation(name, np.concatenate(sides), rows[known], blocks.num)],
        None,
        None,
        np.zeros(0, dtype=np.int64),
    )


def _numbered(words: pl.Series) -> Array:
    """Return words as numbers from 0 in order of their names, -1 where missing."""
    return (words.rank("dense").cast(pl.Int64) - 1).fill_null(-1).to_numpy()


def _counted(words: pl.Series) -> dict[str, int]:
    return dict(words.drop_nulls().value_counts().iter_rows())


def _column(look: _Look, found: Raised) -> ColumnDrift:
    """Put the effects of a column beside what the alarm says of it, or of its missing values."""
    unusual = {part.name: found.unusual[part.name] for part in look.parts if part.name in found.unusual}
    name = max(unusual, key=lambda part: unusual[part][1], default=None)
    statistic, value = unusual[name] if name is not None else ("", 0.0)
    statistic = {"chi2": "js"}.get(statistic, statistic)  # they measure the same, and people know shares of 0 to 1
    if name is not None and name != look.name:
        statistic = "missing"
    effects = {} if look.effect is None else _defined(look.effect)
    effects |= {s: v for part in look.parts for s, v in found.sizes.get(part.name, {}).items() if s == "auc"}
    moved = any(part.name in found.moved for part in look.parts)
    return ColumnDrift(name=look.name, statistic=statistic, unusual=value, moved=moved, effects=effects)


def _defined(effect: Effect) -> dict[str, float]:
    known = {name: getattr(effect, name) for name in ("ks", "wasserstein", "psi", "js", "share")}
    shown = {name: float(value) for name, value in known.items() if value is not None and np.isfinite(value)}
    return {**shown, **({"missing": effect.missing} if effect.missing else {})}


def _examples(now: pl.DataFrame, moved: list[_Look], blocks: _Blocks) -> tuple[str, ...]:
    """Return ids of the requests whose values have become more frequent by most, over all columns that moved."""
    score = np.zeros(len(now))
    for one in moved:
        if one.cells is not None:
            excess = one.cells.excess(blocks.num_now)
            score += np.where(one.codes >= 0, excess[np.maximum(one.codes, 0)], 0.0)
    if not score.any() or "request_id" not in now.columns:
        return ()
    best = np.argsort(-score, kind="stable")[:_NUM_EXAMPLES]
    return tuple(now["request_id"][best.tolist()].to_list())
