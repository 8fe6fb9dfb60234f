"""The base of the online stage, and one part after another: `a >> b` goes on to b once a would promote."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import ClassVar, Literal

from tidemill.records import Json, Verdict
from tidemill.strategy.member import Member
from tidemill.strategy.outcomes import OutcomeNeeds
from tidemill.strategy.rollout import Action, Kind, RolloutFacts
from tidemill.strategy.wording import span

WhenInconclusive = Literal["hold", "rollback", "promote"]

_CHOICES = ("hold", "rollback", "promote")


class Online(Member):
    """Base of the online stage: `start`, `update`, `decide`. The state is plain JSON; all three are pure."""

    stage: ClassVar[str] = "online"

    def needs(self) -> OutcomeNeeds:
        """Return which metrics it reads."""
        return OutcomeNeeds()

    def resolved(self, metric: str, *, binary: bool = True) -> Online:
        """Return the member with the project's first metric in place of None; `binary`: its loss is 0 or 1."""
        return self

    def start(self, now: datetime) -> Json:
        """Return the state of a rollout that begins now; `decide` then says what its first traffic is."""
        raise NotImplementedError

    def update(self, state: Json, facts: RolloutFacts) -> Json:
        """Return the state with new facts in it; they may come in batches of any size, in order."""
        raise NotImplementedError

    def decide(self, state: Json, now: datetime) -> Action:
        """Say what to do, with the reason and the numbers."""
        raise NotImplementedError

    def __rshift__(self, other: Online) -> Then:
        return Then((self, other))

    def _action(self, kind: Kind, step: str, verdict: Verdict, state: Json, *, share: float = 0.0) -> Action:
        if kind == "promote":
            return Action(kind=kind, share=1.0, shadow=False, step="promoted", verdict=verdict, state=state)
        if kind == "rollback":
            return Action(kind=kind, share=0.0, shadow=False, step="rolled back", verdict=verdict, state=state)
        return Action(kind=kind, share=share, shadow=share == 0, step=step, verdict=verdict, state=state)

    def _require_choice(self, choice: str) -> None:
        self.require(choice in _CHOICES, f"on_inconclusive is {choice!r}", f"use one of {', '.join(_CHOICES)}")


@dataclass(frozen=True)
class Then(Online):
    """`parts`, one after the other: where one would promote, the next begins. Written `a >> b`."""

    parts: tuple[Online, ...]

    def check(self) -> None:
        """Refuse what is no online stage."""
        fine = bool(self.parts) and all(isinstance(part, Online) for part in self.parts)
        self.require(fine, f"parts are {self.parts}", "use members of tm.online")

    def __rshift__(self, other: Online) -> Then:
        return Then((*self.parts, other))

    def __str__(self) -> str:
        return " >> ".join(str(part) for part in self.parts)

    def needs(self) -> OutcomeNeeds:
        """Return what its parts read, at the strictest trust that any of them asks for."""
        return OutcomeNeeds.of(part.needs() for part in self.parts)

    def resolved(self, metric: str, *, binary: bool = True) -> Then:
        """Return it with the parts resolved."""
        return Then(tuple(part.resolved(metric, binary=binary) for part in self.parts))

    def start(self, now: datetime) -> Json:
        """Return the first part's start."""
        return {"at": 0, "part": self.parts[0].start(now)}

    def update(self, state: Json, facts: RolloutFacts) -> Json:
        """Hand the facts to the part that is on."""
        return {"at": state["at"], "part": self.parts[state["at"]].update(state["part"], facts)}

    def decide(self, state: Json, now: datetime) -> Action:
        """Do what the part that is on says; where it would promote, begin the next one."""
        at = state["at"]
        action: Action = self.parts[at].decide(state["part"], now)
        if action.kind != "promote" or at == len(self.parts) - 1:
            return replace(action, state={"at": at, "part": action.state})
        begun = {"at": at + 1, "part": self.parts[at + 1].start(now)}
        first = self.decide(begun, now)
        if first.kind in ("stay", "hold"):
            return replace(first, kind="advance", verdict=action.verdict)
        return first


def to_go(num: int, wanted: int, waited: timedelta) -> str:
    """Say how long the missing ones take at the rate they came so far, if that is known."""
    if not num or waited <= timedelta(0):
        return ""
    return f", about {span((wanted - num) * waited.total_seconds() / num)} to go"
