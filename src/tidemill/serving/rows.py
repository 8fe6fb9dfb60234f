"""The rows of the log that a gateway writes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from tidemill.errors import Unavailable
from tidemill.records import Prediction
from tidemill.runtime.routing import position
from tidemill.serving.batching import Row
from tidemill.serving.protocol import Answer
from tidemill.serving.table import Table, Version
from tidemill.strategy.log import Request


@dataclass(slots=True, eq=False, kw_only=True)
class InFlight(Row):
    """A request that is not answered and logged yet; `reply` is None for a shadow, which answers nobody.

    `chain` are the versions still to try. `reason` and `detail` say why the assigned one did not answer.
    """

    request_id: str
    received_at: int
    begun: float
    ends: float
    unit: str
    subject: str | None
    table: Table
    assigned: int
    share: float
    chain: tuple[Version, ...] = ()
    reason: str | None = None
    detail: str = ""
    reply: asyncio.Future[Answer | Unavailable] | None = None


def prediction(
    row: InFlight,
    *,
    answered: int,
    latency_ms: float,
    scores: list[float] | None = None,
    decision: str | float | None = None,
    abstained: bool = False,
) -> Prediction:
    """Return the log's row of a request; `answered` is 0 when no version could answer."""
    table, route = row.table, row.table.route
    shadow = row.reply is None
    inputs, tags = row.inputs, {}
    if table.tags:
        tags = {name: inputs[name] for name in table.tags}
        inputs = {name: value for name, value in inputs.items() if name not in tags}
    failed = not answered
    probability, kept = (0.0, False) if shadow else _kept(row, tags, failed, abstained)
    return Prediction(
        request_id=row.request_id,
        received_at=row.received_at,
        role="shadow" if shadow else "answer",
        unit=row.unit,
        subject=row.subject,
        rollout=route.rollout,
        share=row.share,
        salt=route.salt,
        route_revision=route.revision,
        assigned_version=row.assigned,
        answered_version=answered,
        fallback_reason=row.reason,
        error=f"{row.reason}: {row.detail}" if failed else None,
        policy_version=route.policy_version,
        tags=tags,
        inputs=inputs if kept else None,
        scores=scores,
        decision=decision,
        abstained=abstained,
        cached=False,
        latency_ms=latency_ms,
        keep_probability=probability,
    )


def _kept(row: InFlight, tags: dict[str, Any], failed: bool, abstained: bool) -> tuple[float, bool]:
    """Ask the log stage with what probability inputs are kept, and draw by the request id."""
    fallback = row.reason is not None
    keep = row.table.manifest.log.keep(Request(tags=tags, error=failed, abstained=abstained, fallback=fallback))
    if not keep.inputs:
        return 0.0, False
    return keep.probability, keep.probability >= 1.0 or position("keep", row.request_id) < keep.probability
