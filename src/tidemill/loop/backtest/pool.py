"""Runs in parallel: warm processes that share a shelf, and work through the runs of one seed after another."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.sharedctypes import SynchronizedArray
from pathlib import Path

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

from tidemill.errors import BacktestError
from tidemill.loop.backtest.memo import Memo, Spent
from tidemill.loop.backtest.run import Run, Setting, replay
from tidemill.loop.backtest.shelf import Shelf
from tidemill.loop.backtest.stream import Stream
from tidemill.project import Project
from tidemill.stats.metrics import Metric
from tidemill.strategy.strategy import Strategy

_LOOK_S = 0.5

Tell = Callable[[float, float | None], None]
"""Told how far the backtest is, from 0 to 1, and how many seconds are left, None while nobody knows."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run to do; `key` names it."""

    key: str
    name: str
    strategy: Strategy
    seed: int | None
    hindsight: bool


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all runs of a backtest have in common."""

    project: Project
    setting: Setting
    metric: Metric
    memoise: bool = True


Done = Callable[[Task, Run, Spent], None]
_Given = tuple[str, bytes, list[str], "SynchronizedArray[float]"]


def run_here(work: Work, stream: Stream, tasks: Sequence[Task], *, done: Done, tell: Tell) -> None:
    """Do runs one after another, in this process."""
    with tempfile.TemporaryDirectory(prefix="tidemill-backtest-") as folder:
        memo, begun = _memo(work, stream, Path(folder), shared=False), time.monotonic()
        for at, task in enumerate(tasks):
            before = Spent(**vars(memo.spent))

            def progress(fraction: float, at: int = at) -> None:
                _tell(tell, (at + fraction) / len(tasks), begun)

            run = _replay(task, work, memo, progress)
            done(task, run, memo.spent.less(before))


def _memo(work: Work, stream: Stream, folder: Path, *, shared: bool) -> Memo:
    return Memo(stream, work.project, work.memoise, Shelf(folder, shared=shared) if work.memoise else None)


def run_apart(work: Work, stream: Stream, tasks: Sequence[Task], *, jobs: int, done: Done, tell: Tell) -> None:
    """Do runs in `jobs` processes."""
    with tempfile.TemporaryDirectory(prefix="tidemill-backtest-") as folder, ExitStack() as stack:
        stream.save(Path(folder))
        how_far = multiprocessing.get_context("spawn").Array("d", len(tasks))
        given: _Given = (folder, pickle.dumps(work), list(sys.path), how_far)
        workers = [stack.enter_context(_worker(given)) for _ in range(jobs)]
        _share(workers, list(enumerate(tasks)), how_far, done, tell)


@contextmanager
def _worker(given: _Given) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")  # polars does not survive a fork
    pool = ProcessPoolExecutor(1, mp_context=context, initializer=_prepare, initargs=given)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _share(
    workers: Sequence[ProcessPoolExecutor], waiting: list[tuple[int, Task]], how_far: SynchronizedArray[float],
    done: Done, tell: Tell,
) -> None:  # fmt: skip
    """Give each worker that is free a run, of the seed it had last if there is one: what it knows is of use there."""
    begun = time.monotonic()
    last: dict[int, int | None] = {}
    doing: dict[Future[tuple[Run, Spent]], tuple[int, Task]] = {}

    def give(worker: int) -> None:
        if waiting:
            at, task = waiting.pop(_next(waiting, last, worker))
            last[worker] = task.seed
            doing[workers[worker].submit(_do, at, task)] = (worker, task)

    for worker in range(len(workers)):
        give(worker)
    while doing:
        ended, _ = wait(doing, timeout=_LOOK_S, return_when=FIRST_COMPLETED)
        for future in ended:
            worker, task = doing.pop(future)
            run, spent = _result(future)
            done(task, run, spent)
            give(worker)
        _tell(tell, sum(how_far[:]) / len(how_far), begun)


def _result(future: Future[tuple[Run, Spent]]) -> tuple[Run, Spent]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise BacktestError(
            "a process of the backtest died, or could not start.",
            "in a script, call it under `if __name__ == '__main__':`; where memory is short, give jobs=1",
        ) from error


def _next(waiting: Sequence[tuple[int, Task]], last: dict[int, int | None], worker: int) -> int:
    seeds = [task.seed for _, task in waiting]
    if worker in last and last[worker] in seeds:
        return seeds.index(last[worker])
    others = {seed for who, seed in last.items() if who != worker}
    return next((at for at, seed in enumerate(seeds) if seed not in others), 0)


def _tell(tell: Tell, fraction: float, begun: float) -> None:
    took = time.monotonic() - begun
    tell(fraction, took * (1 - fraction) / fraction if fraction > 0 else None)


# --- in a worker

_here: dict[str, tuple[Work, Memo, SynchronizedArray[float]]] = {}
"""What this process was prepared with: an executor gives its functions nothing of their own."""


def _prepare(folder: str, work: bytes, path: list[str], how_far: SynchronizedArray[float]) -> None:
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    tempfile.tempdir = folder  # what trainings write goes when the folder goes
    sys.path[:] = path  # functions and classes of the project file are found again by its name
    threadpool_limits(1)  # one process a core: threads of theirs would only wait for each other
    loaded: Work = pickle.loads(work)
    _here["work"] = (loaded, _memo(loaded, Stream.load(Path(folder)), Path(folder), shared=True), how_far)


def _end_with_parent(folder: str) -> None:
    """End this process when the one that started it is killed: nobody would take its results, or tidy up."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has been started"
    parent.join()
    with suppress(OSError):  # another worker was first
        Path(folder).rename(f"{folder}.gone")  # so that nothing is added while it is deleted
        shutil.rmtree(f"{folder}.gone", ignore_errors=True)
    os._exit(1)


def _do(at: int, task: Task) -> tuple[Run, Spent]:
    work, memo, how_far = _here["work"]
    before = Spent(**vars(memo.spent))

    def progress(fraction: float) -> None:
        how_far[at] = fraction

    run = _replay(task, work, memo, progress)
    return run, memo.spent.less(before)


def _replay(task: Task, work: Work, memo: Memo, progress: Callable[[float], None]) -> Run:
    return replay(
        task.strategy, task.name, memo, work.setting, seed=task.seed, metric=work.metric, hindsight=task.hindsight,
        progress=progress,
    )  # fmt: skip
