"""Whether the report's intervals hold, how often the gate stops an equal or a worse candidate, and how long it takes.

    python benchmarks/verdicts_offline.py [--scale 1.0] [--seed 0]

Everything runs through the code of the loop: `curate.pick` picks, `build_report` reports, the gate's members judge.
Seeded; the intervals given are 95 % (Wilson). A claim of "at most" is broken only if the whole interval lies above it,
one of "at least" if it lies below.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np

from tidemill.records import Outcome
from tidemill.review.build import HeldOut, build_report
from tidemill.review.report import Report, evidence
from tidemill.stats.intervals import wilson
from tidemill.stats.metrics import F1, Accuracy, Judged, LogLoss, MeanAbsoluteError
from tidemill.strategy.curate import Candidates, CurateContext, Random, Uncertain
from tidemill.strategy.evidence import Cell
from tidemill.strategy.gate import needs
from tidemill.strategy.offline import NoWorse

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = 86_400_000_000
CLASSES = ("a", "b")
NAMES = np.array(CLASSES, dtype=object)
METRICS = (Accuracy(),)
BY_COHORT = NoWorse("accuracy", by="cohort")


def judged(right: np.ndarray, confidence: np.ndarray | None = None) -> Judged:
    """Return decisions that are right where it is said."""
    targets = (np.arange(len(right)) % 3 == 0).astype(np.int64)
    decided = np.where(right, targets, 1 - targets)
    sure = np.full(len(right), 0.9) if confidence is None else confidence
    scores = np.where(decided[:, None] == np.arange(2), sure[:, None], 1 - sure[:, None])
    return Judged(decisions=NAMES[decided], labels=NAMES[targets], scores=scores, targets=targets, classes=CLASSES)


def report(candidate: Judged, live: Judged | None = None, metrics=METRICS, **how) -> Report:
    held = {n: how.pop(n) for n in ("cohorts", "probabilities", "received_at") if n in how}
    return build_report(
        candidate=2, live=None if live is None else 1, dataset="d", metrics=metrics, candidate_judged=candidate,
        live_judged=live, rows=HeldOut(**held), rng=how.pop("rng", np.random.default_rng(0)), **how,
    )  # fmt: skip


def overall(built: Report) -> Cell:
    return next(cell for cell in built.cells if cell.cohort == "all" and not cell.period)


# --- test data that curation has bent towards hard cases --------------------------------------------------------------


def curated(rng: np.random.Generator, *, hours: int, requests: int, budget: int, random: float) -> tuple:
    """Return (confidence, right, probability) of the test rows: a fifth of what `Uncertain + Random` picked."""
    stage = Uncertain(1 - random) + Random(random)
    rows = []
    for _ in range(hours):
        confidence = 0.5 + 0.5 * rng.beta(6.0, 1.0, size=requests)
        right = rng.random(requests) < confidence
        pool = Candidates(
            ids=tuple(map(str, range(requests))),
            scores=np.stack([confidence, 1 - confidence], axis=1),
            decisions=("a",) * requests,
            columns={},
            negative=np.zeros(requests, dtype=bool),
        )
        picks = stage.pick(pool, CurateContext(now=NOW), budget, rng)
        at = np.array([int(i) for i in picks.ids])
        test = rng.random(len(at)) < 0.2
        rows.append(np.stack([confidence[at], right[at], np.array(picks.probabilities, dtype=float)])[:, test])
    return tuple(np.concatenate(rows, axis=1))


TRUTH = 0.5 + 0.5 * 6.0 / 7.0  # the mean confidence, and so the accuracy on all traffic


def coverage(scale: float, seed: int) -> bool:
    """How often the 95 % interval of the accuracy on curated test rows holds the accuracy on traffic."""
    kept, runs = True, max(50, round(500 * scale))
    print(f"\n95 % intervals of the accuracy ({TRUTH:.3f} on traffic), test rows bent by Uncertain + Random")
    for random, hours, budget in ((0.2, 24, 60), (0.2, 96, 60), (0.5, 24, 60), (0.1, 24, 200)):
        hits = {"corrected": 0, "naive": 0}
        means = {"corrected": [], "naive": []}
        widths, sizes = [], []
        for i in range(runs):
            rng = np.random.default_rng((seed, 1, i))
            sure, right, chance = curated(rng, hours=hours, requests=1000, budget=budget, random=random)
            for name, probabilities in (("corrected", chance), ("naive", None)):
                cell = overall(report(judged(right.astype(bool), sure), probabilities=probabilities))
                hits[name] += cell.candidate_low <= TRUTH <= cell.candidate_high
                means[name].append(cell.candidate)
                if name == "corrected":
                    widths.append(cell.candidate_high - cell.candidate_low)
                    sizes.append(cell.n)
        text = f"{random:.0%} random, {np.mean(sizes):.0f} rows"
        for name, num in hits.items():
            share = wilson(num, runs)
            ok = name == "naive" or share.high >= 0.93
            kept &= ok
            print(
                f"  {text:24s} {name:10s} covers {num:4d}/{runs}  {share.estimate:.3f} "
                f"[{share.low:.3f}, {share.high:.3f}]  mean estimate {np.mean(means[name]):.3f}"
                + (f"  width {np.mean(widths):.3f}  {'ok' if ok else 'BROKEN'}" if name == "corrected" else "")
            )
    return kept


# --- the gate ---------------------------------------------------------------------------------------------------------


def pair(rng: np.random.Generator, num: int, *, differ: float, loss: float) -> tuple[np.ndarray, np.ndarray]:
    """Return who is right: live 90 %; the candidate loses `loss`, and differs on a share `differ` of rows besides."""
    live = rng.random(num) < 0.9
    lost, won = (differ / 2 + loss) / 0.9, differ / 2 / 0.1
    flips = rng.random(num)
    return np.where(live, flips >= lost, flips < won), live


def gated(
    rng: np.random.Generator, num: int, *, differ: float, loss: float = 0.0, cohorts: int = 0, bent: bool = False,
    member: NoWorse = BY_COHORT,
) -> Outcome:  # fmt: skip
    candidate, live = pair(rng, num, differ=differ, loss=loss)
    masks = {f"c{k}": rng.random(num) < rng.uniform(0.03, 0.3) for k in range(cohorts)}
    chance = np.where(rng.random(num) < 0.6, 1.0, rng.uniform(0.02, 0.1, num)) if bent else None
    built = report(judged(candidate), judged(live), cohorts=masks, probabilities=chance, needs=needs([member]), rng=rng)
    return member.judge(evidence(built, approval=None, now=NOW)).outcome


def share_of(wanted: Callable[[Outcome], bool], runs: int, seed: tuple[int, ...], num: int, **how) -> tuple[int, int]:
    seen = [gated(np.random.default_rng((*seed, i)), num, **how) for i in range(runs)]
    return sum(map(wanted, seen)), runs


def false_rejection(scale: float, seed: int) -> bool:
    kept, runs = True, max(50, round(1000 * scale))
    print("\nan equal candidate is rejected by NoWorse('accuracy', by='cohort'): at most .05")
    for num in (500, 2_000, 10_000):
        for cohorts, differ, bent in ((0, 0.05, False), (5, 0.05, False), (20, 0.05, False), (20, 0.2, False),
                                      (20, 0.05, True)):  # fmt: skip
            some = runs if num < 10_000 else max(50, runs // 2)
            bad, all_ = share_of(
                lambda o: o is Outcome.FAIL, some, (seed, 2, num, cohorts), num, differ=differ, cohorts=cohorts,
                bent=bent, member=NoWorse("accuracy", by="cohort", margin=0.0),
            )  # fmt: skip
            share = wilson(bad, all_)
            ok = share.low <= 0.05
            kept &= ok
            print(
                f"  n {num:6d}  {cohorts:2d} cohorts  differ on {differ:.0%}{', weighted' if bent else '':10s} "
                f"{bad:4d}/{all_}  {share.estimate:.3f} [{share.low:.3f}, {share.high:.3f}]  {'ok' if ok else 'BROKEN'}"
            )
    return kept


def power(scale: float, seed: int) -> bool:
    runs = max(50, round(400 * scale))
    print("\na candidate that loses points everywhere: rejected / not passed (differ on 4 % of rows besides)")
    for loss, margin in ((0.02, 0.0), (0.02, 0.02), (0.04, 0.02)):
        for cohorts in (0, 20):
            line = f"  -{100 * loss:.0f} points, margin {margin:.2f}, {cohorts:2d} cohorts:"
            for num in (500, 2_000, 10_000):
                member = NoWorse("accuracy", by="cohort", margin=margin)
                how = {"differ": 0.04, "loss": loss, "cohorts": cohorts, "member": member}
                outcomes = [gated(np.random.default_rng((seed, 3, num, i)), num, **how) for i in range(runs)]
                fails = wilson(sum(o is Outcome.FAIL for o in outcomes), runs)
                held = sum(o is not Outcome.PASS for o in outcomes) / runs
                line += f"  n {num}: {fails.estimate:.2f} [{fails.low:.2f}, {fails.high:.2f}] / {held:.2f}"
            print(line)
    return True


def errors(rng: np.random.Generator, num: int, ratio: float) -> tuple[Judged, Judged]:
    """Return what both versions say, whose errors go together, are skewed, and have means of this ratio."""
    both, mine, theirs = rng.normal(size=(3, num))
    scale = 500 * rng.lognormal(0, 0.5, num)
    truth = rng.uniform(0, 1e4, num)
    said = (truth + ratio * scale * (0.8 * both + 0.6 * mine), truth + scale * (0.8 * both + 0.6 * theirs))
    return tuple(Judged(decisions=s, labels=truth, scores=s[:, None], targets=truth) for s in said)


def of_a_share(scale: float, seed: int) -> bool:
    kept, runs = True, max(50, round(1000 * scale))
    member = NoWorse("mean_absolute_error", by="cohort", relative=0.05)
    print("\nNoWorse('mean_absolute_error', by='cohort', relative=0.05): rejected / passed, mean errors of a ratio")
    for ratio, cohorts in ((1.0, 0), (1.0, 5), (1.05, 0), (1.05, 5), (1.15, 0), (1.15, 5)):
        line = f"  x{ratio:.2f}, {cohorts} cohorts:"
        for num in (200, 1_000, 5_000):
            said = dict.fromkeys(Outcome, 0)
            for i in range(runs):
                rng = np.random.default_rng((seed, 4, num, i))
                masks = {f"c{k}": np.arange(num) % 5 == k for k in range(cohorts)}
                built = report(
                    *errors(rng, num, ratio),
                    metrics=(MeanAbsoluteError(),),
                    cohorts=masks,
                    needs=needs([member]),
                    rng=rng,
                )
                said[member.judge(evidence(built, approval=None, now=NOW)).outcome] += 1
            failed, passed = wilson(said[Outcome.FAIL], runs), wilson(said[Outcome.PASS], runs)
            ok = (ratio > 1.0 or failed.low <= 0.05) and (ratio != 1.05 or passed.low <= 0.025)
            kept &= ok
            line += f"  n {num}: {failed.estimate:.3f} / {passed.estimate:.3f} [{passed.low:.3f}, {passed.high:.3f}]"
            line += "" if ok else " BROKEN"
        print(line)
    return kept


# --- time -------------------------------------------------------------------------------------------------------------


def duration(scale: float, seed: int) -> bool:
    num, rng = round(100_000 * min(1.0, scale * 10)), np.random.default_rng(seed)
    candidate, live = pair(rng, num, differ=0.05, loss=0.0)
    cohorts = {f"c{k}": rng.random(num) < rng.uniform(0.01, 0.5) for k in range(20)}
    metrics = (Accuracy(), LogLoss(), F1("a"), F1("b"), Late())
    began = time.perf_counter()
    built = report(
        judged(candidate, rng.uniform(0.5, 1, num)), judged(live, rng.uniform(0.5, 1, num)), metrics, cohorts=cohorts,
        probabilities=rng.uniform(0.1, 1, num), received_at=np.sort(rng.integers(0, 365 * DAY, num)),
        train_targets=np.array([0, 1, 1]), rng=rng,
    )  # fmt: skip
    took = time.perf_counter() - began
    print(f"\nreport of {num:,} rows x {len(cohorts)} cohorts x {len(metrics)} metrics, 12 months: {len(built.cells)} "
          f"cells in {took:.1f} s: at most 10 s  {'ok' if took <= 10 else 'BROKEN'}")  # fmt: skip
    return took <= 10


class Late(Accuracy):
    """A fifth metric."""

    name = "late"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="how many of the runs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kept = [part(options.scale, options.seed) for part in (duration, coverage, false_rejection, power, of_a_share)]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
