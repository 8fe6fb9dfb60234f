"""Several workers share the work, and one that leaks is replaced without a batch having to wait or to fail."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from artefacts import SCHEMA, expected, graph, onnx_artefact, python_artefact
from python_models import CRASHES, DAWDLES, LEAKS

from tidemill.errors import ModelError
from tidemill.runtime.load import load
from tidemill.runtime.process import WorkerProcess

GOOD = [[0.333, 0.333, 0.333]]
MEGABYTE = 1 << 20


def batch(first: float) -> dict[str, np.ndarray]:
    return {"x": np.array([[first, 0, 0, 0]], np.float32), "age": np.ones(1), "country": np.array(["nl"], dtype=object)}


def ask(worker: WorkerProcess, first: float) -> list[list[float]]:
    return worker.scores(batch(first)).astype(float).round(3).tolist()


def test_a_batch_waits_only_while_no_worker_is_free(tmp_path: Path, python_models: str) -> None:
    loaded = load(python_artefact(tmp_path / "a", "Fickle"), project_file=python_models, copies=2)
    try:
        assert (loaded.is_python, loaded.copies) == (True, 2)
        done: list[str] = []

        def slow() -> None:
            loaded.predict(batch(DAWDLES))  # a second
            done.append("slow")

        with ThreadPoolExecutor(1) as other:
            waiting = other.submit(slow)
            time.sleep(0.2)
            for _ in range(5):
                loaded.predict(batch(0))
            done.append("five quick ones")
            waiting.result()
        assert done == ["five quick ones", "slow"]
    finally:
        loaded.close()


def test_one_that_crashes_is_replaced_and_the_other_is_none_the_worse(tmp_path: Path, python_models: str) -> None:
    loaded = load(python_artefact(tmp_path / "a", "Fickle"), project_file=python_models, copies=2)
    pids = set(loaded._scorer.pids)  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="died"):
        loaded.predict(batch(CRASHES))
    for _ in range(4):
        loaded.predict(batch(0))
    now = set(loaded._scorer.pids)  # type: ignore[attr-defined]
    assert len(pids & now) == 1 and len(now) == 2
    loaded.close()
    assert not any(map(psutil.pid_exists, pids | now))


def test_workers_that_do_not_load_leave_no_process(tmp_path: Path, python_models: str) -> None:
    before = {child.pid for child in psutil.Process().children()}
    with pytest.raises(ModelError, match="does not load: RuntimeError: no such weights"):
        load(python_artefact(tmp_path / "a", "Unloadable"), project_file=python_models, copies=2)
    assert {child.pid for child in psutil.Process().children()} <= before


@pytest.fixture
def leaking(tmp_path: Path, python_models: str) -> WorkerProcess:
    folder = python_artefact(tmp_path / "a", "Fickle")
    return WorkerProcess(
        folder, "python_models:Fickle", project_file=python_models, timeout_s=10.0, growth_bytes=100 * MEGABYTE
    )


def test_a_worker_that_leaks_is_replaced_between_batches_once_its_successor_is_ready(leaking: WorkerProcess) -> None:
    first, begun = leaking.pid, time.monotonic()
    assert ask(leaking, 0) == GOOD
    for _ in range(4):  # of 40 MB each
        assert ask(leaking, LEAKS) == GOOD
    children = {child.pid for child in psutil.Process().children()}
    assert first in children and len(children) >= 2, "the successor starts while the old one is at work"
    answered = 0
    while leaking.pid == first:
        assert ask(leaking, 0) == GOOD
        answered += 1
        assert time.monotonic() - begun < 60
        time.sleep(0.02)
    assert answered > 1, "the old one answered until then"
    assert not psutil.pid_exists(first)
    assert ask(leaking, 0) == GOOD
    leaking.close()


def test_a_worker_that_only_needs_much_is_left_alone(tmp_path: Path, python_models: str) -> None:
    folder = python_artefact(tmp_path / "a", "Fickle")
    worker = WorkerProcess(folder, "python_models:Fickle", project_file=python_models, growth_bytes=100 * MEGABYTE)
    assert ask(worker, LEAKS) == ask(worker, LEAKS) == GOOD
    pid = worker.pid
    for _ in range(5):
        ask(worker, 0)
    assert worker.pid == pid
    worker.close()


def test_a_successor_that_does_not_start_leaves_the_old_one_at_work(leaking: WorkerProcess, tmp_path: Path) -> None:
    pid = leaking.pid
    ask(leaking, 0)
    (tmp_path / "a" / "weights.txt").write_text("2.0")
    for _ in range(4):
        ask(leaking, LEAKS)
    ends = time.monotonic() + 5
    while time.monotonic() < ends and leaking._heir is not None:
        assert ask(leaking, 0) == GOOD
        time.sleep(0.05)
    assert leaking._heir is None and leaking.pid == pid
    assert ask(leaking, LEAKS) == GOOD
    assert leaking._heir is None, "it is not started over and over"
    leaking.close()


def test_a_leaking_worker_that_crashes_is_followed_by_the_successor_that_had_begun(leaking: WorkerProcess) -> None:
    ask(leaking, 0)
    for _ in range(3):
        ask(leaking, LEAKS)
    heir = leaking._heir
    assert heir is not None
    with pytest.raises(ModelError, match="died"):
        ask(leaking, CRASHES)
    assert ask(leaking, 0) == GOOD
    assert leaking.pid == heir[0].pid
    leaking.close()


def test_several_threads_run_one_onnx_model_at_the_same_time(tmp_path: Path) -> None:
    raw, rows = graph(1), np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    loaded = load(onnx_artefact(tmp_path / "a", raw), copies=3)
    together = threading.Barrier(3)

    def run() -> np.ndarray:
        together.wait(10)
        columns = SCHEMA.columns([{"x": row.tobytes()} for row in rows], ["x"])
        return np.array([loaded.predict(columns) for _ in range(50)])

    with ThreadPoolExecutor(3) as threads:
        answers = [future.result() for future in [threads.submit(run) for _ in range(3)]]
    for answer in answers:
        np.testing.assert_array_equal(answer, np.broadcast_to(expected(raw, rows), answer.shape))
