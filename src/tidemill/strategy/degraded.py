"""The trigger that fires when the live version has become worse than it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from tidemill.errors import ProjectError
from tidemill.records import Json, Outcome, Scalar, Trust, Verdict
from tidemill.schema import Array
from tidemill.strategy.outcomes import OutcomeNeeds, Outcomes
from tidemill.strategy.reference import EVERYONE, FirstOutcomes
from tidemill.strategy.reference_needs import ReferenceNeeds
from tidemill.strategy.stream import Stream
from tidemill.strategy.triggering import Trigger, WatchFacts, micros_or_none
from tidemill.strategy.wording import against, counted, evidence, more

FIRE, QUIET, UNKNOWN = Outcome.FIRE, Outcome.QUIET, Outcome.UNKNOWN
_MOST_RESTED = 4  # versions that were live before, whose tests go on when they are live again

__all__ = ["EVERYONE", "Degraded"]

_Streams = dict[str, Stream]


@dataclass(frozen=True)
class Degraded(Trigger):
    """Fires when the live version's loss has risen by more than `drop` above its own first outcomes.

    The first `reference` matured outcomes that a version got since it went live, of everyone and of each cohort, are
    what it was good for, whenever the trigger or the cohort was declared. From then on each stream is tested at every
    look (`stats.rise`) for a mean loss above the reference's plus `drop`, from any time on; a reference that may have
    been lucky raises the bar. A cohort that appears only later, such as a new version of an app, is held to everyone's
    reference. A version that is returned to, as by a rollback, is held to its old reference, and its test goes on.
    `alpha` is the chance of a false alarm over the life of the version, with the noise of the reference in it, and is
    shared out over the streams. Once it has fired, a new cycle drops the evidence.

    A drop of accuracy is a rise of errors, so `drop=0.03` reads the same for both. `binary=False` takes any loss; the
    guarantee is then approximate. Rows count one by one: a few people who send most of the requests make the true
    chance of a false alarm larger. `metric=None` is the project's first.
    """

    metric: str | None = None
    drop: float = 0.03
    by_cohort: bool = True
    alpha: float = 0.01
    reference: int = 300
    trust: str = Trust.CROWD
    binary: bool = True

    def check(self) -> None:
        """Refuse numbers out of range."""
        self.require(self.drop > 0, f"drop is {self.drop!r}", "give how much worse is too much, such as 0.03")
        self.require(0 < self.alpha < 1, f"alpha is {self.alpha!r}", "give the chance of a false alarm, such as 0.01")
        self.require(self.reference >= 30, f"reference is {self.reference!r}", "give at least 30 outcomes")
        self.require(self.trust in list(Trust), f"trust is {self.trust!r}", f"use one of {', '.join(Trust)}")

    def needs(self) -> OutcomeNeeds:
        """Return its metric, trust and reference."""
        return OutcomeNeeds((self._metric(),), Trust(self.trust), references=(self.reference_needs,))

    @property
    def reference_needs(self) -> ReferenceNeeds:
        """What it holds the version to."""
        return ReferenceNeeds(self._metric(), self.reference, None if self.by_cohort else (EVERYONE,))

    def resolved(self, metric: str, *, binary: bool = True) -> Degraded:
        """Return the trigger with the project's first metric in place of None."""
        return replace(self, metric=metric, binary=binary) if self.metric is None else self

    def update(self, state: Json, facts: WatchFacts) -> Json:
        """Feed each stream with what came after its reference."""
        cycle, live = micros_or_none(facts.last_cycle_at), facts.live_version
        versions = self._remembered(state, is_new_cycle=state.get("cycle") != cycle)
        before, firsts = versions.pop(live, {}), facts.references.get(self.reference_needs, {})
        alpha = self.alpha / 2 / max(len(firsts), 1)
        streams = {}
        for name, first in firsts.items():
            stream = before.get(name, Stream()).held_to(first.losses)
            loss = self._losses(facts, name, first)
            streams[name] = stream.add(loss, size=self.reference, drop=self.drop, alpha=alpha, binary=self.binary)
        rested = {str(version): _to_json(versions[version]) for version in sorted(versions)[-_MOST_RESTED:]}
        return {"version": live, "cycle": cycle, "streams": _to_json(streams), "rested": rested}

    def decide(self, state: Json, now: datetime) -> Verdict:
        """Fire if any stream's evidence is there; unknown until everyone's reference is full."""
        streams = _from_json(state.get("streams", {}))
        parts = tuple(self._judge(name, stream, len(streams)) for name, stream in streams.items())
        fired = [part for part in parts if part.outcome is FIRE]
        if fired:
            return self._composed(FIRE, fired, parts)
        if not parts or parts[0].outcome is UNKNOWN:
            lacking = parts[:1] or (self._say(UNKNOWN, f"no outcomes yet, {self.reference} make the reference"),)
            return self._composed(UNKNOWN, lacking, parts)
        return self._composed(QUIET, [part for part in parts if part.outcome is QUIET], parts)

    def without_evidence(self, state: Json) -> Json:
        """Return the state with its references, and every test of the live version begun anew."""
        streams = {name: stream.without_evidence() for name, stream in _from_json(state.get("streams", {})).items()}
        return {**state, "streams": _to_json(streams)} if streams else state

    def _remembered(self, state: Json, *, is_new_cycle: bool) -> dict[int, _Streams]:
        """Return the streams by version; in a new cycle, evidence that was enough to fire is used up."""
        kept = {**state.get("rested", {}), str(state["version"]): state["streams"]} if state else {}
        versions = {int(version): _from_json(streams) for version, streams in kept.items()}
        return {v: self._used_up(s) if is_new_cycle else s for v, s in versions.items()}

    def _used_up(self, streams: _Streams) -> _Streams:
        wanted = np.log(self._wanted(len(streams)))
        return {name: s.without_evidence() if s.has_risen(wanted) else s for name, s in streams.items()}

    def _wanted(self, num_streams: int) -> float:
        """Return how much evidence of one stream fires: half of alpha is the references' share."""
        return 2 * num_streams / self.alpha

    def _metric(self) -> str:
        if self.metric is None:
            raise ProjectError("trigger.Degraded has no metric yet.", "name one, or call resolved(metric) first")
        return self.metric

    def _losses(self, facts: WatchFacts, stream: str, first: FirstOutcomes) -> Array:
        """Return the known losses of the live version in a stream, since its reference was full."""
        rows = facts.outcomes
        if not len(rows):
            return np.zeros(0)
        loss = rows.values[self._metric()]
        known = ~np.isnan(loss) & (rows.version == facts.live_version)
        self._require_binary(loss[known])
        later: Array = loss[known & _is_in(rows, stream) & (rows.received_at > first.until)]
        return later

    def _require_binary(self, loss: Array) -> None:
        odd = loss[(loss != 0) & (loss != 1)] if self.binary else loss[:0]
        if len(odd):
            raise ProjectError(
                f"{self} tests errors of 0 or 1, and the loss of {self.metric!r} is {odd[0]:g}.",
                f"write trigger.Degraded({self.metric!r}, binary=False)",
            )

    def _judge(self, name: str, stream: Stream, num_streams: int) -> Verdict:
        reference, test = stream.reference, stream.test
        who = str(self.metric) if name == EVERYONE else f"{self.metric} in cohort {name}"
        if test is None:
            missing = self.reference - reference.num
            reason = f"{who}: {reference.num} of {self.reference} outcomes of the reference, {missing} more to come"
            return self._say(UNKNOWN, reason, {"reference_outcomes": reference.num, "more_outcomes": missing})
        log_evidence, wanted = test.log_evidence(), self._wanted(num_streams)
        numbers: dict[str, Scalar] = {
            "reference_loss": reference.mean,
            "bar": test.bar,
            "recent_loss": test.recent,
            "outcomes": test.num,
            "evidence": evidence(log_evidence),
            "wanted_evidence": wanted,
        }
        told = (
            f"{who}: loss {test.recent:.3g} of late, {reference.mean:.3g} in the first {reference.num} outcomes; "
            f"evidence that it is above {test.bar:.3g}: {against(log_evidence, wanted)} "
            f"after {counted(test.num, 'outcome')}"
        )
        if log_evidence >= np.log(wanted):
            return self._say(FIRE, told, numbers)
        left = test.more_outcomes(1 / wanted) if self.binary else None
        if left is None:
            return self._say(QUIET, told, numbers)
        numbers["more_outcomes"] = round(left)
        return self._say(QUIET, f"{told}; should it stay so, it fires after {more(left, 'outcome')}", numbers)

    def _composed(self, outcome: Outcome, told: Sequence[Verdict], parts: tuple[Verdict, ...]) -> Verdict:
        """Return the verdict of the stream with most evidence, and all streams as its parts."""
        first = max(told, key=lambda part: float(part.numbers.get("evidence") or 0))
        return Verdict(outcome=outcome, by=str(self), reason=first.reason, numbers=first.numbers, parts=parts)


def _is_in(rows: Outcomes, stream: str) -> Array:
    return np.ones(len(rows), dtype=bool) if stream == EVERYONE else rows.cohorts[stream]


def _to_json(streams: Mapping[str, Stream]) -> Json:
    return {name: stream.to_json() for name, stream in streams.items()}


def _from_json(streams: Json) -> _Streams:
    """Read streams, everyone's first: the stores sort by name."""
    found = {name: Stream.from_json(stream) for name, stream in streams.items()}
    return {name: found[name] for name in sorted(found, key=lambda name: name != EVERYONE)}
