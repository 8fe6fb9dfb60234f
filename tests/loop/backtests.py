"""A small recorded stream whose meaning turns, and a project for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression

import tidemill as tm
from tidemill.loop.backtest.stream import Stream

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)

PROJECT = tm.Project(
    name="waves",
    inputs={"x": tm.Number(), "y": tm.Number(), "app": tm.Category(tag=True)},
    output=tm.Classes(["low", "high"]),
    unit="user",
    trainer=tm.trainers.Sklearn(LogisticRegression(), transforms=[tm.transforms.Standardise("x", "y")]),
    cohorts={"new_app": "app = 'v2'"},
)

USUAL = tm.Strategy(
    curate=tm.curate.Random(1.0),
    curate_every="1s",
    label=tm.label.Feedback(trust="truth", horizon="2h", daily_budget=None),
    trigger=tm.trigger.Amount(100),
    offline=tm.offline.NoWorse("accuracy"),
    online=tm.online.Shadow(requests=30) >> tm.online.Gradual((0.3, 1.0), min_requests=20),
)


def recorded(num: int = 800, *, seed: int = 0, turns_at: float = 0.5) -> pl.DataFrame:
    """A request every six minutes; after `turns_at` of the rows what was high is low on one axis."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, num))
    high = np.where(np.arange(num) >= num * turns_at, x - y > 0, x + y > 0)
    return pl.DataFrame({
        "time": [START + i * timedelta(minutes=6) for i in range(num)],
        "user": [f"user-{i % 500}" for i in range(num)],
        "x": x, "y": y, "app": np.where(rng.random(num) < 0.3, "v2", "v1"), "label": np.where(high, "high", "low"),
    })  # fmt: skip


def stream(table: pl.DataFrame, project: tm.Project = PROJECT) -> Stream:
    return Stream.read(table, project, unit="user")


def with_strategy(**stages: object) -> tm.Strategy:
    return replace(USUAL, **stages)  # type: ignore[arg-type]
