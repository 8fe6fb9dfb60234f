"""A training runs in a process of its own, which may end in any way; the loop can always tell which, and go on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
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
    trainer = "tm.trainers.Sklearn(LogisticRegression(max_iter=300))"
    told = make(trainer)
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
    assert kept == {"job.json", "process.json", "lock", "log.txt", "progress.jsonl", "result.json"}
    # Launching what is done changes nothing, and the same job again gives the same artefact.
    assert launch(told) == poll(Path(told.workdir)) == status
    again = make(trainer)
    launch(again)
    assert ended(again.workdir).result["artefact"] == result["artefact"]


def test_a_model_of_ones_own_is_stored_with_its_loader(make, home):
    told = make("own('learn')", smoke=False)
    launch(told)
    status = ended(told.workdir)
    assert status.error is None, status.error
    assert status.result["format"] == "python"
    folder = Blobs(home[0].blobs).folder(status.result["artefact"])
    loaded = load(folder, project_file=told.project_file)
    try:
        assert loaded.predict({"image": np.zeros((2, 8, 8), np.uint8)}).shape == (2, 10)
    finally:
        loaded.close()


@pytest.mark.parametrize(
    ("trainer", "kind", "told", "back_to"),
    [
        ("own('raise')", "TrainingError", "Own.train raised KeyError: 'no such thing'", "training"),
        ("own('nan')", "TrainingError", "NaN", "training"),
        ("own('learn')", "SmokeTestError", "smoke.memorise", "training"),
    ],
)
def test_a_training_that_fails_says_why(trainer, kind, told, back_to, make):
    one = make(trainer, smoke=kind == "SmokeTestError")
    launch(one)
    status = ended(one.workdir)
    assert status.state == "failed"
    assert told in status.error
    assert (status.failure["type"], status.failure["back_to"]) == (kind, back_to)
    assert "Traceback" in status.failure["traceback"]
    assert "training begins" in (Path(one.workdir) / "log.txt").read_text()


def test_a_project_file_that_does_not_load_is_an_error_too(make):
    told = make("nonsense")
    launch(told)
    status = ended(told.workdir)
    assert status.failure["type"] == "ProjectError"
    assert "digits_project.py, line" in status.error


def test_a_process_that_dies_without_a_word_is_told_from_one_that_failed_and_can_be_started_again(make, tmp_path):
    told = make("own('die')", smoke=False)
    launch(told)
    status = ended(told.workdir)
    assert status.state == "dead"
    assert "killed, or out of memory" in status.error
    assert "training begins" in status.error
    project_file(tmp_path, "own('learn')")
    assert launch(told).state == "running"
    assert ended(told.workdir).state == "done"


def test_a_training_that_hangs_is_killed_with_all_it_started(make):
    """Its progress is seen meanwhile; afterwards neither it nor its children are left, and the reason is."""
    told = make("own('hang')", smoke=False)
    launch(told)
    child = Path(told.workdir) / "child"
    until(child.exists)
    status = poll(Path(told.workdir))
    assert status.state == "running"
    assert (status.progress.message, status.progress.numbers) == ("half way", {"loss": 0.25})
    assert launch(told).state == "running"  # and no second one is started
    pids = [pid_of(told.workdir), int(child.read_text())]
    kill(Path(told.workdir), "it took longer than 6h")
    status = poll(Path(told.workdir))
    assert status.state == "failed"
    assert "the training was killed: it took longer than 6h" in status.error
    until(lambda: all(runner.started_at(pid) is None for pid in pids))
    kill(Path(told.workdir), "again")
    assert "6h" in poll(Path(told.workdir)).error


def test_a_kill_by_others_leaves_it_dead_and_children_do_not_bar_the_next(make, tmp_path):
    """`kill -9` of the process alone: its child lives on and holds the lock until the next start sweeps it away."""
    told = make("own('hang')", smoke=False)
    launch(told)
    child = Path(told.workdir) / "child"
    until(child.exists)
    os.kill(pid_of(told.workdir), signal.SIGKILL)
    assert ended(told.workdir).state == "dead"
    assert runner.started_at(int(child.read_text())) is not None
    project_file(tmp_path, "own('learn')")
    launch(told)
    assert ended(told.workdir).state == "done"
    assert runner.started_at(int(child.read_text())) is None


def test_a_loop_that_restarts_finds_the_training_it_started(make):
    """Another process launches; this one, which is not its parent, sees it run, and kills it."""
    told = make("own('hang')", smoke=False)
    starter = os.fork()
    if starter == 0:
        with contextlib.suppress(BaseException):
            launch(told)
        os._exit(0)
    os.waitpid(starter, 0)
    assert poll(Path(told.workdir)).state == "running"
    assert launch(told).state == "running"
    until((Path(told.workdir) / "child").exists)
    kill(Path(told.workdir))
    assert poll(Path(told.workdir)).state == "failed"


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
