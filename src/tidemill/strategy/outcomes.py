"""What became of requests, as arrays: the facts that triggers and guards read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np

from tidemill.errors import ProjectError
from tidemill.records import Trust
from tidemill.schema import Array
from tidemill.strategy.drift_needs import DriftNeeds
from tidemill.strategy.reference_needs import ReferenceNeeds


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """N answered requests in order of `received_at`; every array has length N.

    `values` holds, by metric name, a loss for each row: higher is worse, NaN where it is not known. The caller turns
    metrics round: accuracy becomes an error of 0 or 1, an event that is bad stays 0 or 1, a log loss stays what it is.
    `share` is the candidate's share of traffic when the row was routed, `candidate` whether the candidate was assigned.
    `before` holds, by metric name, the mean loss of the row's unit before the rollout, NaN where it has no past; only
    where a member's needs ask for it.
    """

    received_at: Array  # int64, microseconds since 1970
    unit: Array  # object, strings
    version: Array  # int64, the assigned version
    candidate: Array  # bool
    share: Array  # float64
    failed: Array  # bool: the assigned version raised, timed out or gave NaN
    latency_ms: Array  # float64, NaN where the version did not run because its scores were remembered
    values: Mapping[str, Array] = field(default_factory=dict)  # float64, losses
    cohorts: Mapping[str, Array] = field(default_factory=dict)  # bool
    abstained: Array | None = None  # bool; None where nobody may abstain
    before: Mapping[str, Array] = field(default_factory=dict)  # float64, losses

    def __len__(self) -> int:
        return len(self.received_at)

    def take(self, index: Array) -> Outcomes:
        """Return the rows at `index` (positions or a mask)."""
        return Outcomes(
            received_at=self.received_at[index],
            unit=self.unit[index],
            version=self.version[index],
            candidate=self.candidate[index],
            share=self.share[index],
            failed=self.failed[index],
            latency_ms=self.latency_ms[index],
            values={n: v[index] for n, v in self.values.items()},
            cohorts={n: c[index] for n, c in self.cohorts.items()},
            abstained=None if self.abstained is None else self.abstained[index],
            before={n: x[index] for n, x in self.before.items()},
        )

    @classmethod
    def empty(cls) -> Outcomes:
        """Return no rows."""
        none = np.zeros(0)
        return cls(
            received_at=none.astype(np.int64),
            unit=none.astype(object),
            version=none.astype(np.int64),
            candidate=none.astype(bool),
            share=none,
            failed=none.astype(bool),
            latency_ms=none,
        )


@dataclass(frozen=True)
class OutcomeNeeds:
    """The metrics whose losses a stage reads, from labels of at least this trust.

    `before` is how far back, from the start of the rollout, the past of each unit is wanted; zero for not at all.
    `pairs` asks for the losses of shadow predictions beside those of the answers, `drift` for looks at drift,
    `references` for what the live version was good for.
    """

    metrics: tuple[str, ...] = ()
    trust: Trust = Trust.PEOPLE
    before: timedelta = timedelta(0)
    pairs: bool = False
    drift: tuple[DriftNeeds, ...] = ()
    references: tuple[ReferenceNeeds, ...] = ()

    @classmethod
    def of(cls, needs: Iterable[OutcomeNeeds]) -> OutcomeNeeds:
        """Return all that is needed.

        Raises:
            ProjectError: members of one stage read labels of different trust; the strictest would blind the others.
        """
        needs = list(needs)
        drift = tuple(dict.fromkeys(look for need in needs for look in need.drift))
        needs = [need for need in needs if need.metrics]
        trusts = sorted({need.trust for need in needs}, key=lambda trust: trust.rank)
        if len(trusts) > 1:
            raise ProjectError(
                f"members of one stage read labels of trust {' and '.join(trusts)}.", "give all of them the same trust="
            )
        metrics = tuple(dict.fromkeys(name for need in needs for name in need.metrics))
        trust = max((need.trust for need in needs), key=lambda trust: trust.rank, default=Trust.PEOPLE)
        before = max((need.before for need in needs), default=timedelta(0))
        references = tuple(dict.fromkeys(one for need in needs for one in need.references))
        return cls(metrics, trust, before, any(need.pairs for need in needs), drift, references)
