"""Cycles: what the loop did in each trip round, and why, so that a loop killed anywhere goes on where it was."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from tidemill.clock import from_micros, micros
from tidemill.errors import Conflict, StoreError
from tidemill.records import Cycle, Json, Verdict
from tidemill.stores.database import Database, dumps, loads
from tidemill.stores.projects import lock_project
from tidemill.stores.rows import insert_once, next_number
from tidemill.stores.tables import cycles, steps, verdicts


@dataclass(frozen=True, kw_only=True)
class GivenVerdict:
    """A verdict with the step that asked for it; `cycle` is None outside a cycle, as for the trigger."""

    cycle: int | None
    step: str
    verdict: Verdict
    at: datetime


class Cycles:
    """Keeps cycles, the steps done in them and the verdicts given, by project."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def open_cycle(
        self, conn: Connection, project: str, *, trigger: Verdict, strategy: str, step: str, now: datetime
    ) -> int:
        """Begin a cycle and return its number.

        Raises:
            Conflict: the project has one open.
            StoreError: no such project was published.
        """
        lock_project(conn, project)
        row = conn.execute(select(cycles).where(cycles.c.project == project, cycles.c.closed_at.is_(None))).first()
        if row is not None:
            raise open_already(project, row.number, row.step)
        number = next_number(conn, cycles.c.number, project)
        values = {
            "opened_at": micros(now),
            "trigger": text_of(trigger),
            "strategy": strategy,
            "step": step,
            "reason": "",
        }
        conn.execute(insert(cycles).values(project=project, number=number, **values))
        return number

    def cycle(self, project: str) -> Cycle | None:
        """Return the open cycle, None between cycles."""
        with self._db.read() as conn:
            return self.cycle_within(conn, project)

    def cycle_within(self, conn: Connection, project: str) -> Cycle | None:
        """Return the open cycle as a transaction sees it, None between cycles."""
        is_open = (cycles.c.project == project, cycles.c.closed_at.is_(None))
        row = conn.execute(select(cycles).where(*is_open)).first()
        return None if row is None else _cycle(row)

    def cycles(self, project: str) -> list[Cycle]:
        """Return every cycle, oldest first."""
        with self._db.read() as conn:
            rows = conn.execute(select(cycles).where(cycles.c.project == project).order_by(cycles.c.number)).all()
        return [_cycle(row) for row in rows]

    def move(
        self,
        conn: Connection,
        project: str,
        number: int,
        *,
        step: str | None = None,
        candidate: int | None = None,
        dataset: str | None = None,
    ) -> None:
        """Note where the open cycle is and what it made; what is None stays as it is.

        Raises:
            StoreError: that cycle is not open.
        """
        given = {"step": step, "candidate": candidate, "dataset": dataset}
        _change(conn, project, number, {name: value for name, value in given.items() if value is not None})

    def close_cycle(
        self, conn: Connection, project: str, number: int, *, outcome: str, reason: str, now: datetime
    ) -> None:
        """End the open cycle: promoted, rejected, rolled back or failed.

        Raises:
            StoreError: that cycle is not open.
        """
        _change(conn, project, number, {"outcome": outcome, "reason": reason, "closed_at": micros(now)})

    def record(self, conn: Connection, project: str, number: int, name: str, body: Json, now: datetime) -> bool:
        """Keep what the step `name` of a cycle did; return False, and keep the first, when it was done already.

        Raises:
            StoreError: there is no such cycle.
        """
        of_cycle = (cycles.c.project == project, cycles.c.number == number)
        if conn.execute(select(cycles.c.number).where(*of_cycle)).first() is None:
            raise no_cycle(project, number)
        key = {"project": project, "cycle": number, "name": name}
        return insert_once(conn, steps, key, {"body": dumps(body), "done_at": micros(now)})

    def step(self, project: str, number: int, name: str) -> Json | None:
        """Return what a step did, None when it was not done."""
        with self._db.read() as conn:
            one = (steps.c.project == project, steps.c.cycle == number, steps.c.name == name)
            body = conn.execute(select(steps.c.body).where(*one)).scalar()
        return None if body is None else loads(body)

    def add_verdict(
        self, conn: Connection, project: str, verdict: Verdict, *, cycle: int | None, step: str, now: datetime
    ) -> None:
        """Keep a verdict that a step was given."""
        values = {"step": step, "outcome": str(verdict.outcome), "body": text_of(verdict), "given_at": micros(now)}
        conn.execute(insert(verdicts).values(project=project, cycle=cycle, **values))

    def verdicts(self, project: str, cycle: int | None = None, limit: int = 100) -> list[GivenVerdict]:
        """Return the newest verdicts, newest first; of one cycle if it is named."""
        wanted = select(verdicts).where(verdicts.c.project == project).order_by(verdicts.c.id.desc()).limit(limit)
        if cycle is not None:
            wanted = wanted.where(verdicts.c.cycle == cycle)
        with self._db.read() as conn:
            rows = conn.execute(wanted).all()
        return [
            GivenVerdict(cycle=r.cycle, step=r.step, verdict=verdict_of(r.body), at=from_micros(r.given_at))
            for r in rows
        ]


def _change(conn: Connection, project: str, number: int, values: dict[str, Any]) -> None:
    one = (cycles.c.project == project, cycles.c.number == number, cycles.c.closed_at.is_(None))
    if values and not conn.execute(update(cycles).where(*one).values(**values)).rowcount:
        raise no_open_cycle(project, number)


def open_already(project: str, number: int, step: str) -> Conflict:
    """Return the error for a cycle that would be opened beside an open one."""
    return Conflict(f"project {project!r} has cycle {number} open, in step {step!r}.", "go on with it, or close it")


def no_cycle(project: str, number: int) -> StoreError:
    """Return the error for a cycle that is not there."""
    return StoreError(f"project {project!r} has no cycle {number}.", "open a cycle before its steps")


def no_open_cycle(project: str, number: int) -> StoreError:
    """Return the error for a cycle that is not there, or has ended."""
    return StoreError(f"project {project!r} has no open cycle {number}.", "read the open cycle again")


def text_of(verdict: Verdict) -> str:
    """Return a verdict as it is kept."""
    return dumps(_finite(verdict.to_json()))


def _finite(data: Json) -> Json:
    """Return a verdict's JSON with numbers such as infinity as text: people read them, and JSON has none."""
    numbers = data["numbers"].items()
    shown = {name: str(n) if isinstance(n, float) and not math.isfinite(n) else n for name, n in numbers}
    return {**data, "numbers": shown, "parts": [_finite(part) for part in data["parts"]]}


def verdict_of(text: str) -> Verdict:
    """Return a verdict that was kept as this text."""
    return Verdict.from_json(loads(text))


def _cycle(row: Row[tuple[object, ...]]) -> Cycle:
    return Cycle(
        number=row.number,
        opened_at=from_micros(row.opened_at),
        trigger=verdict_of(row.trigger),
        strategy=row.strategy,
        step=row.step,
        candidate=row.candidate,
        dataset=row.dataset,
        closed_at=None if row.closed_at is None else from_micros(row.closed_at),
        outcome=row.outcome,
        reason=row.reason,
    )
