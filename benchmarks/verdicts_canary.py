"""A canary for a day, judged every minute: our guard beside the rules of Argo Rollouts, Flagger and repeated tests.

    python benchmarks/verdicts_canary.py [--runs 1000] [--seed 0]

6,000 requests a minute, 5 % of them to the candidate, errors of 0.5 % that swing by 30 % over the day. Peers' rules are
written anew from their documents: Argo's failureLimit counts every failed measurement, Flagger's threshold every failed
check. Our guard is `guard.Errors(margin=1)`, alone in its rollout; the code is that of the loop. Means are lognormal.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tidemill.stats.event_ratio import ArmCounts, EventRatio
from tidemill.stats.intervals import wilson
from tidemill.stats.mean_difference import MeanDifference
from tidemill.strategy.guard import Errors

DAY = 1440
SHARE, PER_MINUTE, BASE, SWING = 0.05, 6000, 0.005, 0.3
GUARD = Errors(margin=1.0)


@dataclass(frozen=True)
class Day:
    """Requests and errors of each minute, both arms: int64 (1440,) each."""

    mine: np.ndarray
    mine_errors: np.ndarray
    live: np.ndarray
    live_errors: np.ndarray


def day(rng: np.random.Generator, ratio: float) -> Day:
    rate = BASE * (1 + SWING * np.sin(2 * np.pi * (np.arange(DAY) / DAY + rng.random())))
    mine = rng.binomial(PER_MINUTE, SHARE, DAY)
    live = PER_MINUTE - mine
    return Day(mine, rng.binomial(mine, rate * ratio), live, rng.binomial(live, rate))


def day_of_users(rng: np.random.Generator, users: int = 500, concentration: float = 0.5) -> Day:
    """Users of very different luck, each in one arm for good; what counts is the first failure of each, as in the loop.

    After his first failure a user's requests count no more, so the counts are of first failures per minute.
    """
    arms = []
    for _ in range(2):
        luck = rng.gamma(concentration, BASE / concentration, users)
        per_user = PER_MINUTE * SHARE / users
        first = rng.geometric(np.clip(1 - (1 - luck) ** per_user, 1e-12, 1.0))
        arms.append(np.bincount(np.minimum(first, DAY + 1), minlength=DAY + 2)[1 : DAY + 1])
    even = np.full(DAY, int(PER_MINUTE * SHARE))
    return Day(even, arms[0], even, arms[1])


Rule = Callable[[Day], int | None]
"""Returns the minute of the rollback, None for never."""


def ours(share: float = SHARE, margin: float = GUARD.margin) -> Rule:
    """`guard.Errors` spends nine tenths of its alpha on the ratio; its floor stays far away here."""
    wanted = math.log(1 / (0.9 * GUARD.alpha))

    def rule(seen: Day) -> int | None:
        sums = [np.cumsum(column) for column in (seen.mine, seen.mine_errors, seen.live, seen.live_errors)]
        for minute in range(DAY):
            counts = ArmCounts(share, *(int(column[minute]) for column in sums))
            if EventRatio((counts,)).log_worse(margin) >= wanted:
                return minute + 1
        return None

    return rule


def argo(at_least: float, *, every: int = 5, limit: int = 3) -> Rule:
    """Fails a measurement when the success rate of its window is below; rolls back at more than `limit` failures."""

    def rule(seen: Day) -> int | None:
        good = 1 - _windows(seen.mine_errors, every) / _windows(seen.mine, every)
        failed = np.cumsum(good < at_least) > limit
        return int(failed.argmax() + 1) * every if failed.any() else None

    return rule


def flagger(at_least: float, *, threshold: int = 5) -> Rule:
    def rule(seen: Day) -> int | None:
        failed = np.cumsum(1 - seen.mine_errors / seen.mine < at_least) >= threshold
        return int(failed.argmax() + 1) if failed.any() else None

    return rule


def repeated_z(*, every: int = 5, alpha: float = 0.05) -> Rule:
    """A test of two proportions over all data so far, at each look as if it were the only one."""

    def rule(seen: Day) -> int | None:
        a, m, b, n = (np.cumsum(_windows(c, every)) for c in (seen.mine_errors, seen.mine, seen.live_errors, seen.live))
        p = (a + b) / (m + n)
        z = (a / m - b / n) / np.sqrt(np.maximum(p * (1 - p) * (1 / m + 1 / n), 1e-12))
        failed = z > stats.norm.ppf(1 - alpha)
        return int(failed.argmax() + 1) * every if failed.any() else None

    return rule


def _windows(column: np.ndarray, every: int) -> np.ndarray:
    return column.reshape(-1, every).sum(axis=1).astype(float)


def row(name: str, rule: Rule, *, runs: int, seed: int, ratios: tuple[float, ...] = (1.5, 2.0, 3.0, 6.0)) -> str:
    null = [rule(day(np.random.default_rng((seed, i)), 1.0)) for i in range(runs)]
    false = sum(end is not None for end in null)
    cells = []
    for ratio in ratios:
        ends = [rule(day(np.random.default_rng((seed, 1, i)), ratio)) for i in range(max(20, runs // 5))]
        cells.append(np.median([np.inf if end is None else end for end in ends]))
    share = wilson(false, runs)
    times = "  ".join(f"{cell:6,.0f}" if np.isfinite(cell) else "     -" for cell in cells)
    print(f"{name:52s} {share.estimate:6.3f} [{share.low:.3f}, {share.high:.3f}]   {times}", flush=True)
    return name


def canary(runs: int, seed: int) -> None:
    print(f"{'rolled back':52s} {'equal, within 24 h':24s} {'minutes to roll back at x1.5 / x2 / x3 / x6':s}")
    row("Tidemill guard.Errors(margin=1), each minute", ours(), runs=runs, seed=seed)
    row("Tidemill guard.Errors(), margin 1.25, each minute", ours(margin=1.25), runs=runs, seed=seed)
    for level in (0.99, 0.9885, 0.98):
        row(f"Argo: 5 m, success rate >= {level:.2%}, failureLimit 3", argo(level), runs=runs, seed=seed)
    row("Flagger: 1 m, min 99 %, threshold 5", flagger(0.99), runs=runs, seed=seed)
    row("Flagger: 1 m, min 98 %, threshold 5", flagger(0.98), runs=runs, seed=seed)
    row("z-test at each 5 m, p < .05", repeated_z(), runs=runs, seed=seed)
    ends = [ours(share=0.5)(day_of_users(np.random.default_rng((seed, 2, i)))) for i in range(runs)]
    share = wilson(sum(end is not None for end in ends), runs)
    print(f"500 sticky users an arm, equal: rolled back {share.estimate:.3f} [{share.low:.3f}, {share.high:.3f}]")


def means(runs: int, seed: int) -> None:
    """300 of 6,000 a minute, lognormal values, the covariate correlated at .7 with their logarithm's normal."""
    print(
        "means, lognormal (sigma 1), looked at each minute for 4 h: told apart at lift 0 / 2 / 5 / 10 %, median minutes"
    )
    for cuped in (False, True):
        cells = []
        for lift in (0.0, 0.02, 0.05, 0.1):
            num = runs if lift == 0 else max(20, runs // 5)
            ends = [_mean_run(np.random.default_rng((seed, 3, i)), lift, cuped=cuped) for i in range(num)]
            found = [end for end in ends if end is not None]
            when = np.median([np.inf if end is None else end for end in ends])
            cells.append(f"{len(found)}/{num}" + (f" {when:.0f} min" if lift and np.isfinite(when) else ""))
        print(f"  {'with CUPED' if cuped else 'without   '}   {'   '.join(cells)}", flush=True)


def _mean_run(
    rng: np.random.Generator, lift: float, *, cuped: bool, minutes: int = 240, correlation: float = 0.7
) -> int | None:
    test = MeanDifference()
    sigma = math.log(1 + correlation * (math.e - 1))  # the covariance of the normals at which the values correlate so
    for minute in range(1, minutes + 1):
        z = rng.standard_normal(PER_MINUTE)
        x = np.exp(sigma * z + math.sqrt(1 - sigma**2) * rng.standard_normal(PER_MINUTE))
        mine = rng.random(PER_MINUTE) < SHARE
        value = np.exp(z) * np.where(mine, 1 + lift, 1.0)
        share = np.full(PER_MINUTE, SHARE)
        test = test.add(share=share, candidate=mine, value=value, before=x if cuped else None)
        low, high = test.interval(0.05)
        if low > 0 or high < 0:
            return minute
    return None


def slow_traffic(runs: int, seed: int) -> None:
    """One request a minute for a day: no more wrong verdicts, and it says how long it would take."""
    ends, told = 0, []
    for i in range(runs):
        rng = np.random.default_rng((seed, 4, i))
        test = EventRatio()
        for _ in range(24):
            mine = rng.random(60) < SHARE
            test = test.add(share=np.full(60, SHARE), candidate=mine, event=rng.random(60) < BASE * 4)
            if test.log_worse(1.0) >= math.log(1 / (0.9 * GUARD.alpha)):
                ends += 1
                break
        told.append(test.more_outcomes(share=SHARE, margin=1.25, alpha=0.05, worse=False))
    share, known = wilson(ends, runs), [t for t in told if t is not None]
    print(f"1 request a minute, equal: rolled back {share.estimate:.3f} [{share.low:.3f}, {share.high:.3f}] in 24 h")
    wanted = float(np.median(known))
    print(f"  to show that it is fine it asks for {wanted:,.0f} more outcomes, {wanted / DAY:,.0f} days")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    canary(given.runs, given.seed)
    means(max(20, given.runs // 5), given.seed)
    slow_traffic(given.runs, given.seed)
