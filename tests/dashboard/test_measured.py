"""Measures are taken behind the page, once for all who ask, and what they gave is kept with its time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tidemill.clock import ManualClock
from tidemill.dashboard.measured import Measured
from tidemill.dashboard.view import BeingMeasured, known
from tidemill.errors import ProjectError, Unavailable

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def measured(clock: ManualClock) -> Iterator[Measured]:
    made = Measured(clock)
    made.start()
    yield made
    made.stop()


def test_the_first_asker_is_not_kept_waiting_and_the_next_one_gets_it(measured: Measured) -> None:
    assert measured.ask("key", lambda: 42) is None
    assert measured.settle()
    reading = measured.ask("key", lambda: 43)
    assert reading is not None and (reading.value, reading.at, reading.problem) == (42, NOON, "")


def test_many_askers_are_one_measure(measured: Measured) -> None:
    taken, gate = [], threading.Event()

    def measure() -> int:
        gate.wait(10)
        taken.append(1)
        return len(taken)

    assert [measured.ask("key", measure) for _ in range(20)] == [None] * 20
    gate.set()
    assert measured.settle() and taken == [1]


def test_an_old_reading_is_shown_while_a_new_one_is_taken(measured: Measured, clock: ManualClock) -> None:
    measured.ask("key", lambda: "old", fresh_s=60)
    measured.settle()
    clock.sleep(61)
    reading = measured.ask("key", lambda: "new", fresh_s=60)
    assert reading is not None and reading.value == "old" and reading.is_renewing
    measured.settle()
    reading = measured.ask("key", lambda: "newer", fresh_s=60)
    assert reading is not None and reading.value == "new" and not reading.is_renewing


def test_a_measure_that_fails_says_why_and_the_next_is_taken(
    measured: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses() -> int:
        raise ProjectError("there is no metric 'f1'.", "declare it")

    measured.ask("refused", refuses)
    measured.ask("broken", lambda: 1 // 0)
    measured.ask("fine", lambda: 1)
    measured.settle()
    refused, broken, fine = (measured.ask(key, lambda: 2) for key in ("refused", "broken", "fine"))
    assert refused is not None and refused.problem == "there is no metric 'f1'. Next: declare it"
    assert broken is not None and "log" in broken.problem and "ZeroDivisionError" in caplog.text
    assert fine is not None and fine.value == 1


def test_a_failure_holds_for_a_moment_and_keeps_its_own_status(measured: Measured, clock: ManualClock) -> None:
    def overloaded() -> int:
        raise Unavailable("other searches take all the time there is.", "try again in some seconds")

    measured.ask("key", overloaded, fresh_s=120)
    measured.settle()
    with pytest.raises(Unavailable, match="other searches") as told:
        known(measured.ask("key", lambda: 7, fresh_s=120))
    assert told.value.status == 503
    clock.sleep(6)
    with pytest.raises(BeingMeasured):
        known(measured.ask("key", lambda: 7, fresh_s=120))
    measured.settle()
    assert known(measured.ask("key", overloaded, fresh_s=120)) == 7


def test_the_revision_grows_with_each_measure(measured: Measured) -> None:
    before = measured.revision
    measured.ask("a", lambda: 1)
    measured.ask("b", lambda: 1)
    measured.settle()
    assert measured.revision == before + 2


def test_it_ends_after_the_measure_under_way_however_many_wait(clock: ManualClock) -> None:
    made, under_way, gate, taken = Measured(clock), threading.Event(), threading.Event(), []
    made.start()

    def first() -> None:
        under_way.set()
        gate.wait(10)

    made.ask("first", first)
    assert under_way.wait(10)
    for number in range(5):
        made.ask(number, lambda: taken.append(1))
    ending = threading.Thread(target=made.stop)
    ending.start()
    gate.set()
    ending.join()
    assert len(taken) < 5


def test_what_waits_has_a_bound_and_is_asked_for_again(measured: Measured) -> None:
    gate = threading.Event()
    measured.ask("first", lambda: gate.wait(10))
    taken: list[int] = []
    for number in range(1_000):
        measured.ask(number, lambda: taken.append(1))
    gate.set()
    assert measured.settle() and len(taken) < 200
    measured.ask(999, lambda: "now")
    assert measured.settle()
    reading = measured.ask(999, lambda: "later")
    assert reading is not None and reading.value == "now"
