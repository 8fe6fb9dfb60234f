"""The journal lets one process at a time do a job, makes each thing happen once, and survives kills and pauses."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.clock import micros
from tidemill.errors import Conflict, Fenced, StoreError
from tidemill.records import Cycle, Outcome, Verdict
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database
from tidemill.stores.journal import Journal, Lease

S = timedelta(seconds=1)
TTL = 3 * S
FRESH = count()  # of lease names, where one database serves many examples
FIRE = Verdict(
    outcome=Outcome.FIRE, by="Degraded", reason="accuracy fell", numbers={"p": 0.01, "n": 300, "why": None},
    parts=(Verdict(outcome=Outcome.QUIET, by="Every", reason="not yet", back_to="data"),),
)  # fmt: skip


@pytest.fixture
def journal(database: Database, noon: datetime) -> Journal:
    """A journal with the project `shop` published."""
    with database.begin() as conn:
        Catalog(database).publish(conn, {"project": "shop"}, {}, file="/p.py", now=noon)
    return Journal(database)


def took(journal: Journal, holder: str, now: datetime, name: str = "loop") -> Lease:
    lease = journal.acquire(name, holder, now=now, ttl=TTL)
    assert lease is not None
    return lease


# Leases


def test_a_free_lease_is_granted_to_one(journal: Journal, noon: datetime) -> None:
    assert journal.lease("loop") is None
    lease = took(journal, "a", noon)
    assert lease == Lease(name="loop", holder="a", token=1, expires_at=noon + TTL) == journal.lease("loop")
    assert journal.acquire("loop", "b", now=noon + 2 * S, ttl=TTL) is None
    assert journal.acquire("loop", "a", now=noon + 2 * S, ttl=TTL) is None
    assert took(journal, "b", noon, "compactor").token == 1


def test_of_many_that_ask_at_once_one_is_granted(journal: Journal, noon: datetime) -> None:
    for round_ in range(5):
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(journal.acquire, "loop", f"w{i}", now=noon + round_ * TTL, ttl=TTL) for i in range(6)]
        assert [a.result().token for a in asked if a.result()] == [round_ + 1]


def test_an_expired_lease_is_taken_over_with_a_greater_token(journal: Journal, noon: datetime) -> None:
    first = took(journal, "a", noon)
    second = took(journal, "b", noon + TTL)
    assert (second.token, second.holder) == (first.token + 1, "b")


def test_renewing_moves_the_end_and_keeps_the_token(journal: Journal, noon: datetime) -> None:
    first = took(journal, "a", noon)
    renewed = journal.renew(first, now=noon + 2 * S, ttl=TTL)
    assert renewed == Lease(name="loop", holder="a", token=1, expires_at=noon + 2 * S + TTL)
    assert journal.acquire("loop", "b", now=noon + 4 * S, ttl=TTL) is None
    with journal.write(first, now=noon + 4 * S):
        pass  # what was handed out before the renewal stays good


def test_a_released_lease_is_free_at_once_and_its_token_is_not_used_again(journal: Journal, noon: datetime) -> None:
    first = took(journal, "a", noon)
    journal.release(first)
    assert journal.lease("loop") is None
    with pytest.raises(Fenced, match=r"lease 'loop' of 'a' \(token 1\) was given up"):
        journal.renew(first, now=noon, ttl=TTL)
    assert took(journal, "b", noon).token == 2


def test_a_late_release_does_not_free_the_lease_of_the_next_holder(journal: Journal, noon: datetime) -> None:
    first = took(journal, "a", noon)
    second = took(journal, "b", noon + TTL)
    journal.release(first)
    assert journal.lease("loop") == second


def test_an_old_holder_is_fenced_and_writes_nothing(journal: Journal, noon: datetime) -> None:
    old = took(journal, "a", noon)
    took(journal, "b", noon + TTL)
    said = r"lease 'loop' of 'a' \(token 1\) was taken over: 'b' has token 2\. Next: stop"
    with pytest.raises(Fenced, match=said), journal.write(old, now=noon) as conn:  # its own clock still says noon
        journal.put_state(conn, "shop", "s", {}, noon)
    assert journal.state("shop", "s") is None
    with pytest.raises(Fenced, match=said):
        journal.renew(old, now=noon, ttl=TTL)


def test_a_holder_that_was_too_slow_is_fenced_even_if_nobody_took_over(journal: Journal, noon: datetime) -> None:
    lease = took(journal, "a", noon)
    for attempt in (
        lambda now: journal.renew(lease, now=now, ttl=TTL),
        lambda now: journal.write(lease, now=now).__enter__(),
    ):
        with pytest.raises(Fenced, match=r"expired at 2026-03-01 12:00:03.*acquire it again"):
            attempt(noon + TTL)


def test_a_lease_of_another_database_is_refused(journal: Journal, noon: datetime) -> None:
    with pytest.raises(Fenced, match=r"'nowhere' of 'a' .* is not in the database"):
        journal.renew(Lease(name="nowhere", holder="a", token=1, expires_at=noon + TTL), now=noon, ttl=TTL)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    acts=st.lists(
        st.tuples(st.sampled_from(["acquire", "renew", "release", "write"]), st.sampled_from("abc"), st.integers(0, 4)),
        max_size=14,
    )
)
def test_whoever_does_what_when_only_the_newest_unexpired_token_writes(
    journal: Journal, noon: datetime, acts: list[tuple[str, str, int]]
) -> None:
    name, now, held = f"lease{next(FRESH)}", noon, dict[str, Lease]()
    holder, token, until = "", 0, noon  # the model: who may write, with which token, until when
    for act, who, wait in acts:
        now += wait * S
        free = holder == "" or now >= until
        if act == "acquire":
            lease = journal.acquire(name, who, now=now, ttl=TTL)
            assert (lease is not None) == free
            if lease is not None:
                assert lease.token > token
                held[who], holder, token, until = lease, who, lease.token, now + TTL
        elif who in held:
            allowed = not free and held[who].token == token
            if act == "release":
                journal.release(held[who])
                holder = "" if held[who].token == token else holder
            elif act == "renew" and allowed:
                held[who] = journal.renew(held[who], now=now, ttl=TTL)
                until = now + TTL
            elif allowed:
                with journal.write(held[who], now=now) as conn:
                    journal.put_state(conn, "shop", name, token, now)
            else:
                with pytest.raises(Fenced), journal.write(held[who], now=now):
                    raise AssertionError("an old holder was let in")


# Kills and pauses of real processes

WORKER = """
import sys
from datetime import datetime, timedelta, UTC
from tidemill.clock import from_micros
from tidemill.errors import Fenced
from tidemill.stores.database import Database
from tidemill.stores.journal import Journal
now, ttl = from_micros(int(sys.argv[2])), timedelta(seconds=3)
journal = Journal(Database.open(sys.argv[1]))
lease = journal.acquire("loop", "worker", now=now, ttl=ttl)
print("holds", lease.token, flush=True)
sys.stdin.readline()
try:
    with journal.write(lease, now=now) as conn:
        for i in range(2000):
            journal.put_state(conn, "shop", f"s{i}", i, now)
        print("in the middle", flush=True)
        sys.stdin.readline()
        journal.put_state(conn, "shop", "last", True, now)
    print("committed", flush=True)
except Fenced as error:
    print("fenced", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def worker(journal: Journal, database_url: str, noon: datetime, start_child: Callable[..., Any]) -> Any:
    """A process that holds the lease; each line told to it lets it go on."""
    child = start_child(WORKER, database_url, str(micros(noon)))
    assert child.hear() == "holds 1"
    return child


def test_a_process_that_was_stopped_while_another_took_over_writes_nothing_when_it_goes_on(
    journal: Journal, worker: Any, noon: datetime
) -> None:
    worker.signal(signal.SIGSTOP)
    heir = took(journal, "heir", noon + TTL)
    worker.tell("write")
    worker.signal(signal.SIGCONT)
    assert worker.hear() == "fenced"
    assert journal.state("shop", "s0") is None
    with journal.write(heir, now=noon + TTL) as conn:
        journal.put_state(conn, "shop", "heir", True, noon)
    assert journal.state("shop", "heir") is True


def test_nobody_takes_over_in_the_middle_of_a_write(journal: Journal, worker: Any, noon: datetime) -> None:
    """A process stopped inside its transaction keeps the lease until that ends, whatever the clock says."""
    worker.tell("write")
    assert worker.hear() == "in the middle"
    worker.signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(took, journal, "heir", noon + TTL)
        time.sleep(0.3)
        assert not taking.done()
        worker.signal(signal.SIGCONT)
        worker.tell("commit")
        assert worker.hear() == "committed"
        assert taking.result().token == 2
    assert journal.state("shop", "last") is True


def test_a_process_killed_in_the_middle_of_a_write_leaves_nothing_of_it(
    journal: Journal, worker: Any, noon: datetime
) -> None:
    worker.tell("write")
    assert worker.hear() == "in the middle"
    worker.signal(signal.SIGKILL)
    heir = took(journal, "heir", noon + TTL)
    assert [journal.state("shop", name) for name in ("s0", "s1999", "last")] == [None] * 3
    with journal.write(heir, now=noon + TTL) as conn:
        journal.put_state(conn, "shop", "s0", "heir's", noon)
    assert journal.state("shop", "s0") == "heir's"


def test_what_a_killed_process_had_committed_is_there(journal: Journal, worker: Any) -> None:
    for _ in range(2):
        worker.tell("go on")
    assert [worker.hear(), worker.hear()] == ["in the middle", "committed"]
    worker.signal(signal.SIGKILL)
    assert [journal.state("shop", name) for name in ("s0", "s1999", "last")] == [0, 1999, True]


# Cycles, steps, verdicts


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
    lease = took(journal, "a", noon)
    with pytest.raises(KeyError), journal.write(lease, now=noon) as conn:
        journal.handle(conn, id, {}, noon)
        journal.open_cycle(conn, "shop", trigger=FIRE, strategy="s", step="form", now=noon)
        raise KeyError("killed here")
    assert journal.cycle("shop") is None
    assert [c.id for c in journal.waiting("shop")] == [id]
