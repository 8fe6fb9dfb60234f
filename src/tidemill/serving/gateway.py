"""The gateway without a transport: every project that is served, feedback, time, and what is told about health."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from tidemill.clock import Clock, micros
from tidemill.errors import InvalidInput, InvalidRequest, Malformed, NotFound, TooLarge, Unavailable
from tidemill.records import Feedback
from tidemill.serving.deployment import Deployment
from tidemill.serving.feedback import judge
from tidemill.serving.metrics import Metrics
from tidemill.serving.profiles import judge_profile
from tidemill.serving.protocol import MAX_NAME_CHARS, Answer, FeedbackItem, PredictRequest, ProfileItem
from tidemill.serving.recorder import Recorder
from tidemill.serving.rows import Done, Moment
from tidemill.serving.table import Plan
from tidemill.serving.tokens import ANYBODY, Caller
from tidemill.stores.segments import Batch
from tidemill.stores.tokens import Scope

TICK_S = 0.125

_logger = logging.getLogger(__name__)


def check_size(num_bytes: int, limit: int) -> None:
    """Refuse a body of more than `limit` bytes.

    Raises:
        TooLarge: it is larger.
    """
    if num_bytes > limit:
        raise TooLarge(f"the body is larger than {limit} bytes.", "send less, or raise the project's max_body_bytes")


def check_name(field: str, value: str | None) -> None:
    """Refuse a unit or subject that is empty or too long.

    Raises:
        InvalidInput: it is.
    """
    if value is not None and not 0 < len(value) <= MAX_NAME_CHARS:
        raise InvalidInput(
            f"{field!r} has {len(value)} characters.", f"send 1 to {MAX_NAME_CHARS}, or leave it out", field
        )


class Gateway:
    """Answers predictions and takes feedback for all projects. Every method is called in the event loop.

    With `refuse_unlogged` (the default) a prediction that cannot be logged is refused; without it, it is answered.
    Feedback is never acknowledged before it is written.
    """

    def __init__(self, recorder: Recorder, metrics: Metrics, clock: Clock, *, refuse_unlogged: bool = True) -> None:
        self.deployments: dict[str, Deployment] = {}
        self.published: Collection[str] = ()
        self.routes_problem = ""
        self._recorder, self._metrics, self._clock, self._refuse = recorder, metrics, clock, refuse_unlogged
        self._latest = 0
        self.turn = recorder.turn

    async def predict(self, request: PredictRequest, *, num_bytes: int = 0) -> Answer:
        """Answer one request, which came in a body of `num_bytes`.

        Raises:
            InvalidRequest: the model is unknown, an input is not as declared, or nobody can answer now.
        """
        told: asyncio.Future[Answer | InvalidRequest] = asyncio.get_running_loop().create_future()

        def done(answer: Answer | InvalidRequest) -> None:
            if not told.done():  # the caller may have gone
                told.set_result(answer)

        self.submit(request, self.moment(), done, num_bytes=num_bytes)
        answer = await told
        if isinstance(answer, InvalidRequest):
            raise answer
        return answer

    def submit(self, request: PredictRequest, moment: Moment, done: Done, *, num_bytes: int = 0) -> None:
        """Take one request that came at `moment`: `done` is called with the answer or the refusal, now or later."""
        project = ""
        try:
            deployment = self.deployment(request.model)
            project = deployment.name
            check_size(num_bytes, deployment.table.manifest.limits.max_body_bytes)
            check_name("unit", request.unit)
            check_name("subject", request.subject)
        except InvalidRequest as error:
            self.count_refusal(project, error)
            done(error)
        else:
            deployment.take([(request, done)], moment)

    def moment(self) -> Moment:
        """Return now, for requests that came together."""
        return Moment(self.now(), time.monotonic())

    def count_refusal(self, project: str, error: InvalidRequest) -> None:
        """Count a prediction that was refused; `project` is empty where it is not known."""
        self._metrics.requests[project, "none", str(error.status)] += 1

    async def feedback(self, items: list[FeedbackItem], *, listed: bool, caller: Caller = ANYBODY) -> int:
        """Write feedback, all items or none, and return their number.

        Raises:
            InvalidRequest: an item's request id was not given here, or what it says is not as declared. Of a list,
                the message names the item.
            Unavailable: it could not be written.
        """
        told: asyncio.Future[InvalidRequest | None] = asyncio.get_running_loop().create_future()

        def done(refusal: InvalidRequest | None) -> None:
            if not told.done():  # the caller may have gone
                told.set_result(refusal)

        self.give(items, done, listed=listed, caller=caller)
        refusal = await told
        try:
            if refusal is not None:
                raise refusal
        finally:
            del refusal  # which knows this frame by now: both would wait for the collector
        return len(items)

    def give(
        self,
        items: list[FeedbackItem],
        done: Callable[[InvalidRequest | None], None],
        *,
        listed: bool,
        caller: Caller = ANYBODY,
    ) -> None:
        """Write feedback, all items or none: `done` is called with None once all is written, or with the refusal.

        Raises:
            InvalidRequest: as `feedback` does, but for what cannot be written.
        """
        rows: dict[str, list[Feedback]] = {}
        now = self.now()
        for index, item in enumerate(items):
            deployment, row = judge(
                item, self.deployments.values(), now, index=index if listed else None, caller=caller
            )
            rows.setdefault(deployment.name, []).append(row)
        problems: list[str] = []
        missing = len(rows)

        def release(problem: str | None) -> None:
            nonlocal missing
            missing -= 1
            problems.extend(() if problem is None else (problem,))
            if not missing:
                done(self._given(rows, problems))

        if not rows:
            done(None)
        for project, batch in rows.items():
            self._recorder.add(Batch(project=project, feedback=batch), release)

    async def profile(self, item: ProfileItem, caller: Caller = ANYBODY) -> None:
        """Write what a device says of the rows it saw.

        Raises:
            InvalidRequest: there is no such project, or it takes no such profile.
            Unavailable: it could not be written.
        """
        deployment = self.deployment(caller.enter(item.model, Scope.FEEDBACK))
        row = judge_profile(item, deployment.table.manifest, self.now())
        told: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

        def done(problem: str | None) -> None:
            if not told.done():  # the caller may have gone
                told.set_result(problem)

        self._recorder.add(Batch(project=deployment.name, profiles=[row]), done)
        problem = await told
        if problem is not None:
            raise Unavailable(f"{problem}.", "nothing was taken; send it again later")

    def _given(self, rows: Mapping[str, Sequence[Feedback]], problems: Sequence[str]) -> Unavailable | None:
        if problems:
            return Unavailable(f"{problems[0]}.", "nothing was taken; send it again later")
        for project, batch in rows.items():
            for row in batch:
                self._metrics.feedback[project, row.kind] += 1
        return None

    @property
    def only(self) -> Deployment | None:
        """The deployment of the only project, None where there are none or several."""
        return next(iter(self.deployments.values())) if len(self.deployments) == 1 else None

    def deployment(self, name: str | None) -> Deployment:
        """Return the deployment of a project, or the only one.

        Raises:
            NotFound: no such project is published.
            Malformed: none is named, and there are several.
            Unavailable: the project has no live version yet.
        """
        if name is None and len(self.deployments) > 1:
            raise Malformed("the body names no model.", f'send "model": one of {", ".join(self.deployments)}')
        if name is None:
            name = next(iter(self.deployments or self.published), "")
        found = self.deployments.get(name)
        if found is not None:
            return found
        if name in self.published or not self.published:
            raise Unavailable("no version is live yet.", "make one with `tidemill train DATA`")
        raise NotFound(f"no model {name[:60]!r} is served here.", f"it serves {', '.join(sorted(self.published))}")

    def install(self, plan: Plan) -> None:
        """Serve a project by this plan from now on."""
        name = plan.manifest.project
        if name in self.deployments:
            self.deployments[name].fleet.switch(plan)
        else:
            self.deployments[name] = Deployment(
                plan, recorder=self._recorder, metrics=self._metrics, now=self.now, refuse=self._refuse
            )
        self._metrics.route_revision[name,] = plan.route.revision

    def note_routes(self, problem: str, published: Collection[str]) -> None:
        """Remember what keeps the routes from being read (empty when they can be), and which projects there are."""
        self.routes_problem, self.published = problem, published

    def max_body_bytes(self) -> int:
        """Return the largest body that any project takes."""
        sizes = [d.table.manifest.limits.max_body_bytes for d in self.deployments.values()]
        return max(sizes, default=1 << 16)

    def now(self) -> int:
        """Return the time in microseconds; it never goes back, whatever happens to the machine's clock."""
        self._latest = max(self._latest, micros(self._clock.now()))
        return self._latest

    def tick(self) -> None:
        """Do what time asks for: time-outs, sealing the segment, telling readers how far the log is complete."""
        for deployment in self.deployments.values():
            deployment.sweep()
        now = self.now()
        self._recorder.tick(min((d.low_at(now) for d in self.deployments.values()), default=now))
        self._metrics.log_writable[()] = int(self._recorder.failure is None)
        self._metrics.waiting[()] = sum(d.num_waiting for d in self.deployments.values())

    async def keep_time(self) -> None:
        """Tick until cancelled."""
        while True:
            due = time.monotonic() + TICK_S
            await asyncio.sleep(TICK_S)
            if time.monotonic() - due > TICK_S:  # this process stood still: what threads did meanwhile is told first
                await asyncio.sleep(TICK_S)
            try:
                self.tick()
            except Exception:  # a tick that fails must not be the last one
                _logger.exception("a tick failed")

    async def close(self) -> None:
        """Write and seal what there is, then let go of all versions."""
        await self._recorder.close()
        for deployment in self.deployments.values():
            await deployment.fleet.close()

    def problems(self) -> list[str]:
        """Return why this gateway is not ready; an empty list when it is."""
        found = [
            f"{name}: no version that may answer is loaded: {version.problem}"
            for name, deployment in self.deployments.items()
            if not deployment.table.is_ready
            for version in deployment.table.chain(deployment.table.route.stable)[:1]
        ]
        if not self.deployments:
            found.append("no project has a live version yet")
        if self._refuse and self._recorder.failure is not None:
            found.append(self._recorder.failure)
        return found

    def warnings(self) -> list[str]:
        """Return what is wrong and does not keep it from answering."""
        found = [
            f"{name}: version {number} is not loaded: {version.problem}"
            for name, deployment in self.deployments.items()
            for number, version in deployment.table.versions.items()
            if version.problem and not version.is_other
        ]
        unlogged = "" if self._refuse else self._recorder.failure
        return [*found, *filter(None, (self.routes_problem, unlogged, self._recorder.unsealed))]

    def log_state(self) -> dict[str, Any]:
        """Return how logging goes, for people."""
        return {
            "writable": self._recorder.failure is None,
            "problem": self._recorder.failure or self._recorder.unsealed or "",
            "on_failure": "refuse" if self._refuse else "answer",
            "failures": self._metrics.log_failures[()],
            "unlogged": sum(self._metrics.unlogged.values()),
        }

    def describe(self, name: str) -> dict[str, Any]:
        """Return the route of a project and the state of its versions."""
        table = self.deployment(name).table
        route = table.route
        return {
            "name": name,
            "route": {
                "revision": route.revision,
                "stable": route.stable,
                "candidate": route.candidate,
                "share": route.share,
                "fallback": route.fallback,
                "shadows": list(route.shadows),
                "policy": route.policy_version,
                "rollout": route.rollout,
                "lapses_at": None if route.lapses_at is None else route.lapses_at.isoformat(),
            },
            "versions": [version.describe() for version in table.versions.values()],
        }
