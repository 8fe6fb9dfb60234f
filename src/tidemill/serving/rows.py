"""Requests in flight, and the rows of the log that a gateway writes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tidemill.errors import InvalidRequest
from tidemill.records import Prediction
from tidemill.runtime.routing import position
from tidemill.serving.batching import Row
from tidemill.serving.protocol import Answer
from tidemill.serving.table import Table, Version
from tidemill.strategy.log import Request

Done = Callable[["Answer | InvalidRequest"], None]
"""Called once with what a request came to; it must not raise."""


class Moment(NamedTuple):
    """When requests came: in microseconds, for the log, and by `time.monotonic`, for durations."""

    received_at: int
    begun: float


class InFlight(Row, kw_only=True, eq=False):
    """A request that is not answered and logged yet; `done` is None for a shadow, which answers nobody.

    `chain` are the versions still to try. `reason` and `detail` say why the assigned one did not answer, `outlier` which
    inputs lie outside what the answering one learnt from. One that is
    `pinned` to a version was not routed, so no rollout counts it.
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
    done: Done | None = None
    pinned: bool = False
    reason: str | None = None
    detail: str = ""
    outlier: list[str] | None = None


def prediction(
    row: InFlight,
    *,
    answered: int,
    latency_ms: float,
    scores: list[float] | None = None,
    decision: str | float | None = None,
    abstained: bool = False,
    top_k: list[str] | None = None,
) -> Prediction:
    """Return the log's row of a request; `answered` is 0 when no version could answer."""
    table = row.table
    made = table.blank.__copy__()  # a third of what it takes to name every field
    made.request_id = row.request_id
    made.received_at = row.received_at
    made.unit = row.unit
    made.subject = row.subject
    made.share = row.share
    made.assigned_version = row.assigned
    made.answered_version = answered
    made.scores = scores
    made.decision = decision
    made.abstained = abstained
    made.latency_ms = latency_ms
    made.outlier = row.outlier
    made.top_k = top_k
    if row.reason is not None:
        made.fallback_reason = row.reason
        if not answered:
            made.error = f"{row.reason}: {row.detail}"
    if row.pinned:
        made.rollout = None
    inputs = row.inputs
    if table.tags:
        made.tags = {name: inputs[name] for name in table.tags}
        inputs = {name: value for name, value in inputs.items() if name not in made.tags}
    if row.done is None:
        made.role, made.keep_probability = "shadow", 0.0
    elif table.keeps_all:
        made.inputs = inputs
    else:
        made.keep_probability, kept = _kept(made, table)
        made.inputs = inputs if kept else None
    return made


def _kept(made: Prediction, table: Table) -> tuple[float, bool]:
    """Ask the log stage with what probability inputs are kept, and draw by the request id."""
    asked = Request(
        tags=made.tags,
        error=not made.answered_version,
        abstained=made.abstained,
        fallback=made.fallback_reason is not None,
    )
    keep = table.manifest.log.keep(asked)
    if not keep.inputs:
        return 0.0, False
    return keep.probability, keep.probability >= 1.0 or position("keep", made.request_id) < keep.probability
