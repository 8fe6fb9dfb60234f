"""The step that makes the declared batch predictions: once in each slot, in a process of its own.

A slot is written down, under the loop's lease, before its process starts: another loop goes on with it and starts no
second one. A process that fails is tried again after a growing rest, until the next slot is due.
"""

from __future__ import annotations

import logging
import shutil
from datetime import timedelta

from sqlalchemy import Connection

from tidemill.batches import Batch
from tidemill.clock import from_micros, micros
from tidemill.deploy.job import BatchJob
from tidemill.deploy.scheduled import order_of
from tidemill.loop.world import Turn
from tidemill.records import Json, Outcome, Scalar, Verdict
from tidemill.strategy.reference import EVERYONE
from tidemill.strategy.wording import counted
from tidemill.training import runner

FIRST_REST, LONGEST_REST = timedelta(seconds=30), timedelta(hours=1)
MAX_TRIES = 8

_logger = logging.getLogger(__name__)


def batch(turn: Turn) -> bool:
    """Start what is due, and look how it stands; return whether anything changed."""
    if turn.world.runner is not runner:
        return False  # a backtest writes no tables
    changed = [_Scheduled(turn, declared).step() for declared in turn.world.project.batches]
    return any(changed)


class _Scheduled:
    """One declared batch, and what the journal knows of it.

    The state: `slot`, `status` (running, resting, done or failed), `attempt`, `version`, `again_at`; `done_at` and
    `result` of the last success; `since` when it is known; `stale` once that was told.
    """

    def __init__(self, turn: Turn, declared: Batch) -> None:
        self._turn, self._declared = turn, declared
        self._name = declared.alert
        self._state: Json = turn.state(self._name)

    def step(self) -> bool:
        if self._state.get("status") == "running":
            return self._look() or self._tell_stale()
        if self._is_due():
            self._give_up()
            return self._begin(self._declared.slot(self._turn.now), attempt=1)
        if self._state.get("status") == "resting" and micros(self._turn.now) >= self._state["again_at"]:
            return self._begin(self._state["slot"], attempt=self._state["attempt"] + 1)
        return self._tell_stale()

    def _is_due(self) -> bool:
        return bool(self._declared.slot(self._turn.now) > self._state.get("slot", -1))

    def _begin(self, slot: int, *, attempt: int) -> bool:
        """Write the slot down, then start its process. The version stays the same in every attempt."""
        route = self._turn.world.catalog.route(self._turn.name)
        if route is None:
            return False  # nothing can predict yet
        version = self._state["version"] if attempt > 1 else route.stable
        self._put(None, slot=slot, status="running", attempt=attempt, version=version)
        runner.launch(self._job())
        return True

    def _give_up(self) -> None:
        """Delete what a slot that came to nothing left of an output of its own."""
        if self._state.get("status") in ("resting", "failed") and "{slot" in self._declared.to:
            order = order_of(self._declared, self._job())
            shutil.rmtree(order.workdir(self._turn.world.workdir("")), ignore_errors=True)

    def _look(self) -> bool:
        job = self._job()
        status = runner.poll(self._turn.world.workdir(self._run()))
        if status.state == "absent":  # the loop was killed in between
            runner.launch(job)
            return True
        if status.state == "running":
            return False
        runner.kill(self._turn.world.workdir(self._run()))  # what it started and left behind
        if status.state == "done" and status.result is not None:
            return self._finish(status.result)
        if status.state == "dead":
            return self._fail("its process ended without a word: killed, or out of memory")
        return self._fail(str(status.error))

    def _finish(self, result: Json) -> bool:
        rows, refused = result["num_rows"], result["num_refused"]
        left_out = f", {refused} refused" if refused else ""
        verdict = self._verdict(
            Outcome.PASS, f"{counted(rows, 'row')} by version {result['version']} to {result['to']}{left_out}",
            rows=rows, refused=refused, seconds=result["seconds"], version=result["version"],
        )  # fmt: skip
        self._put(verdict, status="done", done_at=micros(self._turn.now), result=result, stale=False)
        self._forget_others()
        return True

    def _fail(self, error: str) -> bool:
        attempt = self._state["attempt"]
        rest = min(FIRST_REST * 2 ** (attempt - 1), LONGEST_REST)
        again_at = self._turn.now + rest
        last = attempt >= MAX_TRIES
        then = "the next slot is waited for" if last else f"again at {again_at:%Y-%m-%d %H:%M:%S}"
        verdict = self._verdict(Outcome.FAIL, f"attempt {attempt} failed: {error} ({then})", attempt=attempt)
        _logger.warning("%s: %s", self._name, verdict.reason)
        self._put(verdict, status="failed" if last else "resting", again_at=micros(again_at), error=error)
        return True

    def _tell_stale(self) -> bool:
        """Open an alert, once, that no output is young enough."""
        known = self._state.get("done_at") or self._state.get("since")
        if known is None:
            self._put(None, since=micros(self._turn.now))
            return False
        age = self._turn.now - from_micros(known)
        if self._state.get("stale") or age <= self._declared.stale_after:
            return False
        last = "there is no output yet" if self._state.get("done_at") is None else "the last output"
        reason = f"stale: {last} after {age}, and {self._declared.stale_after} is allowed"
        self._put(self._verdict(Outcome.FAIL, reason, age_seconds=age.total_seconds()), stale=True)
        return True

    def _verdict(self, outcome: Outcome, reason: str, **numbers: Scalar) -> Verdict:
        back_to = "data" if outcome is Outcome.FAIL else ""
        return Verdict(outcome=outcome, by=self._name, reason=reason, numbers=numbers, back_to=back_to)

    def _put(self, verdict: Verdict | None, **changes: Json) -> None:
        """Write the state, with a verdict if there is one, under the loop's lease."""
        turn = self._turn
        self._state = {"since": micros(turn.now), **self._state, **changes}
        with turn.write() as conn:
            turn.world.journal.put_state(conn, turn.name, self._name, self._state, turn.now)
            if verdict is not None:
                turn.world.journal.add_verdict(conn, turn.name, verdict, cycle=None, step="batch", now=turn.now)
            if verdict is not None and "stale" in changes:
                self._alert(conn, verdict, is_stale=changes["stale"])

    def _alert(self, conn: Connection, verdict: Verdict, *, is_stale: bool) -> None:
        turn, alerts = self._turn, self._turn.world.alerts
        if is_stale:
            alerts.open(conn, turn.name, self._name, cohort=EVERYONE, verdict=verdict, now=turn.now)
            return
        for one in alerts.standing(turn.name):
            if one.name == self._name:
                alerts.close(conn, one.id, turn.now)

    def _run(self) -> str:
        return f"scheduled-{self._declared.name}-{self._state['slot']}-{self._state['attempt']}"

    def _job(self) -> BatchJob:
        world = self._turn.world
        return BatchJob(
            project_file=world.project_file,
            home=str(world.home.folder),
            project=world.name,
            batch=self._declared.name,
            slot=self._state["slot"],
            version=self._state["version"],
            workdir=str(world.workdir(self._run())),
            db_url=world.db_url,
        )

    def _forget_others(self) -> None:
        """Delete the work folders of earlier slots and attempts; the last one keeps its log."""
        mine = self._turn.world.workdir(self._run())
        for other in mine.parent.glob(f"scheduled-{self._declared.name}-*-*"):
            if other != mine and other.name.rsplit("-", 2)[0] == f"scheduled-{self._declared.name}":
                shutil.rmtree(other, ignore_errors=True)
