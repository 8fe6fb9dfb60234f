"""A worker that stands still is replaced as one that dies; one that only seems to is left alone."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from artefacts import graph
from crews import Crew, crew, runs, total
from hypothesis import given
from hypothesis import strategies as st
from served import Place, until

from tidemill.errors import TidemillError
from tidemill.serving.heart import Heart, memory
from tidemill.serving.supervisor import Supervisor
from tidemill.serving.watchdog import Sign, Watchdog, waits_for_disk

STILL_S = 2.0
SHORT = "supervisor._STEADY_S = 2.0; supervisor._MORE_S = 1.0"

# What Python runs before anything else of a worker: code of a user that stands still in the event loop, on a signal.
USERS_CODE = """
import ctypes, os, pathlib, signal, sys, time
if "tidemill.serving.supervised" in sys.orig_argv:
    def stand_still(number, frame):
        pathlib.Path(__file__).with_name(str(os.getpid())).touch()
        ends = time.monotonic() + ({long_s!r} if number == signal.SIGUSR2 else 3600)
        while time.monotonic() < ends:
            pass
    signal.signal(signal.SIGUSR1, stand_still)
    signal.signal(signal.SIGUSR2, stand_still)
    # Who has called vfork waits as for a disk, until the child has ended or begun another program.
    note = lambda: pathlib.Path(__file__).with_name("child").write_text(str(os.getpid()))
    signal.signal(signal.SIGHUP, lambda *_: ctypes.CDLL(None).vfork() or (note(), time.sleep(3600)))
    slow = pathlib.Path(__file__).with_name("slow")
    if slow.exists():
        time.sleep(float(slow.read_text()))
"""
FOR_EVER, FOR_LONG, ON_DISK = signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP


@pytest.fixture
def pets(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    place.publish()
    place.route(stable=place.add(graph(1)))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(USERS_CODE.format(long_s=1.5 * STILL_S))
    monkeypatch.syspath_prepend(tmp_path / "site")  # what a crew runs with
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    return place


@contextlib.contextmanager
def watched(place: Place, num: int, **settings: Any) -> Iterator[tuple[Crew, Callable[[], str]]]:
    """A crew that is soon judged, and what it has told so far."""
    path = place.folder / "told"
    with (
        path.open("wb") as log,
        crew(place, num, first=SHORT, log=log.fileno(), **{"still_s": STILL_S, **settings}) as at,
    ):
        yield at, path.read_text


def start_slowly(place: Place, seconds: float) -> None:
    (place.folder / "site" / "slow").write_text(str(seconds))


def hang(place: Place, pid: int, how: signal.Signals) -> None:
    """Let a worker stand still, and wait until it does."""
    os.kill(pid, how)
    if how != signal.SIGSTOP:
        until((place.folder / "site" / str(pid)).exists)


def replacement(at: Crew, told: Callable[[], str], pid: int) -> int:
    """Wait until another serves in a worker's place, and return its process id."""
    serving = re.compile(r"serve/(\d+)\[(\d+)\] INFO serving at")
    place = next(number for number, found in serving.findall(told()) if found == str(pid))
    last = until(lambda: [f for number, f in serving.findall(told()) if number == place and f != str(pid)])[-1]
    assert pid not in at.workers
    return int(last)


# --- who hangs


def test_workers_that_stand_still_are_replaced_and_everybody_is_answered(pets: Place) -> None:
    with watched(pets, 3, still_s=1.0) as (at, told):
        stopped, endless, _ = at.workers
        hang(pets, stopped, signal.SIGSTOP)
        hang(pets, endless, FOR_EVER)
        replacement(at, told, stopped)
        replacement(at, told, endless)
        assert {at.ask().status_code for _ in range(40)} == {200}
        for pid in (stopped, endless):
            assert re.search(rf"worker \d \(pid {pid}\) answers nobody: its event loop has stood still for \d", told())
        assert told().count("ended with code -9; starting another in 0 s") == 2


def test_who_hangs_again_and_again_is_replaced_after_a_growing_rest(pets: Place) -> None:
    with watched(pets, 2, still_s=2.5) as (at, told):
        first = at.workers[0]
        hang(pets, first, FOR_EVER)
        second = replacement(at, told, first)
        hang(pets, second, FOR_EVER)
        until(lambda: told().count("starting another") == 2)
        assert re.findall(r"starting another in (\S+) s", told()) == ["0", "0.5"], "it did not serve for long"


def test_a_worker_that_does_not_end_when_told_to_is_killed(pets: Place) -> None:
    with watched(pets, 2, grace_s=0.0) as (at, told):
        first = at.workers[0]
        hang(pets, first, FOR_EVER)
        os.kill(first, signal.SIGTERM)
        second = replacement(at, told, first)
        assert f"(pid {first}) was told to end and has not in 1." in told()
        time.sleep(2.0)
        assert second in at.workers, "it is judged for itself"


def test_a_hung_worker_does_not_outlive_its_supervisor(pets: Place) -> None:
    with watched(pets, 2, grace_s=0.0) as (at, _):
        workers = at.workers
        hang(pets, workers[0], FOR_EVER)
        at.process.kill()
        until(lambda: not any(map(runs, workers)))


def test_a_worker_that_never_comes_to_serve_is_killed(pets: Place, caplog: pytest.LogCaptureFixture) -> None:
    start_slowly(pets, 3600.0)
    supervisor = Supervisor(pets.home, {"host": "127.0.0.1", "port": 0}, 1, start_s=1.0)
    with pytest.raises(TidemillError, match="worker 0 ended with code -9 before it served"):
        supervisor.run()
    assert "has not come to serve in 1." in caplog.text


# --- who does not


def test_when_all_were_stopped_for_longer_than_the_limit_nobody_is_killed(pets: Place) -> None:
    with watched(pets, 2) as (at, told):
        workers = at.workers
        for number, for_s in ((signal.SIGSTOP, 1.5 * STILL_S), (signal.SIGCONT, 0.5 * STILL_S)):
            for pid in (at.process.pid, *workers):
                os.kill(pid, number)
            time.sleep(for_s)
        assert at.workers == workers
        assert {at.ask().status_code for _ in range(10)} == {200}
        assert "killed" not in told()


def test_a_supervisor_that_was_stopped_gives_workers_time_before_it_judges_them(pets: Place) -> None:
    with watched(pets, 2) as (at, told):
        workers = at.workers
        os.kill(at.process.pid, signal.SIGSTOP)
        os.kill(workers[0], signal.SIGSTOP)
        time.sleep(1.5 * STILL_S)
        os.kill(at.process.pid, signal.SIGCONT)
        time.sleep(0.5 * STILL_S)
        os.kill(workers[0], signal.SIGCONT)
        time.sleep(0.5 * STILL_S)
        assert at.workers == workers
        assert "killed" not in told()


def test_a_slow_start_is_not_held_against_a_worker(pets: Place) -> None:
    start_slowly(pets, 1.5 * STILL_S)
    with watched(pets, 2) as (at, told):
        assert total(at.page(), "tidemill_worker_starts_total") == 2
        assert "killed" not in told()


def test_a_worker_that_was_told_to_end_may_take_its_time(pets: Place) -> None:
    with watched(pets, 2) as (at, told):
        first = at.workers[0]
        hang(pets, first, FOR_LONG)
        os.kill(first, signal.SIGTERM)
        replacement(at, told, first)
        assert "ended with code 0;" in told()
        assert "killed" not in told()


def test_who_waits_for_the_disk_is_left_alone_and_replaced_when_it_has_ended(pets: Place) -> None:
    with watched(pets, 2, still_s=1.0) as (at, told):
        waits, note = at.workers[0], pets.folder / "site" / "child"
        os.kill(waits, ON_DISK)
        until(lambda: note.exists() and note.read_text())
        try:
            until(lambda: told().count(f"(pid {waits}) answers nobody: its event loop has stood still for") == 2)
            assert "waits for the disk, so it is left alone" in told()
            assert "killed" not in told()
            os.kill(waits, signal.SIGKILL)
            replacement(at, told, waits)  # though a process that it forked has its end of the channel
        finally:
            psutil.Process(int(note.read_text())).kill()


def test_who_waits_for_the_disk_is_known_by_the_system() -> None:
    code = "import ctypes, os, time; ctypes.CDLL(None).vfork() or (print(os.getpid(), flush=True), time.sleep(600))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as waits:
        assert waits.stdout is not None
        child = int(waits.stdout.readline())
        try:
            assert waits_for_disk(waits.pid)
            assert not waits_for_disk(child), "it sleeps, which a signal interrupts"
        finally:
            waits.kill()
            psutil.Process(child).kill()
    assert not waits_for_disk(os.getpid())
    assert not waits_for_disk(waits.pid), "it has ended"


# --- the rule

LIMIT_S = 10.0
ON_TIME = st.floats(0.01, 3.9)


def serves(num_beats: int) -> Sign:
    return Sign("serves", num_beats, LIMIT_S)


@given(st.lists(st.tuples(st.floats(0.01, 30.0), st.integers(0, 1)), max_size=60))
def test_only_who_was_watched_on_time_for_a_whole_limit_and_showed_the_same_is_reported(
    looks: list[tuple[float, int]],
) -> None:
    dog, now, num_beats = Watchdog(LIMIT_S), 0.0, 0
    seen: list[tuple[float, float, int]] = []
    for gap_s, beaten in looks:
        now, num_beats = now + gap_s, num_beats + beaten
        seen.append((now, gap_s, num_beats))
        for still_s in dog.look({1: serves(num_beats)}, now).values():
            assert still_s > LIMIT_S
            watched_for = [(gap, beats) for at, gap, beats in seen if at > now - LIMIT_S]
            assert all(gap <= 2 * dog.look_every_s and beats == num_beats for gap, beats in watched_for)


@given(st.lists(ON_TIME, min_size=10), st.floats(0.0, 1000.0))
def test_nobody_who_stands_still_escapes_a_watch_that_is_on_time(gaps: list[float], now: float) -> None:
    dog, began = Watchdog(LIMIT_S), now
    for gap_s in [0.0, *gaps]:
        now += gap_s
        reported = dog.look({1: serves(7), 2: serves(round(now * 1e6))}, now)
        assert (1 in reported) == (now - began > LIMIT_S)
        assert 2 not in reported or gap_s > LIMIT_S


def test_another_process_and_another_phase_begin_anew() -> None:
    dog = Watchdog(LIMIT_S)
    for now in range(0, 11, 2):
        assert not dog.look({1: serves(7)}, float(now))
    assert not dog.look({2: serves(7)}, 12.0), "not the one that was there before"
    for now in range(14, 23, 2):
        assert not dog.look({2: Sign("ends", 0, LIMIT_S)}, float(now))
    assert not dog.look({2: Sign("ends", 0, LIMIT_S)}, 24.0)
    assert dog.look({2: Sign("ends", 0, LIMIT_S)}, 26.0) == {2: 12.0}
    dog.pardon(2)
    assert not dog.look({2: Sign("ends", 0, LIMIT_S)}, 28.0)


def test_hearts_in_one_memory_do_not_touch_each_other() -> None:
    with memory(3) as file:
        own, seen = Heart(file.fileno(), 1), [Heart(file.fileno(), number) for number in range(3)]
        own.beat()
        own.beat()
        own.leave()
        assert [(heart.num_beats, heart.leaves) for heart in seen] == [(0, False), (2, True), (0, False)]
        seen[1].reset()
        assert (own.num_beats, own.leaves) == (0, False), "whoever comes next inherits nothing"
