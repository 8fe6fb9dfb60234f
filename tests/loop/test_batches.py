"""Scheduled batch predictions: once in each slot, again after a failure, and somebody is told when outputs grow old."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from harness import Harness
from rich.console import Console

from tidemill.batches import batch
from tidemill.cli.status import show
from tidemill.errors import ProjectError
from tidemill.project import load_project
from tidemill.training import runner

DECLARED = (
    '    batches=[tm.batch("nightly", source="in.csv", to="out-{slot:%H}.parquet", every="1h", stale_after="1h")],\n'
)
EDIT = {'    unit="user",\n': f'    unit="user",\n{DECLARED}'}
NUM_ROWS = 50


@pytest.fixture
def mill(harness: Callable[..., Harness]) -> Harness:
    """A deployment with a batch that is due every hour, and a table for it."""
    made = harness(edit=EDIT)
    made.labels_people = False
    write(made.folder)
    return made


def write(folder: Path) -> None:
    rows = {"id": range(NUM_ROWS), "x": [float(i - 25) for i in range(NUM_ROWS)], "y": [0.0] * NUM_ROWS}
    pl.DataFrame({**rows, "app": ["v1"] * NUM_ROWS}).write_csv(folder / "in.csv")


def state(mill: Harness) -> Any:
    return mill.app.world.journal.state(mill.name, "batch.nightly") or {}


def until(mill: Harness, status: str) -> Any:
    """Turn until the batch stands like that."""
    for _ in range(600):
        mill.turn()
        if state(mill).get("status") == status:
            return state(mill)
        time.sleep(0.02)
    raise AssertionError(f"the batch never was {status}: {state(mill)}")


def verdicts(mill: Harness) -> list[tuple[str, str]]:
    given = mill.app.world.journal.verdicts(mill.name, limit=100)[::-1]
    return [(str(v.verdict.outcome), v.verdict.reason) for v in given if v.verdict.by == "batch.nightly"]


def shown(mill: Harness) -> str:
    console = Console(width=300, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    show(console, mill.app.status(), "1d")
    console.file.close()
    return console.export_text()


def test_it_runs_once_in_each_slot(mill: Harness) -> None:
    done = until(mill, "done")
    made = pl.read_parquet(mill.folder / "out-00.parquet")
    assert made["id"].to_list() == [str(i) for i in range(NUM_ROWS)]  # CSV is text
    assert made["decision"].to_list()[0] == "low" and made["decision"].to_list()[-1] == "high"
    for _ in range(5):
        mill.turn()
    assert state(mill) == done and len(verdicts(mill)) == 1
    assert verdicts(mill)[0][0] == "pass" and "50 rows by version 1" in verdicts(mill)[0][1]
    assert "batch nightly: done; last 2026-01-01" in shown(mill)
    mill.clock.sleep(3600)
    for _ in range(600):
        mill.turn()
        if len(verdicts(mill)) == 2:
            break
        time.sleep(0.02)
    assert state(mill)["slot"] == done["slot"] + 1 and (mill.folder / "out-01.parquet").exists()
    assert len(list(mill.app.world.home.runs.rglob("scheduled-nightly-*/job.json"))) == 1


def test_a_failure_is_told_and_tried_again_after_a_rest(mill: Harness) -> None:
    (mill.folder / "in.csv").unlink()
    until(mill, "resting")
    for _ in range(3):
        mill.turn()
    assert [outcome for outcome, _ in verdicts(mill)] == ["fail"]
    assert "does not exist" in verdicts(mill)[0][1] and "resting after attempt 1" in shown(mill)
    write(mill.folder)
    mill.clock.sleep(31)
    assert until(mill, "done")["attempt"] == 2
    assert (mill.folder / "out-00.parquet").exists()


def test_outputs_that_grow_old_are_told_of_once(mill: Harness) -> None:
    until(mill, "done")
    (mill.folder / "in.csv").unlink()
    mill.clock.sleep(3601)
    until(mill, "resting")
    mill.turn()
    stale = [reason for outcome, reason in verdicts(mill) if reason.startswith("stale")]
    assert len(stale) == 1 and "1:00:00 is allowed" in stale[0]
    assert "batch nightly: STALE resting" in shown(mill)
    assert mill.app.status().to_json()["batches"]["nightly"]["stale"] is True
    (alert,) = mill.app.status().alerts
    assert (alert.name, alert.verdict.reason) == ("batch.nightly", stale[0])
    write(mill.folder)
    mill.clock.sleep(3601)
    assert until(mill, "done")["stale"] is False
    assert mill.app.status().alerts == []


def test_the_alert_of_a_batch_that_is_declared_no_more_is_over(mill: Harness) -> None:
    (mill.folder / "in.csv").unlink()
    mill.clock.sleep(3601)
    until(mill, "resting")
    mill.clock.sleep(3601)
    mill.turn()
    assert [one.name for one in mill.app.status().alerts] == ["batch.nightly"]
    file = mill.folder / "waves_project.py"
    file.write_text(file.read_text().replace(DECLARED, ""))
    mill.turn()
    mill.turn()
    assert mill.app.status().alerts == []


def test_a_slot_that_came_to_nothing_leaves_no_parts(mill: Harness) -> None:
    (mill.folder / "in.csv").write_text("id,x,y,app\n1,0.5,0.5,v1\n2,none,0.5,v1\n")
    until(mill, "resting")
    assert len(list(mill.app.world.workdir("").glob("batch-*"))) == 1, "it may be tried again"
    write(mill.folder)
    mill.clock.sleep(3601)
    until(mill, "done")
    assert list(mill.app.world.workdir("").glob("batch-*")) == []


def test_a_killed_process_is_started_again_and_a_new_loop_finds_one_that_runs(mill: Harness) -> None:
    for _ in range(100):
        mill.turn()
        if state(mill).get("status") == "running":
            break
    again = Harness.open(mill.folder, now=mill.clock.now())
    again.labels_people = False
    (job,) = mill.app.world.home.runs.rglob("scheduled-nightly-*/job.json")
    again.turn()
    assert len(list(mill.app.world.home.runs.rglob("scheduled-nightly-*/job.json"))) == 1
    pid = runner._process(job.parent)["pid"]
    os.kill(pid, signal.SIGKILL)
    until(again, "resting")
    assert "without a word" in verdicts(again)[0][1]
    again.clock.sleep(31)
    until(again, "done")
    assert pl.read_parquet(mill.folder / "out-00.parquet")["id"].to_list() == [str(i) for i in range(NUM_ROWS)]
    again.app.close()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"name": "Ni ght"}, "no plain name"),
        ({"every": "0s"}, "due every"),
        ({"every": "soon"}, "not a duration"),
        ({"on_bad_row": "ignore"}, "on_bad_row is 'ignore'"),
        ({"stale_after": "1m"}, "before the next is due"),
        ({"to": "out-{slot:%H}-{other}.csv"}, "reads or writes"),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused(given: dict[str, Any], told: str) -> None:
    whole = {"name": "nightly", "source": "in.csv", "to": "out.csv", "every": "1d", **given}
    with pytest.raises(ProjectError, match=told):
        batch(whole.pop("name"), **whole)


def test_two_batches_of_one_name_are_refused(mill: Harness, tmp_path: Path) -> None:
    file = tmp_path / "twice_project.py"
    file.write_text(
        (mill.folder / "waves_project.py").read_text().replace("batches=[", f"batches=[{DECLARED.strip()[9:-2]}, ")
    )
    with pytest.raises(ProjectError, match="two batches have one name"):
        load_project(str(file))


def test_slots_begin_at_whole_multiples_of_the_period() -> None:
    from datetime import UTC, datetime

    made = batch("nightly", source="a.csv", to="b-{slot:%Y-%m-%d}.csv", every="1d")
    now = datetime(2026, 3, 1, 13, 5, tzinfo=UTC)
    assert made.begins(made.slot(now)) == datetime(2026, 3, 1, tzinfo=UTC)
    assert made.slot(now + timedelta(hours=11)) == made.slot(now) + 1
    assert made.place(made.to, made.slot(now)) == "b-2026-03-01.csv"
    assert made.stale_after == timedelta(days=2)
