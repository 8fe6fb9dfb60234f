"""The trigger that fires when the live version has become worse than it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

import numpy as np

from tidemill.errors import ProjectError
from tidemill.records import Json, Outcome, Scalar, Trust, Verdict
from tidemill.schema import Array
from tidemill.strategy.outcomes import OutcomeNeeds
from tidemill.strategy.stream import Stream
from tidemill.strategy.triggering import Trigger, WatchFacts, micros_or_none
from tidemill.strategy.wording import against, counted, evidence, more

FIRE, QUIET, UNKNOWN = Outcome.FIRE, Outcome.QUIET, Outcome.UNKNOWN
EVERYONE = "all"  # the stream of all outcomes, beside those of cohorts


class _Losses(NamedTuple):
    """The losses of one stream in a batch, and the rows of the batch that they stand in, both (N,)."""

    at: Array
    loss: Array


_NONE = _Losses(np.zeros(0, dtype=np.int64), np.zeros(0))


@dataclass(frozen=True)
class Degraded(Trigger):
    """Fires when the live version's loss has risen by more than `drop` above its own first outcomes.

    The version's first `reference` matured outcomes, of everyone and of each cohort, are what it was good for. From
    then on each stream is tested at every look (`stats.rise`) for a mean loss above the reference's plus `drop`, from
    any time on; a reference that may have been lucky raises the bar. A cohort that appears only later, such as a new
    version of an app, is held to everyone's reference. `alpha` is the chance of a false alarm over the
    life of the version, with the noise of the reference in it, and is shared out over the streams. A new version begins
    anew; a new cycle keeps the reference and drops the evidence.

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
        """Return its metric and trust."""
        return OutcomeNeeds((self._metric(),), Trust(self.trust))

    def resolved(self, metric: str, *, binary: bool = True) -> Degraded:
        """Return the trigger with the project's first metric in place of None."""
        return replace(self, metric=metric, binary=binary) if self.metric is None else self

    def update(self, state: Json, facts: WatchFacts) -> Json:
        """Feed each stream: first its reference, then its test."""
        cycle = micros_or_none(facts.last_cycle_at)
        old = state["streams"] if state.get("version") == facts.live_version else {}
        streams = {name: Stream.from_json(stream) for name, stream in old.items()}
        if streams and state["cycle"] != cycle:
            streams = {name: stream.without_evidence() for name, stream in streams.items()}
        losses = self._losses(facts)
        late = self._appear_late(streams.get(EVERYONE, Stream()), losses)
        names = list(dict.fromkeys([*streams, *losses]))  # everyone's first: others may be held to it
        alpha = self.alpha / 2 / max(len(names), 1)
        for name in names:
            begun = streams.get(name, Stream())
            if name in late and begun.reference.num == 0:
                begun = Stream(streams[EVERYONE].reference)
            streams[name] = begun.add(
                losses.get(name, _NONE).loss, size=self.reference, drop=self.drop, alpha=alpha, binary=self.binary
            )
        return {
            "version": facts.live_version,
            "cycle": cycle,
            "streams": {name: stream.to_json() for name, stream in streams.items()},
        }

    def decide(self, state: Json, now: datetime) -> Verdict:
        """Fire if any stream's evidence is there; unknown until everyone's reference is full."""
        streams = {name: Stream.from_json(stream) for name, stream in state.get("streams", {}).items()}
        parts = tuple(self._judge(name, stream, len(streams)) for name, stream in streams.items())
        fired = [part for part in parts if part.outcome is FIRE]
        if fired:
            return self._composed(FIRE, fired, parts)
        if not parts or parts[0].outcome is UNKNOWN:
            lacking = parts[:1] or (self._say(UNKNOWN, f"no outcomes yet, {self.reference} make the reference"),)
            return self._composed(UNKNOWN, lacking, parts)
        return self._composed(QUIET, [part for part in parts if part.outcome is QUIET], parts)

    def without_evidence(self, state: Json) -> Json:
        """Return the state with its references, and every test begun anew."""
        streams = {n: Stream.from_json(s).without_evidence().to_json() for n, s in state.get("streams", {}).items()}
        return {**state, "streams": streams} if streams else state

    def _metric(self) -> str:
        if self.metric is None:
            raise ProjectError("trigger.Degraded has no metric yet.", "name one, or call resolved(metric) first")
        return self.metric

    def _appear_late(self, everyone: Stream, losses: Mapping[str, _Losses]) -> set[str]:
        """Return the streams whose first loss comes after everyone's reference is full, however facts are batched."""
        room = self.reference - everyone.reference.num
        at = losses[EVERYONE].at if losses else _NONE.at
        if room > len(at):
            return set()
        full_from = -1 if room <= 0 else at[room - 1]
        return {name for name, its in losses.items() if name != EVERYONE and len(its.at) and its.at[0] > full_from}

    def _losses(self, facts: WatchFacts) -> dict[str, _Losses]:
        """Return the known losses of the live version by stream, everyone's first."""
        rows = facts.outcomes
        if not len(rows):
            return {}
        loss = rows.values[self._metric()]
        known = ~np.isnan(loss) & (rows.version == facts.live_version)
        self._require_binary(loss[known])
        masks = {EVERYONE: known}
        if self.by_cohort:
            masks |= {name: known & mask for name, mask in rows.cohorts.items()}
        return {name: _Losses(np.flatnonzero(mask), loss[mask]) for name, mask in masks.items()}

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
        log_evidence, wanted = test.log_evidence(), 2 * num_streams / self.alpha
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
