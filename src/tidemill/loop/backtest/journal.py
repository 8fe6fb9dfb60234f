"""The journal and the catalog of a backtest: what is asked at every turn is remembered, for nobody else writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection

from tidemill.policy import Policy
from tidemill.records import Cycle, Json, ModelVersion, Route, Verdict
from tidemill.stores.catalog import Catalog, PolicyVersion
from tidemill.stores.commands import Command
from tidemill.stores.database import Database, dumps, loads
from tidemill.stores.journal import Journal, Lease

_T = TypeVar("_T")


class _Remembered:
    """Answers by question, until something is written that may change them."""

    def __init__(self) -> None:
        self._answers: dict[tuple[object, ...], Any] = {}

    def get(self, question: tuple[object, ...], ask: Callable[[], _T]) -> _T:
        if question not in self._answers:
            self._answers[question] = ask()
        answer: _T = self._answers[question]
        return answer

    def forget(self, *about: str) -> None:
        """Forget the answers to these questions."""
        for question in [known for known in self._answers if known[0] in about]:
            del self._answers[question]


class MemoryJournal(Journal):
    """Answers what `Journal` answers; states and steps are kept as text, so that no two share a value."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self._states: dict[tuple[str, str], str] = {}
        self._steps: dict[tuple[str, int, str], str] = {}
        self._remembered = _Remembered()

    @contextmanager
    def write(self, lease: Lease, *, now: datetime) -> Iterator[Connection]:
        """Give a write transaction: there is nobody who could have taken the lease over."""
        with self._db.begin() as conn:
            yield conn

    def state(self, project: str, name: str) -> Json | None:
        """Return a stage's state, None before the first."""
        body = self._states.get((project, name))
        return None if body is None else loads(body)

    def put_state(self, conn: Connection, project: str, name: str, body: Json, now: datetime) -> None:
        """Keep a stage's state instead of the one before."""
        self._states[project, name] = dumps(body)

    def step(self, project: str, number: int, name: str) -> Json | None:
        """Return what a step did, None when it was not done."""
        body = self._steps.get((project, number, name))
        return None if body is None else loads(body)

    def record(self, conn: Connection, project: str, number: int, name: str, body: Json, now: datetime) -> bool:
        """Keep what a step of a cycle did; return False, and keep the first, when it was done already."""
        known = (project, number, name) in self._steps
        self._steps.setdefault((project, number, name), dumps(body))
        return not known

    def cycle(self, project: str) -> Cycle | None:
        """Return the open cycle, None between cycles."""
        return next((cycle for cycle in self.cycles(project) if cycle.closed_at is None), None)

    def cycles(self, project: str) -> list[Cycle]:
        """Return every cycle, oldest first."""
        return self._remembered.get(("cycles", project), lambda: super(MemoryJournal, self).cycles(project))

    def open_cycle(
        self, conn: Connection, project: str, *, trigger: Verdict, strategy: str, step: str, now: datetime
    ) -> int:
        """Begin a cycle and return its number."""
        self._remembered.forget("cycles")
        return super().open_cycle(conn, project, trigger=trigger, strategy=strategy, step=step, now=now)

    def move(
        self, conn: Connection, project: str, number: int, *, step: str | None = None, candidate: int | None = None,
        dataset: str | None = None,
    ) -> None:  # fmt: skip
        """Note where the open cycle is and what it made."""
        self._remembered.forget("cycles")
        super().move(conn, project, number, step=step, candidate=candidate, dataset=dataset)

    def close_cycle(
        self, conn: Connection, project: str, number: int, *, outcome: str, reason: str, now: datetime
    ) -> None:
        """End the open cycle."""
        self._remembered.forget("cycles")
        super().close_cycle(conn, project, number, outcome=outcome, reason=reason, now=now)

    def waiting(self, project: str) -> list[Command]:
        """Return the word of somebody who approves whatever waits for approval; nobody says anything else."""
        cycle = self.cycle(project)
        if cycle is None or cycle.step != "test" or cycle.candidate is None:
            return []
        args = {"version": cycle.candidate, "reason": "a backtest approves"}
        return [Command(id=-cycle.number, verb="approve", args=args, by="backtest", at=cycle.opened_at)]


class MemoryCatalog(Catalog):
    """Answers what `Catalog` answers."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self._remembered = _Remembered()

    def publish(self, conn: Connection, manifest: Json, strategy: Json, *, file: str, now: datetime) -> int:
        """Make this declaration the one in force."""
        self._remembered.forget("route", "policy", "models")
        return super().publish(conn, manifest, strategy, file=file, now=now)

    def route(self, project: str) -> Route | None:
        """Return the route in force, None before the first."""
        return self._remembered.get(("route", project), lambda: super(MemoryCatalog, self).route(project))

    def set_route(self, conn: Connection, project: str, route: Route, *, now: datetime, by: str, reason: str) -> Route:
        """Replace the route."""
        self._remembered.forget("route", "policy")
        return super().set_route(conn, project, route, now=now, by=by, reason=reason)

    def renew(self, conn: Connection, project: str, rollout: str, lapses_at: datetime) -> bool:
        """Do nothing: a share does not lapse, for the loop is always there."""
        return True

    def policy_in_force(self, project: str) -> PolicyVersion:
        """Return the policy that the route names."""
        return self._remembered.get(("policy", project), lambda: super(MemoryCatalog, self).policy_in_force(project))

    def model(self, project: str, version: int) -> ModelVersion:
        """Return one version."""
        found = [model for model in self.models(project) if model.version == version]
        return found[0] if found else super().model(project, version)

    def models(self, project: str) -> list[ModelVersion]:
        """Return every version, oldest first."""
        return self._remembered.get(("models", project), lambda: super(MemoryCatalog, self).models(project))

    def add_model(self, conn: Connection, project: str, model: ModelVersion) -> int:
        """Add a version and return its number."""
        self._remembered.forget("models")
        return super().add_model(conn, project, model)

    def set_status(self, conn: Connection, project: str, version: int, status: str) -> None:
        """Say what became of a version."""
        self._remembered.forget("models")
        super().set_status(conn, project, version, status)

    def add_policy(
        self, conn: Connection, project: str, policy: Policy, *, now: datetime, by: str, reason: str
    ) -> PolicyVersion:
        """Keep a policy under the next number."""
        self._remembered.forget("policy")
        return super().add_policy(conn, project, policy, now=now, by=by, reason=reason)

    def paused_at(self, project: str) -> datetime | None:
        """Return None: nobody pauses a backtest."""
        return None
