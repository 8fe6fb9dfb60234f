"""Approval: a person has the last word at the gate, is reminded, and may be waited for in vain."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from tidemill.records import Outcome, Verdict
from tidemill.strategy.evidence import Evidence, Word
from tidemill.strategy.gate import Offline
from tidemill.strategy.member import shown_duration
from tidemill.strategy.span import Span

_WITHOUT_A_WORD = {"reject": Outcome.FAIL, "approve": Outcome.PASS, "wait": Outcome.UNKNOWN}


@dataclass(frozen=True)
class Approval(Offline):
    """A person says yes: `tidemill approve`, or no: `tidemill reject --reason`. The cycle waits until then.

    The verdict keeps who spoke and when. While it waits, a reminder is written to the journal every `remind_every`.
    After `timeout` without a word the candidate is rejected or approved, or goes on waiting, as `on_timeout` says.
    """

    remind_every: Span = Span("1d")
    timeout: Span = Span("7d")
    on_timeout: str = "wait"
    durations: ClassVar[tuple[str, ...]] = ("remind_every", "timeout")

    def check(self) -> None:
        """Refuse an unknown `on_timeout`, and times that are not above 0."""
        known = ", ".join(map(repr, _WITHOUT_A_WORD))
        self.require(self.on_timeout in _WITHOUT_A_WORD, f"on_timeout is {self.on_timeout!r}", f"give one of {known}")
        for name in self.durations:
            self.require(getattr(self, name) > timedelta(0), f"{name} is 0", "give a time such as '1d'")

    def judge(self, evidence: Evidence) -> Verdict:
        """Read what was said, or how long nothing was."""
        if evidence.approval is not None:
            return self._said(evidence.approval, evidence.candidate)
        waited = evidence.now - (evidence.asked_at or evidence.now)
        late = waited >= self.timeout
        outcome = _WITHOUT_A_WORD[self.on_timeout] if late else Outcome.UNKNOWN
        reason = self._reason(evidence.candidate, waited, outcome, late=late)
        return self.verdict(outcome, reason, back_to="strategy", reminders=waited // self.remind_every)

    def _said(self, word: Word, candidate: int) -> Verdict:
        verb = "approved" if word.approved else "rejected"
        reason = f"version {candidate} was {verb} by {word.by}" + (f": {word.reason}" if word.reason else "")
        outcome = Outcome.PASS if word.approved else Outcome.FAIL
        return self.verdict(outcome, reason, back_to="strategy", by=word.by, at=word.at.isoformat())

    def _reason(self, candidate: int, waited: timedelta, outcome: Outcome, *, late: bool) -> str:
        if outcome is not Outcome.UNKNOWN:
            verb = "approved" if outcome is Outcome.PASS else "rejected"
            return f"version {candidate} is {verb}: nobody spoke within {shown_duration(self.timeout)}"
        text = f"version {candidate} waits for a person to approve or reject it"
        if waited < self.remind_every:
            return text
        since = timedelta(seconds=int(waited.total_seconds()))
        return f"{text}, since {since}" + (f", longer than {shown_duration(self.timeout)}" if late else "")
