"""The step that answers what people asked for: a promotion opens a rollout of its own, the rest is explained."""

from __future__ import annotations

from tidemill.loop.ending import close
from tidemill.loop.world import Turn
from tidemill.records import Cycle, Outcome, Verdict
from tidemill.stores.journal import Command


def commands(turn: Turn) -> bool:
    """Answer waiting commands that no other step will take; return whether there was one."""
    did = False
    for command in turn.world.journal.waiting(turn.name):
        did |= _TAKEN[command.verb](turn, command) if command.verb in _TAKEN else _unknown(turn, command)
    return did


def _promote(turn: Turn, command: Command) -> bool:
    """Open a cycle that only releases: the version meets traffic under the online stage, whatever the gate said."""
    world, version = turn.world, command.args.get("version")
    if world.catalog.paused_at(turn.name) is not None:
        return False  # it waits until the project is resumed
    problem = _problem(turn, version)
    if problem:
        return _answer(turn, command, f"refused: {problem}")
    reason = f"{command.by} asked to release version {version}: {command.args.get('reason') or 'no reason given'}"
    verdict = Verdict(outcome=Outcome.FIRE, by="promote", reason=reason)
    with turn.write() as conn:
        if world.schemas.within(conn).brought_by(version) is not None:  # others came since somebody asked
            said = f"version {version} reads other inputs than are in force; `promote {version} --now` brings them"
            world.journal.handle(conn, command.id, f"refused: {said}", turn.now)
            return True
        number = world.journal.open_cycle(
            conn, turn.name, trigger=verdict, strategy=turn.strategy.digest(), step="release", now=turn.now
        )
        model = world.catalog.model(turn.name, version)
        world.journal.move(conn, turn.name, number, candidate=version, dataset=model.dataset)
        world.journal.add_verdict(conn, turn.name, verdict, cycle=number, step="watch", now=turn.now)
        world.journal.handle(conn, command.id, f"opened cycle {number}", turn.now)
    return True


def _problem(turn: Turn, version: object) -> str:
    """Return why a version cannot be released now, "" when it can."""
    world = turn.world
    cycle, route = world.journal.cycle(turn.name), world.catalog.route(turn.name)
    known = {m.version: m for m in world.catalog.models(turn.name)}
    if version not in known:
        return f"there is no version {version}"
    if known[version].retired_at is not None:
        return f"the artefact of version {version} was deleted: keep_versions is {world.project.keep_versions}"
    if route is not None and version == route.stable:
        return f"version {version} is live already"
    if cycle is not None and cycle.candidate == version:
        return f"version {version} is under way already; `promote {version} --now` skips what is left of it"
    return "another cycle is open; wait for it, or reject it" if cycle is not None else ""


def _about_candidate(turn: Turn, command: Command) -> bool:
    """Take a word about the candidate that no other step takes: too early, too late, or about another one."""
    cycle = turn.world.journal.cycle(turn.name)
    version = command.args.get("version")
    if cycle is None or (version is not None and version != cycle.candidate):
        return _answer(turn, command, "refused: no such candidate is under way")
    if command.verb == "approve" and cycle.step == "release":
        return _answer(turn, command, "refused: the candidate is past the gate")
    if command.verb == "reject" and cycle.step in ("form", "train"):
        return _stop(turn, cycle, command)
    return False


def _stop(turn: Turn, cycle: Cycle, command: Command) -> bool:
    """End a cycle that has no candidate yet, and its training with it."""
    runs = [run for run in turn.world.catalog.runs(turn.name) if run.cycle == cycle.number and run.status == "running"]
    for run in runs:
        turn.world.runner.kill(turn.world.workdir(run.run), "the cycle was rejected")
    reason = f"rejected by {command.by}: {command.args.get('reason') or 'no reason given'}"
    verdict = Verdict(outcome=Outcome.FAIL, by="reject", reason=reason, back_to="strategy")
    with turn.write() as conn:
        for run in runs:
            ended = {"error": "the cycle was rejected"}
            turn.world.catalog.end_run(conn, turn.name, run.run, "failed", ended, turn.now)
        close(turn, conn, cycle, "rejected", verdict, step=cycle.step)
        turn.world.journal.handle(conn, command.id, "rejected", turn.now)
    return True


def _answer(turn: Turn, command: Command, result: str) -> bool:
    with turn.write() as conn:
        turn.world.journal.handle(conn, command.id, result, turn.now)
    return True


def _unknown(turn: Turn, command: Command) -> bool:
    return _answer(turn, command, f"refused: no command {command.verb!r}")


def _left_to_watch(turn: Turn, command: Command) -> bool:
    """Leave a retraining to the step `watch`, but where the training would read another schema than is in force."""
    if not turn.waits:
        return False
    why = f"the project file's schema waits ({turn.waits}): make a version of it with `tidemill train DATA`"
    return _answer(turn, command, f"refused: {why}")


_TAKEN = {
    "promote": _promote,
    "approve": _about_candidate,
    "reject": _about_candidate,
    "retrain": _left_to_watch,
}
