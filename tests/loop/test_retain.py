"""What is older than the project keeps it leaves the log, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta

import pytest
from harness import START, Harness

from tidemill.stores.compactor import Compactor

DAY = timedelta(days=1)
KEPT = {'unit="user"': 'unit="user", keep_log="2d"'}


def logged(harness: Harness) -> tuple[int, int, int]:
    """Return the number of predictions, of feedback and of files in the log."""
    log, until = harness.app.world.log, harness.clock.now() + DAY
    files = [path for path in harness.app.world.home.log.rglob("*") if path.is_file()]
    predictions = log.predictions("waves", after=None, until=until, columns=["unit"])
    return len(predictions), len(log.feedback("waves", after=None, until=until)), len(files)


def move_to(harness: Harness, days: float) -> None:
    harness.clock.set(START + days * DAY)
    harness.turn()


def test_days_that_are_over_for_longer_than_the_log_is_kept_are_deleted_whole(harness: Callable[..., Harness]) -> None:
    h = harness(edit=KEPT)
    before = logged(h)
    assert min(before) > 0
    for days in (1.0, 2.99):  # the first day ended one day, and 1.99 days ago
        move_to(h, days)
        assert logged(h)[:2] == before[:2]
    h.users()
    h.turn()
    both = logged(h)
    assert both[0] > before[0]
    move_to(h, 3.01)
    after = logged(h)
    assert (after[0], after[1]) == (both[0] - before[0], both[1] - before[1])
    assert after[0] > 0
    assert after[2] < both[2]
    days_left = {path.name for path in h.app.world.home.log.glob("waves/*/*")}
    assert days_left == {"2026-01-03"}
    assert h.app.status().trouble == {}


def test_examples_and_datasets_do_not_notice(harness: Callable[..., Harness]) -> None:
    h = harness(edit=KEPT)
    w = h.app.world
    (version,) = w.datasets.all("waves")
    ids = w.reservoir.index("waves")["id"].to_list()
    inputs = w.reservoir.inputs("waves", ids)
    move_to(h, 30)
    assert logged(h) == (0, 0, 0)
    assert w.reservoir.inputs("waves", ids) == inputs
    data = w.datasets.training_data("waves", version.digest, h.app.project.schema)
    assert len(data) == version.num_train


def test_without_a_limit_nothing_is_deleted(harness: Callable[..., Harness]) -> None:
    h = harness()
    before = logged(h)
    move_to(h, 3_000)
    assert logged(h)[:2] == before[:2]


def test_a_loop_killed_while_it_deletes_leaves_no_file_for_ever(
    harness: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    h = harness(edit=KEPT)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    w, now = h.app.world, START + 10 * DAY
    with monkeypatch.context() as patch:
        patch.setattr(type(w.compactor._files), "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            w.compactor.forget("waves", now=now, age=2 * DAY, write=w.db.begin)
    assert logged(h)[:2] == (0, 0)
    left = list(w.home.log.rglob("*.parquet"))
    assert left
    for path in left:
        os.utime(path, (0, 0))
    again = Compactor(w.db, w.journal, w.compactor._segments, w.home.log)
    again.forget("waves", now=now, age=2 * DAY, write=w.db.begin)
    assert logged(h) == (0, 0, 0)


def test_a_file_that_is_being_written_for_an_old_day_is_left_alone(harness: Callable[..., Harness]) -> None:
    h = harness(edit=KEPT)
    fresh = h.app.world.home.log / "waves" / "predictions" / "2025-12-01" / f"{10**9:012d}-{0:016x}.parquet"
    fresh.parent.mkdir(parents=True)
    fresh.touch()
    os.utime(fresh, ((START + 10 * DAY).timestamp(), (START + 10 * DAY).timestamp()))
    move_to(h, 10)
    assert fresh.exists()


def test_a_merge_does_not_bring_back_what_was_deleted_meanwhile(
    harness: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    h = harness()
    w, now = h.app.world, START + 10 * DAY
    lease = w.journal.acquire("compactor", "test", now=now, ttl=DAY)
    assert lease is not None
    h.clock.set(now)
    made = Compactor(w.db, w.journal, w.compactor._segments, w.home.log)
    write = w.journal.write

    def meanwhile(*given: object, **named: object) -> object:
        monkeypatch.undo()
        made.forget("waves", now=now, age=2 * DAY, write=w.db.begin)
        return write(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(w.journal, "write", meanwhile)
    made.merge_small(lease, now=now)
    assert logged(h) == (0, 0, 0)


def test_a_row_that_comes_late_for_a_deleted_day_is_deleted_too(harness: Callable[..., Harness]) -> None:
    h = harness(edit=KEPT)
    h.clock.sleep(1)
    h.users()  # a gateway that was cut off has a segment of the first day
    h.clock.set(START + 10 * DAY)
    h.turn()
    h.turn()
    assert logged(h) == (0, 0, 0)
