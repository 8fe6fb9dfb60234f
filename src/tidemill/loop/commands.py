"""The step that answers what people asked for: a promotion opens a rollout of its own, the rest is explained."""

from __future__ import annotations

from tidemill.loop.world import Turn
from tidemill.records import Outcome, Verdict
from tidemill.stores.journal import Command

_TAKEN_ELSEWHERE = {"retrain": "watch", "approve": "test", "reject": "test or release"}


def commands(turn: Turn) -> bool:
    """Answer waiting commands that no other step will take; return whether there was one."""
    did = False
    for command in turn.world.journal.waiting(turn.name):
        did |= _promote(turn, command) if command.verb == "promote" else _refuse_stale(turn, command)
    return did


def _promote(turn: Turn, command: Command) -> bool:
    """Open a cycle that only releases: the version meets traffic under the online stage, whatever the gate said."""
    world, version = turn.world, command.args.get("version")
    cycle, route = world.journal.cycle(turn.name), world.catalog.route(turn.name)
    if cycle is not None and cycle.candidate == version and cycle.step == "release":
        return False  # the release step takes it
    problem = _problem(turn, version, busy=cycle is not None, live=route.stable if route else None)
    if problem:
        return _answer(turn, command, f"refused: {problem}")
    reason = f"{command.by} asked to release version {version}: {command.args.get('reason') or 'no reason given'}"
    verdict = Verdict(outcome=Outcome.FIRE, by="promote", reason=reason)
    with turn.write() as conn:
        number = world.journal.open_cycle(
            conn, turn.name, trigger=verdict, strategy=turn.strategy.digest(), step="release", now=turn.now
        )
        model = world.catalog.model(turn.name, version)
        world.journal.move(conn, turn.name, number, candidate=version, dataset=model.dataset)
        world.journal.add_verdict(conn, turn.name, verdict, cycle=number, step="watch", now=turn.now)
        world.journal.handle(conn, command.id, f"opened cycle {number}", turn.now)
    return True


def _problem(turn: Turn, version: object, *, busy: bool, live: int | None) -> str:
    if version not in {m.version for m in turn.world.catalog.models(turn.name)}:
        return f"there is no version {version}"
    if version == live:
        return f"version {version} is live already"
    return "another cycle is open; wait for it or reject its candidate" if busy else ""


def _refuse_stale(turn: Turn, command: Command) -> bool:
    """Answer a word about a candidate that is not waiting for one."""
    cycle = turn.world.journal.cycle(turn.name)
    if command.verb in ("approve", "reject"):
        about = cycle.candidate if cycle is not None and cycle.step in ("train", "test", "release") else None
        if about is None or command.args.get("version") not in (None, about):
            return _answer(turn, command, "refused: no such candidate is waiting")
    if command.verb == "approve" and cycle is not None and cycle.step == "release":
        return _answer(turn, command, "refused: the candidate is past the gate; use promote")
    if command.verb not in _TAKEN_ELSEWHERE:
        return _answer(turn, command, f"refused: no command {command.verb!r}")
    return False


def _answer(turn: Turn, command: Command, result: str) -> bool:
    with turn.write() as conn:
        turn.world.journal.handle(conn, command.id, result, turn.now)
    return True
