"""What becomes of calls that a thread makes for the event loop, where there is none, or nobody waits for its end."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import waiting
from tidemill.serving.handoff import Handoff

Told = list[Exception | None]


def works() -> None:
    """Do nothing that could fail."""


def fails() -> None:
    raise OSError("the disk is broken")


@contextmanager
def no_more_files_than(num: int) -> Iterator[None]:
    """Let this process open so many files more."""
    before, free = (
        resource.getrlimit(resource.RLIMIT_NOFILE),
        [os.open("/dev/null", os.O_RDONLY) for _ in range(num + 1)],
    )
    for fd in free:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def num_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def nothing_left(files: int) -> None:
    """Wait until no more files are open than there were: threads close theirs."""
    waiting.until(lambda: num_open() <= files, 20)


async def over(told: Told, num: int) -> None:
    while len(told) < num:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("wait_below_s", [0.0, 10.0])
def test_what_a_thread_makes_is_told_of_in_the_loop_waited_for_or_not(wait_below_s: float) -> None:
    async def act() -> None:
        hand, told = Handoff(wait_below_s=wait_below_s), Told()

        def tell(error: Exception | None, took_s: float) -> None:
            told.append(error)
            asyncio.get_running_loop()  # raises outside of it

        for number in range(40):
            hand.run(fails if number % 2 else works, tell, waits=number % 3 > 0)
            await over(told, number + 1)
            assert not hand.is_busy
        assert [str(error) for error in told] == ["None", "the disk is broken"] * 20
        hand.close()

    asyncio.run(act())


@pytest.mark.parametrize("num_files", [0, 1, 2, 3])
def test_where_no_thread_can_be_had_the_call_fails_and_the_next_one_tries_again(num_files: int) -> None:
    async def act() -> None:
        hand, told, files = Handoff(wait_below_s=0.0), Told(), num_open()
        with no_more_files_than(num_files):
            hand.run(fails, lambda error, _: told.append(error))
        assert isinstance(told[0], OSError) and "Too many open files" in str(told[0])
        assert not hand.is_busy
        assert num_open() <= files
        hand.run(fails, lambda error, _: told.append(error))
        await over(told, 2)
        assert str(told[1]) == "the disk is broken"
        hand.close()

    asyncio.run(act())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_call_that_ends_its_thread_fails_and_the_next_one_gets_another() -> None:
    async def act() -> None:
        told, files = Told(), num_open()
        for wait_below_s in (0.0, 10.0):
            hand = Handoff(wait_below_s=wait_below_s)
            for number, call in enumerate((works, sys.exit, works, works, sys.exit, fails)):
                hand.run(call, lambda error, _: told.append(error))
                await over(told, number + 1)
            gone = "[Errno 5] the thread that writes has ended"
            assert [str(error) for error in told] == ["None", gone, "None", "None", gone, "the disk is broken"]
            told.clear()
            hand.close()
        nothing_left(files)

    asyncio.run(act())


def test_a_call_that_hangs_when_all_ends_is_told_to_nobody_and_leaves_nothing() -> None:
    async def act() -> None:
        files, gate, told = num_open(), threading.Event(), Told()
        before = set(threading.enumerate())
        hand = Handoff(wait_below_s=0.0)
        hand.run(lambda: assert_opened(gate), lambda error, _: told.append(error))
        hand.close()
        assert hand.is_busy
        gate.set()
        waiting.until(lambda: set(threading.enumerate()) == before, 20)
        nothing_left(files)
        await asyncio.sleep(0)
        assert told == []

    asyncio.run(act())


def assert_opened(gate: threading.Event) -> None:
    assert gate.wait(20)
