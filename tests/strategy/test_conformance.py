"""Every member of every family keeps the promises of `tidemill.testing.checks`; the checks catch those that do not."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pandera.polars as pa
import pytest

from tidemill.records import Outcome, Verdict
from tidemill.strategy import adapt, alert, curate, dataset, guard, label, log, offline, online, trigger
from tidemill.strategy.member import Member
from tidemill.testing.checks import check_stage, promises, same

FAMILIES = [log, curate, label, trigger, dataset, offline, online, guard, adapt, alert]


def short(inputs: Mapping[str, Any]) -> str:
    """A rule."""
    return "ok" if len(inputs["text"]) < 10 else "toxic"


def vote(inputs: Mapping[str, Any]) -> str | None:
    """A weak source."""
    return "toxic" if "!" in inputs["text"] else None


MEMBERS: list[Member] = [
    log.Everything(),
    log.Sample(0.1),
    log.Sample(0.1, by="country", rates={"a": 1, "b": 0.5}),
    log.Profile(),
    curate.Random(),
    curate.Random(0.3),
    curate.Uncertain(),
    curate.Uncertain(by="entropy"),
    curate.Uncertain(0.5, by="least_confidence"),
    curate.Stratified(by="country"),
    curate.FeedbackDriven(),
    curate.Uncertain(0.4) + curate.FeedbackDriven(0.2) + curate.Stratified(0.1, by="country"),
    curate.Similar(to="new"),
    curate.Similar(0.3, to=["e1", "e2"]),
    curate.Projected(name="has_emoji"),
    curate.Projected(0.2, name="length", extreme="both"),
    curate.ExpectedError(),
    curate.ExpectedError(0.3, by=["country"]),
    curate.Novel(),
    curate.Representative(),
    curate.Diverse(0.4),
    curate.Disagreement(0.2),
    curate.Uncertain(0.3) + curate.Novel(0.2) + curate.Disagreement(0.2) + curate.Representative(0.1),
    label.Queue(),
    label.Queue(20, spread="6h"),
    label.Feedback(),
    label.Queue(20) | label.Feedback(),
    label.Queue(20, per_example=2, golden=0.1, rulebook="Toxic is what hurts.", lease="30m", recheck=5),
    label.Functions([vote]),
    label.Functions([vote], sure=0.9) | label.Queue(20),
    trigger.Every("7d"),
    trigger.Amount(100),
    trigger.Manual(),
    trigger.Degraded(),
    trigger.Drift(),
    trigger.Drift(["x", "age"], alpha=0.001, window="6h", reference="30d") & trigger.Amount(100),
    trigger.Degraded("accuracy", drop=0.05, by_cohort=False),
    trigger.Degraded() | trigger.Every("30d"),
    trigger.Amount(10) & trigger.Every("1d"),
    trigger.Amount(10).at_most("7d"),
    dataset.Everything(),
    dataset.Window("30d"),
    dataset.Replay(10),
    dataset.Recent(10),
    dataset.Balanced(),
    dataset.Balanced(dataset.Recent(30) + dataset.Replay(10), at_most=3),
    dataset.Window("30d") + dataset.Replay(10),
    offline.NoWorse(),
    offline.NoWorse("accuracy", by="cohort", inconclusive="fail"),
    offline.NoWorse("accuracy", by="cohort", relative=0.05),
    offline.AtLeast("accuracy", 0.5),
    offline.AtLeast("accuracy", 0.5, cohort="new"),
    offline.BeatsBaseline(),
    offline.Majority(),
    offline.Latency(30),
    offline.Suites(),
    offline.Suites(at_least=0.9, no_worse=False, inconclusive="pass"),
    offline.DataChecks(pa.DataFrameSchema({"x": pa.Column(float, pa.Check.ge(0))})),
    offline.BeatsBaseline(offline.Linear(100), "accuracy"),
    offline.BeatsBaseline(offline.Human(0.9)),
    offline.BeatsBaseline(offline.Previous()),
    offline.Linear(),
    offline.Human(0.9),
    offline.Previous(),
    offline.Rule(short),
    offline.Forgets(),
    offline.Forgets(0.1, inconclusive="fail"),
    offline.Calibrated(0.05),
    offline.Size(50),
    offline.Approval(),
    offline.Approval(remind_every="12h", timeout="3d", on_timeout="reject"),
    online.Now(),
    online.Shadow(500),
    online.Gradual(),
    online.Shadow(500) >> online.Gradual((0.1, 1.0), guards=[guard.Errors()]),
    guard.Errors(),
    guard.Latency(),
    guard.NoWorse(),
    guard.SampleRatio(),
    guard.Abstains(),
    alert.Falls("accuracy"),
    alert.Falls("accuracy", cohort="new", drop=0.05, then="rollback"),
    alert.Above("accuracy", 0.2),
    alert.Below("accuracy", 0.9, cohort="new"),
    alert.Drifts(),
    alert.Drifts(["x"], cohort="new", reference="7d", min_rows=100, quiet_for="1d"),
    alert.Stale("30d"),
    alert.Silent("2h"),
    alert.Silent("1d", of="labels"),
    adapt.Never(),
    adapt.Abstain(),
    adapt.Threshold(label="b", precision=0.8),
    guard.Disagreement(0.1),
    guard.Difference("accuracy", margin=0.02),
    guard.Difference("accuracy", margin=0.02, before="14d"),
    online.AB(),
    online.AB("accuracy", binary=False, before="7d", min_duration="1h"),
    online.Bake("6h"),
    online.Shadow(500, guards=[guard.NoWorse(), guard.Disagreement(0.1)]),
    online.Gradual(guards=[guard.Errors(), guard.Abstains(), guard.Difference("accuracy", margin=0.05)])
    >> online.Bake(),
]


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_every_member_keeps_what_its_family_promises(member: Member):
    check_stage(member)


def _classes(module: ModuleType) -> Iterator[type[Member]]:
    for kind in vars(module).values():
        if inspect.isclass(kind) and issubclass(kind, Member) and kind is not Member and _family(kind) == module:
            yield kind


def _family(kind: type[Member]) -> ModuleType | None:
    return {m.__name__.rpartition(".")[2]: m for m in FAMILIES}.get(getattr(kind, "stage", ""))


@pytest.mark.parametrize("module", FAMILIES, ids=lambda m: m.__name__)
def test_no_public_member_is_left_out_of_the_checks(module: ModuleType):
    """A class with a verb of its own is in the list above, so a new member cannot be forgotten."""
    bases = {kind for family in _classes(module) for kind in family.__mro__[1:]}
    public = {kind for kind in _classes(module) if kind not in bases and not kind.__name__.startswith("_")}
    assert public - {type(member) for member in MEMBERS} == set()


@dataclass(frozen=True)
class Forgetful(trigger.Trigger):
    """Fires at the second look of a process: it remembers outside of its state."""

    looks: ClassVar[list[datetime]] = []

    def update(self, state: Any, facts: Any) -> Any:
        return state

    def decide(self, state: Any, now: datetime) -> Verdict:
        self.looks.append(now)
        return self._say(Outcome.FIRE if len(self.looks) % 2 else Outcome.QUIET, "looked")


@dataclass(frozen=True)
class Silent(offline.Offline):
    """Gives no reason."""

    def judge(self, evidence: Any) -> Verdict:
        return self.verdict(Outcome.PASS, "")


@dataclass(frozen=True)
class Greedy(curate.Curate):
    """Takes all there is."""

    def draw(self, candidates: Any, context: Any, budget: int, rng: np.random.Generator) -> curate.Draw:
        return curate.Draw(np.arange(len(candidates)), None)


@dataclass(frozen=True)
class Meddling(dataset.Dataset):
    """Changes what it is given."""

    def weigh(self, index: dataset.ExampleIndex, now: datetime, rng: np.random.Generator) -> Any:
        index.split[:] = "train"
        return np.ones(len(index))


@dataclass(frozen=True)
class Identity(log.Log):
    """Holds something whose JSON says less than the value."""

    rate: Any = field(default_factory=lambda: _Rate(0.5))

    def keep(self, request: log.Request) -> log.Keep:
        return log.Keep(self.rate.value)


class _Rate:
    def __init__(self, value: float) -> None:
        self.value = value

    def to_json(self) -> float:
        return self.value


@dataclass(frozen=True)
class Falling(label.Label):
    """Takes back what it gave."""

    horizon: timedelta = timedelta(0)
    durations: ClassVar[tuple[str, ...]] = ("horizon",)

    @property
    def queue(self) -> label.Queue:
        return label.Queue()

    def allowance(self, elapsed: timedelta) -> int:
        return 1000 - int(elapsed.total_seconds() // 3600)


class Undocumented(dataset.Everything):
    pass


@pytest.mark.parametrize(
    ("member", "broken"),
    [
        (Forgetful(), "equal answers"),
        (Silent(), "reason"),
        (Greedy(), "budget"),
        (Meddling(), "as it was"),
        (Identity(), "made again from its JSON"),
        (Falling(), "never falls"),
        (Undocumented(), "docstring"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_member_that_breaks_a_promise_is_found_and_told_which(member: Member, broken: str):
    with pytest.raises(AssertionError, match=broken):
        check_stage(member)


def test_the_promises_of_a_family_come_after_those_of_all_members():
    names = [promise.__name__ for promise in promises(dataset.Everything())]
    assert names[0] == "check_documented"
    assert names[-1] == "check_dataset"


def test_same_looks_into_arrays_and_holds_nan_equal_to_nan():
    assert same({"a": np.array([1.0, np.nan])}, {"a": np.array([1.0, np.nan])})
    assert not same({"a": np.array([1.0])}, {"a": np.array([1])})
    assert not same([1, 2], (1, 2))
