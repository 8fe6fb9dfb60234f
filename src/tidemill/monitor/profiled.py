"""Drift without rows: windows of profiles that devices posted, merged, beside earlier ones or the training data."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np
import polars as pl

from tidemill.clock import from_micros
from tidemill.errors import InvalidInput
from tidemill.monitor.trained import as_declared, compared
from tidemill.monitor.views import view_names, views
from tidemill.project import Project
from tidemill.records import DeviceProfile
from tidemill.schema import Array
from tidemill.stats.alarm import raised
from tidemill.stats.cells import Cells, sketched_cells
from tidemill.stats.drift import sketched_effect
from tidemill.stats.drift_report import ColumnDrift, DriftReport
from tidemill.stats.profile import Profile, Sketch
from tidemill.stores.log import Log
from tidemill.strategy.drift_needs import DriftNeeds

_TRAINING_BLOCKS = 40

_logger = logging.getLogger(__name__)


def profiled_look(
    project: Project, log: Log, training: pl.DataFrame | None, needs: DriftNeeds, until: datetime,
    rng: np.random.Generator,
) -> DriftReport:  # fmt: skip
    """Compare the profiles of the window that ends at `until` with those before it, or with the training rows."""
    after = until - needs.window
    now = merged(log.profiles(project.name, after=after, until=until))
    if training is None:
        assert needs.past is not None
        before = merged(log.profiles(project.name, after=after - needs.past, until=after))
    else:
        before = _of_rows(project, training, rng)
    nums = [sum(profile.num_rows for profile in side) for side in (now, before)]
    problem = _problem(needs, nums, len(before), len(now))
    names = [name for name in needs.columns or _names([*before, *now]) if _is_there(name, [*before, *now])]
    if not problem and not names:
        problem = "no profile has a column that is asked for"
    if problem:
        return DriftReport(after=after, until=until, num_rows=nums[0], num_reference=nums[1], problem=problem)
    parts = [_cells(name, [*before, *now]) for name in names]
    found = raised(parts, num_blocks=len(parts[0].counts), num_now=len(now), alpha=needs.alpha, rng=rng)
    columns = []
    for name in names:
        effect = sketched_effect(_pooled(name, before), _pooled(name, now))
        effects = {k: v for k, v in vars(effect).items() if isinstance(v, float) and math.isfinite(v)}
        statistic, value = found.unusual.get(name, ("", 0.0))
        statistic = {"chi2": "js"}.get(statistic, statistic)
        columns.append(
            ColumnDrift(name=name, statistic=statistic, unusual=value, moved=name in found.moved, effects=effects)
        )
    return DriftReport(
        after=after, until=until, num_rows=nums[0], num_reference=nums[1], rank=found.rank,
        columns=tuple(sorted(columns, key=lambda c: (not c.moved, -c.unusual, c.name))),
    )  # fmt: skip


def merged(posted: Sequence[DeviceProfile]) -> list[Profile]:
    """Return one profile for each end of a window, in order of time; one that does not read or fit is left out."""
    by_end: dict[int, Profile] = {}
    for one in posted:
        try:
            by_end.setdefault(one.until, Profile()).merge(Profile.from_bytes(one.body))
        except InvalidInput as error:
            at = from_micros(one.until)
            _logger.warning("the profile of device %s until %s is left out: %s", one.device, at, error)
    return [by_end[end] for end in sorted(by_end) if by_end[end].num_rows]


def _of_rows(project: Project, rows: pl.DataFrame, rng: np.random.Generator) -> list[Profile]:
    """Return rows as profiles of parts drawn at random."""
    rows, lacking = as_declared(project, rows)
    known = compared(project, view_names(project, traffic=False), lacking)
    names = [name for name in known if name in project.projections or _is_plain(project, name)]
    columns = {name: _array(column) for name, column in views(project, rows, names).items()}
    parts = rng.integers(_TRAINING_BLOCKS, size=len(rows))
    return [Profile().add({name: c[parts == at] for name, c in columns.items()}) for at in range(_TRAINING_BLOCKS)]


def _is_plain(project: Project, name: str) -> bool:
    kind = project.schema.inputs.get(name)
    return kind is None or type(kind).__name__ in ("Number", "Category", "Sensitive")


def _array(column: pl.Series) -> Array:
    if column.dtype == pl.Float64:
        return column.to_numpy()
    return np.array([*column.to_list(), None], dtype=object)[:-1]


def _problem(needs: DriftNeeds, nums: Sequence[int], num_before: int, num_now: int) -> str:
    for num, where in zip(nums, ("window", "reference"), strict=True):
        if num < needs.min_rows:
            return f"{num:,} of {needs.min_rows:,} rows in the {where}"
    if math.comb(num_before + num_now, num_now) * needs.alpha < 1:
        told = f"{num_now} profiles in the window and {num_before} in the reference are too few to tell"
        return f"{told} at {needs.alpha:g}: let devices post more often"
    return ""


def _names(profiles: Sequence[Profile]) -> list[str]:
    return list(dict.fromkeys(name for profile in profiles for name in profile.columns))


def _is_there(name: str, profiles: Sequence[Profile]) -> bool:
    """Tell whether all profiles have a column, of one kind."""
    return len({type(profile.columns.get(name)) for profile in profiles} - {type(None)}) == 1 and all(
        name in profile.columns for profile in profiles
    )


def _cells(name: str, profiles: Sequence[Profile]) -> Cells:
    return sketched_cells(name, [profile.columns[name] for profile in profiles])


def _pooled(name: str, profiles: Sequence[Profile]) -> Sketch:
    total = Profile()
    for profile in profiles:
        total.merge(_only(name, profile.columns))
    return total.columns[name]


def _only(name: str, columns: Mapping[str, Sketch]) -> Profile:
    one = Profile()
    one.columns[name] = columns[name]
    return one
