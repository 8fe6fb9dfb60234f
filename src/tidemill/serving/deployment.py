"""One project being served: from validated inputs to a logged answer, with who stands in when a version fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter

import numpy as np

from tidemill.errors import InvalidRequest, Unavailable
from tidemill.records import Prediction
from tidemill.runtime.cache import Entry, ScoreCache, cache_key
from tidemill.runtime.ids import IdMaker
from tidemill.runtime.routing import routed, share_in_force
from tidemill.schema import Array, Parsed
from tidemill.serving.batching import NOT_LOADED, OVERLOADED, RAISED, TIMEOUT, Batcher, Failure, Scored
from tidemill.serving.fleet import Fleet
from tidemill.serving.metrics import Metrics
from tidemill.serving.protocol import Answer, Unanswered
from tidemill.serving.recorder import Recorder, Release
from tidemill.serving.rows import (
    Answers,
    Asked,
    Done,
    InFlight,
    Moment,
    by_table,
    copies,
    first_of_arm,
    predictions,
    shadow_of,
)
from tidemill.serving.table import Plan, Table, Version, Warm
from tidemill.stores.segments import Batch

_begun = attrgetter("begun")
_Replies = Callable[[], Sequence[Answer | Unavailable]]


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
        self._cache = ScoreCache(plan.manifest.cache_bytes)
        self.fleet = Fleet(plan, done=self._done, shadowed=self._shadowed, turn=recorder.turn)

    @property
    def table(self) -> Table:
        """The route in force, with its versions."""
        return self.fleet.table

    # ---- the way in

    def take(self, asked: Sequence[Asked], moment: Moment) -> None:
        """Answer requests that came together.

        Each one's `done` is called once: when its row is in the log, or, with what is wrong, when an input is not as
        declared or lies outside what the model learnt from and shall then be refused, when it is pinned to a version
        that is not served, when too many wait, or when nobody can answer.
        """
        table = self.table
        arms: dict[int, tuple[Callable[[], InFlight], list[InFlight]]] = {}
        hides, refused, validate = table.hides, table.refused, table.manifest.schema.validate
        route, share = table.route, share_in_force(table.route, moment.received_at)
        for (request, done), request_id in zip(asked, self.ids.several(moment.received_at, len(asked)), strict=True):
            try:
                inputs = request.inputs
                if hides or type(inputs) is not Parsed:
                    inputs = validate(inputs, key=self._secret)
                unit = request_id if request.unit is None else request.unit
                if request.version is None:
                    number = routed(route, unit, share) if share else route.stable
                else:
                    number = table.pinned(request.version)
                if refused:
                    table.refuse_outliers(number, inputs)
            except InvalidRequest as error:
                self.refuse(done, error)
                continue
            if number not in arms:
                arms[number] = copies(first_of_arm(table, number, share, moment)), []
            copy, arm = arms[number]
            row = copy()
            row.inputs = inputs
            row.request_id = request_id
            row.unit = unit
            row.subject = request.subject
            row.done = done
            if request.version is not None:
                row.pinned, row.share, row.chain = True, 0.0, row.chain[:1]
            arm.append(row)
        for number, (_, rows) in arms.items():
            version = table.versions[number]
            self._queue(version, self._unknown(version, rows) if table.manifest.cache_bytes else rows)

    def refuse(self, done: Done, error: InvalidRequest) -> None:
        """Refuse a request, and count it."""
        self._metrics.requests[self.name, "none", str(error.status)] += 1
        done(error)

    def _unknown(self, version: Version, rows: Sequence[InFlight]) -> Sequence[InFlight]:
        """Answer the rows whose scores are remembered, and return the others, each with its key."""
        if not isinstance(version.state, Warm):
            return rows
        table, names = rows[0].table, version.state.loaded.inputs
        hits, scores, others = [], [], []
        for row in rows:
            row.key = cache_key(version.number, row.inputs, names)
            entry = self._cache.get(row.key)
            if entry is None:
                others.append(row)
                continue
            if entry.outlier is not None:
                self._note_outlier(version, row, entry.outlier)
            hits.append(row)
            scores.append(entry.scores)
        if hits:
            self._metrics.cache_hits[self.name, str(version.number)] += len(hits)
            self._enter(hits)
            self._decide(table, version, hits, np.array(scores), cached=True)
        return others

    def _remember(self, version: Version, rows: Sequence[InFlight], scores: Array) -> None:
        for row, own in zip(rows, scores, strict=True):
            if row.key is not None and row.assigned == version.number:
                self._cache.put(row.key, Entry(own, row.outlier))
        self._metrics.cache_bytes[self.name,] = self._cache.num_bytes

    def _queue(self, version: Version, rows: Sequence[InFlight]) -> None:
        """Queue rows for the version they are for, as many as it can answer in time; see who else takes the others."""
        if not rows:
            return
        batcher, limits = version.batcher, rows[0].table.manifest.limits
        room = 0
        if batcher is not None and not batcher.is_stuck:
            room = batcher.room(limits.max_waiting, limits.max_wait_s)
        taken, others = rows[:room], rows[room:]
        if taken:
            assert batcher is not None
            for row in taken:
                row.waits_in, row.chain = batcher, row.chain[1:]
                row.deadline = row.begun + limits.timeout_s / (1 + len(row.chain))
            self._enter(taken)
            batcher.put_all(taken)
        for row in others:
            problem = self._try_next(row)
            if problem == OVERLOADED:
                assert row.done is not None
                self.refuse(
                    row.done, Unavailable(f"too many requests wait for {self.name!r}.", "try again in a second")
                )
                continue
            self._enter([row])
            if problem is not None:
                self._unanswered(row)

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
            elif not batcher.room(limits.max_waiting, limits.max_wait_s):
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
        for table, part, scores in by_table(*self._sort_out(version, rows, scored)):
            if table.manifest.cache_bytes:
                self._remember(version, part, scores)
            self._decide(table, version, part, scores)

    def _decide(
        self, table: Table, version: Version, rows: Sequence[InFlight], scores: Array, *, cached: bool = False
    ) -> None:
        try:
            self._answered(table, version, rows, scores, cached=cached)
        except Exception as error:  # an output's own code, which must not leave callers waiting
            for row in rows:
                self._failed(row, version, Failure(RAISED, f"deciding raised {type(error).__name__}: {error}"))

    def _sort_out(self, version: Version, rows: Sequence[InFlight], scored: Scored) -> tuple[Sequence[InFlight], Array]:
        """Send the rows that failed on, and return the others, without those that were given up meanwhile."""
        self._metrics.count_batch(self.name, version.number, len(rows), scored.seconds)
        batcher, good = version.batcher, []
        for i, row in enumerate(rows):
            if row.waits_in is batcher:
                row.waits_in = None
                good.append(i)
        for i in scored.outliers.keys() - scored.failures.keys():
            self._note_outlier(version, rows[i], scored.outliers[i])
        if scored.failures:
            for i in good:
                if i in scored.failures:
                    self._failed(rows[i], version, scored.failures[i])
            good = [i for i in good if i not in scored.failures]
        if len(good) == len(rows):
            return rows, scored.scores
        return [rows[i] for i in good], scored.scores[good]

    def _note_outlier(self, version: Version, row: InFlight, names: list[str]) -> None:
        if row.done is not None:
            for name in names:
                self._metrics.outliers[self.name, str(version.number), name] += 1
        row.outlier = names

    def _answered(
        self, table: Table, version: Version, rows: Sequence[InFlight], scores: Array, *, cached: bool
    ) -> None:
        decided = table.policy.decide(table.manifest.schema.output, scores)
        made = predictions(rows, version.number, None, scores.tolist(), decided)
        if cached:
            for row in made:
                row.cached = True
        answers = Answers(rows, made, self.name)
        self._record(made, partial(self._reply, rows, answers), answers.prepare)

    def _failed(self, row: InFlight, version: Version, failure: Failure) -> None:
        version.note(self.name, failure.detail)
        if row.reason is None:
            row.reason, row.detail = failure
        if row.done is None:
            self._record(predictions([row], 0, 0.0), partial(self._leave, [row]))
        elif self._try_next(row) is not None:
            self._unanswered(row)

    def _unanswered(self, row: InFlight) -> None:
        """Log that nobody could answer, and say so, or answer the declared default."""
        made, default = predictions([row], 0), self._default(row)
        if default is None:
            hint = "see why at /v1/models"
            refusal = Unanswered(f"no version of {self.name!r} can answer: {row.reason}.", hint, row.request_id)
            self._record(made, partial(self._reply, [row], lambda: [refusal]))
            return
        made[0].decision = default.decision
        self._record(made, partial(self._reply, [row], lambda: [default]))

    def _default(self, row: InFlight) -> Answer | None:
        """Return the declared default as an answer, of version 0 with scores of 0; None where there is none."""
        table = row.table
        default = table.manifest.default
        if default is None:
            return None
        scores = [0.0] * table.manifest.schema.output.num_scores
        why, policy = f"default: {row.reason}", table.route.policy_version
        return Answer(row.request_id, self.name, 0, default, scores, False, why, policy, None, table.named)

    # ---- the way out

    def _record(
        self, predictions: list[Prediction], release: Release, prepare: Callable[[], None] | None = None
    ) -> None:
        self._recorder.add(Batch(project=self.name, predictions=predictions), release, prepare)

    def _reply(self, rows: Sequence[InFlight], answers: _Replies, problem: str | None) -> None:
        """Answer callers once the log has their rows, or refuse them when it has not; then start the shadows."""
        told = answers() if problem is None else self._not_logged(answers, len(rows), problem)
        for row, answer in zip(rows, told, strict=True):
            assert row.done is not None
            row.done(answer)
            if row.reason is not None:
                self._metrics.fallbacks[self.name, str(row.assigned), row.reason] += 1
        self._count_replies(rows, told)
        if problem is None and rows[0].table.route.shadows and isinstance(told[0], Answer):
            self._shadow(rows, told[0].version)
        self._leave(rows)

    def _not_logged(self, answers: _Replies, num: int, problem: str) -> Sequence[Answer | Unavailable]:
        """Refuse what is not in the log, or, where that was asked for, answer it and say so."""
        if self._refuse:
            return [Unavailable(f"{problem}.", "free disk space, then try again")] * num
        self._metrics.unlogged[self.name,] += num
        told = answers()
        for answer in told:
            if isinstance(answer, Answer):
                answer.logged = False
        return told

    def _count_replies(self, rows: Sequence[InFlight], answers: Sequence[Answer | Unavailable]) -> None:
        """Count what all rows of a batch were told: the answers of one version, or a refusal."""
        told, metrics = answers[0], self._metrics
        if isinstance(told, InvalidRequest):
            metrics.requests[self.name, "none", str(told.status)] += len(rows)
            return
        metrics.count_answers(self.name, told.version, map(_begun, rows))

    def _enter(self, rows: Sequence[InFlight]) -> None:
        self._rows.update(rows)
        rows[0].table.num_rows += len(rows)

    def _leave(self, rows: Sequence[InFlight], _: str | None = None) -> None:
        """Forget rows of one table."""
        self._rows.difference_update(rows)
        rows[0].table.num_rows -= len(rows)

    # ---- shadows

    def _shadow(self, rows: Sequence[InFlight], answered: int) -> None:
        """Let the shadow versions answer the requests of a batch too, for the log alone."""
        now, table = time.monotonic(), rows[0].table
        deadline = now + table.manifest.limits.timeout_s
        for number in table.route.shadows:
            if number == answered:
                continue
            version = table.versions[number]
            shadows = [shadow_of(row, version, now, deadline) for row in rows]
            self._enter(shadows)
            if version.batcher is None:
                for shadow in shadows:
                    self._failed(shadow, version, Failure(NOT_LOADED, version.problem))
                continue
            for shadow in version.batcher.put_shadows(shadows):
                self._drop(shadow)

    def _drop(self, shadow: InFlight) -> None:
        """Forget a shadow that did not get its turn: that says nothing about its version."""
        self._metrics.shadows_dropped[self.name, str(shadow.assigned)] += 1
        self._leave([shadow])

    def _shadowed(self, version: Version, rows: Sequence[InFlight], scored: Scored) -> None:
        for table, part, scores in by_table(*self._sort_out(version, rows, scored)):
            decided = table.policy.decide(table.manifest.schema.output, scores)
            made = predictions(part, version.number, scored.seconds * 1e3, scores.tolist(), decided)
            self._record(made, partial(self._leave, part))

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
        self._cache.resize(self.table.manifest.cache_bytes)

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
