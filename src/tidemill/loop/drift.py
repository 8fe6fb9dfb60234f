"""Looks at drift that a step takes for its stage: each whole window once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import polars as pl

from tidemill.clock import micros
from tidemill.fingerprint import digest
from tidemill.loop.world import Turn, World
from tidemill.monitor.drift import look
from tidemill.records import Json
from tidemill.schema import Input, Sensitive
from tidemill.stats.drift_report import DriftReport
from tidemill.strategy.drift_needs import DriftNeeds
from tidemill.strategy.member import plain


def looks(turn: Turn, needs: Sequence[DriftNeeds], looked: Json, live: int) -> Mapping[DriftNeeds, DriftReport]:
    """Return what is found in the windows that are whole by now and were not looked at."""
    found = {}
    for one in needs:
        until = one.last_whole(turn.known_until)
        if (looked or {}).get(_key(one), 0) < micros(until):
            rng = turn.world.rng(f"drift {_key(one)}", micros(until))
            found[one] = look(
                turn.world.project, turn.world.log, partial(training_rows, turn.world, live), one, until, rng
            )
    return found


def looked_at(looked: Json, found: Mapping[DriftNeeds, DriftReport]) -> Json:
    """Return up to when each look has been taken, after these."""
    return {**(looked or {}), **{_key(one): micros(report.until) for one, report in found.items()}}


def _key(needs: DriftNeeds) -> str:
    return digest(plain(vars(needs), "needs"))


def training_rows(world: World, version: int) -> pl.DataFrame:
    """Return the rows that a version learnt from; none where it came without a dataset, or they are gone."""
    model = world.catalog.model(world.name, version)
    if model.dataset is None or world.datasets.get(world.name, model.dataset).is_gone:
        names = dict.fromkeys(world.project.inputs, pl.Null)
        return pl.DataFrame(schema={"received_at": pl.Int64, "probability": pl.Float64, **names})
    rows, then = world.datasets.train_rows(world.name, model.dataset), world.schemas.of(version)
    kinds = {} if then is None else then.inputs
    hashed = [n for n, kind in world.project.inputs.items() if n in kinds and _is_hash(kind) != _is_hash(kinds[n])]
    return rows.with_columns(pl.lit(None).alias(name) for name in hashed)  # of another kind, though both are text


def _is_hash(kind: Input) -> bool:
    return isinstance(kind, Sensitive)
