"""One process at a time does a job, and one that was killed or paused writes nothing when another has it."""

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
from tidemill.errors import Fenced
from tidemill.stores.journal import Journal, Lease

S = timedelta(seconds=1)
TTL = 3 * S
FRESH = count()  # of lease names, where one database serves many examples


def took(journal: Journal, holder: str, now: datetime, name: str = "loop") -> Lease:
    lease = journal.acquire(name, holder, now=now, ttl=TTL)
    assert lease is not None
    return lease


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
