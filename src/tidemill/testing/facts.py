"""Drawn facts of every kind that a stage may be asked about: small, varied, the same for the same generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np

from tidemill.clock import micros
from tidemill.stats.drift_report import ColumnDrift, DriftReport
from tidemill.stats.vectors import Vectors
from tidemill.strategy.adapt import Known
from tidemill.strategy.alert import AlertFacts
from tidemill.strategy.curate import Candidates, CurateContext, CurateNeeds, Judgements
from tidemill.strategy.data_checked import Breach, DataChecked
from tidemill.strategy.dataset import ExampleIndex
from tidemill.strategy.drift_needs import DriftNeeds
from tidemill.strategy.evidence import ALL, Calibration, Cell, Evidence, Forgotten, Word
from tidemill.strategy.log import Request
from tidemill.strategy.online import RolloutFacts, Shadows
from tidemill.strategy.outcomes import OutcomeNeeds, Outcomes
from tidemill.strategy.reference import EVERYONE, FirstOutcomes, Firsts, References, extended, given
from tidemill.strategy.suite_result import FailedCase, SuiteResult
from tidemill.strategy.trigger import WatchFacts

NOW = datetime(2026, 3, 1, tzinfo=UTC)
_WIDTH = 8  # of the vectors of candidates


def requests(rng: np.random.Generator, num: int, tags: Sequence[str] = ()) -> list[Request]:
    """Return `num` answered requests with a value a, b or c for each tag; some of them went wrong."""
    rows = rng.random((num, 3)) < 0.2
    return [
        Request(tags={tag: str(rng.choice(["a", "b", "c"])) for tag in tags}, error=e, abstained=a, fallback=f)
        for e, a, f in rows.tolist()
    ]


def candidates(rng: np.random.Generator, num: int, columns: Sequence[str] = ()) -> Candidates:
    """Return `num` requests to pick from: three classes, one answer in ten missing, a fifth with bad feedback.

    One in twenty repeats another, and a version in shadow was asked about half of them.
    """
    scores = rng.dirichlet([1.0, 1.0, 1.0], size=num)
    scores[rng.random(num) < 0.1] = np.nan
    return Candidates(
        ids=tuple(f"r{i}" for i in range(num)),
        scores=scores,
        decisions=tuple(rng.choice(["a", "b", "c"], size=num).tolist()),
        columns={name: rng.choice(["x", "y", "z"], size=num, p=[0.8, 0.15, 0.05]).astype(object) for name in columns},
        negative=rng.random(num) < 0.2,
        vectors=Vectors(rng.normal(size=(num, _WIDTH)).astype(np.float32)),
        repeated=rng.random(num) < 0.05,
        shadow=tuple(None if said == "" else said for said in rng.choice(["a", "b", "", ""], size=num).tolist()),
    )


def context(rng: np.random.Generator, num: int, needs: CurateNeeds = CurateNeeds()) -> CurateContext:  # noqa: B008 - frozen
    """Return the context of `num` candidates, with one cohort, 30 training examples and 100 judged requests."""
    scores = rng.dirichlet([1.0, 1.0, 1.0], size=100)
    return CurateContext(
        now=NOW,
        cohorts={"new": rng.random(num) < 0.3},
        training=rng.normal(size=(30, _WIDTH)).astype(np.float32),
        targets={to: rng.normal(size=(2, _WIDTH)).astype(np.float32) for to in needs.similar},
        judged=Judgements(
            scores=scores,
            decisions=tuple(rng.choice(["a", "b", "c"], size=100).tolist()),
            columns={name: rng.choice(["x", "y", "z"], size=100).astype(object) for name in needs.columns},
            losses=(rng.random(100) > scores.max(axis=1)).astype(np.float64),
        ),
    )


def examples(rng: np.random.Generator, num: int) -> ExampleIndex:
    """Return `num` labelled examples of the 200 days before `NOW`, a fifth of them for testing."""
    received = np.sort(micros(NOW) - rng.integers(0, micros(NOW) - micros(NOW - timedelta(days=200)), size=num))
    return ExampleIndex(
        ids=np.array([f"e{i}" for i in range(num)], dtype=object),
        received_at=received,
        labelled_at=np.minimum(received + 3_600_000_000, micros(NOW)),
        split=rng.choice(["train", "test"], size=num, p=[0.8, 0.2]).astype(object),
        label=rng.choice(["a", "b"], size=num).astype(object),
        trust=rng.integers(0, 4, size=num),
        decision=rng.choice(["a", "b"], size=num).astype(object),
        cohorts={"new": rng.random(num) < 0.3},
    )


def outcomes(
    rng: np.random.Generator, num: int, metrics: Sequence[str], *, since: datetime = NOW, share: float = 0.25
) -> Outcomes:
    """Return `num` requests received in the hour from `since`, each loss 0 or 1, a fifth of them not known."""
    losses = {name: np.where(rng.random(num) < 0.2, np.nan, rng.random(num) < 0.1) for name in metrics}
    mine = rng.random(num) < share
    return Outcomes(
        received_at=np.sort(micros(since) + rng.integers(0, 3_600_000_000, size=num)),
        unit=np.array([f"u{i}" for i in rng.integers(0, max(1, 2 * num), size=num)], dtype=object),
        version=np.where(mine, 2, 1).astype(np.int64),
        candidate=mine,
        share=np.full(num, share),
        failed=rng.random(num) < 0.02,
        latency_ms=rng.lognormal(1.5, 0.3, size=num),
        values=losses,
        cohorts={"new": rng.random(num) < 0.3},
        abstained=rng.random(num) < 0.05,
        before={name: np.where(rng.random(num) < 0.3, np.nan, rng.random(num)) for name in metrics},
    )


def known_answers(rng: np.random.Generator, num: int) -> Known:
    """Return `num` labelled answers over the classes a, b and c, wrong the more often the lower their score."""
    scores = rng.dirichlet([0.5, 0.5, 0.5], size=num).reshape(num, 3)
    right = rng.random(num) < scores.max(axis=1, initial=0.0)
    best = scores.argmax(axis=1) if num else np.zeros(0, dtype=np.int64)
    labels = np.array(["a", "b", "c"], dtype=object)[(best + ~right) % 3]
    return Known(scores=scores, labels=labels, held_out=np.arange(num) % 2 == 1)


def drift_report(rng: np.random.Generator, since: datetime) -> DriftReport:
    """Return a look at the hour from `since`: too few rows, nothing unusual, or a column x that has moved."""
    until = since + timedelta(hours=1)
    if rng.random() < 0.3:
        return DriftReport(after=since, until=until, num_rows=20, num_reference=0, problem="20 of 500 rows")
    rank = float(rng.choice([0.001, 0.4]))
    moved = ColumnDrift(name="x", statistic="ks", unusual=6.0, moved=rank < 0.01, effects={"ks": 0.2, "psi": 0.1})
    return DriftReport(
        after=since, until=until, num_rows=900, num_reference=9_000, rank=rank, columns=(moved,),
        examples=("r1", "r2") if moved.moved else (),
    )  # fmt: skip


def watch_facts(
    rng: np.random.Generator, metrics: Sequence[str], *, hour: int, drift: Sequence[DriftNeeds] = ()
) -> WatchFacts:
    """Return what a trigger sees `hour` hours after `NOW`: 400 outcomes of the live version, some new labels."""
    since = NOW + timedelta(hours=hour)
    return WatchFacts(
        now=since + timedelta(hours=1),
        outcomes=outcomes(rng, 400, metrics, since=since, share=0.0),
        num_labels=1000 + 40 * hour,
        trained_labels=1000,
        last_trained_at=NOW - timedelta(days=20),
        live_version=1,
        drift={look: drift_report(rng, since) for look in drift},
    )


def alert_facts(
    rng: np.random.Generator, metrics: Sequence[str], *, hour: int, drift: Sequence[DriftNeeds] = ()
) -> AlertFacts:
    """Return what an alert sees `hour` hours after `NOW`: 400 outcomes, the last label a day ago."""
    since = NOW + timedelta(hours=hour)
    rows = outcomes(rng, 400, metrics, since=since, share=0.0)
    return AlertFacts(
        now=since + timedelta(hours=1),
        live_version=1,
        outcomes=rows,
        values={name: 1.0 - loss for name, loss in rows.values.items()},
        bounds=dict.fromkeys(metrics, (0.0, 1.0)),
        last_request_at=since,
        last_label_at=NOW - timedelta(days=1),
        last_trained_at=NOW - timedelta(days=20),
        deployed_at=NOW - timedelta(days=90),
        drift={look: drift_report(rng, since) for look in drift},
    )


class Forming:
    """The references that a trigger or an alert is held to, formed of the facts it is shown: as the loop does."""

    def __init__(self, needs: OutcomeNeeds) -> None:
        self._needs = needs.references
        self._firsts: dict[int, Firsts] = {}

    def add(self, facts: WatchFacts) -> WatchFacts:
        """Return facts with the references that they complete; `received_at` must go on from one to the next."""
        return replace(facts, references=self._with(facts.outcomes, facts.live_version))

    def add_alert(self, facts: AlertFacts) -> AlertFacts:
        """Return the facts of an alert likewise."""
        return replace(facts, references=self._with(facts.outcomes, facts.live_version))

    def _with(self, rows: Outcomes, live: int) -> References:
        wanted = [(need, name) for need in self._needs for name in need.streams or (EVERYONE, *rows.cohorts)]
        before = {**{which: FirstOutcomes(until=-1) for which in wanted}, **self._firsts.get(live, {})}
        until = int(rows.received_at.max(initial=-1))
        self._firsts[live] = extended(before, rows, rows.version == live, until=until)
        return given(self._firsts[live])


def rollout_facts(rng: np.random.Generator, metrics: Sequence[str], *, hour: int) -> RolloutFacts:
    """Return what a rollout sees `hour` hours after `NOW`: 400 requests, a quarter of them of the candidate."""
    since = NOW + timedelta(hours=hour)
    rows = outcomes(rng, 400, metrics, since=since)
    return RolloutFacts(
        now=since + timedelta(hours=1), requests=rows, outcomes=rows, shadows=_shadows(rng, metrics, since)
    )


def _shadows(rng: np.random.Generator, metrics: Sequence[str], since: datetime) -> Shadows:
    """Return 300 shadow predictions with their answers, row by row."""
    rows = outcomes(rng, 600, [*metrics, "disagreement"], since=since, share=0.5)
    both = replace(rows, unit=np.repeat(rows.unit[::2], 2), candidate=np.tile([True, False], 300))
    return Shadows(
        num=300,
        num_failed=1,
        num_disagree=20,
        latency_ms=rng.lognormal(1.5, 0.3, size=300),
        requests=both,
        outcomes=both,
    )


def report_evidence(
    rng: np.random.Generator, metrics: Sequence[str], cohorts: Sequence[str] = (), schema: str = ""
) -> Evidence:
    """Return what a gate sees: a candidate that is better, worse or the same, on all rows and on each cohort.

    `schema` is the digest of the `DataChecks` whose schema was held against the training rows.
    """
    cells = [_cell(rng, metric, cohort) for metric in metrics for cohort in (ALL, *cohorts)]
    error, lost = float(rng.uniform(0, 0.1)), int(rng.integers(0, 100))
    found = Forgotten(cohort=ALL, n=400, lost=lost, share=lost / 400, low=0.8 * lost / 400, high=1.2 * lost / 400)
    said = [None, Word(approved=True, by="ann", at=NOW), Word(approved=False, by="ann", at=NOW, reason="too slow")]
    return Evidence(
        cells=tuple(cells),
        candidate=2,
        live=1 if rng.random() < 0.8 else None,
        now=NOW,
        latency_ms_p50=3.0,
        latency_ms_p99=float(rng.uniform(5, 50)) if rng.random() < 0.8 else None,
        size_mb=float(rng.uniform(1, 50)) if rng.random() < 0.8 else None,
        calibration=Calibration(error=error, low=error / 2, high=2 * error, n=400) if rng.random() < 0.8 else None,
        suites=_suite_results(rng),
        data=(_data_checked(rng, schema),) if schema else (),
        forgotten=(found,) if rng.random() < 0.8 else (),
        approval=said[int(rng.integers(len(said)))],
        asked_at=NOW - timedelta(days=int(rng.integers(0, 10))),
    )


def _data_checked(rng: np.random.Generator, schema: str) -> DataChecked:
    """Return training rows that meet a schema, do not, or could not be held against it."""
    breach = Breach(column="x", check="in_range(0, 1)", num_rows=3, values=("7.5",), ids=("e1",))
    broken = (breach,) * int(rng.integers(0, 3))
    problem = "KeyError: x" if rng.random() < 0.2 else ""
    return DataChecked(schema=schema, name="rows", num_rows=400, breaches=broken, problem=problem)


def _suite_results(rng: np.random.Generator) -> tuple[SuiteResult, ...]:
    """Return a suite of drawn cases that some fail, and one that cannot be asked now and then."""
    new, both, fixed = (int(n) for n in rng.integers(0, 6, size=3))
    failed = tuple(
        FailedCase(id=f"line {i}", inputs="text='x'", wanted="'a'", candidate="'b'", new=i < new)
        for i in range(new + both)
    )
    asked = SuiteResult(
        name="typos", kind="Invariant", version="v1", at_least=0.95, sampled=True, num_cases=100,
        num_failed=new + both, num_failed_live=both + fixed, num_new=new, num_fixed=fixed, failed=failed,
    )  # fmt: skip
    broken = SuiteResult(name="bugs", kind="Cases", version="", at_least=1.0, problem="its file does not exist.")
    return (asked, broken) if rng.random() < 0.3 else (asked,)


def _cell(rng: np.random.Generator, metric: str, cohort: str) -> Cell:
    live, gain, half = rng.uniform(0.3, 0.7), rng.normal(0, 0.1), rng.uniform(0.01, 0.1)
    ratio = 1 + gain / live
    return Cell(
        metric=metric, cohort=cohort, n=int(rng.integers(0, 300)), live=live, candidate=live + gain,
        baselines={"Majority()": 0.4}, gain=gain, low=gain - half, high=gain + half,
        ratio=ratio, ratio_low=ratio - half / live, ratio_high=ratio + half / live,
    )  # fmt: skip
