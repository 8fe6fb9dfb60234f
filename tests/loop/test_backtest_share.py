"""A gate that tolerates a share of the live version's error, where a project predicts numbers: through a backtest."""

from __future__ import annotations

import re
from datetime import timedelta

import numpy as np
import polars as pl
from backtests import START, with_strategy
from sklearn.linear_model import LinearRegression

import tidemill as tm
from tidemill.loop.backtest.stream import Stream
from tidemill.records import Json
from tidemill.strategy.dataset import Dataset

HOUSES = tm.Project(
    name="houses",
    inputs={"size": tm.Number(), "age": tm.Number()},
    output=tm.Value(),
    unit="user",
    trainer=tm.trainers.Sklearn(LinearRegression(), transforms=[tm.transforms.Standardise("size", "age")]),
    cohorts={"old": "age > 0"},
)
SHARE = tm.offline.NoWorse("mean_absolute_error", by="cohort", relative=0.1)


def sold(num: int = 500) -> Stream:
    """A house every six minutes, at prices whose scale no default margin fits."""
    size, age, noise = np.random.default_rng(3).normal(size=(3, num))
    table = pl.DataFrame({
        "time": [START + i * timedelta(minutes=6) for i in range(num)],
        "user": [f"user-{i}" for i in range(num)],
        "size": size, "age": age, "label": 400_000 + 90_000 * size - 50_000 * age + 20_000 * noise,
    })  # fmt: skip
    return Stream.read(table, HOUSES, unit="user")


def verdicts(dataset: Dataset) -> list[Json]:
    """Return what the gate said of each candidate."""
    strategy = with_strategy(offline=SHARE, dataset=dataset, trigger=tm.trigger.Amount(90), online=tm.online.Now())
    result = tm.backtest(HOUSES, sold(), strategies={"own": strategy}, step="6h", seeds=1, jobs=1)
    return result.events.filter(pl.col("step") == "test").to_dicts()


def test_candidates_that_learnt_from_as_much_pass_and_verdicts_say_the_ratio_of_each_cohort() -> None:
    said = verdicts(tm.dataset.Everything())
    assert len(said) == 3 and {one["outcome"] for one in said} == {"pass"}
    assert said[-1]["reason"].startswith("no worse by more than 10 % of the live version's value: mean_absolute_error")
    assert re.search(r"on old: \d+\.\d\d -> \d+\.\d\d \(×1\.0\d\d, 0\.\d{3} to 1\.\d{3}, n \d+\)", said[-1]["reason"])
    assert "too few rows to judge newest" in said[-1]["reason"]


def test_candidates_that_learnt_from_four_rows_fail() -> None:
    said = verdicts(tm.dataset.Recent(4))
    assert len(said) == 3 and {one["outcome"] for one in said} == {"fail"}
    assert "worse by more than 10 % of the live version's value: mean_absolute_error on all: " in said[-1]["reason"]
