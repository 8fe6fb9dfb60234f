"""The backtest: strategies over a recorded stream, compared."""

from __future__ import annotations

import os
import pickle
import sys
import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from tidemill.clock import duration
from tidemill.errors import ProjectError
from tidemill.loop.backtest.kept import Kept, key_of
from tidemill.loop.backtest.memo import Spent
from tidemill.loop.backtest.pool import Task, Tell, Work, run_apart, run_here
from tidemill.loop.backtest.result import BacktestResult
from tidemill.loop.backtest.run import Run, Setting
from tidemill.loop.backtest.stream import Source, Stream, first_at
from tidemill.monitor.outcomes import judged
from tidemill.project import Project
from tidemill.stats.metrics import Metric, events_of
from tidemill.strategy.presets import Oracle
from tidemill.strategy.strategy import Strategy

Strategies = Mapping[str, Strategy | Oracle] | Sequence[Strategy | Oracle]


def backtest(
    project: Project,
    stream: Source | Stream,
    *,
    strategies: Strategies | None = None,
    time: str = "time",
    label: str = "label",
    unit: str | None = None,
    start: float | datetime | str = 0.2,
    step: timedelta | str | int | None = None,
    label_delay: timedelta | str = timedelta(0),
    label_budget_per_day: float | None = None,
    label_noise: float = 0.0,
    seeds: int = 1,
    jobs: int | None = None,
    folder: str | Path | None = None,
    memoise: bool = True,
    progress: Tell = lambda fraction, left_s: None,
) -> BacktestResult:
    """Say what strategies would have done on a recorded stream, and what users would have got.

    The live loop's own engine, steps and stages run on stores in memory and a manual clock. Version 1 learns from the
    rows before `start`; then, window by window, requests are answered by the versions in traffic, labels arrive, and
    the loop looks. Nothing looks ahead. How long a model takes, and a training that fails by accident, are not
    simulated.

    Args:
        project: the schema, trainer, metrics and cohorts; its strategy too, unless others are given.
        stream: a table, a file, or the `World` of an app: its own log, with the labels that arrived.
        strategies: by name, or in order; by default the project's own.
        time: the column that says when a request came; rows of one time keep their order.
        label: the column with what turned out to be true, null where nobody knows.
        unit: the column that says whose a request is; by default each is its own.
        start: where history ends: a share of the rows, or a time.
        step: how far the loop's looks lie apart: a time, or a number of rows; by default a 20th of the rest. Durations
            in a strategy are of the stream's time: a rollout moves one step a look.
        label_delay: how long a label takes, counted from the request if users give it, from the question if people do.
        label_budget_per_day: how many questions people answer a day at most; as many as the strategy asks, by default.
        label_noise: the share of labels that are wrong, for the strategy: quality is measured against the truth.
        seeds: how often to repeat it with other chance; strategies of the same seed meet the same.
        jobs: processes; by default one for each core, and none of their own for a single run.
        folder: where results of single runs are kept, so that a backtest that was stopped goes on.
        memoise: whether equal trainings and predictions are done once.
        progress: told how far it is and how many seconds are left.

    Raises:
        ProjectError: the stream does not fit the project, or an argument makes no sense.
        BacktestError: a step failed.
    """
    named = _named(strategies, project)
    delay = duration(label_delay, name="label_delay")
    _check(named, delay, label_noise=label_noise, seeds=seeds)
    known = stream if isinstance(stream, Stream) else Stream.read(stream, project, time=time, label=label, unit=unit)
    setting = Setting(
        start=first_at(start, known.received_at), step=duration(step, name="step") if isinstance(step, str) else step,
        label_delay=delay, label_budget_per_day=label_budget_per_day, label_noise=label_noise,
    )  # fmt: skip
    work = Work(project=project, setting=setting, metric=_metric(project), memoise=memoise)
    begun = clock.monotonic()
    runs, spent = _done(
        work, known, named, range(seeds), jobs, Kept(None if folder is None else Path(folder)), progress
    )
    return BacktestResult(
        metric=work.metric.name,
        higher_is_better=work.metric.higher_is_better,
        runs=runs,
        bodies={name: _strategy(one).to_json() for name, one in named.items()},
        setting={**setting.to_json(), "stream": known.digest, "rows": len(known), "seeds": seeds},
        spent={**asdict(spent), "wall_s": clock.monotonic() - begun, "cpu_s": sum(r.facts["cpu_s"] for r in runs)},
    )


def _named(strategies: Strategies | None, project: Project) -> dict[str, Strategy | Oracle]:
    if strategies is None:
        return {"project": project.strategy}
    if isinstance(strategies, Mapping):
        found = dict(strategies)
    else:
        found = {f"strategy {number}": one for number, one in enumerate(strategies, 1)}
    if not found:
        raise ProjectError("no strategy is given.", "give one, or leave `strategies` out for the project's own")
    for name, one in found.items():
        if not isinstance(one, Strategy | Oracle):
            raise ProjectError(f"strategy {name!r} is {one!r}.", "give a tm.Strategy, such as presets.never()")
    return found


def _strategy(one: Strategy | Oracle) -> Strategy:
    return one.strategy if isinstance(one, Oracle) else one


def _check(named: Mapping[str, Strategy | Oracle], delay: timedelta, *, label_noise: float, seeds: int) -> None:
    if not 0 <= label_noise < 1:
        raise ProjectError(f"label_noise is {label_noise!r}.", "give a share from 0 to below 1")
    if seeds < 1:
        raise ProjectError(f"seeds is {seeds!r}.", "give at least 1")
    for name, one in named.items():
        stage = _strategy(one).label
        if stage.queue is None and stage.feedback is not None and stage.horizon < delay:
            raise ProjectError(
                f"strategy {name!r} waits {stage.horizon} for feedback, and labels take {delay}: none would count.",
                f"give its label stage a horizon of at least {delay}",
            )


def _metric(project: Project) -> Metric:
    """Return the first metric that has a value for each request, and needs no events."""
    scores = np.zeros((1, project.output.num_scores))
    row = judged(project.output, scores=scores, labels=project.output.decide(scores))
    fit = [m for m in project.metrics if not events_of([m]) and m.rows(row) is not None]
    if not fit:
        raise ProjectError("no metric has a value for each request.", "add tm.metrics.Accuracy() to the project")
    return fit[0]


def _done(
    work: Work, stream: Stream, named: Mapping[str, Strategy | Oracle], seeds: range, jobs: int | None, kept: Kept,
    tell: Tell,
) -> tuple[list[Run], Spent]:  # fmt: skip
    tasks = [_task(work, stream, name, one, seed) for seed in seeds for name, one in named.items()]
    runs = {(task.name, task.seed): run for task in tasks if (run := kept.get(task.key, task.name)) is not None}
    missing = [task for task in tasks if (task.name, task.seed) not in runs]
    total = Spent()

    def done(task: Task, run: Run, spent: Spent) -> None:
        nonlocal total
        kept.put(task.key, run)
        runs[task.name, task.seed] = run
        total = total.add(spent)

    wanted = min(jobs or os.cpu_count() or 1, len(missing))
    if wanted > 1 and _travels(work, missing):
        run_apart(work, stream, missing, jobs=wanted, done=done, tell=tell)
    else:
        run_here(work, stream, missing, done=done, tell=tell)
    return [runs[name, seed] for name in named for seed in seeds], total


def _task(work: Work, stream: Stream, name: str, one: Strategy | Oracle, seed: int) -> Task:
    hindsight, strategy = isinstance(one, Oracle), _strategy(one)
    key = key_of(work.project, stream, work.setting, strategy, seed=seed, hindsight=hindsight)
    return Task(key=key, name=name, strategy=strategy, seed=seed, hindsight=hindsight)


def _travels(work: Work, tasks: Sequence[Task]) -> bool:
    """Tell whether other processes can be given the project: one that was declared in a notebook cannot."""
    try:
        pickle.dumps((work, list(tasks)))
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return hasattr(sys.modules["__main__"], "__file__")
