"""A Python model's worker: what it crashes on fails, it is replaced, and it never outlives who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from artefacts import python_artefact
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from python_models import CRASHES, HANGS, RAISES

from tidemill.errors import ModelError, ModelHung
from tidemill.runtime.process import WorkerProcess
from tidemill.runtime.wire import pack_array, unpack_array


@pytest.fixture
def worker(tmp_path, python_models):
    folder = python_artefact(tmp_path / "a", "Fickle")
    started = WorkerProcess(folder, "python_models:Fickle", project_file=python_models, timeout_s=1.0)
    yield started
    started.close()


def ask(worker: WorkerProcess, first: float) -> list[list[float]]:
    columns = {"x": np.array([[first, 0, 0, 0]], np.float32), "country": np.array(["nl"], dtype=object)}
    return worker.scores(columns).astype(float).round(3).tolist()


GOOD = [[0.333, 0.333, 0.333]]


def test_a_model_that_raises_goes_on_with_the_next_batch(worker):
    pid = worker.pid
    with pytest.raises(ModelError, match="the model raised ValueError: told to"):
        ask(worker, RAISES)
    assert (ask(worker, 0), worker.pid) == (GOOD, pid)


def test_a_worker_takes_the_threads_that_it_is_given(tmp_path, python_models, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    folder = python_artefact(tmp_path / "a", "Fickle")
    worker = WorkerProcess(folder, "python_models:Fickle", project_file=python_models, threads=3)
    try:
        environment = psutil.Process(worker.pid).environ()
    finally:
        worker.close()
    assert {environment[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")} == {"3"}


def test_a_worker_that_crashes_is_replaced(worker):
    pid = worker.pid
    with pytest.raises(ModelError, match=r"died \(exit status 3\)"):
        ask(worker, CRASHES)
    assert ask(worker, 0) == GOOD
    assert worker.pid != pid
    assert not psutil.pid_exists(pid)


def test_a_worker_that_hangs_is_killed_and_replaced(worker):
    pid = worker.pid
    begun = time.monotonic()
    with pytest.raises(ModelHung, match="did not answer within 1 s"):
        ask(worker, HANGS)
    assert time.monotonic() - begun < 5
    assert ask(worker, 0) == GOOD
    assert not psutil.pid_exists(pid)


def test_a_worker_killed_between_batches_is_replaced_and_no_batch_fails(worker):
    os.kill(worker.pid, signal.SIGKILL)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)  # dead, and not reaped yet
    assert ask(worker, 0) == GOOD


def test_a_worker_that_no_longer_starts_is_not_started_over_and_over(worker, tmp_path):
    (tmp_path / "a" / "weights.txt").write_text("2.0")
    with pytest.raises(ModelError, match="died"):
        ask(worker, CRASHES)
    with pytest.raises(ModelError, match="does not load: AssertionError"):
        ask(worker, 0)
    pid = worker.pid
    with pytest.raises(ModelError, match="does not start"):
        ask(worker, 0)
    assert worker.pid == pid


def test_closing_ends_the_process(worker):
    pid = worker.pid
    worker.close()
    assert not psutil.pid_exists(pid)


def test_a_worker_leaves_when_its_gateway_is_killed_even_while_the_model_hangs(tmp_path, python_models):
    folder = python_artefact(tmp_path / "a", "Fickle")
    code = (
        "import sys, numpy as np; from tidemill.runtime.process import WorkerProcess;"
        f"w = WorkerProcess({str(folder)!r}, 'python_models:Fickle', project_file={python_models!r}, timeout_s=60);"
        f"print(w.pid, flush=True); w.scores({{'x': np.full((1, 4), {HANGS})}})"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env) as gateway:
        worker = psutil.Process(int(gateway.stdout.readline()))
        time.sleep(0.3)
        assert worker.is_running()
        gateway.kill()
    worker.wait(10)


arrays = st.one_of(
    hnp.arrays(st.sampled_from([np.float32, np.float64, np.uint8, np.int64]), hnp.array_shapes(max_dims=4, min_side=0)),
    st.lists(st.text(), max_size=5).map(lambda texts: np.array([*texts, None], dtype=object)[:-1]),
)


@given(arrays)
def test_a_column_crosses_the_wire_unchanged(array):
    back = unpack_array(pack_array(array))
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes() if array.dtype != object else back.tolist() == array.tolist()
