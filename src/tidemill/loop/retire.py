"""The step that deletes the artefacts and the datasets of versions older than the newest that a project keeps.

First they are marked, in one transaction, then their files are deleted. Whatever no kept version names is deleted with
them, and once a day where all versions are kept too, so that a loop that is killed in between, a training that nobody
took up, or an artefact that was replaced leaves nothing for ever.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from tidemill.clock import from_micros, micros
from tidemill.deploy.order import read_progress
from tidemill.loop.leavings import awaited
from tidemill.loop.world import Turn, World
from tidemill.records import ModelVersion, Outcome, Verdict
from tidemill.review.report import Report
from tidemill.stores.projects import lock_project
from tidemill.training import runner

_STEP = "retire"
_EVERY = timedelta(days=1)  # looks for what nobody names
_GRACE = timedelta(days=1)  # of a blob that no version names yet: its training may be about to


def retire(turn: Turn) -> bool:
    """Delete what only versions name that are too old to keep, or none; return whether anything was done."""
    keep, world = turn.world.project.keep_versions, turn.world
    if world.runner is not runner:
        return False
    state = turn.state(_STEP)
    if state.get("due") or turn.now - from_micros(state.get("swept_at", 0)) > _EVERY:
        return _sweep(turn)
    if keep is None:
        return False
    models = world.catalog.models(turn.name)
    if not any(model.retired_at is None for model in models[:-keep]):
        return False  # as on most turns
    return _mark(turn, models, keep)


def _mark(turn: Turn, models: list[ModelVersion], keep: int) -> bool:
    world = turn.world
    pinned = _Needed(turn).versions()
    old = [m for m in models[:-keep] if m.retired_at is None and m.version not in pinned]
    if not old:
        return False
    kept = [m for m in models if m.retired_at is None and m not in old]
    datasets = _datasets(turn, models, kept)
    with turn.write() as conn:
        lock_project(conn, turn.name)
        route = world.catalog.route_within(conn, turn.name)
        if route is not None and {m.version for m in old} & set(route.versions()):
            return False  # the route was moved in between: look again
        world.catalog.retire(conn, turn.name, [m.version for m in old], now=turn.now)
        world.datasets.retire(conn, turn.name, datasets, now=turn.now)
        world.journal.put_state(conn, turn.name, _STEP, {**turn.state(_STEP), "due": True}, turn.now)
    return True


@dataclass(frozen=True)
class _Needed:
    """Which versions somebody may still ask for."""

    turn: Turn

    def versions(self) -> set[int]:
        """Return them: of the route and the one before, of the open cycle, of batches and of waiting commands."""
        found = {*self._of_route(), *self._of_cycle(), *self._of_batches()}
        waiting = self.turn.world.journal.waiting(self.turn.name)
        return found | {int(c.args["version"]) for c in waiting if c.args.get("version") is not None}

    def _of_route(self) -> set[int]:
        history = self.turn.world.catalog.history(self.turn.name)
        if not history:
            return set()
        now = history[-1].route
        before = [change.route.stable for change in history if change.route.stable != now.stable]
        return {*now.versions(), *before[-1:]}

    def _of_cycle(self) -> set[int]:
        world, name = self.turn.world, self.turn.name
        cycle = world.journal.cycle(name)
        if cycle is None:
            return set()
        plan = world.journal.step(name, cycle.number, "train.plan") or {}
        stored = None if cycle.candidate is None else world.catalog.report(name, cycle.candidate)
        live = None if stored is None else Report.from_json(stored).live
        return {v for v in (cycle.candidate, plan.get("parent"), live) if v is not None}

    def _of_batches(self) -> set[int]:
        """Return the versions of batch predictions that are under way, or were interrupted and may go on."""
        turn, found = self.turn, set[int]()
        for batch in turn.world.project.batches:
            state: Any = turn.state(f"batch.{batch.name}")
            if state.get("status") in ("running", "resting"):
                found.add(int(state["version"]))
        for folder in turn.world.workdir("any").parent.glob("batch-*"):
            progress = read_progress(folder)
            if progress is not None and progress.ended is None:
                found.add(int(progress.about["version"]))
        return found


def _datasets(turn: Turn, models: Collection[ModelVersion], kept: Collection[ModelVersion]) -> list[str]:
    """Return the datasets that no kept version learnt from, that have no tag, and that no open cycle stands on."""
    world = turn.world
    cycle = world.journal.cycle(turn.name)
    named = {*(m.dataset for m in kept), *world.datasets.tags(turn.name).values(), cycle.dataset if cycle else None}
    known = world.datasets.all(turn.name)
    newest = max((d.number for d in known if d.digest in named), default=0)
    learnt = {m.dataset for m in models}
    # One that nobody learnt from is of a cycle that failed, or of one that is to be: then it is newer than all.
    return [
        d.digest for d in known
        if d.digest not in named and not d.is_gone and (d.digest in learnt or d.number < newest)
    ]  # fmt: skip


def _sweep(turn: Turn) -> bool:
    """Delete what is marked, and what nobody names; no training may be about to name something meanwhile.

    Blobs, which may be many gigabytes, are deleted between two transactions: nobody waits for their end. Killed there,
    it is done again, as what is due is noted at the end.
    """
    world = turn.world
    if _is_training(world):
        return False
    due = bool(turn.state(_STEP).get("due"))
    with turn.write() as conn:
        num_bytes = world.datasets.sweep(conn, turn.name)
        doomed = _doomed(turn, conn)
    for digest in doomed:
        if _is_training(world):
            return True  # one has begun meanwhile, and may store the same again
        num_bytes += world.blobs.remove(digest)
    with turn.write() as conn:
        world.journal.put_state(conn, turn.name, _STEP, {"due": False, "swept_at": micros(turn.now)}, turn.now)
        if due:
            world.journal.add_verdict(conn, turn.name, _told(turn, num_bytes), cycle=None, step=_STEP, now=turn.now)
    return due or num_bytes > 0


def _doomed(turn: Turn, conn: Connection) -> list[str]:
    """Return the blobs that only retired versions name, and those that nobody names and that are old enough."""
    world = turn.world
    expected = awaited(world)  # first: what is registered meanwhile is named by then
    kept, gone = world.catalog.artefacts(conn)
    return [
        digest for digest, at in world.blobs.stored().items()
        if digest not in kept | expected
        and (digest in gone or turn.now.timestamp() - at > _GRACE.total_seconds())
    ]  # fmt: skip


def _is_training(world: World) -> bool:
    return any(
        world.runner.poll(world.home.runs / project / run.run).state == "running"
        for project in world.catalog.projects() for run in world.catalog.runs(project) if run.status == "running"
    )  # fmt: skip


def _told(turn: Turn, num_bytes: int) -> Verdict:
    keep = turn.world.project.keep_versions
    which = "that were no longer to be kept" if keep is None else f"older than the newest {keep}"
    reason = f"{num_bytes / 1e6:.1f} MB of versions {which} deleted; their records stay"
    return Verdict(outcome=Outcome.PASS, by=f"keep_versions={keep}", reason=reason, numbers={"num_bytes": num_bytes})
