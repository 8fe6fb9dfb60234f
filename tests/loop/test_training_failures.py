"""Whatever a trainer does, the cycle ends with the cause, nothing in traffic changes, and nothing is left running."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from harness import PROJECT, START, Harness, table
from sqlalchemy import text

from tidemill.clock import SystemClock
from tidemill.errors import TrainingError
from tidemill.loop.engine import Engine
from tidemill.loop.erasing import running as trainings
from tidemill.loop.first import train_first
from tidemill.records import Outcome, Verdict
from tidemill.stores.models import Run
from tidemill.stores.tabular import examples_from
from tidemill.training import runner

Make = Callable[..., Harness]

SKLEARN = 'tm.trainers.Sklearn(LogisticRegression(), transforms=[tm.transforms.Standardise("x", "y")])'
IMPORT = "from sklearn.linear_model import LogisticRegression\n"
MINE = """
import os, signal, subprocess, time
import numpy as np
from tidemill.testing.fakes import CentroidTrainer

class Mine:
    def to_json(self):
        return {"trainer": "mine"}

    def train(self, data, *, start_from, seed, workdir, progress):
        if len(set(data.ids)) == len(data):  # the smoke tests repeat a few rows
            BODY
        return CentroidTrainer().train(data, start_from=start_from, seed=seed, workdir=workdir, progress=progress)

class NanModel:
    def predict(self, columns):
        return np.full((len(columns["x"]), 2), np.nan, dtype=np.float32)

    def save(self, folder):
        pass

    @classmethod
    def load(cls, folder):
        return cls()

def wait_with_a_child(workdir):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["sleep", "1000"])
    (workdir / "waits").touch()
    time.sleep(1000)
"""


def trainer(body: str, **more: str) -> dict[str, str]:
    """Return the edits of the project that put a trainer of one's own in place."""
    return {IMPORT: MINE.replace("BODY", body), SKLEARN: "Mine()", **more}


def mend(h: Harness) -> None:
    """Put the trainer that works back into the project file."""
    file = h.folder / "waves_project.py"
    file.write_text(IMPORT + file.read_text().replace("trainer=Mine()", f"trainer={SKLEARN}"))


@pytest.fixture(autouse=True)
def nothing_left_running(tmp_path: Path) -> Iterator[None]:
    """Every test of this file ends without a child, a zombie or a process that a training started."""
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) - before == set()
    assert of_trainings(tmp_path) == []


def of_trainings(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in process.environ().get("TIDEMILL_TRAINING", ""):
                found.append(process)
        except psutil.Error:
            continue  # it has ended, or is not ours
    return found


def failed(h: Harness) -> Verdict:
    """Check that the last cycle failed in training and changed nothing else; return why."""
    assert h.outcomes()[-1] == "failed"
    verdict = h.verdicts("train")[-1]
    assert verdict.outcome is Outcome.FAIL
    world = h.app.world
    cycle = max(world.journal.cycles(h.name), key=lambda c: c.number)
    assert cycle.reason == verdict.reason and cycle.candidate is None
    assert world.catalog.route(h.name) == world.catalog.history(h.name)[0].route, "the route has not moved"
    assert [(m.version, m.status) for m in world.catalog.models(h.name)] == [(1, "live")]
    mine = [r for r in world.catalog.runs(h.name) if r.cycle == cycle.number]
    assert {r.status for r in mine} == {"failed"}
    assert not any((world.workdir(r.run) / name).exists() for r in mine for name in (runner.SCRATCH, runner.ARTEFACT))
    assert h.app.status().trouble == {} and json.dumps(h.app.status().to_json())
    return verdict


def next_cycle_trains(h: Harness) -> None:
    """Ask for another cycle and see it make a candidate that passes its test."""
    h.app.ask("retrain", by="test")
    h.second()
    cycle = h.app.world.journal.cycle(h.name)
    assert cycle is not None and cycle.step == "release" and cycle.candidate == 2
    assert h.app.world.catalog.model(h.name, 1).status == "live"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise KeyError('the lost column')", "Mine.train raised KeyError: 'the lost column'"),
        ("return NanModel()", "NaN"),
        ("return object()", "which is no model"),
        ("raise SystemExit('not today')", "not today"),
        ("raise MemoryError", "out of memory"),
        ("subprocess.Popen(['sleep', '1000']); raise ValueError('and leaves a child')", "and leaves a child"),
    ],
    ids=["raises", "gives NaN", "gives no model", "exits", "runs out of memory", "leaves a child"],
)
def test_a_trainer_that_goes_wrong_fails_the_cycle_with_the_cause(harness: Make, body: str, says: str) -> None:
    h = harness(edit=trainer(body))
    h.app.ask("retrain", by="test")
    h.second()
    verdict = failed(h)
    assert says in verdict.reason and verdict.back_to == "training"


def test_after_the_trainer_is_mended_the_next_cycle_works(harness: Make) -> None:
    h = harness(edit=trainer("raise ValueError"))
    h.app.ask("retrain", by="test")
    h.second()
    failed(h)
    mend(h)
    next_cycle_trains(h)


def test_a_project_file_that_breaks_after_the_loop_has_started_fails_the_cycle_with_file_and_line(
    harness: Make,
) -> None:
    h = harness()
    file = h.folder / "waves_project.py"
    good = file.read_text()
    file.write_text("import tidemill as tm\n" + "x = undefined_name\n" + good)
    h.app.ask("retrain", by="test")
    h.second()
    verdict = failed(h)
    assert "waves_project.py, line 2" in verdict.reason and "undefined_name" in verdict.reason
    file.write_text(good)
    next_cycle_trains(h)


def test_labels_that_cannot_be_learnt_from_send_the_person_back_to_the_labels(harness: Make) -> None:
    h = harness()
    with h.app.world.db.begin() as conn:
        conn.execute(text("""UPDATE examples SET label = '"low"' WHERE label IS NOT NULL"""))
    h.app.ask("retrain", by="test")
    h.labels_people, h.feedback_share = False, 0.0
    h.second()
    verdict = failed(h)
    assert "every label is 'low'" in verdict.reason and verdict.back_to == "labels"


def running(h: Harness, engine: Engine, attempt: int) -> Path:
    """Turn until that attempt's trainer waits; return its work folder."""
    cycle = max(c.number for c in h.app.world.journal.cycles(h.name)) if h.outcomes() else 1
    workdir = h.app.world.workdir(f"cycle-{cycle}-attempt-{attempt}")
    ends = time.monotonic() + 30
    while not (workdir / "work" / "waits").exists():
        assert time.monotonic() < ends, (workdir / "log.txt").read_text()
        engine.turn()
        time.sleep(0.05)
    return workdir


def test_a_trainer_that_hangs_is_stopped_with_all_it_started_when_its_time_is_over(harness: Make) -> None:
    more = {'curate_every="10s"': 'curate_every="10s", train_timeout="1h"'}
    h = harness(edit=trainer("wait_with_a_child(workdir)", **more))
    engine = h.app.engine()
    h.app.ask("retrain", by="test")
    running(h, engine, attempt=1)
    assert len(of_trainings(h.folder)) == 2
    h.clock.sleep(3599)
    engine.turn()
    assert h.outcomes() == [None]
    h.clock.sleep(2)
    engine.turn()
    assert of_trainings(h.folder) == []
    verdict = failed(h)
    assert "train_timeout = 1:00:00" in verdict.reason and verdict.back_to == "training"
    engine.drain()
    mend(h)
    next_cycle_trains(h)


def test_a_trainer_that_is_killed_is_started_twice_more_and_then_fails_the_cycle(harness: Make) -> None:
    h = harness(edit=trainer("wait_with_a_child(workdir)"))
    engine = h.app.engine()
    h.app.ask("retrain", by="test")
    for attempt in (1, 2, 3):
        workdir = running(h, engine, attempt)
        assert len(of_trainings(h.folder)) == 2, "what the attempt before has started is gone"
        os.kill(json.loads((workdir / runner.PROCESS).read_text())["pid"], signal.SIGKILL)
    while h.outcomes() == [None]:
        engine.turn()
        time.sleep(0.02)
    verdict = failed(h)
    assert "3 times" in verdict.reason and "killed" in verdict.reason and verdict.back_to == "training"
    assert [r.run for r in h.app.world.catalog.runs(h.name) if r.cycle] == [f"cycle-1-attempt-{i}" for i in (1, 2, 3)]
    engine.drain()


def test_a_trainer_that_is_killed_once_makes_the_candidate_at_the_second_attempt(harness: Make) -> None:
    h = harness()
    engine = h.app.engine()
    h.app.ask("retrain", by="test")
    workdir = h.app.world.workdir("cycle-1-attempt-1")
    while not (workdir / runner.PROCESS).exists():
        engine.turn()
    os.kill(json.loads((workdir / runner.PROCESS).read_text())["pid"], signal.SIGKILL)
    engine.drain()
    h.turn()
    model = h.app.world.catalog.model(h.name, 2)
    assert model.run == "cycle-1-attempt-2"


def test_a_loop_that_starts_anew_finds_its_training_running_and_stops_it_in_time(harness: Make) -> None:
    more = {'curate_every="10s"': 'curate_every="10s", train_timeout="1h"'}
    h = harness(edit=trainer("wait_with_a_child(workdir)", **more))
    first = h.app.engine()
    h.app.ask("retrain", by="test")
    running(h, first, attempt=1)
    first.drain()
    second = Harness.open(h.folder, now=h.clock.now()).app.engine()
    second.turn()
    assert len(of_trainings(h.folder)) == 2 and h.outcomes() == [None]
    h.clock.sleep(3601)
    third = h.app.engine()
    third.turn()
    failed(h)
    second.world.db.close()
    third.drain()


def test_a_first_training_that_fails_leaves_nothing_of_the_rows_that_it_was_given(tmp_path: Path) -> None:
    project = PROJECT
    for old, new in trainer("(workdir / 'rows').write_text(str(data.columns)); raise ValueError('no')").items():
        project = project.replace(old, new)
    h = Harness.open(tmp_path, project=project)
    examples = examples_from(table(np.random.default_rng(2), 60), h.app.project.schema, now=START)
    with pytest.raises(TrainingError, match="no"):
        train_first(h.app.world, examples, clock=SystemClock(), progress=lambda _: None)
    (failed,) = [run for run in h.app.world.catalog.runs(h.name) if run.status == "failed"]
    left = {path.name for path in h.app.world.workdir(failed.run).iterdir()}
    assert "log.txt" in left and not left & {runner.SCRATCH, runner.ARTEFACT}
    h.app.close()


def test_a_first_training_that_failed_and_is_run_again_is_seen_to_run_and_is_done(tmp_path: Path) -> None:
    project = PROJECT
    for old, new in trainer(f"assert os.path.exists({str(tmp_path / 'mended')!r}), 'not yet'").items():
        project = project.replace(old, new)
    h = Harness.open(tmp_path, project=project)
    world, examples = h.app.world, examples_from(table(np.random.default_rng(2), 60), h.app.project.schema, now=START)
    with pytest.raises(TrainingError, match="not yet"):
        train_first(world, examples, clock=SystemClock(), progress=lambda _: None)
    (tmp_path / "mended").touch()
    seen: list[Run] = []

    class Looking(SystemClock):
        def sleep(self, seconds: float) -> None:
            seen.extend(trainings(world, h.name))
            super().sleep(seconds)

    assert train_first(world, examples, clock=Looking(), progress=lambda _: None)[0] == 1
    (run,) = world.catalog.runs(h.name)
    assert (run.status, "error" in run.body) == ("done", False)
    assert {one.run for one in seen} == {run.run}
    h.app.close()
