"""A training runs in a process of its own, which may end in any way; the loop can always tell which, and go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from deployed import job, made_home, project_file

from tidemill.runtime.load import load
from tidemill.stores.blobs import Blobs
from tidemill.training import runner
from tidemill.training.runner import Status, kill, launch, poll


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return made_home(tmp_path_factory.mktemp("deployed"))


@pytest.fixture
def make(home, tmp_path):
    """Return a function from the text of a trainer to its job; what still runs at the end is killed."""
    jobs = []

    def made(trainer: str, **parts):
        run = f"{tmp_path.name}-{len(jobs)}"
        jobs.append(job(*home, project_file(tmp_path, trainer), run, **parts))
        return jobs[-1]

    yield made
    for each in jobs:
        kill(Path(each.workdir))


def ended(workdir: str, seconds: float = 60) -> Status:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        status = poll(Path(workdir))
        if status.state != "running":
            return status
        time.sleep(0.05)
    raise AssertionError(f"still running after {seconds} s")


def until(condition, seconds: float = 60):
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, "it never came to be"
        time.sleep(0.02)


def pid_of(workdir: str) -> int:
    return json.loads((Path(workdir) / "process.json").read_text())["pid"]


def test_a_training_leaves_an_artefact_and_all_that_is_known_about_it(make, home):
    """The result names artefact, data, seed, parameters, code and environment; the artefact answers from its blob."""
    told = make("tm.trainers.Sklearn(LogisticRegression(max_iter=300))")
    assert poll(Path(told.workdir)).state == "absent"
    assert launch(told).state == "running"
    status = ended(told.workdir)
    assert status.error is None, status.error
    result = status.result
    assert (status.state, status.progress.fraction) == ("done", 1.0)
    assert result["format"] == "onnx"
    assert result["metrics"]["accuracy"] > 0.95
    assert (result["seed"], result["dataset"]) == (3, home[1])
    assert result["params"]["estimator"]["params"]["max_iter"] == 300
    assert result["environment"]["packages"]["numpy"] == np.__version__
    assert len(result["code"]["sources"]) == 16
    assert [v["outcome"] for v in result["smoke"]] == ["pass"] * 5
    assert result["seconds"] > 0
    loaded = load(Blobs(home[0].blobs).folder(result["artefact"]))
    assert loaded.predict({"image": np.zeros((2, 8, 8), np.uint8)}).shape == (2, 10)
    kept = {path.name for path in Path(told.workdir).iterdir()}
    assert kept == {"job.json", "process.json", "lock", "log.txt", "progress.jsonl", "made.json", "result.json"}
    assert launch(told) == poll(Path(told.workdir)) == status  # what is done is left alone


def test_a_training_that_fails_says_why(make):
    one = make("own('raise')", smoke=False)
    launch(one)
    status = ended(one.workdir)
    assert status.state == "failed"
    assert "Own.train raised KeyError: 'no such thing'" in status.error
    assert (status.failure["type"], status.failure["back_to"]) == ("TrainingError", "training")
    assert "Traceback" in status.failure["traceback"]
    assert "training begins" in (Path(one.workdir) / "log.txt").read_text()


def test_a_loop_that_restarts_finds_the_training_it_started_and_can_kill_it(make, tmp_path):
    """Another process launched it: its progress is seen, no second one is started, and none of it outlives a kill."""
    told = make("own('hang')", smoke=False)
    runner.write_json(tmp_path / "told.json", vars(told))
    program = "import sys, pathlib; from tidemill.training.runner import *; launch(Job.read(pathlib.Path(sys.argv[1])))"
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "told.json")], check=True)
    child = Path(told.workdir) / "child"
    until(child.exists)
    status = poll(Path(told.workdir))
    assert status.state == "running"
    runner.clear(Path(told.workdir))
    assert (Path(told.workdir) / runner.SCRATCH).exists(), "what runs goes on"
    assert (status.progress.message, status.progress.numbers) == ("half way", {"loss": 0.25})
    assert launch(told).state == "running"
    pids = [pid_of(told.workdir), int(child.read_text())]
    kill(Path(told.workdir), "it took longer than 6h")
    status = poll(Path(told.workdir))
    assert status.state == "failed"
    assert "the training was killed: it took longer than 6h" in status.error
    assert not any((Path(told.workdir) / name).exists() for name in (runner.SCRATCH, runner.ARTEFACT))
    until(lambda: all(runner.started_at(pid) is None for pid in pids))
    kill(Path(told.workdir), "again")
    assert "6h" in poll(Path(told.workdir)).error


def test_a_process_that_dies_without_a_word_can_be_started_again(make, home, tmp_path):
    """`kill -9`: it is told from one that failed; a child that lived on, and holds the lock, does not bar the next.

    The next makes a model of one's own, which is stored with its loader and served by a worker.
    """
    told = make("own('hang')", smoke=False)
    launch(told)
    child = Path(told.workdir) / "child"
    until(child.exists)
    os.kill(pid_of(told.workdir), signal.SIGKILL)
    status = ended(told.workdir)
    assert status.state == "dead"
    assert "killed, or out of memory" in status.error
    assert "training begins" in status.error
    assert runner.started_at(int(child.read_text())) is not None
    project_file(tmp_path, "own('learn')")
    assert launch(told).state == "running"
    status = ended(told.workdir)
    assert status.error is None, status.error
    assert (status.state, status.result["format"]) == ("done", "python")
    assert runner.started_at(int(child.read_text())) is None
    loaded = load(Blobs(home[0].blobs).folder(status.result["artefact"]), project_file=told.project_file)
    try:
        assert loaded.predict({"image": np.zeros((2, 8, 8), np.uint8)}).shape == (2, 10)
    finally:
        loaded.close()


def test_a_pid_given_to_somebody_else_is_not_taken_for_the_training(tmp_path):
    """After a reboot, or long enough, the pid is another process, which is neither running for us nor ours to kill."""
    runner.write_json(tmp_path / "process.json", {"pid": os.getpid(), "started": "another boot/123"})
    assert poll(tmp_path).state == "dead"
    kill(tmp_path)  # would end this test
    assert poll(tmp_path).state == "dead"


def test_a_job_is_its_json(make, tmp_path):
    told = make("own('learn')", start_from="a" * 64, smoke=False)
    runner.write_json(tmp_path / "job.json", vars(told))
    assert runner.Job.read(tmp_path / "job.json") == told


def test_a_torn_line_of_progress_is_passed_over(tmp_path):
    runner.write_json(tmp_path / "process.json", {"pid": os.getpid(), "started": runner.started_at(os.getpid())})
    whole = json.dumps({"fraction": 0.25, "message": "epoch 1", "numbers": {}})
    (tmp_path / "progress.jsonl").write_text(f'{whole}\n{{"fraction": 0.5, "mess')
    assert poll(tmp_path).progress.fraction == 0.25
