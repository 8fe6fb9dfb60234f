"""The journal of a backtest, in memory: nobody else writes it, and it is gone after the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from tidemill.records import Cycle, Json, Verdict
from tidemill.stores.cycles import no_cycle, no_open_cycle, open_already, text_of, verdict_of
from tidemill.stores.database import Database, dumps, loads
from tidemill.stores.journal import Command, GivenVerdict, Journal, Lease


class MemoryJournal(Journal):
    """Answers what `Journal` answers, of one project. A write cannot be undone.

    States, steps and verdicts are kept as text, so that no two share a value and each is read as the tables give it.
    """

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self._states: dict[str, str] = {}
        self._steps: dict[tuple[int, str], str] = {}
        self._cycles: list[Cycle] = []
        self._verdicts: list[tuple[int | None, str, str, datetime]] = []

    # --- leases

    def acquire(self, name: str, holder: str, *, now: datetime, ttl: timedelta) -> Lease | None:
        """Give the lease: there is nobody else who could want it."""
        return Lease(name=name, holder=holder, token=1, expires_at=now + ttl)

    def renew(self, lease: Lease, *, now: datetime, ttl: timedelta) -> Lease:
        """Hold the lease for `ttl` from now."""
        return replace(lease, expires_at=now + ttl)

    def release(self, lease: Lease) -> None:
        """Do nothing: nobody waits for it."""

    @contextmanager
    def write(self, lease: Lease, *, now: datetime) -> Iterator[Connection]:
        """Give a write transaction: there is nobody who could have taken the lease over."""
        with self._db.begin() as conn:
            yield conn

    # --- states and steps

    def state(self, project: str, name: str) -> Json | None:
        """Return a stage's state, None before the first."""
        body = self._states.get(name)
        return None if body is None else loads(body)

    def put_state(self, conn: Connection, project: str, name: str, body: Json, now: datetime) -> None:
        """Keep a stage's state instead of the one before."""
        self._states[name] = dumps(body)

    def step(self, project: str, number: int, name: str) -> Json | None:
        """Return what a step did, None when it was not done."""
        body = self._steps.get((number, name))
        return None if body is None else loads(body)

    def record(self, conn: Connection, project: str, number: int, name: str, body: Json, now: datetime) -> bool:
        """Keep what a step of a cycle did; return False, and keep the first, when it was done already."""
        if not 1 <= number <= len(self._cycles):
            raise no_cycle(project, number)
        if (number, name) in self._steps:
            return False
        self._steps[number, name] = dumps(body)
        return True

    # --- cycles

    def cycle(self, project: str) -> Cycle | None:
        """Return the open cycle, None between cycles: only the newest can be open."""
        newest = self._cycles[-1] if self._cycles else None
        return newest if newest is not None and newest.closed_at is None else None

    def cycles(self, project: str) -> list[Cycle]:
        """Return every cycle, oldest first."""
        return list(self._cycles)

    def open_cycle(
        self, conn: Connection, project: str, *, trigger: Verdict, strategy: str, step: str, now: datetime
    ) -> int:
        """Begin a cycle and return its number."""
        known = self.cycle(project)
        if known is not None:
            raise open_already(project, known.number, known.step)
        number, kept = len(self._cycles) + 1, verdict_of(text_of(trigger))
        self._cycles.append(Cycle(number=number, opened_at=now, trigger=kept, strategy=strategy, step=step))
        return number

    def move(
        self, conn: Connection, project: str, number: int, *, step: str | None = None, candidate: int | None = None,
        dataset: str | None = None,
    ) -> None:  # fmt: skip
        """Note where the open cycle is and what it made; what is None stays as it is."""
        known = self._open(project, number)
        self._cycles[-1] = replace(
            known,
            step=known.step if step is None else step,
            candidate=known.candidate if candidate is None else candidate,
            dataset=known.dataset if dataset is None else dataset,
        )

    def close_cycle(
        self, conn: Connection, project: str, number: int, *, outcome: str, reason: str, now: datetime
    ) -> None:
        """End the open cycle: promoted, rejected, rolled back or failed."""
        known = self._open(project, number)
        self._cycles[-1] = replace(known, outcome=outcome, reason=reason, closed_at=now)

    def _open(self, project: str, number: int) -> Cycle:
        known = self.cycle(project)
        if known is None or known.number != number:
            raise no_open_cycle(project, number)
        return known

    def add_verdict(
        self, conn: Connection, project: str, verdict: Verdict, *, cycle: int | None, step: str, now: datetime
    ) -> None:
        """Keep a verdict that a step was given."""
        self._verdicts.append((cycle, step, text_of(verdict), now))

    def verdicts(self, project: str, cycle: int | None = None, limit: int = 100) -> list[GivenVerdict]:
        """Return the newest verdicts, newest first; of one cycle if it is named."""
        wanted = [one for one in self._verdicts[::-1] if cycle is None or one[0] == cycle][:limit]
        return [
            GivenVerdict(cycle=number, step=step, verdict=verdict_of(text), at=at) for number, step, text, at in wanted
        ]

    # --- commands

    def waiting(self, project: str) -> list[Command]:
        """Return the word of somebody who approves whatever waits for approval; nobody says anything else."""
        cycle = self.cycle(project)
        if cycle is None or cycle.step != "test" or cycle.candidate is None:
            return []
        args = {"version": cycle.candidate, "reason": "a backtest approves"}
        return [Command(id=-cycle.number, verb="approve", args=args, by="backtest", at=cycle.opened_at)]

    def handle(self, conn: Connection, id: int, result: Json, now: datetime) -> bool:
        """Do nothing: nobody waits to be told."""
        return True
