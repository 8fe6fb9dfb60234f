"""A gate that tolerates a share of the live version's value holds what it says, whatever the metric: by simulation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pytest

from tidemill.records import Outcome, Verdict
from tidemill.review.build import HeldOut, build_report
from tidemill.review.render.page import page
from tidemill.review.report import Report, evidence
from tidemill.stats.metrics import F1, Accuracy, Judged, MeanAbsoluteError, Metric
from tidemill.strategy.evidence import ALL, Cell
from tidemill.strategy.gate import needs
from tidemill.strategy.offline import NoWorse

RUNS = 400
NOISE = 3 * np.sqrt(0.025 * 0.975 / RUNS)
SHARE = NoWorse("mean_absolute_error", relative=0.1)


@dataclass(frozen=True)
class RootMeanSquare:
    """A metric of a user's own that no row has."""

    name = "rmse"
    higher_is_better = False
    bounds = (0.0, None)

    def rows(self, judged: Judged) -> None:
        """It has no row form."""

    def value(self, judged: Judged, weights: np.ndarray | None = None) -> float:
        """Return the root."""
        away = judged.decisions - judged.labels
        return float(np.sqrt(np.average(away**2, weights=weights)))

    def to_json(self) -> dict[str, str]:
        """Return its name."""
        return {"metric": self.name}


def said(errors: np.ndarray) -> Judged:
    """Return numbers that are this far from the truth."""
    truth = np.linspace(0.0, 50.0, len(errors))
    return Judged(decisions=truth + errors, labels=truth, scores=(truth + errors)[:, None], targets=truth)


def report(candidate: Judged, live: Judged, member: NoWorse, *, metric: Metric | None = None, **rows) -> Report:
    return build_report(
        candidate=2, live=1, dataset="d1", metrics=[metric or MeanAbsoluteError()], candidate_judged=candidate,
        live_judged=live, rows=HeldOut(**rows), needs=needs([member]), rng=np.random.default_rng(0),
    )  # fmt: skip


def judge(built: Report, member: NoWorse) -> Verdict:
    return member.judge(evidence(built, approval=None, now=datetime(2026, 1, 1, tzinfo=UTC)))


def whole(built: Report) -> Cell:
    return next(c for c in built.cells if c.cohort == ALL and not c.period)


def two(rng: np.random.Generator, num: int, ratio: float, scale: float = 3000.0) -> tuple[Judged, Judged]:
    """Return what a candidate and the live version say, whose mean errors have this ratio and go together."""
    both, mine, theirs = scale * rng.normal(size=(3, num))
    return said(ratio * (0.8 * both + 0.6 * mine)), said(0.8 * both + 0.6 * theirs)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 3000.0])
def test_a_candidate_that_is_worse_by_the_share_passes_in_at_most_one_case_in_forty(scale: float):
    rng = np.random.default_rng(1)
    drawn = [judge(report(*two(rng, 200, 1.1, scale), SHARE), SHARE).outcome for _ in range(RUNS)]
    assert drawn.count(Outcome.PASS) / RUNS <= 0.025 + NOISE


def test_with_many_rows_an_equal_candidate_passes_and_one_beyond_the_share_fails():
    rng = np.random.default_rng(2)
    for ratio, outcome in ((1.0, Outcome.PASS), (0.8, Outcome.PASS), (1.04, Outcome.PASS), (1.25, Outcome.FAIL)):
        assert judge(report(*two(rng, 5000, ratio), SHARE), SHARE).outcome is outcome


def test_an_equal_candidate_is_blocked_in_at_most_one_case_in_twenty_over_all_cohorts():
    rng, member, blocked = np.random.default_rng(3), replace(SHARE, by="cohort"), 0
    cohorts = {f"c{k}": np.arange(1000) // 100 == k for k in range(10)}
    for _ in range(RUNS):
        blocked += judge(report(*two(rng, 1000, 1.0), member, cohorts=cohorts), member).outcome is Outcome.FAIL
    assert blocked / RUNS <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / RUNS)


def test_a_cohort_on_which_it_is_worse_by_more_blocks_and_a_thin_one_is_named():
    rng, member = np.random.default_rng(4), replace(SHARE, by="cohort")
    candidate, live = two(rng, 2000, 1.0)
    first = np.arange(2000) < 200
    candidate.decisions[first] += 2 * (candidate.decisions - candidate.labels)[first]
    built = report(candidate, live, member, cohorts={"first": first, "rare": np.arange(2000) < 9})
    verdict = judge(built, member)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.numbers["cohort"] in ("first", ALL)
    assert "mean_absolute_error on first: " in verdict.reason and "too few rows to judge rare (n 9)" in verdict.reason


def test_a_live_version_without_any_error_leaves_no_share():
    none, some = said(np.zeros(100)), said(np.full(100, 0.5) + np.linspace(0, 0.1, 100))
    verdict = judge(report(none, none, SHARE), SHARE)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "there is no share of .00: name a margin" in verdict.reason
    assert judge(report(some, none, SHARE), SHARE).outcome is Outcome.FAIL
    assert judge(report(none, some, SHARE), SHARE).outcome is Outcome.PASS
    built = report(none, none, SHARE)
    assert Report.from_json(built.to_json()) == built
    assert whole(built).ratio is None


def classes(right: np.ndarray) -> Judged:
    targets = (np.arange(len(right)) % 2).astype(np.int64)
    decided, names = np.where(right, targets, 1 - targets), np.array(["a", "b"], dtype=object)
    scores = np.where(decided[:, None] == np.arange(2), 0.8, 0.2)
    return Judged(decisions=names[decided], labels=names[targets], scores=scores, targets=targets, classes=("a", "b"))


@pytest.mark.parametrize("metric", [Accuracy(), F1("b")])
def test_where_higher_is_better_a_share_less_is_tolerated(metric: Metric):
    rng, member = np.random.default_rng(5), NoWorse(metric.name, relative=0.1)
    live = rng.random(4000) < 0.9
    for lost, outcome in ((0.0, Outcome.PASS), (0.03, Outcome.PASS), (0.25, Outcome.FAIL)):
        built = report(classes(live & (rng.random(4000) >= lost)), classes(live), member, metric=metric)
        assert judge(built, member).outcome is outcome
        assert whole(built).ratio_low < whole(built).ratio <= 1.0


def test_a_metric_that_no_row_has_is_resampled():
    rng, member = np.random.default_rng(6), NoWorse("rmse", relative=0.1)
    for ratio, outcome in ((1.0, Outcome.PASS), (1.3, Outcome.FAIL)):
        built = report(*two(rng, 1500, ratio), member, metric=RootMeanSquare())
        assert judge(built, member).outcome is outcome
        assert whole(built).ratio_low < ratio < whole(built).ratio_high


def test_the_report_says_the_ratio_where_a_share_is_tolerated_and_only_there():
    candidate, live = two(np.random.default_rng(7), 400, 1.0)
    built = report(candidate, live, SHARE)
    shown = whole(built).reason
    assert shown.startswith("a loss beyond 10 % of the live version's value is excluded (×")
    assert shown.replace("'", "&#39;") in page(built, project="houses")
    margin = report(candidate, live, NoWorse("mean_absolute_error", margin=200.0))
    assert whole(margin).ratio is None
    assert whole(margin).reason == "a loss beyond 200.00 is excluded"
    assert whole(margin).gain == whole(built).gain
