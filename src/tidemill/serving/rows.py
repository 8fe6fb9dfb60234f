"""Requests in flight, the rows of the log that a gateway writes of them, and what their callers are told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from msgspec import Struct

from tidemill.errors import InvalidRequest
from tidemill.policy import Decided
from tidemill.records import Prediction
from tidemill.runtime.routing import position
from tidemill.schema import Array
from tidemill.serving.batching import Row
from tidemill.serving.protocol import Answer, PredictRequest
from tidemill.serving.table import Table, Version
from tidemill.strategy.log import Request

_UNDECIDED = Decided([None], [False], None)  # type: ignore[list-item]

Done = Callable[["Answer | InvalidRequest"], None]
"""Called once with what a request came to; it must not raise."""
Asked = tuple[PredictRequest, Done]

AnyStruct = TypeVar("AnyStruct", bound=Struct)


class Told(Struct, eq=False):
    """A `Done` that can make its reply before it may be sent."""

    def prepare(self, answer: Answer) -> None:
        """Make the reply that this answer comes to."""
        raise NotImplementedError

    def __call__(self, answer: Answer | InvalidRequest) -> None:
        """Reply."""
        raise NotImplementedError


class Moment(NamedTuple):
    """When requests came: in microseconds, for the log, and by `time.monotonic`, for durations."""

    received_at: int
    begun: float


class InFlight(Row, kw_only=True, eq=False):
    """A request that is not answered and logged yet; `done` is None for a shadow, which answers nobody.

    `chain` are the versions still to try. `reason` and `detail` say why the assigned one did not answer, `outlier`
    which inputs lie outside what the answering one learnt from. `key` is where the assigned one's scores are to be
    remembered. One that is `pinned` to a version was not routed, so no rollout counts it.
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
    key: bytes | None = None


def copies(row: AnyStruct) -> Callable[[], AnyStruct]:
    """Return what copies a row, in a third of the time that naming every field takes."""
    make: Callable[[], AnyStruct] = row.__copy__  # type: ignore[attr-defined]
    return make


def first_of_arm(table: Table, number: int, share: float, moment: Moment) -> InFlight:
    """Return a row with all that is the same for requests that came together for one version."""
    return InFlight(
        {},
        moment.begun,
        request_id="",
        received_at=moment.received_at,
        begun=moment.begun,
        ends=moment.begun + table.manifest.limits.timeout_s,
        unit="",
        subject=None,
        table=table,
        assigned=number,
        share=share,
        chain=table.chain(number),
    )


def shadow_of(row: InFlight, version: Version, now: float, deadline: float) -> InFlight:
    """Return the row by which a shadow version answers the same request."""
    shadow = copies(row)()
    shadow.assigned, shadow.begun, shadow.deadline, shadow.done = version.number, now, deadline, None
    shadow.waits_in, shadow.is_running, shadow.chain = version.batcher, False, ()
    shadow.pinned, shadow.reason, shadow.outlier, shadow.key = False, None, None, None
    return shadow


class Answers:
    """What the rows of a batch are told, made when it is first asked for: while the log is written, if that takes time.

    `made` are their rows in the log, of one version that answered them.
    """

    def __init__(self, rows: Sequence[InFlight], made: Sequence[Prediction], model: str) -> None:
        self._rows, self._log_rows, self._model = rows, made, model
        self._answers: list[Answer] = []

    def __call__(self) -> Sequence[Answer]:
        """Return them, one for each row."""
        if not self._answers:
            model, named = self._model, self._rows[0].table.named
            self._answers = [
                Answer(
                    row.request_id,
                    model,
                    row.answered_version,
                    row.decision,
                    row.scores,  # type: ignore[arg-type]  # it has some
                    row.abstained,
                    row.fallback_reason,
                    row.policy_version,
                    row.top_k,
                    named,
                )
                for row in self._log_rows
            ]
        return self._answers

    def prepare(self) -> None:
        """Make the replies, where that can be done before they may be sent."""
        for row, answer in zip(self._rows, self(), strict=True):
            if isinstance(row.done, Told):
                row.done.prepare(answer)


def by_table(rows: Sequence[InFlight], scores: Array) -> Iterator[tuple[Table, Sequence[InFlight], Array]]:
    """Split a batch by the table each row was routed by; there are two only while a route changes."""
    tables = {row.table for row in rows}
    for table in tables:
        if len(tables) == 1:
            yield table, rows, scores
        else:
            index = [i for i, row in enumerate(rows) if row.table is table]
            yield table, [rows[i] for i in index], scores[index]


def predictions(
    rows: Sequence[InFlight],
    answered: int,
    latency_ms: float | None = None,
    scores: Sequence[list[float] | None] = (None,),
    decided: Decided = _UNDECIDED,
) -> list[Prediction]:
    """Return the log's rows of requests of one table; `answered` is 0 when no version could answer.

    A latency that is not given is that of each row until now.
    """
    table, now = rows[0].table, time.monotonic()
    blank = copies(table.blank)()
    blank.answered_version = answered
    if rows[0].done is None:
        blank.role, blank.keep_probability = "shadow", 0.0
    fresh, is_whole, out = copies(blank), table.keeps_all and not table.tags and rows[0].done is not None, []
    for row, listed, decision, abstained in zip(rows, scores, decided.decisions, decided.abstained, strict=True):
        made = fresh()
        made.request_id = row.request_id
        made.received_at = row.received_at
        made.unit = row.unit
        made.subject = row.subject
        made.share = row.share
        made.assigned_version = row.assigned
        made.scores = listed
        made.decision = decision
        made.abstained = abstained
        made.latency_ms = (now - row.begun) * 1e3 if latency_ms is None else latency_ms
        if row.reason is not None or row.outlier is not None or row.pinned:
            _tell_odd(made, row)
        if is_whole:
            made.inputs = row.inputs
        else:
            _keep(made, row)
        out.append(made)
    for made, best in zip(out, decided.top_k or (), strict=False):
        made.top_k = best
    return out


def _tell_odd(made: Prediction, row: InFlight) -> None:
    made.outlier = row.outlier
    made.fallback_reason = row.reason
    if not made.answered_version:
        made.error = f"{row.reason}: {row.detail}"
    if row.pinned:
        made.rollout = None


def _keep(made: Prediction, row: InFlight) -> None:
    """Take tags and inputs apart, and keep of the inputs what the log stage wants."""
    table, inputs = row.table, row.inputs
    if table.tags:
        made.tags = {name: inputs[name] for name in table.tags}
        inputs = {name: value for name, value in inputs.items() if name not in made.tags}
    if row.done is None:
        return
    if table.keeps_all:
        made.inputs = inputs
    else:
        made.keep_probability, kept = _kept(made, table)
        made.inputs = inputs if kept else None


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
