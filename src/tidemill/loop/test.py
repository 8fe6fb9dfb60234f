"""The step that tests a candidate offline: the report, the gate, and a person's approval where one is asked for."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from tidemill.clock import from_micros, micros
from tidemill.loop.ending import close, end_moved_by_somebody
from tidemill.loop.evaluate import evaluate
from tidemill.loop.world import Turn
from tidemill.records import Cycle, Outcome, Verdict
from tidemill.review.report import Report, evidence
from tidemill.stores.journal import Command
from tidemill.strategy.evidence import Word
from tidemill.strategy.gate import asked, gate


def test(turn: Turn, cycle: Cycle) -> bool:
    """Write the candidate's report once, then ask the gate until it decides."""
    assert cycle.candidate is not None, "a cycle reaches `test` with a candidate"
    route, word = turn.world.catalog.route(turn.name), _word(turn, cycle.candidate)
    live = None if route is None else route.stable
    if live == cycle.candidate:
        return end_moved_by_somebody(turn, cycle, step="test")
    if word is not None and word.verb == "reject":
        return _reject(turn, cycle, word)
    if turn.is_foreign:
        return False  # the test rows have the inputs in force
    report = _report(turn, cycle, cycle.candidate, live)
    asked_at = _asked_at(turn, cycle)
    seen = evidence(report, approval=_approval(word), now=turn.now, asked_at=asked_at or turn.now)
    verdict = gate(turn.strategy.offline, seen)
    report = replace(report, verdicts=(replace(verdict, parts=()), *verdict.parts))
    if verdict.outcome is Outcome.UNKNOWN:
        return _wait(turn, cycle, verdict, report, first=asked_at is None)
    return _decide(turn, cycle, verdict, word, report)


def _report(turn: Turn, cycle: Cycle, candidate: int, live: int | None) -> Report:
    """Return the report of the candidate against the live version, writing it when there is none for these tests."""
    world, stored = turn.world, turn.world.catalog.report(turn.name, candidate)
    known = None if stored is None else Report.from_json(stored)
    if known is not None and known.live == live and known.asked in ("", asked(turn.strategy.offline)):
        return known
    report = evaluate(world, candidate=candidate, live=live, dataset=cycle.dataset)
    with turn.write() as conn:
        world.catalog.add_report(conn, turn.name, candidate, report.to_json(), turn.now)
    return report


def _word(turn: Turn, candidate: int) -> Command | None:
    """Return what a person said about this candidate."""
    waiting = turn.world.journal.waiting(turn.name)
    about = [c for c in waiting if c.verb in ("approve", "reject") and c.args.get("version") in (None, candidate)]
    return about[0] if about else None


def _approval(word: Command | None) -> Word | None:
    if word is None:
        return None
    return Word(approved=True, by=word.by, at=word.at, reason=str(word.args.get("reason") or ""))


def _rejected_by(word: Command) -> Verdict:
    reason = f"rejected by {word.by}: {word.args.get('reason') or 'no reason given'}"
    numbers = {"by": word.by, "at": word.at.isoformat()}
    return Verdict(outcome=Outcome.FAIL, by="reject", reason=reason, numbers=numbers, back_to="strategy")


def _reject(turn: Turn, cycle: Cycle, word: Command) -> bool:
    verdict = _rejected_by(word)
    stored = None if cycle.candidate is None else turn.world.catalog.report(turn.name, cycle.candidate)
    report = None if stored is None else Report.from_json(stored)
    if report is not None:
        report = replace(report, verdicts=(verdict, *(v for v in report.verdicts if v.outcome is not Outcome.UNKNOWN)))
    return _decide(turn, cycle, verdict, word, report)


def _asked_at(turn: Turn, cycle: Cycle) -> datetime | None:
    """Return since when a person is asked to speak, None before it is so."""
    waiting = turn.world.journal.step(turn.name, cycle.number, "test.waiting")
    if waiting is None:
        return None
    return from_micros(waiting["asked_at"]) if "asked_at" in waiting else cycle.opened_at


def _wait(turn: Turn, cycle: Cycle, verdict: Verdict, report: Report, *, first: bool) -> bool:
    """Write that a person is asked, and each reminder that is due: once each, whoever does it."""
    world, due = turn.world, max(int(part.numbers.get("reminders") or 0) for part in verdict.parts)
    if not first and not due:
        return False
    name, body = (f"test.waiting.{due}", {}) if due and not first else ("test.waiting", {"asked_at": micros(turn.now)})
    with turn.write() as conn:
        new = world.journal.record(conn, turn.name, cycle.number, name, {**verdict.to_json(), **body}, turn.now)
        if new:
            world.journal.add_verdict(conn, turn.name, verdict, cycle=cycle.number, step="test", now=turn.now)
            world.catalog.add_report(conn, turn.name, report.candidate, report.to_json(), turn.now)
    return new


def _decide(turn: Turn, cycle: Cycle, verdict: Verdict, word: Command | None, report: Report | None = None) -> bool:
    world = turn.world
    with turn.write() as conn:
        if word is not None:
            world.journal.handle(conn, word.id, str(verdict.outcome), turn.now)
        if report is not None:
            world.catalog.add_report(conn, turn.name, report.candidate, report.to_json(), turn.now)
        if verdict.outcome is Outcome.FAIL:
            close(turn, conn, cycle, "rejected", verdict, step="test")
        else:
            world.journal.record(conn, turn.name, cycle.number, "test", verdict.to_json(), turn.now)
            world.journal.add_verdict(conn, turn.name, verdict, cycle=cycle.number, step="test", now=turn.now)
            world.journal.move(conn, turn.name, cycle.number, step="release")
    return True
