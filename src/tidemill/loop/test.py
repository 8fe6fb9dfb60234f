"""The step that tests a candidate offline: the report, the gate, and a person's approval where one is asked for."""

from __future__ import annotations

from tidemill.loop.ending import close, end_moved_by_somebody
from tidemill.loop.evaluate import evaluate
from tidemill.loop.world import Turn
from tidemill.records import Cycle, Outcome, Verdict
from tidemill.review.report import Report, evidence
from tidemill.stores.journal import Command
from tidemill.strategy.offline import gate


def test(turn: Turn, cycle: Cycle) -> bool:
    """Write the candidate's report once, then ask the gate until it decides."""
    assert cycle.candidate is not None, "a cycle reaches `test` with a candidate"
    route, word = turn.world.catalog.route(turn.name), _word(turn, cycle.candidate)
    live = None if route is None else route.stable
    if live == cycle.candidate:
        return end_moved_by_somebody(turn, cycle, step="test")
    if word is not None and word.verb == "reject":
        return _decide(turn, cycle, _rejected_by(word), word)
    report = _report(turn, cycle, cycle.candidate, live)
    verdict = gate(turn.strategy.offline, evidence(report, approval=_approval(word), now=turn.now))
    if verdict.outcome is Outcome.UNKNOWN:
        return _wait(turn, cycle, verdict)
    return _decide(turn, cycle, verdict, word)


def _report(turn: Turn, cycle: Cycle, candidate: int, live: int | None) -> Report:
    """Return the report of the candidate against the live version, writing it when there is none."""
    world, stored = turn.world, turn.world.catalog.report(turn.name, candidate)
    if stored is not None and Report.from_json(stored).live == live:
        return Report.from_json(stored)
    report = evaluate(world, candidate=candidate, live=live, dataset=cycle.dataset)
    with turn.write() as conn:
        world.catalog.add_report(conn, turn.name, candidate, report.to_json(), turn.now)
    return report


def _word(turn: Turn, candidate: int) -> Command | None:
    """Return what a person said about this candidate."""
    waiting = turn.world.journal.waiting(turn.name)
    about = [c for c in waiting if c.verb in ("approve", "reject") and c.args.get("version") in (None, candidate)]
    return about[0] if about else None


def _approval(word: Command | None) -> str | None:
    if word is None:
        return None
    return "approved"


def _rejected_by(word: Command) -> Verdict:
    reason = f"rejected by {word.by}: {word.args.get('reason') or 'no reason given'}"
    return Verdict(outcome=Outcome.FAIL, by="reject", reason=reason, back_to="strategy")


def _wait(turn: Turn, cycle: Cycle, verdict: Verdict) -> bool:
    with turn.write() as conn:
        first = turn.world.journal.record(conn, turn.name, cycle.number, "test.waiting", verdict.to_json(), turn.now)
        if first:
            turn.world.journal.add_verdict(conn, turn.name, verdict, cycle=cycle.number, step="test", now=turn.now)
    return first


def _decide(turn: Turn, cycle: Cycle, verdict: Verdict, word: Command | None) -> bool:
    world = turn.world
    with turn.write() as conn:
        if word is not None:
            world.journal.handle(conn, word.id, str(verdict.outcome), turn.now)
        if verdict.outcome is Outcome.FAIL:
            close(turn, conn, cycle, "rejected", verdict, step="test")
        else:
            world.journal.record(conn, turn.name, cycle.number, "test", verdict.to_json(), turn.now)
            world.journal.add_verdict(conn, turn.name, verdict, cycle=cycle.number, step="test", now=turn.now)
            world.journal.move(conn, turn.name, cycle.number, step="release")
    return True
