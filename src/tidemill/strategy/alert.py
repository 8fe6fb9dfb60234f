"""Alerts: what people want to be told of a deployed model, with evidence and without crying wolf.

An alert gathers facts and says fire, quiet or unknown, with the reason and its numbers. While it fires it is open; it
is told once, and closes by itself after it has been quiet for `quiet_for`. `then="rollback"` returns to the version
before the live one as it opens. The state is plain JSON; `update` and `decide` are pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import ClassVar, Literal

import numpy as np

from tidemill.clock import from_micros, micros
from tidemill.records import Json, Outcome, Scalar, Trust, Verdict
from tidemill.schema import Array
from tidemill.stats.drift_report import DriftReport
from tidemill.stats.rise import Rise
from tidemill.strategy.degraded import Degraded
from tidemill.strategy.drift_memory import checked_needs, remembered, said
from tidemill.strategy.drift_needs import TRAINING, DriftNeeds
from tidemill.strategy.member import Member, shown_duration
from tidemill.strategy.outcomes import OutcomeNeeds, Outcomes
from tidemill.strategy.reference import EVERYONE, References
from tidemill.strategy.reference_needs import ReferenceNeeds
from tidemill.strategy.span import Span
from tidemill.strategy.trigger import WatchFacts
from tidemill.strategy.wording import against, counted, evidence, span

Then = Literal["rollback"]


@dataclass(frozen=True, kw_only=True)
class AlertFacts:
    """What is known now. `outcomes` are those that matured since the last update, in time order.

    `values` holds the metrics of these rows as they are (`outcomes.values` holds losses), `bounds` the lowest and the
    highest that a row can have. The times are None before the first of their kind.
    """

    now: datetime
    live_version: int
    outcomes: Outcomes
    values: Mapping[str, Array] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    last_request_at: datetime | None = None
    last_label_at: datetime | None = None
    last_trained_at: datetime | None = None
    deployed_at: datetime | None = None  # when the first version went live
    drift: Mapping[DriftNeeds, DriftReport] = field(default_factory=dict)  # what the looks since then have said
    references: References = field(default_factory=dict)  # what the live version was good for


class Alert(Member):
    """Base of the alerts: `needs`, `start`, `update`, `decide`."""

    stage: ClassVar[str] = "alert"

    @property
    def about(self) -> str:
        """The cohort that it watches."""
        return str(getattr(self, "cohort", EVERYONE))

    @property
    def closes_after(self) -> timedelta:
        """How long it must be quiet before it is closed."""
        return timedelta(seconds=getattr(self, "quiet_for", timedelta(0)).total_seconds())

    @property
    def acts(self) -> Then | None:
        """What is done as it opens, beside telling."""
        then: Then | None = getattr(self, "then", None)
        return then

    @property
    def name(self) -> str:
        """How it is called in the log of alerts: the same for the same parameters."""
        return str(self)

    def needs(self) -> OutcomeNeeds | None:
        """Return which metrics it reads, None when it reads no outcomes."""
        return None

    def start(self) -> Json:
        """Return the state before any facts."""
        return {}

    def update(self, state: Json, facts: AlertFacts) -> Json:
        """Return the state with new facts in it."""
        raise NotImplementedError

    def told(self, state: Json) -> Json:
        """Return the state after it has fired: what was evidence is used up, so that it can see an end."""
        return state

    def decide(self, state: Json, now: datetime) -> Verdict:
        """Say FIRE, QUIET or UNKNOWN, with the reason and the numbers."""
        raise NotImplementedError

    def has_eased(self, verdict: Verdict) -> bool:
        """Tell whether what was seen of late is good again: no evidence since it was told is no end by itself."""
        return True

    def _require_common(self) -> None:
        self.require(self.acts in (None, "rollback"), f"then is {self.acts!r}", "give 'rollback', or leave it out")

    def _say(self, outcome: Outcome, reason: str, numbers: Mapping[str, Scalar] | None = None) -> Verdict:
        return Verdict(outcome=outcome, by=str(self), reason=reason, numbers=numbers or {})


@dataclass(frozen=True)
class Falls(Alert):
    """A metric has become worse, in a cohort or for everyone, than the live version's first outcomes were.

    The test and its guarantee are those of `trigger.Degraded`: `alpha` is the chance of a false alarm over the life of
    the version, however often one looks. A cohort is held to its own first outcomes, however late it appears.
    """

    metric: str
    cohort: str = EVERYONE
    drop: float = 0.03
    alpha: float = 0.01
    reference: int = 300
    trust: str = Trust.CROWD
    binary: bool = True
    quiet_for: Span = Span("1h")
    then: Then | None = None
    durations: ClassVar[tuple[str, ...]] = ("quiet_for",)

    def check(self) -> None:
        """Refuse what the test refuses."""
        self._require_common()
        _ = self._test

    @property
    def _test(self) -> Degraded:
        return Degraded(
            self.metric, drop=self.drop, by_cohort=False, alpha=self.alpha, reference=self.reference,
            trust=self.trust, binary=self.binary,
        )  # fmt: skip

    def needs(self) -> OutcomeNeeds:
        """Return its metric, trust and reference."""
        return OutcomeNeeds((self.metric,), Trust(self.trust), references=(self._reference_needs,))

    @property
    def _reference_needs(self) -> ReferenceNeeds:
        return ReferenceNeeds(self.metric, self.reference, (self.cohort,))

    def update(self, state: Json, facts: AlertFacts) -> Json:
        """Feed the cohort's outcomes to the test, as if they were everyone's."""
        firsts = facts.references.get(self._reference_needs, {})
        watch = WatchFacts(
            now=facts.now, outcomes=_of_cohort(facts.outcomes, self.cohort), num_labels=0, trained_labels=0,
            last_trained_at=facts.last_trained_at or facts.now, live_version=facts.live_version,
            references={self._test.reference_needs: {EVERYONE: firsts[self.cohort]} if firsts else {}},
        )  # fmt: skip
        return self._test.update(state, watch)

    def told(self, state: Json) -> Json:
        """Return the state with its reference, and no evidence."""
        return self._test.without_evidence(state)

    def decide(self, state: Json, now: datetime) -> Verdict:
        """Say what the test says, with the cohort."""
        verdict = self._test.decide(state, now)
        where = "" if self.cohort == EVERYONE else f"in cohort {self.cohort}: "
        return replace(verdict, by=str(self), reason=f"{where}{verdict.reason}")

    def has_eased(self, verdict: Verdict) -> bool:
        """Tell whether the recent loss is no longer above the bar."""
        return _number(verdict, "recent_loss") <= _number(verdict, "bar")


@dataclass(frozen=True)
class _Level(Alert):
    """Shared by the alerts on a fixed level."""

    metric: str
    level: float
    cohort: str = EVERYONE
    alpha: float = 0.01
    trust: str = Trust.CROWD
    quiet_for: Span = Span("1h")
    then: Then | None = None
    durations: ClassVar[tuple[str, ...]] = ("quiet_for",)
    side: ClassVar[int]
    word: ClassVar[str]

    def check(self) -> None:
        """Refuse chances and trusts that are none."""
        self._require_common()
        self.require(0 < self.alpha < 1, f"alpha is {self.alpha!r}", "give the chance of a false alarm, such as 0.01")
        self.require(self.trust in list(Trust), f"trust is {self.trust!r}", f"use one of {', '.join(Trust)}")

    def needs(self) -> OutcomeNeeds:
        """Return its metric and trust."""
        return OutcomeNeeds((self.metric,), Trust(self.trust))

    def start(self) -> Json:
        """Return no outcomes."""
        return {"test": None, "version": None}

    def update(self, state: Json, facts: AlertFacts) -> Json:
        """Test the live version's values against the level, from any time on."""
        test = state["test"] if state["version"] == facts.live_version else None
        if len(facts.outcomes):
            mine = _in_cohort(facts.outcomes, self.cohort) & (facts.outcomes.version == facts.live_version)
            value = facts.values[self.metric][mine]
            rise = self._rise(facts) if test is None else Rise.from_json(test)
            test = rise.add(self.side * value[~np.isnan(value)]).to_json()
        return {"test": test, "version": facts.live_version}

    def _rise(self, facts: AlertFacts) -> Rise:
        low, high = facts.bounds[self.metric]
        floor = low if self.side > 0 else (None if high is None else -high)
        bar = self.side * self.level
        self.require(
            floor is not None and floor < bar,
            f"the level {self.level:g} of {self.metric} leaves nothing {'under' if self.side > 0 else 'over'} it",
            "use tm.alert.Falls, or a level inside the metric's range",
        )
        assert floor is not None
        return Rise(bar=bar, floor=floor)

    def told(self, state: Json) -> Json:
        """Return the state with no evidence."""
        return {**state, "test": None if state["test"] is None else Rise.from_json(state["test"]).again().to_json()}

    def decide(self, state: Json, now: datetime) -> Verdict:
        """Fire on evidence."""
        where = "" if self.cohort == EVERYONE else f" in cohort {self.cohort}"
        if state["test"] is None or not state["test"]["num"]:
            return self._say(Outcome.UNKNOWN, f"{self.metric}{where}: no outcomes yet")
        test, wanted = Rise.from_json(state["test"]), 1 / self.alpha
        seen, log_evidence = self.side * test.recent, test.log_evidence()
        numbers: dict[str, Scalar] = {
            "recent": seen, "level": self.level, "outcomes": test.num, "evidence": evidence(log_evidence),
            "wanted_evidence": wanted,
        }  # fmt: skip
        told = (
            f"{self.metric}{where} is {seen:.3g} of late; evidence that it is {self.word} {self.level:g}: "
            f"{against(log_evidence, wanted)} after {counted(test.num, 'outcome')}"
        )
        return self._say(Outcome.FIRE if log_evidence >= np.log(wanted) else Outcome.QUIET, told, numbers)

    def has_eased(self, verdict: Verdict) -> bool:
        """Tell whether the recent values lie on the right side of the level."""
        return self.side * _number(verdict, "recent") <= self.side * self.level


@dataclass(frozen=True)
class Above(_Level):
    """The mean of a metric lies above a level; `alpha` is the chance of saying so of one that never did."""

    side: ClassVar[int] = 1
    word: ClassVar[str] = "above"


@dataclass(frozen=True)
class Below(_Level):
    """The mean of a metric lies below a level; `alpha` is the chance of saying so of one that never did."""

    side: ClassVar[int] = -1
    word: ClassVar[str] = "below"


@dataclass(frozen=True)
class Drifts(Alert):
    """Requests have become unlike their reference: `trigger.Drift`, for people, and for one cohort if that is named.

    The verdict's numbers name the columns that moved, their effects, since when, and ids of requests that show it. It
    closes with the first window that is as usual again.
    """

    columns: Sequence[str] | None = None
    cohort: str = EVERYONE
    alpha: float = 0.01
    window: Span = Span("1d")
    reference: str = TRAINING
    min_rows: int = 500
    quiet_for: Span = Span("0s")
    durations: ClassVar[tuple[str, ...]] = ("window", "quiet_for")

    def check(self) -> None:
        """Refuse numbers out of range."""
        _ = self.drift_needs

    @property
    def drift_needs(self) -> DriftNeeds:
        """What it asks for."""
        return checked_needs(self, **{name: value for name, value in self.params().items() if name != "quiet_for"})

    def needs(self) -> OutcomeNeeds:
        """Return that it reads no outcomes, but drift."""
        return OutcomeNeeds(drift=(self.drift_needs,))

    def update(self, state: Json, facts: AlertFacts) -> Json:
        """Remember the newest look."""
        return remembered(state, self.drift_needs, facts.drift, facts.live_version)

    def decide(self, state: Json, now: datetime) -> Verdict:
        """Fire while the newest window is alarming."""
        outcome, reason, numbers = said(state, self.drift_needs)
        where = "" if self.cohort == EVERYONE else f"in cohort {self.cohort}: "
        return self._say(outcome, f"{where}{reason}", numbers)


@dataclass(frozen=True)
class Stale(Alert):
    """No new version has been trained for `after`."""

    after: Span = Span("60d")
    then: Then | None = None
    quiet_for: Span = Span("0s")
    durations: ClassVar[tuple[str, ...]] = ("after", "quiet_for")

    def check(self) -> None:
        """Refuse a rollback: the version before is older still."""
        self.require(self.then is None, "then='rollback' returns to an older version yet", "leave it out")
        self.require(self.after > timedelta(0), f"after is {self.after}", "give a time such as '60d'")

    def update(self, state: Json, facts: AlertFacts) -> Json:
        """Note when the newest version was trained."""
        return {"at": None if facts.last_trained_at is None else micros(facts.last_trained_at)}

    def decide(self, state: Json, now: datetime) -> Verdict:
        """Fire when that is too long ago."""
        if state.get("at") is None:
            return self._say(Outcome.UNKNOWN, "no version has been trained yet")
        age = now - from_micros(state["at"])
        told = f"the newest version was trained {span(max(age.total_seconds(), 1))} ago"
        numbers: dict[str, Scalar] = {"seconds": round(age.total_seconds())}
        if age < self.after:
            return self._say(Outcome.QUIET, told, numbers)
        return self._say(Outcome.FIRE, f"{told}, and {shown_duration(self.after)} is the limit", numbers)


@dataclass(frozen=True)
class Silent(Alert):
    """No request, or no label, has come for `after`."""

    after: Span = Span("1h")
    of: Literal["traffic", "labels"] = "traffic"
    then: Then | None = None
    quiet_for: Span = Span("0s")
    durations: ClassVar[tuple[str, ...]] = ("after", "quiet_for")

    def check(self) -> None:
        """Refuse what cannot be silent, and a rollback: no version answers what is not asked."""
        self.require(self.then is None, "then='rollback' brings no traffic back", "leave it out")
        self.require(self.of in ("traffic", "labels"), f"of is {self.of!r}", "give 'traffic' or 'labels'")
        self.require(self.after > timedelta(0), f"after is {self.after}", "give a time such as '1h'")

    def update(self, state: Json, facts: AlertFacts) -> Json:
        """Note when the last one came; before the first, when the first version went live."""
        last = facts.last_request_at if self.of == "traffic" else facts.last_label_at
        since = last or facts.deployed_at
        return {"at": None if since is None else micros(since), "any": last is not None}

    def decide(self, state: Json, now: datetime) -> Verdict:
        """Fire when that is too long ago."""
        if state.get("at") is None:
            return self._say(Outcome.UNKNOWN, "nothing is live yet")
        age, one = now - from_micros(state["at"]), "request" if self.of == "traffic" else "label"
        ago = span(max(age.total_seconds(), 1))
        told = f"the last {one} came {ago} ago" if state["any"] else f"no {one} has come since version 1 is live, {ago}"
        return self._say(
            Outcome.QUIET if age < self.after else Outcome.FIRE, told, {"seconds": round(age.total_seconds())}
        )


def _number(verdict: Verdict, name: str) -> float:
    value = verdict.numbers.get(name)
    return float(value) if isinstance(value, int | float) else np.inf


def _in_cohort(rows: Outcomes, cohort: str) -> Array:
    return np.ones(len(rows), dtype=bool) if cohort == EVERYONE else rows.cohorts[cohort]


def _of_cohort(rows: Outcomes, cohort: str) -> Outcomes:
    return rows.take(_in_cohort(rows, cohort)) if len(rows) else rows
