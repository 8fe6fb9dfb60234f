"""Strategies to compare yours with: each is a base strategy with another trigger, or another choice of what to learn.

The base says the rest: where labels come from, the gate, the rollout. `BASE` labels everything at once, has no gate and
promotes at once, which is what most comparisons of retraining policies assume; give your own strategy as the base to
see what a preset would do behind your gate and your rollout. `every window` means at every look with a new label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from tidemill.strategy import curate, dataset, label, online, trigger
from tidemill.strategy.strategy import Strategy

BASE = Strategy(
    curate=curate.Random(1.0),
    curate_every="1s",
    label=label.Feedback(trust="truth", horizon="0s", daily_budget=None),
    offline=(),
    online=online.Now(),
)


@dataclass(frozen=True)
class Oracle:
    """A strategy whose requests are answered, in hindsight, by the best version there was, window by window.

    What it gets bounds what a choice among the versions that `strategy` trains could get; no strategy can.
    """

    strategy: Strategy


def never(base: Strategy = BASE) -> Strategy:
    """Keep version 1."""
    return replace(base, trigger=trigger.Manual())


def every_window(base: Strategy = BASE) -> Strategy:
    """Retrain at every look that has a new label."""
    return replace(base, trigger=trigger.Amount(1))


def periodic(period: timedelta | str = "30d", base: Strategy = BASE) -> Strategy:
    """Retrain when `period` has passed since the last training."""
    return replace(base, trigger=trigger.Every(period))


def amount(labels: int, base: Strategy = BASE) -> Strategy:
    """Retrain when so many new labels came."""
    return replace(base, trigger=trigger.Amount(labels))


def degraded(drop: float = 0.03, base: Strategy = BASE) -> Strategy:
    """Retrain when the live version has become worse than it was at first."""
    return replace(base, trigger=trigger.Degraded(drop=drop, by_cohort=False))


def drift(window: timedelta | str = "1d", base: Strategy = BASE) -> Strategy:
    """Retrain when a window of requests differs from what the live version was trained on."""
    return replace(base, trigger=trigger.Drift(window=window))


def recent_replay(period: timedelta | str, num: int, base: Strategy = BASE) -> Strategy:
    """Retrain at every look, on the examples of the last `period` and `num` of all, drawn at random."""
    learnt = dataset.Window(period) + dataset.Replay(num)
    return replace(every_window(base), dataset=learnt)


def sliding_window(period: timedelta | str, base: Strategy = BASE) -> Strategy:
    """Retrain at every look, on the examples of the last `period` only."""
    return replace(every_window(base), dataset=dataset.Window(period))


def everything(base: Strategy = BASE) -> Strategy:
    """Retrain at every look, on all labelled examples."""
    return replace(every_window(base), dataset=dataset.Everything())


def oracle(base: Strategy = BASE) -> Oracle:
    """Retrain at every look on everything, and let the best version there is answer each window, in hindsight."""
    return Oracle(everything(base))


def usual(
    base: Strategy = BASE, *, period: timedelta | str = "30d", labels: int = 1_000, drop: float = 0.03,
    replayed: int = 5_000,
) -> Mapping[str, Strategy | Oracle]:  # fmt: skip
    """Return one of each by name; `period` is that of the periodic one and of the windows."""
    return {
        "never": never(base),
        "every window": every_window(base),
        "periodic": periodic(period, base),
        "amount": amount(labels, base),
        "degraded": degraded(drop, base),
        "drift": drift(period, base),
        "recent + replay": recent_replay(period, replayed, base),
        "sliding window": sliding_window(period, base),
        "everything": everything(base),
        "oracle": oracle(base),
    }
