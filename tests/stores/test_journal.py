"""The journal makes each thing happen once: cycles, their steps and verdicts, states and commands."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest

from tidemill.errors import Conflict, StoreError
from tidemill.records import Cycle, Outcome, Verdict
from tidemill.stores.database import Database
from tidemill.stores.journal import Journal

S = timedelta(seconds=1)
FIRE = Verdict(
    outcome=Outcome.FIRE, by="Degraded", reason="accuracy fell", numbers={"p": 0.01, "n": 300, "why": None},
    parts=(Verdict(outcome=Outcome.QUIET, by="Every", reason="not yet", back_to="data"),),
)  # fmt: skip


def open_cycle(journal: Journal, database: Database, now: datetime) -> int:
    with database.begin() as conn:
        return journal.open_cycle(conn, "shop", trigger=FIRE, strategy="s" * 16, step="form", now=now)


def test_a_cycle_goes_from_open_to_closed(journal: Journal, database: Database, noon: datetime) -> None:
    assert journal.cycle("shop") is None
    number = open_cycle(journal, database, noon)
    opened = Cycle(number=1, opened_at=noon, trigger=FIRE, strategy="s" * 16, step="form")
    assert (number, journal.cycle("shop")) == (1, opened)
    with database.begin() as conn:
        journal.move(conn, "shop", 1, step="train", dataset="d" * 64)
        journal.move(conn, "shop", 1, candidate=4)
    now = journal.cycle("shop")
    assert now is not None
    assert (now.step, now.dataset, now.candidate) == ("train", "d" * 64, 4)
    with database.begin() as conn:
        journal.close_cycle(conn, "shop", 1, outcome="promoted", reason="better", now=noon + S)
    assert journal.cycle("shop") is None
    [closed] = journal.cycles("shop")
    assert (closed.outcome, closed.reason, closed.closed_at) == ("promoted", "better", noon + S)
    assert open_cycle(journal, database, noon) == 2
    assert [c.number for c in journal.cycles("shop")] == [1, 2]


def test_a_project_has_one_cycle_open_at_most(journal: Journal, database: Database, noon: datetime) -> None:
    open_cycle(journal, database, noon)
    with pytest.raises(Conflict, match="project 'shop' has cycle 1 open, in step 'form'"):
        open_cycle(journal, database, noon)
    with ThreadPoolExecutor(4) as pool:
        failed = [pool.submit(open_cycle, journal, database, noon).exception() for _ in range(4)]
    assert all(isinstance(error, Conflict) for error in failed)
    assert len(journal.cycles("shop")) == 1


def test_a_closed_cycle_stays_as_it_ended(journal: Journal, database: Database, noon: datetime) -> None:
    open_cycle(journal, database, noon)
    with database.begin() as conn:
        journal.close_cycle(conn, "shop", 1, outcome="failed", reason="why", now=noon)
    [before] = journal.cycles("shop")
    with pytest.raises(StoreError, match="project 'shop' has no open cycle 1"), database.begin() as conn:
        journal.move(conn, "shop", 1, step="train")
    with pytest.raises(StoreError, match="project 'shop' has no open cycle 1"), database.begin() as conn:
        journal.close_cycle(conn, "shop", 1, outcome="promoted", reason="", now=noon)
    assert journal.cycles("shop") == [before]


def test_a_cycle_of_no_published_project_is_refused(journal: Journal, database: Database, noon: datetime) -> None:
    with pytest.raises(StoreError, match="no project 'other'"), database.begin() as conn:
        journal.open_cycle(conn, "other", trigger=FIRE, strategy="s", step="form", now=noon)


def test_a_step_happens_once_and_its_first_result_stays(journal: Journal, database: Database, noon: datetime) -> None:
    number = open_cycle(journal, database, noon)
    assert journal.step("shop", number, "form") is None
    with database.begin() as conn:
        assert journal.record(conn, "shop", number, "form", {"digest": "a"}, noon) is True
        assert journal.record(conn, "shop", number, "form", {"digest": "b"}, noon) is False
        assert journal.record(conn, "shop", number, "train", None, noon) is True
    assert journal.step("shop", number, "form") == {"digest": "a"}


def test_a_step_of_no_cycle_is_refused(journal: Journal, database: Database, noon: datetime) -> None:
    with pytest.raises(StoreError, match="project 'shop' has no cycle 7"), database.begin() as conn:
        journal.record(conn, "shop", 7, "form", {}, noon)


def test_verdicts_come_newest_first_with_their_reasons(journal: Journal, database: Database, noon: datetime) -> None:
    with database.begin() as conn:
        for i, cycle in enumerate([None, 1, 1, 2]):
            verdict = Verdict(outcome=Outcome.PASS, by="NoWorse", reason=f"r{i}", parts=(FIRE,))
            journal.add_verdict(conn, "shop", verdict, cycle=cycle, step="test", now=noon + i * S)
        journal.add_verdict(conn, "other", FIRE, cycle=1, step="watch", now=noon)
    given = journal.verdicts("shop")
    assert [(g.verdict.reason, g.cycle, g.at) for g in given] == [
        ("r3", 2, noon + 3 * S), ("r2", 1, noon + 2 * S), ("r1", 1, noon + S), ("r0", None, noon),
    ]  # fmt: skip
    assert given[0].verdict.parts == (FIRE,)
    assert [g.verdict.reason for g in journal.verdicts("shop", cycle=1)] == ["r2", "r1"]
    assert [g.verdict.reason for g in journal.verdicts("shop", limit=1)] == ["r3"]


def test_a_verdict_may_have_numbers_that_json_has_not(journal: Journal, database: Database, noon: datetime) -> None:
    """Evidence overflows and ratios divide by zero; a loop must not stop for it."""
    part = Verdict(outcome=Outcome.FAIL, by="b", reason="", numbers={"ratio": float("nan")})
    verdict = Verdict(
        outcome=Outcome.FAIL, by="a", reason="", numbers={"evidence": float("inf"), "n": 3}, parts=(part,)
    )
    with database.begin() as conn:
        journal.add_verdict(conn, "shop", verdict, cycle=None, step="watch", now=noon)
    [kept] = journal.verdicts("shop")
    assert kept.verdict.numbers == {"evidence": "inf", "n": 3}
    assert kept.verdict.parts[0].numbers == {"ratio": "nan"}


def test_a_state_is_the_last_one_put(journal: Journal, database: Database, noon: datetime) -> None:
    assert journal.state("shop", "trigger") is None
    for state in ({"n": 1}, {"n": 2}, None):
        with database.begin() as conn:
            journal.put_state(conn, "shop", "trigger", state, noon)
        assert journal.state("shop", "trigger") == state
    assert journal.state("other", "trigger") is None


# Commands


def send(journal: Journal, database: Database, verb: str, now: datetime, project: str = "shop") -> int:
    with database.begin() as conn:
        return journal.send(conn, project, verb, {"version": 2}, by="ann", now=now)


def test_commands_wait_in_the_order_they_were_sent(journal: Journal, database: Database, noon: datetime) -> None:
    ids = [send(journal, database, verb, noon) for verb in ("promote", "pause", "approve")]
    send(journal, database, "resume", noon, "other")
    waiting = journal.waiting("shop")
    assert [c.id for c in waiting] == ids == sorted(ids)
    assert (waiting[0].verb, waiting[0].args, waiting[0].by, waiting[0].at) == ("promote", {"version": 2}, "ann", noon)
    assert [c.verb for c in journal.commands("shop", 2)] == ["approve", "pause"]


def test_a_command_is_handled_once_and_its_first_result_stays(
    journal: Journal, database: Database, noon: datetime
) -> None:
    id = send(journal, database, "promote", noon)
    with database.begin() as conn:
        assert journal.handle(conn, id, {"ok": True}, noon + S) is True
        assert journal.handle(conn, id, {"ok": False}, noon + 2 * S) is False
        assert journal.handle(conn, id + 100, {}, noon) is False
    assert journal.waiting("shop") == []
    [command] = journal.commands("shop", 10)
    assert (command.result, command.handled_at) == ({"ok": True}, noon + S)


def test_commands_sent_together_are_each_handled_by_one_of_many_workers(
    journal: Journal, database: Database, noon: datetime
) -> None:
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda i: send(journal, database, f"v{i}", noon), range(10)))

        def work(_: int) -> list[int]:
            done = []
            for id in ids:
                with database.begin() as conn:
                    if journal.handle(conn, id, {}, noon):
                        done.append(id)
            return done

        shares = list(pool.map(work, range(3)))
    assert sorted(id for share in shares for id in share) == sorted(ids)


def test_a_step_and_the_command_it_answers_are_one_transaction(
    journal: Journal, database: Database, noon: datetime
) -> None:
    id = send(journal, database, "retrain", noon)
    lease = journal.acquire("loop", "a", now=noon, ttl=3 * S)
    assert lease is not None
    with pytest.raises(KeyError), journal.write(lease, now=noon) as conn:
        journal.handle(conn, id, {}, noon)
        journal.open_cycle(conn, "shop", trigger=FIRE, strategy="s", step="form", now=noon)
        raise KeyError("killed here")
    assert journal.cycle("shop") is None
    assert [c.id for c in journal.waiting("shop")] == [id]
