"""What the online stage is told of a rollout, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import numpy as np

from tidemill.records import Json, Verdict
from tidemill.schema import Array
from tidemill.strategy.outcomes import Outcomes

Kind = Literal["stay", "advance", "promote", "rollback", "hold"]


@dataclass(frozen=True, kw_only=True)
class Shadows:
    """What the candidate's shadow predictions showed since the last update; `latency_ms` has length `num`.

    `requests` has two rows for each shadowed request, the shadow's (`candidate`) and that of who answered, as if each
    arm had half of the traffic; its values hold `disagreement`, 0 or 1, in the shadow's rows. `outcomes` are the newly
    matured ones in the same form; of a binary loss that both have, neither has it: what counts is where they differ.
    """

    num: int = 0
    num_failed: int = 0
    num_disagree: int = 0  # its decision differs from the one that was answered
    latency_ms: Array = field(default_factory=lambda: np.zeros(0))
    requests: Outcomes = field(default_factory=Outcomes.empty)
    outcomes: Outcomes = field(default_factory=Outcomes.empty)


@dataclass(frozen=True, kw_only=True)
class RolloutFacts:
    """What happened in one rollout since the last update, and nothing of other rollouts.

    `requests` is every new answered request, `outcomes` the newly matured first outcome of each unit, with losses from
    labels of the trust asked for; both in order of `received_at`.
    """

    now: datetime
    requests: Outcomes = field(default_factory=Outcomes.empty)
    outcomes: Outcomes = field(default_factory=Outcomes.empty)
    shadows: Shadows = field(default_factory=Shadows)


@dataclass(frozen=True, kw_only=True)
class Action:
    """What to do: `share` and `shadow` are what traffic should be from now on, `state` is to be stored.

    `stay` goes on gathering evidence; `hold` does too, and asks for a person; `advance` goes to `step`. After `promote`
    and `rollback` the rollout is over.
    """

    kind: Kind
    share: float
    shadow: bool
    step: str
    verdict: Verdict
    state: Json
