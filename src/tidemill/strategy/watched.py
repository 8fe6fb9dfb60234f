"""What the online members share that give a candidate traffic of its own: guards over both arms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Self

from tidemill.records import Json, Verdict
from tidemill.strategy.guard_sample_ratio import SampleRatio
from tidemill.strategy.guarding import Guard
from tidemill.strategy.outcomes import OutcomeNeeds
from tidemill.strategy.rollout import RolloutFacts
from tidemill.strategy.staged import Online


class Watched(Online):
    """Base of the members with `guards`; that the arms meet their shares of the units is always watched too."""

    guards: tuple[Guard, ...]

    def needs(self) -> OutcomeNeeds:
        """Return what its guards read, at the one trust that all of them ask for."""
        return OutcomeNeeds.of(guard.needs() for guard in self._watching())

    def resolved(self, metric: str, *, binary: bool = True) -> Self:
        """Return it with the guards resolved."""
        return replace(self, guards=tuple(guard.resolved(metric, binary=binary) for guard in self.guards))  # type: ignore[type-var]

    def _watching(self) -> tuple[Guard, ...]:
        """Return the guards that may roll back."""
        return self.guards

    def _require_guards(self) -> None:
        self.require(
            all(isinstance(g, Guard) for g in self.guards), f"guards are {self.guards}", "use members of tm.guard"
        )

    def _started(self, margins: tuple[float, ...]) -> Json:
        return [guard.start(margins) for guard in self._all_guards()]

    def _updated(self, memories: Json, facts: RolloutFacts) -> Json:
        return [
            guard.update(memory, facts.requests, facts.outcomes)
            for guard, memory in zip(self._all_guards(), memories, strict=True)
        ]

    def _verdicts(self, memories: Json, margin: float) -> tuple[Verdict, ...]:
        """Return every guard's word, that on the sample ratio last."""
        part = 1 / max(len(self._watching()), 1)
        pairs = zip(self._all_guards(), memories, strict=True)
        return tuple(guard.decide(memory, margin, part=part) for guard, memory in pairs)

    def _all_guards(self) -> tuple[Guard, ...]:
        return (*self._watching(), SampleRatio())


def reasons(verdicts: Sequence[Verdict] | Iterable[Verdict]) -> str:
    """Return the reasons of verdicts in one line."""
    return "; ".join(v.reason for v in verdicts)
