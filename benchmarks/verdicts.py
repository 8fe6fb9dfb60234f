"""How often the online stage, its guards and the Degraded trigger decide wrongly, and how fast rightly. Seeded.

    python benchmarks/verdicts.py [--scale 1.0] [--seed 0] [--only degraded]

Every figure comes from the code that runs in the loop (`update`, `decide`), at every look, on simulated traffic at the
demo's scale: 30 % of requests get feedback, 300 requests late. Intervals are 95 % (Wilson). A claim that promises "at
most" is broken only if the whole interval lies above the promise; one that promises "at least", if it lies below.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from tidemill.records import Outcome
from tidemill.stats.event_ratio import ArmCounts, EventRatio
from tidemill.stats.intervals import wilson
from tidemill.stats.loss_ratio import LossRatio
from tidemill.strategy.guard import Errors, Latency, NoWorse, SampleRatio
from tidemill.strategy.online import Gradual
from tidemill.strategy.outcomes import Outcomes
from tidemill.strategy.trigger import Degraded, WatchFacts
from tidemill.testing.facts import Forming
from tidemill.testing.rollouts import Arm, Traffic, draw, simulate

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLAN = Gradual(guards=(Errors(), NoWorse("accuracy")))


@dataclass(frozen=True)
class Claim:
    """`happened(rng)` returns after how many requests, outcomes or events it happened, None if it never did."""

    text: str
    happened: Callable[[np.random.Generator], float | None]
    runs: int
    at_most: float = 1.0
    at_least: float = 0.0

    def measure(self, seed: int, scale: float) -> bool:
        """Run it, print a line, and return whether the promise is kept."""
        began, runs = time.perf_counter(), max(10, round(self.runs * scale))
        seen = [self.happened(np.random.default_rng((seed, i))) for i in range(runs)]
        after = [x for x in seen if x is not None]
        share = wilson(len(after), runs)
        kept = share.low <= self.at_most and share.high >= self.at_least
        promise = f"<= {self.at_most:g}" if self.at_most < 1 else f">= {self.at_least:g}"
        when = (
            f"median {np.median(after):7,.0f}  p90 {np.percentile(after, 90):7,.0f}" if len(after) > 0.2 * runs else ""
        )
        print(
            f"{self.text:92s} {len(after):5d}/{runs:<5d} {share.estimate:6.3f} [{share.low:.3f}, {share.high:.3f}] "
            f"{promise:8s} {'ok    ' if kept else 'BROKEN'} {when:34s} {time.perf_counter() - began:5.1f} s",
            flush=True,
        )
        return kept


# --- rollouts ---------------------------------------------------------------------------------------------------------


def rollout(wanted: str, *, step: str | None = None, plan: Gradual = PLAN, **how) -> Callable[..., float | None]:
    def happened(rng: np.random.Generator) -> float | None:
        end = simulate(plan, rng, **how)
        return end.requests if end.kind == wanted and step in (None, end.step) else None

    return happened


def rollouts() -> Iterable[Claim]:
    equal, failing = Arm(error=0.05), Arm(error=0.2, failed=0.02)
    looks = {"look_every": 100, "most": 10_000}
    yield Claim(
        "an equal candidate (.05 errors) is rolled back within 10,000 requests",
        rollout("rollback", live=equal, candidate=equal, **looks), 120, at_most=0.05,
    )  # fmt: skip
    yield Claim(
        "an equal candidate (.2 errors, .02 failures, three guards) is rolled back",
        rollout("rollback", live=failing, candidate=failing, **looks,
                plan=Gradual(guards=(Errors(), Latency(), NoWorse("accuracy")))), 60, at_most=0.15,
    )  # fmt: skip
    yield Claim(
        "a candidate at the margin (x1.25 of .2 errors) is rolled back",
        rollout("rollback", live=Arm(error=0.2), candidate=Arm(error=0.25), **looks), 60, at_most=0.05,
    )  # fmt: skip
    for text, live, candidate in (
        (".95 -> .60", 0.05, 0.40),
        (".966 -> .40 with .95 kept for the old 40 %", 0.034, 0.38),
        (".95 / .02 for the new cohort", 0.034, 0.608),
    ):
        yield Claim(
            f"a poisoned candidate ({text}) is rolled back in the 5 % step",
            rollout("rollback", step="5 %", live=Arm(error=live), candidate=Arm(error=candidate)), 200, at_least=0.97,
        )  # fmt: skip
    for live, candidate in ((0.228, 0.034), (0.13, 0.035)):
        yield Claim(
            f"a good candidate (errors {live} -> {candidate}) is promoted, feedback 300 requests late",
            rollout("promote", live=Arm(error=live), candidate=Arm(error=candidate)), 150, at_least=0.97,
        )  # fmt: skip
    yield Claim(
        "a good candidate (errors 0.228 -> 0.034) is promoted, feedback at once, looked at every 25",
        rollout("promote", live=Arm(error=0.228), candidate=Arm(error=0.034), traffic=Traffic(delay=0), look_every=25),
        100, at_least=0.97,
    )  # fmt: skip
    watched = Gradual(guards=(Errors(), Latency()), shares=(0.05, 1.0), min_requests=8000)
    yield Claim(
        "a candidate that takes 30 % longer is rolled back in the 5 % step within 8,000 requests",
        rollout("rollback", plan=watched, live=equal, candidate=Arm(error=0.05, latency_ms=6.5), look_every=200),
        40, at_least=0.9,
    )  # fmt: skip


# --- single tests -----------------------------------------------------------------------------------------------------


def at_the_margin(share: float, margin: float, *, worse: bool, num: int = 200) -> Callable[..., float | None]:
    """Errors one by one, the ratio exactly at the margin: when is it first misjudged, at alpha .05?"""

    def happened(rng: np.random.Generator) -> float | None:
        mine = np.cumsum(rng.random(num) < share * margin / (share * margin + 1 - share))
        for n, k in enumerate(mine.tolist(), start=1):
            test = EventRatio((ArmCounts(share, 0, k, 0, n - k),))
            if (test.log_worse(margin) if worse else test.log_no_worse(margin)) >= math.log(20):
                return n
        return None

    return happened


def mean_at_the_margin(share: float, sigma: float, *, worse: bool) -> Callable[..., float | None]:
    """Lognormal losses, the ratio of means exactly 1.25, looked at every 100 of 8,000."""

    def happened(rng: np.random.Generator) -> float | None:
        test = LossRatio()
        for rows in range(100, 8001, 100):
            candidate = rng.random(100) < share
            loss = np.exp(sigma * rng.standard_normal(100)) * np.where(candidate, 1.25, 1.0)
            test = test.add(share=np.full(100, share), candidate=candidate, event=loss)
            if (test.log_worse(1.25) if worse else test.log_no_worse(1.25)) >= math.log(20):
                return rows
        return None

    return happened


def mismatch(routed: float, most: int) -> Callable[..., float | None]:
    guard, arm = SampleRatio(), Arm(error=0.05)

    def happened(rng: np.random.Generator) -> float | None:
        state = guard.start((3.0,))
        for rows in range(500, most + 1, 500):
            new = draw(rng, 500, share=0.05, live=arm, candidate=arm, traffic=Traffic(routed=routed))
            state = guard.update(state, new, Outcomes.empty())
            if guard.decide(state, 3.0).outcome is not Outcome.PASS:
                return rows
        return None

    return happened


def tests() -> Iterable[Claim]:
    for share, margin in ((0.05, 3.0), (0.25, 2.0), (0.5, 1.25)):
        for worse in (False, True):
            yield Claim(
                f"a ratio of exactly {margin} at {share:.0%} is called {'worse' if worse else 'no worse'}, 200 looks",
                at_the_margin(share, margin, worse=worse), 500, at_most=0.05,
            )  # fmt: skip
    for share, sigma, worse in ((0.05, 1.0, False), (0.5, 1.0, False), (0.5, 1.0, True)):
        yield Claim(
            f"asymptotic: lognormal({sigma:g}) means at x1.25, {share:.0%}, are called "
            f"{'worse' if worse else 'no worse'}",
            mean_at_the_margin(share, sigma, worse=worse), 300, at_most=0.05,
        )  # fmt: skip
    yield Claim("a true 5 % split is called a mismatch within 20,000 units", mismatch(1.0, 20_000), 100, at_most=0.001)
    yield Claim(
        "a 4 % split for 5 % is called a mismatch within 40,000 units", mismatch(0.79, 40_000), 30, at_least=0.9
    )


# --- Degraded ---------------------------------------------------------------------------------------------------------


def labels(rng: np.random.Generator, num: int, old: float, new: float, share_new: float, *, at: int = 0) -> WatchFacts:
    cohort = rng.random(num) < share_new
    error = (rng.random(num) < np.where(cohort, new, old)).astype(np.float64)
    none = np.zeros(num)
    rows = Outcomes(
        received_at=at + np.arange(num), unit=none.astype(object), version=np.ones(num, dtype=np.int64),
        candidate=none.astype(bool), share=none, failed=none.astype(bool), latency_ms=none,
        values={"accuracy": error}, cohorts={"new_app": cohort},
    )  # fmt: skip
    return WatchFacts(
        now=NOW, outcomes=rows, num_labels=0, trained_labels=0, last_trained_at=NOW, live_version=1
    )  # fmt: skip


def degrades(before: tuple[float, float, float], after: tuple[float, float, float], *, good: int, then: int):
    """Outcomes after the change (from `before` to `after`: errors of old and new app, share of new) until it fires."""
    trigger = Degraded("accuracy")

    def happened(rng: np.random.Generator) -> float | None:
        forming = Forming(trigger.needs())
        state = trigger.update(trigger.start(), forming.add(labels(rng, good, *before)))
        for num in range(20, then + 1, 20):
            state = trigger.update(state, forming.add(labels(rng, 20, *after, at=good + num)))
            if trigger.decide(state, NOW).outcome is Outcome.FIRE:
                return num
        return None

    return happened


def degrades_between(errors: float, after: float, *, good: int, then: int, every: int):
    """Labels until it fires, where another version is live for 200 labels after every `every` and a cycle opens."""
    trigger = Degraded("accuracy")

    def happened(rng: np.random.Generator) -> float | None:
        forming, other, cycle = Forming(trigger.needs()), 10 * then, NOW
        state = trigger.update(trigger.start(), forming.add(labels(rng, good, errors, errors, 0.3)))
        for num in range(20, then + 1, 20):
            if num % every == 0:
                cycle += timedelta(days=1)
                news = labels(rng, 200, errors, errors, 0.3, at=other + num)
                second = replace(news.outcomes, version=np.full(200, 2))
                news = replace(news, outcomes=second, live_version=2, last_cycle_at=cycle)
                state = trigger.update(state, forming.add(news))
            news = replace(labels(rng, 20, after, after, 0.3, at=good + num), last_cycle_at=cycle)
            state = trigger.update(state, forming.add(news))
            if trigger.decide(state, NOW).outcome is Outcome.FIRE:
                return num
        return None

    return happened


def triggers() -> Iterable[Claim]:
    for errors in ((0.05, 0.05, 0.3), (0.3, 0.3, 0.5)):
        yield Claim(
            f"Degraded fires though nothing changed (errors {errors[0]:g}), 3,000 labels, reference of 300",
            degrades(errors, errors, good=300, then=3000), 150, at_most=0.01,
        )  # fmt: skip
    yield Claim(
        "Degraded fires though nothing changed (.3 errors), rolled back to and a new cycle every 300 of 3,000 labels",
        degrades_between(0.3, 0.3, good=300, then=3000, every=300), 150, at_most=0.01,
    )  # fmt: skip
    yield Claim(
        "Degraded finds .95 -> .85 for everyone, another version live and a new cycle every 300 of 6,000 labels",
        degrades_between(0.05, 0.15, good=300, then=6000, every=300), 60, at_least=0.9,
    )  # fmt: skip
    for good in (300, 3000):
        yield Claim(
            f"Degraded finds .97 -> .64 for a cohort of 60 % after {good} good labels (median in labels)",
            degrades((0.03, 0.03, 0.3), (0.03, 0.36, 0.6), good=good, then=2000), 150, at_least=0.97,
        )  # fmt: skip
    yield Claim(
        "Degraded finds .95 -> .85 for everyone after 3000 good labels (median in labels)",
        degrades((0.05, 0.05, 0.5), (0.15, 0.15, 0.5), good=3000, then=6000), 60, at_least=0.9,
    )  # fmt: skip


GROUPS = {"rollouts": rollouts, "tests": tests, "degraded": triggers}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the number of runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=GROUPS, help="one group of claims")
    args = parser.parse_args()
    groups = [GROUPS[args.only]] if args.only else GROUPS.values()
    kept = [claim.measure(args.seed, args.scale) for group in groups for claim in group()]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
