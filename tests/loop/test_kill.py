"""The loop is killed before and after every write of a full cycle, and started again: the end is the same.

The unkilled run is kept second by second. For each write in a second, a child process starts from that second, is
ended by `os._exit` just before or just after the write, and the second is taken again by a fresh start. What the stores
then hold equals what they held in the unkilled run, from where on the two runs are the same.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness import CALM_S, START, Harness
from sqlalchemy import Connection

from tidemill.loop import train
from tidemill.stores.database import Database
from tidemill.training import runner

LONGEST_S = 120
KILLED = 77
_CONTEXT = multiprocessing.get_context("forkserver")


def world_at(second: int, folder: Path) -> Harness:
    """Open the deployment as a process that starts in that second does."""
    h = Harness.open(folder, now=START + timedelta(seconds=second))
    h.rate, h.feedback_share = 80, 0.6
    h.accuracy = {(1, "v2"): 0.4, (2, "v1"): 0.98, (2, "v2"): 0.98}
    h.new_share = 0.6
    return h


def take_second(second: int, folder: Path) -> Harness:
    """Let one second pass. Users and people act once, however often the loop is started in it."""
    h = world_at(second, folder)
    h.users()
    mark = folder / f"people-{second}"
    if not mark.exists():
        h.people()
        mark.touch()
    h.forget_leases()  # those of a killed loop: waiting for their end takes no part in what is tested
    h.turn()
    return h


def lend_training(end: Path) -> None:
    """Let a launched training be done at once, with what the unkilled run's left: it is the same training."""

    def launch(job: runner.Job) -> runner.Status:
        workdir, home = Path(job.workdir), Path(job.home)
        shutil.copytree(end / "home" / workdir.relative_to(home), workdir, dirs_exist_ok=True)
        shutil.copytree(end / "home" / "blobs", home / "blobs", dirs_exist_ok=True)
        return runner.poll(workdir)

    train.runner = SimpleNamespace(Job=runner.Job, launch=launch, poll=runner.poll, kill=runner.kill)  # type: ignore[assignment]


def take_second_and_die(second: int, folder: Path, kill_at: int, when: str, end: Path) -> None:
    """In a child: end this process at the given write of the loop."""
    lend_training(end)
    count = [0]
    begin = Database.begin

    @contextmanager
    def counted(self: Database) -> Iterator[Connection]:
        with begin(self) as conn:
            yield conn
            count[0] += 1
            if count[0] == kill_at and when == "before":
                os._exit(KILLED)
        if count[0] == kill_at:
            os._exit(KILLED)

    turn = Harness.turn

    def killed_turn(self: Harness) -> None:
        Database.begin = counted  # type: ignore[method-assign]
        turn(self)

    Harness.turn = killed_turn  # type: ignore[method-assign]
    take_second(second, folder)
    os._exit(0)


@dataclass
class Unkilled:
    """The run that nobody disturbed: a folder before each second of the cycle, and what the stores held after it."""

    before: dict[int, Path]
    after: dict[int, dict[str, list[tuple[Any, ...]]]]
    end: Path
    outcomes: list[str | None]


@pytest.fixture(scope="module")
def unkilled(calm: Path, tmp_path_factory: pytest.TempPathFactory) -> Unkilled:
    root = tmp_path_factory.mktemp("unkilled")
    folder = root / "now"
    shutil.copytree(calm, folder)
    before: dict[int, Path] = {}
    after = {}
    outcomes: list[str | None] = []
    for second in range(CALM_S + 1, LONGEST_S):
        keep = root / f"before-{second}"
        shutil.copytree(folder, keep)
        h = take_second(second, folder)
        outcomes = h.outcomes()
        if outcomes:  # the cycle is open, or was opened in this second
            before[second], after[second] = keep, h.dump()
        else:
            shutil.rmtree(keep)
        h.app.close()
        if outcomes and outcomes[0] is not None:
            break
    return Unkilled(before, after, folder, outcomes)


def test_the_unkilled_run_is_a_full_cycle(unkilled: Unkilled) -> None:
    assert unkilled.outcomes == ["promoted"]
    assert 3 <= len(unkilled.before) <= 40


def killed_once(unkilled: Unkilled, second: int, kill_at: int, when: str, folder: Path) -> bool:
    """Die at a write of this second, take it again, and compare; False when there is no such write."""
    shutil.copytree(unkilled.before[second], folder)
    child = _CONTEXT.Process(target=take_second_and_die, args=(second, folder, kill_at, when, unkilled.end))
    child.start()
    child.join(60)
    assert child.exitcode in (0, KILLED), f"second {second}, {when} write {kill_at}: exit {child.exitcode}"
    if child.exitcode == 0:
        return False
    h = take_second(second, folder)
    found, wanted = h.dump(), unkilled.after[second]
    h.app.close()
    for table, rows in wanted.items():
        assert found[table] == rows, f"{table} differs after a kill {when} write {kill_at} of second {second}"
    shutil.rmtree(folder)
    return True


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_write_of_a_full_cycle_the_loop_ends_as_if_nothing_had_happened(
    unkilled: Unkilled, tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "runner", runner)
    lend_training(unkilled.end)
    kills = 0
    for second in unkilled.before:
        kill_at = 1
        while killed_once(unkilled, second, kill_at, when, tmp_path / f"{second}-{kill_at}"):
            kills, kill_at = kills + 1, kill_at + 1
    print(f"{kills} kills in {len(unkilled.before)} seconds")
    assert kills >= 30, f"only {kills} writes were found to be killed at"
