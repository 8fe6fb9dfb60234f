"""One run of a backtest: a strategy over the stream, window by window, by the live loop's own engine and steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

import numpy as np
import polars as pl

from tidemill.clock import ManualClock, from_micros
from tidemill.errors import BacktestError
from tidemill.loop.backtest.labellers import Labellers
from tidemill.loop.backtest.memo import Memo
from tidemill.loop.backtest.reservoir import MemoryReservoir
from tidemill.loop.backtest.traffic import Traffic, told_labels
from tidemill.loop.backtest.trainings import Trainings
from tidemill.loop.backtest.values import Values
from tidemill.loop.backtest.windows import Window, windows
from tidemill.loop.backtest.world import RehearsalWorld, rehearsal
from tidemill.loop.engine import Engine
from tidemill.loop.first import train_first
from tidemill.loop.picked import PROBABILITY, REASON, PickedRows
from tidemill.records import Json, Trust
from tidemill.schema import Array, Classes
from tidemill.stats.metrics import Metric
from tidemill.strategy.strategy import Strategy

FOREVER = timedelta(days=100 * 365)
_MOST_TURNS = 1_000


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a stream is replayed with. `start` is the first microsecond that is not history."""

    start: int
    step: timedelta | int | None = None
    label_delay: timedelta = timedelta(0)
    label_budget_per_day: float | None = None
    label_noise: float = 0.0

    def to_json(self) -> Json:
        """Return it as JSON."""
        step = self.step.total_seconds() if isinstance(self.step, timedelta) else self.step
        kind = "s" if isinstance(self.step, timedelta) else "rows"
        return {**vars(self), "step": [step, kind], "label_delay": self.label_delay.total_seconds()}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a strategy would have done, and what users would have got.

    `quality` float32 (M,) is the metric of each row from `first` on, NaN where the truth is not known. `windows` has a
    dict for each window, `events` one for each verdict; `facts` are the counts of the summary.
    """

    strategy: str
    seed: int | None
    first: int
    quality: Array
    version: Array
    windows: list[Json]
    events: list[Json]
    facts: Json = field(default_factory=dict)


def replay(
    strategy: Strategy, name: str, memo: Memo, setting: Setting, *, seed: int | None, metric: Metric,
    hindsight: bool = False, progress: Callable[[float], None] = lambda _: None,
) -> Run:  # fmt: skip
    """Replay the stream under a strategy.

    With a `seed`, chance is that of the seed and the same for all strategies; None draws as the live loop does. With
    `hindsight`, users get in each window what the best version there was would have given them.

    Raises:
        BacktestError: a step failed, or the loop never came to rest.
        TrainingError: version 1 could not be trained.
    """
    begun = time.process_time()
    spent = replace(memo.spent)
    memo.begin(seed)
    rehearsed = _Rehearsal(strategy, memo, setting, seed=seed, metric=metric)
    spans = windows(memo.stream.received_at, setting.start, setting.step)
    rehearsed.begin()
    progress(0.0)
    for at, window in enumerate(spans):
        rehearsed.window(window)
        if hindsight:
            rehearsed.see_in_hindsight(window)
        rehearsed.measure(window)
        progress((at + 1) / len(spans))
    run = rehearsed.run(name)
    memo.forget()
    after = memo.spent
    work = sum(getattr(after, kind) - getattr(spent, kind) for kind in ("train_s", "predict_s", "features_s"))
    return replace(run, facts={**run.facts, "cpu_s": time.process_time() - begun, "work_cpu_s": work})


class _Rehearsal:
    def __init__(self, strategy: Strategy, memo: Memo, setting: Setting, *, seed: int | None, metric: Metric) -> None:
        project = replace(memo.project, strategy=strategy)
        self._memo, self._setting, self._seed, self._stream = memo, setting, seed, memo.stream
        self._clock = ManualClock(from_micros(setting.start - 1))
        self._world = world = rehearsal(project, memo, number=seed, now=self._clock.now())
        output = project.output
        told = told_labels(
            memo.stream.truth, noise=setting.label_noise, seed=seed or 0,
            num_classes=len(output.names) if isinstance(output, Classes) else 0,
        )  # fmt: skip
        self._first = int(np.searchsorted(memo.stream.received_at, setting.start))
        self._traffic = Traffic(world, told, delay=setting.label_delay, metric=metric, first=self._first)
        self._labellers = Labellers(
            world, self._traffic, told, delay=setting.label_delay, per_day=setting.label_budget_per_day,
            begun=setting.start,
        )  # fmt: skip
        self._engine = Engine(world=world, clock=self._clock, holder="backtest", lapse=FOREVER, lease_ttl=FOREVER)
        self._cohorts = memo.masks
        self._windows: list[Json] = []
        self._num_before = 0
        self._work_before: Json = {}
        self._first_cpu_s = 0.0

    def begin(self) -> None:
        """Train version 1 on the history, and let the loop find its feet."""
        history = _history(self._world, np.arange(self._first))
        train_first(self._world, history, clock=self._clock, progress=lambda _: None, smoke=False)
        self._first_cpu_s = self._train_cpu_s()
        self._settle()

    def window(self, window: Window) -> None:
        """Let the requests of a window be answered, then let the loop look until it rests."""
        rows = np.arange(window.first, window.last)
        before = self._clock.now()
        self._num_before = len(self._world.catalog.models(self._world.name))
        if len(rows):
            self._traffic.answer(rows)
        self._clock.set(max(before, from_micros(window.now)))
        self._engine.pace = self._clock.now() - before
        self._traffic.tell(window.now)
        self._labellers.answer(window.now)
        self._settle()
        self._labellers.take(window.now + 1)
        if self._setting.label_delay == timedelta(0):
            self._clock.set(from_micros(window.now + 1))  # what people say now is not behind what was read
            if self._labellers.answer(window.now + 1):
                self._settle()

    def see_in_hindsight(self, window: Window) -> None:
        """Put the best version in the place of who answered: of those that there were as the window began."""
        rows = np.arange(window.first, window.last)
        if len(rows):
            made = [m.version for m in self._world.catalog.models(self._world.name)]
            self._traffic.answer_best(rows, [version for version in made if version <= self._num_before])

    def measure(self, window: Window) -> None:
        """Note what users got in a window."""
        self._windows.append(self._measured(window, np.arange(window.first, window.last)))

    def _settle(self) -> None:
        """Turn until nothing is left to do now."""
        for _ in range(_MOST_TURNS):
            if not self._engine.turn():
                break
        else:
            raise BacktestError("the loop never came to rest.", "report this, with the strategy")
        trouble = self._world.journal.state(self._world.name, "trouble")
        for step, told in (trouble or {}).items():
            raise BacktestError(f"step {step} failed: {told['error']}", "it would fail in the live loop too: mend it")

    # --- what came of it

    def _measured(self, window: Window, rows: Array) -> Json:
        quality, versions = self._traffic.quality[rows], self._traffic.version[rows]
        route = self._world.catalog.route(self._world.name)
        assert route is not None
        return {
            "start": int(self._stream.received_at[window.first]) if len(rows) else window.now,
            "end": window.now,
            "rows": len(rows),
            "judged": int((~np.isnan(quality)).sum()),
            "quality": _mean(quality),
            "answered_by": np.unique(versions).tolist(),
            "live_after": route.stable,
            **self._new_work(),
            **{f"cohort_{name}": _mean(quality[mask[rows]]) for name, mask in self._cohorts.items()},
        }

    def _new_work(self) -> Json:
        """Return what this window cost: models trained, labels got, CPU seconds of training."""
        work = {
            "retrainings": len(self._world.catalog.models(self._world.name)) - 1,
            "labels": self._num_labels(),
            "train_cpu_s": self._train_cpu_s() - self._first_cpu_s,
        }
        new = {name: value - self._work_before.get(name, 0) for name, value in work.items()}
        self._work_before = work
        return new

    def _train_cpu_s(self) -> float:
        runner = self._world.runner
        assert isinstance(runner, Trainings)
        return runner.cpu_s

    def _num_labels(self) -> int:
        reservoir = self._world.reservoir
        assert isinstance(reservoir, MemoryReservoir)
        return int((reservoir.labelled() >= self._first).sum())

    def run(self, name: str) -> Run:
        """Return what was done and what users got."""
        world, project = self._world, self._world.name
        quality = self._traffic.quality[self._first :].astype(np.float32)
        cycles = world.journal.cycles(project)
        ended = [cycle.outcome for cycle in cycles]
        cohorts = {n: _mean(quality[mask[self._first :]]) for n, mask in self._cohorts.items()}
        facts = {
            "quality": _mean(quality),
            "cohorts": cohorts,
            "retrainings": len(world.catalog.models(project)) - 1,
            "promotions": ended.count("promoted"),
            "rejections": ended.count("rejected") + ended.count("failed"),
            "rollbacks": ended.count("rolled back"),
            "labels": self._num_labels(),
            "asked": self._labellers.num_asked,
            "unanswerable": self._labellers.num_unknown,
            "coverage": self._coverage(quality),
            "kept": self._kept(),
            "train_cpu_s": self._train_cpu_s() - self._first_cpu_s,
        }
        done = Run(
            strategy=name, seed=self._seed, first=self._first, quality=quality,
            version=self._traffic.version[self._first :].astype(np.int32), windows=self._windows,
            events=self._events(), facts=facts,
        )  # fmt: skip
        world.db.close()
        return done

    def _kept(self) -> Json:
        """Return what the version that is live at the end gets on all test examples there are, and by cohort."""
        reservoir = self._world.reservoir
        assert isinstance(reservoir, MemoryReservoir)
        rows = reservoir.labelled()
        rows = rows[reservoir.is_test[rows]]
        if not len(rows):
            return {}
        quality = self._traffic.judge(rows)
        return {"all": _mean(quality), **{name: _mean(quality[mask[rows]]) for name, mask in self._cohorts.items()}}

    def _coverage(self, quality: Array) -> float:
        """Return the least of: the share of answers that can be judged, and of bought labels that could be had."""
        judged = float((~np.isnan(quality)).mean())
        asked = self._labellers.num_asked
        return min(judged, 1 - self._labellers.num_unknown / asked) if asked else judged

    def _events(self) -> list[Json]:
        given = self._world.journal.verdicts(self._world.name, limit=1_000_000)[::-1]
        return [
            {"at": v.at.isoformat(), "cycle": v.cycle, "step": v.step, "outcome": str(v.verdict.outcome),
             "by": v.verdict.by, "reason": v.verdict.reason}
            for v in given
        ]  # fmt: skip


def _mean(values: Array) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _history(world: RehearsalWorld, rows: Array) -> PickedRows:
    """Return the rows before the start as imported examples, with their true labels."""
    memo = world.memo
    known = rows[~np.isnan(memo.stream.truth[rows])]
    frame = memo.stream.frame[known]
    return PickedRows(
        frame.with_columns(
            pl.lit("import").alias(REASON),
            pl.lit(1.0).alias(PROBABILITY),
            pl.lit(None, dtype=pl.String).alias("decision"),
            pl.lit(None, dtype=pl.Int64).alias("answered_version"),
            Values(world.project.output).series("label", memo.stream.truth[known]),
            pl.lit(str(Trust.TRUTH)).alias("label_trust"),
            pl.col("received_at").alias("label_at"),
        ),
        picked_at=from_micros(int(memo.stream.received_at[rows[-1]])),
        inputs=tuple(world.project.inputs),
    )
