"""A batch prediction that is killed, wherever that is, goes on: every row once, in order, and no half of an output."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables_of_waves import check_output, run, start, waves
from test_batch import fill, rows_of

from tidemill.errors import Conflict
from tidemill.stores.addresses import read_place
from tidemill.stores.home import Home
from tidemill.stores.sinks import exists, remove

NUM_ROWS = 400
OPTIONS: dict[str, Any] = {"jobs": 1, "part_rows": 100, "batch_rows": 50, "on_bad_row": "skip"}


def table_with_a_bad_row() -> tuple[pa.Table, pa.Table]:
    """A table, and the rows of it that fit."""
    table = waves(NUM_ROWS)
    heights = [-1.0 if i == 123 else h for i, h in enumerate(table["height"].to_pylist())]
    good = pa.concat_tables([table.slice(0, 123), table.slice(124)])
    return table.set_column(1, "height", pa.array(heights)), good


@pytest.mark.parametrize("first", [0, 2])
def test_killed_at_any_operation_on_the_disk_it_goes_on(home: Home, tmp_path: Path, first: int) -> None:
    table, good = table_with_a_bad_row()
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=150)
    to, refused, status, fate = tmp_path / "out.parquet", tmp_path / "out.refused.parquet", -1, 1 + 5 * first
    while status != 0:  # until no operation is left to die at
        process = start(home, tmp_path / "in.parquet", to, fate=fate, **OPTIONS)
        process.join()
        status = process.exitcode
        assert status in (0, -signal.SIGKILL)
        if to.exists():
            check_output(pq.read_table(to), good)
            assert pq.read_table(refused)["row"].to_pylist() == [123]
        if not to.exists() or list(home.runs.rglob("progress.json")):  # else it was over, and had only to say so
            run(home, tmp_path / "in.parquet", to, **OPTIONS)
        check_output(pq.read_table(to), good)
        assert pq.read_table(refused)["row"].to_pylist() == [123]
        assert sorted(p.name for p in tmp_path.glob("*.part")) == []
        to.unlink()
        refused.unlink()
        fate += 19
    assert fate > 40


def test_killed_again_and_again_in_the_same_job(home: Home, tmp_path: Path) -> None:
    rng, table = random.Random(1), waves(1_000)
    pq.write_table(table, tmp_path / "in.parquet")
    num_kills, status = 0, -1
    while status != 0:
        process = start(home, tmp_path / "in.parquet", tmp_path / "out.parquet", fate=rng.randint(12, 30), **OPTIONS)
        process.join()
        status = process.exitcode
        assert status in (0, -signal.SIGKILL)
        num_kills += status != 0
    assert num_kills >= 3
    check_output(pq.read_table(tmp_path / "out.parquet"), table)


@pytest.mark.parametrize("jobs", [2, None], ids=["processes", "threads"])
def test_killed_from_outside_with_several_hands(home: Home, tmp_path: Path, jobs: int | None) -> None:
    table = waves(3_000)
    pq.write_table(table, tmp_path / "in.parquet")
    options = {"jobs": jobs, "part_rows": 100, "batch_rows": 1}
    for num_parts in (1, 5):
        process = start(home, tmp_path / "in.parquet", tmp_path / "out.parquet", **options)
        while len(list(home.runs.rglob("part-*.arrow"))) < num_parts and process.is_alive():
            time.sleep(0.002)
        hands = psutil.Process(process.pid).children()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert not (tmp_path / "out.parquet").exists()
        assert psutil.wait_procs(hands, 10)[1] == []  # those that it started leave with it
    done = run(home, tmp_path / "in.parquet", tmp_path / "out.parquet", **options)
    assert done.num_before >= 500
    check_output(pq.read_table(tmp_path / "out.parquet"), table)


def test_a_process_that_predicts_is_replaced_when_it_dies(home: Home, tmp_path: Path) -> None:
    table = waves(2_000)
    pq.write_table(table, tmp_path / "in.parquet")
    process = start(home, tmp_path / "in.parquet", tmp_path / "out.parquet", jobs=2, part_rows=100, batch_rows=1)
    killed: set[int] = set()
    while process.is_alive() and len(killed) < 2:
        for hand in psutil.Process(process.pid).children():
            if list(home.runs.rglob("part-*.arrow")) and hand.pid not in killed and len(killed) < 2:
                hand.kill()
                killed.add(hand.pid)
        time.sleep(0.01)
    process.join()
    assert process.exitcode == 0 and len(killed) == 2
    check_output(pq.read_table(tmp_path / "out.parquet"), table)


def test_a_table_of_sql_appears_whole_or_not_at_all(home: Home, tmp_path: Path) -> None:
    table = waves(NUM_ROWS).sort_by("id")
    url, status, fate = f"sqlite:///{tmp_path}/shop.db", -1, 3
    fill(url, table)
    while status != 0:
        process = start(home, f"{url}#waves", f"{url}#scores", fate=fate, **OPTIONS)
        process.join()
        status = process.exitcode
        assert status in (0, -signal.SIGKILL)
        if not exists(read_place(f"{url}#scores")) or list(home.runs.rglob("progress.json")):
            run(home, f"{url}#waves", f"{url}#scores", **OPTIONS)
        check_output(pa.Table.from_pylist(rows_of(url, "SELECT * FROM scores ORDER BY id")), table)
        remove(read_place(f"{url}#scores"))
        fate += 11


@pytest.fixture
def interrupted(home: Home, tmp_path: Path) -> Path:
    """A job that was killed when some parts were done."""
    pq.write_table(waves(NUM_ROWS), tmp_path / "in.parquet")
    process = start(home, tmp_path / "in.parquet", tmp_path / "out.parquet", fate=30, **OPTIONS)
    process.join()
    assert list(home.runs.rglob("part-*.arrow"))
    return tmp_path


def test_a_changed_input_is_not_gone_on_with(home: Home, interrupted: Path) -> None:
    source, to, other = interrupted / "in.parquet", interrupted / "out.parquet", waves(NUM_ROWS, seed=5)
    pq.write_table(other, source)
    with pytest.raises(Conflict, match="the input has changed"):
        run(home, source, to, **OPTIONS)
    assert not to.exists()
    run(home, source, to, restart=True, **OPTIONS)
    check_output(pq.read_table(to), other)


def test_another_version_or_option_is_not_gone_on_with(home: Home, interrupted: Path) -> None:
    source, to = interrupted / "in.parquet", interrupted / "out.parquet"
    with pytest.raises(Conflict, match=r"the version has changed .*: it was 1, and is 2"):
        run(home, source, to, version=2, **OPTIONS)
    with pytest.raises(Conflict, match="--on-bad-row has changed"):
        run(home, source, to, **{**OPTIONS, "on_bad_row": "refuse"})
    done = run(home, source, to, restart_if_changed=True, version=2, **OPTIONS)
    assert done.num_before == 0
    check_output(pq.read_table(to), waves(NUM_ROWS), version=2)


def test_two_jobs_for_one_output_do_not_meet(home: Home, tmp_path: Path) -> None:
    pq.write_table(waves(3_000), tmp_path / "in.parquet")
    process = start(home, tmp_path / "in.parquet", tmp_path / "out.parquet", jobs=1, part_rows=50, batch_rows=1)
    while not list(home.runs.rglob("part-*.arrow")):
        time.sleep(0.005)
    process_is_stopped = psutil.Process(process.pid)
    process_is_stopped.suspend()
    with pytest.raises(Conflict, match="another process is writing"):
        run(home, tmp_path / "in.parquet", tmp_path / "out.parquet")
    process_is_stopped.resume()
    process.join()
    check_output(pq.read_table(tmp_path / "out.parquet"), waves(3_000))
