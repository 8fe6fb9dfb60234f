"""What one route of one project needs in order to answer: its versions, loaded or not, and who stands in for whom."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tidemill.errors import NotFound
from tidemill.manifest import Manifest
from tidemill.policy import Policy
from tidemill.records import Prediction, Route
from tidemill.runtime.load import Loaded
from tidemill.schema import Sensitive
from tidemill.serving.batching import Batcher
from tidemill.serving.protocol import by_name
from tidemill.serving.reading import Reader
from tidemill.strategy.log import Everything

_TELL_EVERY_S = 5.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Warm:
    """A loaded version and the seconds that a full warm batch takes."""

    loaded: Loaded
    batch_s: float


@dataclass(frozen=True)
class Unloaded:
    """A version that cannot answer, and why: with `is_other` because it was trained on another schema than is in force.

    That is as it should be of the version before, once one of another schema has been promoted.
    """

    problem: str
    is_other: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the gateway shall serve of a project from now on.

    `policy` is the route's, by its number. `versions` has all of `route.versions()`, and `spare`: the last stable
    version that could be loaded, kept while the route's own cannot.
    """

    manifest: Manifest
    secret: bytes
    route: Route
    policy: Policy
    versions: Mapping[int, Warm | Unloaded]
    spare: int | None = None


@dataclass(eq=False)
class Version:
    """A version at work in this process."""

    number: int
    state: Warm | Unloaded
    batcher: Batcher | None = None
    last_error: str = ""
    _told_at: float = float("-inf")

    @property
    def problem(self) -> str:
        """Why it cannot answer, empty when it can."""
        return self.state.problem if isinstance(self.state, Unloaded) else ""

    @property
    def is_other(self) -> bool:
        """Whether it was trained on another schema than is in force."""
        return isinstance(self.state, Unloaded) and self.state.is_other

    @property
    def _standing(self) -> str:
        if not self.problem:
            return "ready"
        return "other schema" if self.is_other else "failed"

    def note(self, project: str, error: str) -> None:
        """Remember why it failed last, and tell it in the log, but not once for every request."""
        self.last_error = error
        now = time.monotonic()
        if now - self._told_at > _TELL_EVERY_S:
            self._told_at = now
            _logger.warning("version %s of %s failed: %s", self.number, project, error)

    def describe(self) -> dict[str, Any]:
        """Return its state, for people."""
        about: dict[str, Any] = {"version": self.number, "state": self._standing}
        if isinstance(self.state, Warm):
            assert self.batcher is not None
            runs = "process" if self.state.loaded.is_python else "loop" if self.batcher.inline else "thread"
            about |= {"device": self.state.loaded.device, "copies": self.state.loaded.copies}
            about |= {"runs_in": runs, "batch_ms": round(self.state.batch_s * 1e3, 3)}
        return about | {"problem": self.problem, "last_error": self.last_error}

    def close(self) -> asyncio.Future[None] | None:
        """Let go of the model, in a thread: ending a worker process takes a moment."""
        if self.batcher is not None:
            self.batcher.close()
        if isinstance(self.state, Unloaded):
            return None
        return asyncio.get_running_loop().run_in_executor(None, self.state.loaded.close)


@dataclass(eq=False)
class Table:
    """A route with its versions. `num_rows` requests that were routed by it are not answered yet."""

    manifest: Manifest
    route: Route
    policy: Policy
    versions: Mapping[int, Version]
    spare: int | None
    num_rows: int = 0
    _chains: dict[int, tuple[Version, ...]] = field(default_factory=dict)

    @cached_property
    def class_names(self) -> tuple[str, ...] | None:
        """What the scores stand for, None when they have no names."""
        return getattr(self.manifest.schema.output, "names", None)

    @cached_property
    def named(self) -> Callable[..., Any] | None:
        """What makes an object of scores by class, None when they have no names."""
        return None if self.class_names is None else by_name(self.class_names)

    @cached_property
    def reader(self) -> Reader:
        """What reads the bodies of predictions."""
        return Reader(self.manifest.schema)

    @cached_property
    def hides(self) -> bool:
        """Whether an input is sensitive."""
        return any(isinstance(kind, Sensitive) for kind in self.manifest.schema.inputs.values())

    @cached_property
    def blank(self) -> Prediction:
        """A row of the log with all that is the same for each request routed by this table."""
        route = self.route
        return Prediction(
            request_id="",
            received_at=0,
            role="answer",
            unit="",
            subject=None,
            rollout=route.rollout,
            share=0.0,
            salt=route.salt,
            route_revision=route.revision,
            assigned_version=0,
            answered_version=0,
            fallback_reason=None,
            error=None,
            policy_version=route.policy_version,
            tags={},
            inputs=None,
            scores=None,
            decision=None,
            abstained=False,
            cached=False,
            latency_ms=0.0,
            keep_probability=1.0,
        )

    @cached_property
    def keeps_all(self) -> bool:
        """Whether the log has the inputs of every request."""
        return isinstance(self.manifest.log, Everything)

    @cached_property
    def tags(self) -> tuple[str, ...]:
        """Names of the inputs that are logged as tags."""
        return self.manifest.schema.tags

    @cached_property
    def refused(self) -> tuple[str, ...]:
        """Names of the inputs whose outliers are refused."""
        return self.manifest.schema.refused

    def refuse_outliers(self, number: int, inputs: Mapping[str, Any]) -> None:
        """Refuse a request with an outlier that is to be refused, as the version knows it that shall answer.

        Raises:
            InvalidInput: it has one.
        """
        state = self.versions[number].state
        if isinstance(state, Warm):
            state.loaded.ranges.refuse(inputs, self.refused)

    @property
    def is_ready(self) -> bool:
        """Whether somebody can answer for the stable version."""
        return any(not version.problem for version in self.chain(self.route.stable))

    def pinned(self, number: int) -> int:
        """Return the number of a version that a request asks for.

        Raises:
            NotFound: the route does not name it.
        """
        if number not in self.versions:
            raise NotFound(
                f"version {number} of {self.manifest.project!r} is not served.",
                f"it serves {', '.join(map(str, self.versions))}",
            )
        return number

    def chain(self, assigned: int) -> tuple[Version, ...]:
        """Return who may answer for version `assigned`, in order: itself, the stable one, the fallback, the spare."""
        chain = self._chains.get(assigned)
        if chain is None:
            wanted = dict.fromkeys((assigned, self.route.stable, self.route.fallback, self.spare))
            chain = tuple(self.versions[number] for number in wanted if number is not None)
            self._chains[assigned] = chain
        return chain
