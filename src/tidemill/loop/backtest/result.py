"""What came out of a backtest: tables, comparisons, a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from tidemill.errors import NotFound
from tidemill.loop.backtest.compare import Comparison, compare_runs
from tidemill.loop.backtest.report import Findings, page
from tidemill.loop.backtest.run import Run
from tidemill.records import Json
from tidemill.schema import Array
from tidemill.stats.paired_blocks import Span, mean_span

LEAST_COVERAGE = 0.8
_COUNTS = ("retrainings", "promotions", "rejections", "rollbacks", "labels", "train_cpu_s")


@dataclass(frozen=True, kw_only=True)
class BacktestResult:
    """The runs of some strategies over one stream.

    `metric` is what users got of, higher or lower being better. `bodies` are the strategies as JSON, by name; `spent`
    is what the backtest itself took.
    """

    metric: str
    higher_is_better: bool
    runs: Sequence[Run]
    bodies: Json
    setting: Json
    spent: Json

    @property
    def names(self) -> list[str]:
        """The strategies, in the order they were given."""
        return list(dict.fromkeys(run.strategy for run in self.runs))

    @property
    def coverage(self) -> float:
        """The least share, over runs, of answers that can be judged and of wanted labels that could be had."""
        return min((run.facts["coverage"] for run in self.runs), default=0.0)

    @property
    def conclusive(self) -> bool:
        """Whether enough is known of the stream to tell strategies apart."""
        return self.coverage >= LEAST_COVERAGE

    @cached_property
    def summary(self) -> pl.DataFrame:
        """A row for each strategy and seed.

        The first column after strategy and seed is the quality that users got, under the metric's name: the answering
        version's decision against the truth, which the strategy does not see. `worst_window` and `worst_cohort` are the
        worst of it. `train_cpu_s` is what the trainings cost, wherever they were done. `regret` is how much better, a
        request, hindsight would have done: the best of all runs of the seed, window by window.
        """
        regrets = self._regrets()
        rows = [
            {
                "strategy": run.strategy,
                "seed": run.seed,
                self.metric: run.facts["quality"],
                "worst_window": self._worst([window["quality"] for window in run.windows]),
                "worst_cohort": self._worst(list(run.facts["cohorts"].values())),
                **{name: run.facts[name] for name in _COUNTS},
                "regret": regrets[at],
                "coverage": run.facts["coverage"],
            }
            for at, run in enumerate(self.runs)
        ]
        return pl.DataFrame(rows, infer_schema_length=None)

    @cached_property
    def windows(self) -> pl.DataFrame:
        """A row for each strategy, seed and window: what users got, who answered, how many labels there were."""
        rows = [
            {"strategy": run.strategy, "seed": run.seed, "window": at, **window}
            for run in self.runs
            for at, window in enumerate(run.windows)
        ]
        frame = pl.DataFrame(rows, infer_schema_length=None)
        return frame.with_columns(pl.from_epoch(pl.col("start", "end"), time_unit="us").dt.replace_time_zone("UTC"))

    @cached_property
    def kept(self) -> pl.DataFrame:
        """A row for each strategy, seed and cohort: what the last live version gets on the test examples of all time.

        A version that has forgotten what came long ago shows it here, where users who are gone would not.
        """
        rows = [
            {"strategy": run.strategy, "seed": run.seed, "cohort": cohort, self.metric: quality}
            for run in self.runs
            for cohort, quality in run.facts["kept"].items()
        ]
        kinds = {"strategy": pl.String(), "seed": pl.Int64(), "cohort": pl.String(), self.metric: pl.Float64()}
        return pl.DataFrame(rows, schema=kinds)

    @cached_property
    def events(self) -> pl.DataFrame:
        """Every verdict that changed something, with its reason, in order of time."""
        rows = [{"strategy": run.strategy, "seed": run.seed, **event} for run in self.runs for event in run.events]
        kinds = {"strategy": pl.String(), "seed": pl.Int64(), "at": pl.String(), "cycle": pl.Int64(),
                 "step": pl.String(), "outcome": pl.String(), "by": pl.String(), "reason": pl.String()}  # fmt: skip
        return pl.DataFrame(rows, schema=kinds).with_columns(pl.col("at").str.to_datetime(time_zone="UTC"))

    def of(self, name: str) -> list[Run]:
        """Return the runs of a strategy, by seed.

        Raises:
            NotFound: there is no such strategy.
        """
        found = [run for run in self.runs if run.strategy == name]
        if not found:
            raise NotFound(f"there is no strategy {name!r} in this backtest.", f"it has {', '.join(self.names)}")
        return found

    def quality(self, name: str, *, alpha: float = 0.05) -> Span:
        """Return what users would have got of a strategy, with its interval over the stream and the seeds."""
        return mean_span(_stacked(self.of(name)), rng=np.random.default_rng(0), alpha=alpha)

    def compare(self, a: str, b: str, *, alpha: float = 0.05) -> Comparison:
        """Return how much better strategy `b` is than `a`, request by request, with its interval.

        The verdict is `better` or `worse` only where the interval says so, and `inconclusive` too where less than 80 %
        of the stream can be judged.

        Raises:
            NotFound: there is no such strategy.
        """
        sign = 1.0 if self.higher_is_better else -1.0
        return compare_runs(
            a, b, sign * _stacked(self.of(a)), sign * _stacked(self.of(b)), alpha=alpha,
            coverage=min(run.facts["coverage"] for run in (*self.of(a), *self.of(b))), least=LEAST_COVERAGE,
        )  # fmt: skip

    def report(self, path: str | Path) -> Path:
        """Write one HTML file: curves, Pareto fronts, the summary and what happened when."""
        path = Path(path)
        path.write_text(self.html(), encoding="utf-8")
        return path

    def html(self) -> str:
        """Return what `report` writes."""
        found = Findings(
            metric=self.metric, higher_is_better=self.higher_is_better, coverage=self.coverage, summary=self.summary,
            windows=self.windows, events=self.events,
        )  # fmt: skip
        return page(found)

    def _worst(self, values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return (min if self.higher_is_better else max)(known) if known else None

    def _regrets(self) -> list[float | None]:
        regrets: list[float | None] = []
        for run in self.runs:
            same = [other for other in self.runs if other.seed == run.seed]
            losses = [(self._hindsight(same, at) - window["quality"]) * window["judged"]
                      for at, window in enumerate(run.windows) if window["judged"]]  # fmt: skip
            judged = sum(window["judged"] for window in run.windows)
            regrets.append(abs(sum(losses)) / judged if judged else None)
        return regrets

    def _hindsight(self, runs: Sequence[Run], at: int) -> float:
        known = [run.windows[at]["quality"] for run in runs if run.windows[at]["quality"] is not None]
        return float((max if self.higher_is_better else min)(known))


def _stacked(runs: Sequence[Run]) -> Array:
    """Return the quality of each request by seed, float (S, N)."""
    return np.stack([run.quality for run in runs])
