"""What a backtest says of two recorded streams, what it costs, and how much of that is the engine.

    python benchmarks/backtest.py --data FOLDER [--only accuracy,cohorts,full,speed,memo,million]

FOLDER holds `arxiv_titles.parquet` and `digit_cohorts.parquet`; `examples/` declares both projects. Prints one JSON
object a part. CPU seconds are what counts on a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression, SGDClassifier

import tidemill as tm
from tidemill.loop.backtest.result import BacktestResult
from tidemill.loop.backtest.stream import Stream
from tidemill.project import load_project
from tidemill.strategy.presets import Oracle

EXAMPLES = Path(__file__).parents[1] / "examples"
YEAR = timedelta(days=365.25)
YEARLY: dict[str, Any] = {"start": "2009-01-01", "step": YEAR}
COHORTS: dict[str, Any] = {"start": 4_500 / 26_511, "step": 500}

Strategies = Mapping[str, tm.Strategy | Oracle]


def titles() -> tm.Project:
    """The example with a linear model by stochastic gradient descent."""
    declared = load_project(str(EXAMPLES / "arxiv_titles" / "project.py"))
    estimator = SGDClassifier(loss="log_loss", alpha=3e-6)
    trainer = tm.trainers.Sklearn(estimator, transforms=[tm.transforms.HashedNgrams("title", bits=18)])
    return replace(declared, trainer=trainer)


def digits() -> tm.Project:
    """The example as it is."""
    return load_project(str(EXAMPLES / "digit_cohorts" / "project.py"))


def table(result: BacktestResult) -> list[dict[str, Any]]:
    """Return the means over seeds."""
    means = result.summary.drop("seed", "coverage").group_by("strategy", maintain_order=True).agg(pl.all().mean())
    return [{n: round(v, 4) if isinstance(v, float) else v for n, v in row.items()} for row in means.to_dicts()]


def against(result: BacktestResult, *pairs: tuple[str, str]) -> list[str]:
    """Return, for each pair, how much better the second is, with its interval."""
    return [str(result.compare(a, b)) for a, b in pairs]


def usps(result: BacktestResult) -> dict[str, float]:
    """Return what the last live version gets on the test rows of the first collection."""
    kept = result.kept.filter(pl.col("cohort") == "usps").group_by("strategy", maintain_order=True)
    return dict(kept.agg(pl.col("accuracy").mean().round(4)).iter_rows())


def accuracy(data: Path, jobs: int) -> Any:
    """No gate, no rollout, no delay, as the published baselines have it."""
    project = titles()
    quarter = replace(tm.presets.BASE, label=tm.label.Queue(daily_budget=5, trust="truth"))
    strategies: Strategies = {
        "never": tm.presets.never(),
        "every year": tm.presets.every_window(),
        "three retrainings": tm.presets.periodic(timedelta(days=1_000)),
        "when 3 points worse": tm.presets.degraded(0.03),
        "a quarter of the labels": tm.presets.every_window(quarter),
        "oracle": tm.presets.oracle(),
    }
    stream = Stream.read(data / "arxiv_titles.parquet", project)
    result = tm.backtest(project, stream, strategies=strategies, jobs=jobs, **YEARLY)
    pairs = [("every year", name) for name in ("three retrainings", "when 3 points worse", "a quarter of the labels")]
    return {"arxiv_titles": table(result), "compared": against(result, ("never", "every year"), *pairs)}


def cohorts(data: Path, jobs: int) -> Any:
    """The same on handwriting; of the triggers, those with `found` in their name were chosen on this very stream."""
    project = digits()
    strategies: Strategies = {
        "never": tm.presets.never(),
        "every window": tm.presets.every_window(),
        "when 3 points worse": tm.presets.degraded(0.03),
        "every 4,400 labels": tm.presets.amount(4_400),
        "every 5,500 labels": tm.presets.amount(5_500),
        "drift of brightness": tm.presets.drift(timedelta(minutes=5_000)),
        "found: 2 points worse and 600 labels": replace(tm.presets.BASE, trigger=_well_timed(at_most=None)),
        "found: the same, or 4,400 labels": replace(tm.presets.BASE, trigger=_well_timed(at_most=4_400)),
        "oracle": tm.presets.oracle(),
    }
    stream = Stream.read(data / "digit_cohorts.parquet", project)
    result = tm.backtest(project, stream, strategies=strategies, jobs=jobs, **COHORTS)
    best = "found: the same, or 4,400 labels"
    pairs = [(name, best) for name in strategies if name not in (best, "oracle")]
    pairs += [("every 4,400 labels", "when 3 points worse"), ("every window", "when 3 points worse")]
    return {"digit_cohorts": table(result), "usps_kept": usps(result), "compared": against(result, *pairs)}


def _well_timed(*, at_most: int | None) -> Any:
    """Return a trigger that waits for enough of what is new, and for no more than `at_most` labels."""
    worse = tm.trigger.Degraded("accuracy", drop=0.02, by_cohort=False, trust="truth", alpha=0.05)
    enough = worse & tm.trigger.Amount(600)
    return enough if at_most is None else enough | tm.trigger.Amount(at_most)


def full(data: Path, jobs: int) -> Any:
    """The whole strategy: gate, 5-25-50-100, labels a window late and within a budget."""
    found: dict[str, Any] = {}
    gradual = tm.online.Gradual(
        (0.05, 0.25, 0.5, 1.0), guards=[tm.guard.Errors(), tm.guard.NoWorse("accuracy", trust="truth")],
        max_duration=timedelta(days=20_000),
    )  # fmt: skip
    for name, project, when, delay, budget in (
        ("arxiv_titles", titles(), {"start": "2009-01-01", "step": YEAR / 12}, YEAR / 12, 5),
        ("digit_cohorts", digits(), {**COHORTS, "step": 250}, timedelta(minutes=2_500), 40),
    ):
        stage = tm.label.Queue(daily_budget=budget, trust="truth", horizon=2 * delay)
        base = replace(tm.presets.BASE, label=stage, offline=(tm.offline.NoWorse("accuracy"),), online=gradual)
        strategies: Strategies = {
            "full, every look": tm.presets.every_window(base),
            "full, when worse": tm.presets.degraded(0.03, base),
            "no gate, no rollout": tm.presets.every_window(replace(base, offline=(), online=tm.online.Now())),
            "never": tm.presets.never(base),
        }
        stream = Stream.read(data / f"{name}.parquet", project)
        settings = {**when, "label_delay": delay, "label_budget_per_day": budget}
        result = tm.backtest(project, stream, strategies=strategies, jobs=jobs, **settings)
        pairs = [("no gate, no rollout", "full, every look"), ("no gate, no rollout", "full, when worse"),
                 ("never", "full, every look"), ("never", "full, when worse")]  # fmt: skip
        found[name] = {"table": table(result), "compared": against(result, *pairs), "usps_kept": usps(result)}
    return found


def ten() -> Strategies:
    """Ten strategies to compare on the titles."""
    usual = tm.presets.usual(period=timedelta(days=730), labels=12_000, replayed=20_000)
    others = {
        name: one for name, one in usual.items() if name != "drift"
    }  # it looks at a title's words, at its own cost
    return {**others, "every three years": tm.presets.periodic(timedelta(days=1_000))}


def speed(data: Path, jobs: int) -> Any:
    """Ten strategies, three seeds; and how much of the CPU is neither training nor prediction."""
    project, begun = titles(), time.perf_counter()
    stream = Stream.read(data / "arxiv_titles.parquet", project)
    read_s = time.perf_counter() - begun
    result = tm.backtest(project, stream, strategies=ten(), seeds=3, jobs=jobs, **YEARLY)
    return {"strategies": len(ten()), "read_s": round(read_s, 1), **_cost(result), "table": table(result)}


def memo(data: Path, jobs: int) -> Any:
    """The ten with one seed, with and without memory of equal trainings and predictions."""
    project = titles()
    stream = Stream.read(data / "arxiv_titles.parquet", project)
    given: dict[str, Any] = {"strategies": ten(), "jobs": jobs, **YEARLY}
    with_it, without = (_cost(tm.backtest(project, stream, memoise=m, **given)) for m in (True, False))
    return {"with": with_it, "without": without, "ratio": round(without["cpu_s"] / with_it["cpu_s"], 2)}


def million(_: Path, jobs: int) -> Any:
    """A million made-up rows of eight numbers, a linear model, a hundred windows, retrained at each tenth."""
    rng, num = np.random.default_rng(0), 1_000_000
    x = rng.normal(size=(num, 8))
    turn = np.linspace(0, np.pi / 2, num)
    high = np.cos(turn) * x[:, 0] + np.sin(turn) * x[:, 1] + rng.normal(size=num) > 0
    first = datetime(2026, 1, 1, tzinfo=UTC)
    rows = pl.DataFrame({f"x{i}": x[:, i] for i in range(8)}).with_columns(
        time=pl.Series(np.arange(num) * 60).cast(pl.Duration("ms")) + pl.lit(first),
        label=pl.Series(np.where(high, "high", "low")),
    )
    names = [f"x{i}" for i in range(8)]
    project = tm.Project(
        name="million", inputs={name: tm.Number() for name in names}, output=tm.Classes(["low", "high"]),
        trainer=tm.trainers.Sklearn(LogisticRegression(), transforms=[tm.transforms.Standardise(*names)]),
    )  # fmt: skip
    begun = time.perf_counter()
    strategy = tm.presets.amount(60_000, replace(tm.presets.BASE, dataset=tm.dataset.Window("3h")))
    result = tm.backtest(project, rows, strategies={"amount": strategy}, start=0.2, step=8_000, jobs=jobs)
    return {"wall_s": round(time.perf_counter() - begun, 1), **_cost(result), "table": table(result)}


def _cost(result: BacktestResult) -> dict[str, Any]:
    cpu, work = result.spent["cpu_s"], sum(run.facts["work_cpu_s"] for run in result.runs)
    spent = {name: round(value, 1) for name, value in result.spent.items()}
    return {**spent, "work_cpu_s": round(work, 1), "engine_share": round(1 - work / cpu, 3)}


PARTS: dict[str, Callable[[Path, int], Any]] = {
    "accuracy": accuracy, "cohorts": cohorts, "full": full, "speed": speed, "memo": memo, "million": million
}  # fmt: skip


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    given = parser.parse_args()
    for name in given.only.split(","):
        print(json.dumps({name: PARTS[name](given.data, given.jobs)}, indent=1), flush=True)


if __name__ == "__main__":
    main()
