"""One project being served: from validated inputs to a logged answer, with who stands in when a version fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby, repeat
from operator import attrgetter
from typing import Any

from tidemill.errors import InvalidRequest, NotFound, Unavailable
from tidemill.records import Prediction
from tidemill.runtime.ids import IdMaker
from tidemill.runtime.routing import assign
from tidemill.schema import Array, Parsed
from tidemill.serving.batching import NOT_LOADED, OVERLOADED, RAISED, TIMEOUT, Batcher, Failure, Scored
from tidemill.serving.fleet import Fleet
from tidemill.serving.metrics import Metrics
from tidemill.serving.protocol import Answer, PredictRequest, Unanswered
from tidemill.serving.recorder import Recorder
from tidemill.serving.rows import Done, InFlight, Moment, prediction
from tidemill.serving.table import Plan, Table, Version
from tidemill.stores.segments import Batch

_begun = attrgetter("begun")


class Deployment:
    """Answers the requests of one project. Every method is called in the event loop.

    `now` gives the time in microseconds and never goes back. With `refuse`, a prediction that could not be logged is
    not answered.
    """

    def __init__(
        self, plan: Plan, *, recorder: Recorder, metrics: Metrics, now: Callable[[], int], refuse: bool = True
    ) -> None:
        self.name = plan.manifest.project
        self._recorder, self._metrics, self._now, self._refuse = recorder, metrics, now, refuse
        self._secret = plan.secret
        self.ids = IdMaker(plan.secret)
        self._rows: set[InFlight] = set()
        self.fleet = Fleet(plan, done=self._done, shadowed=self._shadowed)

    @property
    def table(self) -> Table:
        """The route in force, with its versions."""
        return self.fleet.table

    # ---- the way in

    def take(self, request: PredictRequest, moment: Moment, done: Done) -> None:
        """Answer one request: `done` is called once, when its row is in the log, or when nobody can answer.

        Raises:
            InvalidInput: an input is not as declared, or lies outside what the model learnt from and shall then be
                refused.
            NotFound: it is pinned to a version that is not served.
            Unavailable: too many requests wait.
        """
        table = self.table
        inputs = request.inputs
        if type(inputs) is not Parsed or table.hides:
            inputs = table.manifest.schema.validate(inputs, key=self._secret)
        row = self._row(table, inputs, request, moment, done)
        if table.refused:
            table.refuse_outliers(row.assigned, inputs)
        problem = self._try_next(row)
        if problem == OVERLOADED:
            raise Unavailable(
                f"more requests wait for {self.name!r} already than can be answered in time.", "try again in a second"
            )
        self._enter(row)
        if problem is not None:
            self._unanswered(row)

    def _row(
        self, table: Table, inputs: dict[str, Any], request: PredictRequest, moment: Moment, done: Done
    ) -> InFlight:
        received_at, begun = moment
        request_id = self.ids.new(received_at)
        unit = request_id if request.unit is None else request.unit
        pinned = request.version is not None
        version, share = (table.pinned(request.version), 0.0) if pinned else assign(table.route, unit, received_at)
        return InFlight(
            inputs,
            begun,
            request_id=request_id,
            received_at=received_at,
            begun=begun,
            ends=begun + table.manifest.limits.timeout_s,
            unit=unit,
            subject=request.subject,
            table=table,
            assigned=version,
            share=share,
            chain=(table.versions[version],) if pinned else table.chain(version),
            done=done,
            pinned=pinned,
        )

    def _try_next(self, row: InFlight) -> str | None:
        """Queue a row for the next version that may answer it; return why there is none.

        Each version gets an equal part of the time that is left, so that one which hangs leaves some for the others.
        """
        reason: str | None = None
        now, limits = time.monotonic(), row.table.manifest.limits
        while row.chain:
            version, row.chain = row.chain[0], row.chain[1:]
            batcher = version.batcher
            if batcher is None:
                reason, detail = NOT_LOADED, f"version {version.number}: {version.problem}"
            elif batcher.is_stuck:
                reason, detail = TIMEOUT, f"version {version.number} is at work on a batch that timed out"
            elif batcher.num_waiting >= limits.max_waiting or batcher.wait_s > limits.max_wait_s:
                reason, detail = OVERLOADED, f"{batcher.num_waiting} requests wait for version {version.number}"
            else:
                row.deadline = now + (row.ends - now) / (1 + len(row.chain))
                batcher.put(row)
                return None
            if row.reason is None:
                row.reason, row.detail = reason, detail
        return reason or row.reason or NOT_LOADED

    # ---- what becomes of a batch

    def _done(self, version: Version, rows: Sequence[InFlight], scored: Scored) -> None:
        for table, part, scores in _by_table(*self._sort_out(version, rows, scored)):
            try:
                self._answered(table, version, part, scores)
            except Exception as error:  # an output's own code, which must not leave callers waiting
                for row in part:
                    self._failed(row, version, Failure(RAISED, f"deciding raised {type(error).__name__}: {error}"))

    def _sort_out(self, version: Version, rows: Sequence[InFlight], scored: Scored) -> tuple[Sequence[InFlight], Array]:
        """Send the rows that failed on, and return the others, without those that were given up meanwhile."""
        self._count_batch(version, len(rows), scored.seconds)
        good = []
        for i, row in enumerate(rows):
            if row.waits_in is not version.batcher:
                continue
            row.waits_in = None
            if i in scored.failures:
                self._failed(row, version, scored.failures[i])
            else:
                good.append(i)
        for i in scored.outliers.keys() - scored.failures.keys():
            self._note_outlier(version, rows[i], scored.outliers[i])
        if len(good) == len(rows):
            return rows, scored.scores
        return [rows[i] for i in good], scored.scores[good]

    def _note_outlier(self, version: Version, row: InFlight, names: list[str]) -> None:
        if row.done is not None:
            for name in names:
                self._metrics.outliers[self.name, str(version.number), name] += 1
        row.outlier = names

    def _answered(self, table: Table, version: Version, rows: Sequence[InFlight], scores: Array) -> None:
        predictions, model, named = self._predictions(table, version, rows, scores), self.name, table.named
        answers = [
            Answer(
                made.request_id,
                model,
                made.answered_version,
                made.decision,
                made.scores or [],
                made.abstained,
                made.fallback_reason,
                made.policy_version,
                made.top_k,
                named,
            )
            for made in predictions
        ]
        self._record(predictions, partial(self._reply, rows, answers))

    def _predictions(
        self, table: Table, version: Version, rows: Sequence[InFlight], scores: Array, latency_ms: float | None = None
    ) -> list[Prediction]:
        """Decide a batch and return its rows for the log."""
        decisions, abstained, top_k = table.policy.decide(table.manifest.schema.output, scores)
        now = time.monotonic()
        return [
            prediction(
                row,
                answered=version.number,
                latency_ms=(now - row.begun) * 1e3 if latency_ms is None else latency_ms,
                scores=listed,
                decision=decision,
                abstained=gave_up,
                top_k=best,
            )
            for row, decision, gave_up, best, listed in zip(
                rows, decisions, abstained, top_k or repeat(None, len(rows)), scores.tolist(), strict=True
            )
        ]

    def _failed(self, row: InFlight, version: Version, failure: Failure) -> None:
        version.note(self.name, failure.detail)
        if row.reason is None:
            row.reason, row.detail = failure
        if row.done is None:
            self._record([prediction(row, answered=0, latency_ms=0.0)], partial(self._leave, [row]))
        elif self._try_next(row) is not None:
            self._unanswered(row)

    def _unanswered(self, row: InFlight) -> None:
        """Log that nobody could answer, and say so."""
        latency_ms = (time.monotonic() - row.begun) * 1e3
        refusal = Unanswered(
            f"no version of {self.name!r} can answer: {row.reason}.", "see why at /v1/models", row.request_id
        )
        self._record([prediction(row, answered=0, latency_ms=latency_ms)], partial(self._reply, [row], [refusal]))

    # ---- the way out

    def _record(self, predictions: list[Prediction], release: Callable[[str | None], None]) -> None:
        self._recorder.add(Batch(project=self.name, predictions=predictions), release)

    def _reply(self, rows: Sequence[InFlight], answers: Sequence[Answer | Unavailable], problem: str | None) -> None:
        """Answer callers once the log has their rows, or refuse them when it has not; then start the shadows."""
        if problem is not None:
            answers = self._not_logged(answers, problem)
        for row, answer in zip(rows, answers, strict=True):
            assert row.done is not None
            row.done(answer)
            if row.reason is not None:
                self._metrics.fallbacks[self.name, str(row.assigned), row.reason] += 1
        self._count_replies(rows, answers)
        if problem is None and rows[0].table.route.shadows and isinstance(answers[0], Answer):
            self._shadow(rows, answers[0].version)
        self._leave(rows)

    def _not_logged(
        self, answers: Sequence[Answer | Unavailable], problem: str
    ) -> Sequence[Answer | Unavailable]:
        """Refuse what is not in the log, or, where that was asked for, answer it and say so."""
        if self._refuse:
            return [Unavailable(f"{problem}.", "free disk space, then try again")] * len(answers)
        self._metrics.unlogged[self.name,] += len(answers)
        for answer in answers:
            if isinstance(answer, Answer):
                answer.logged = False
        return answers

    def _count_replies(self, rows: Sequence[InFlight], answers: Sequence[Answer | Unavailable]) -> None:
        """Count what all rows of a batch were told: the answers of one version, or a refusal."""
        told, metrics = answers[0], self._metrics
        if isinstance(told, InvalidRequest):
            metrics.requests[self.name, "none", str(told.status)] += len(rows)
            return
        key = (self.name, str(told.version))
        metrics.requests[(*key, "200")] += len(rows)
        now, latency = time.monotonic(), metrics.latency[key]
        for begun, same in groupby(rows, _begun):
            latency.observe(now - begun, len(list(same)))

    def _enter(self, row: InFlight) -> None:
        self._rows.add(row)
        row.table.num_rows += 1

    def _leave(self, rows: Sequence[InFlight], _: str | None = None) -> None:
        for row in rows:
            self._rows.discard(row)
            row.table.num_rows -= 1

    def _count_batch(self, version: Version, num_rows: int, seconds: float) -> None:
        key = (self.name, str(version.number))
        self._metrics.batch_size[key].observe(num_rows)
        self._metrics.predict[key].observe(seconds)

    # ---- shadows

    def _shadow(self, rows: Sequence[InFlight], answered: int) -> None:
        """Let the shadow versions answer the requests of a batch too, for the log alone."""
        now, table = time.monotonic(), rows[0].table
        deadline = now + table.manifest.limits.timeout_s
        for number in table.route.shadows:
            if number == answered:
                continue
            version = table.versions[number]
            for row in rows:
                self._shadow_row(row, version, now, deadline)

    def _shadow_row(self, row: InFlight, version: Version, now: float, deadline: float) -> None:
        shadow = InFlight(
            row.inputs,
            deadline,
            request_id=row.request_id,
            received_at=row.received_at,
            begun=now,
            ends=now,
            unit=row.unit,
            subject=row.subject,
            table=row.table,
            assigned=version.number,
            share=row.share,
        )
        self._enter(shadow)
        if version.batcher is None:
            self._failed(shadow, version, Failure(NOT_LOADED, version.problem))
        elif not version.batcher.put_shadow(shadow):
            self._drop(shadow)

    def _drop(self, shadow: InFlight) -> None:
        """Forget a shadow that did not get its turn: that says nothing about its version."""
        self._metrics.shadows_dropped[self.name, str(shadow.assigned)] += 1
        self._leave([shadow])

    def _shadowed(self, version: Version, rows: Sequence[InFlight], scored: Scored) -> None:
        for table, part, scores in _by_table(*self._sort_out(version, rows, scored)):
            predictions = self._predictions(table, version, part, scores, latency_ms=scored.seconds * 1e3)
            self._record(predictions, partial(self._leave, part))

    # ---- time and change

    def sweep(self) -> None:
        """Send rows on that waited too long for a version, and close versions that nobody needs any more."""
        now = time.monotonic()
        late: dict[Batcher, list[InFlight]] = {}
        for row in self._rows:
            if row.waits_in is not None and row.deadline <= now:
                late.setdefault(row.waits_in, []).append(row)
        for version in self.fleet.versions if late else ():
            if version.batcher in late:
                self._give_up(version, late[version.batcher])
        self.fleet.close_unused()

    def _give_up(self, version: Version, rows: list[InFlight]) -> None:
        for row in rows:
            row.waits_in = None
            if row.done is None and not row.is_running:
                self._drop(row)
            else:
                self._failed(row, version, Failure(TIMEOUT, f"version {version.number} did not answer in time"))
        if version.batcher is not None:
            version.batcher.purge()

    def low_at(self, now: int) -> int:
        """Return the earliest `received_at` that is still to be logged, `now` when there is none."""
        return min((row.received_at for row in self._rows), default=now)

    @property
    def num_waiting(self) -> int:
        """Requests and shadows that are not logged yet."""
        return len(self._rows)


def _by_table(rows: Sequence[InFlight], scores: Array) -> Iterator[tuple[Table, Sequence[InFlight], Array]]:
    """Split a batch by the table each row was routed by; there are two only while a route changes."""
    tables = {row.table for row in rows}
    for table in tables:
        if len(tables) == 1:
            yield table, rows, scores
        else:
            index = [i for i, row in enumerate(rows) if row.table is table]
            yield table, [rows[i] for i in index], scores[index]
