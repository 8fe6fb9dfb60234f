"""A loop that comes back after a long outage: it takes what waited part by part, and comes to the same end."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from harness import CALM_S, START, Harness, WatchedLog
from rich.console import Console

from tidemill.cli.status import show
from tidemill.clock import micros
from tidemill.stores.segments import Segments, SegmentWriter

OUTAGE_S = 45
PART = 150  # rows, of the 1,800 that wait
ALERT = {"    cohorts=": '    alerts=[tm.alert.Falls("accuracy", trust="crowd")],\n    cohorts='}
_Back = tuple[Harness, WatchedLog, set[str]]  # with the examples that there were before
RARELY = {'curate_every="10s"': 'curate_every="30s"'}


@pytest.fixture(scope="module")
def waiting(calm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, datetime, datetime]:
    """A folder in whose log the requests of an outage wait, with its first and its last moment."""
    folder = shutil.copytree(calm, tmp_path_factory.mktemp("outage") / "now")
    file = folder / "waves_project.py"
    for old, new in (ALERT | RARELY).items():
        file.write_text(file.read_text().replace(old, new))
    off = Harness.open(folder, now=START + timedelta(seconds=CALM_S))
    off.second()
    off.accuracy, since = {(1, "v1"): 0.9}, off.clock.now()
    with loop_off(off, OUTAGE_S):
        off.app.engine().drain()
    off.app.close()
    return folder, since, off.clock.now()


@pytest.fixture(scope="module")
def by_parts(waiting: tuple[Path, datetime, datetime], tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Back]:
    """A loop that came back to it, and took it part by part."""
    back = Harness.open(shutil.copytree(waiting[0], tmp_path_factory.mktemp("parts") / "now"), now=waiting[2])
    before = set(index(back)["id"])
    yield back, come_back(back, PART), before
    back.app.close()


@contextmanager
def loop_off(harness: Harness, seconds: int) -> Iterator[None]:
    """Let users go on while no loop turns."""
    for _ in range(seconds):
        harness.clock.sleep(1)
        harness.users()
    yield
    harness.engine = None


def come_back(harness: Harness, most_rows: int) -> WatchedLog:
    """Start the loop again: first the log is filled, then it turns until nothing is left."""
    harness.app.engine().drain()
    assert not Segments(harness.app.world.home.segments).present()
    log = WatchedLog(harness.app.world.log)
    engine = replace(harness.app.engine(), most_rows=most_rows)
    engine.world = replace(engine.world, log=log)
    harness.engine = engine
    harness.turn()
    return log


def shown(harness: Harness) -> str:
    """What `tidemill status` prints."""
    written = StringIO()
    show(Console(file=written, width=120), harness.app.status(), "1d")
    return written.getvalue()


def state(harness: Harness, name: str) -> Any:
    return harness.app.world.journal.state(harness.name, name)


def index(harness: Harness) -> pl.DataFrame:
    return harness.app.world.reservoir.index(harness.name).filter(pl.col("reason") != "import")


def test_no_step_reads_more_than_a_part_at_a_time(by_parts: _Back) -> None:
    back, log, _ = by_parts
    assert len(back.app.world.log.predictions(back.name, after=None, until=back.clock.now())) > 10 * PART
    # A span of rows that come evenly holds a few more or fewer than it was cut for; feedback comes half a second late.
    assert log.most["predictions"] <= PART * 1.2
    assert log.most["feedback"] <= PART * 1.5
    until = [state(back, name)["until"] for name in ("label", "watch", "alerts", "curate")]
    assert min(until) > (back.clock.now() - timedelta(seconds=8)).timestamp() * 1e6  # horizon 5 s, and the last second


def test_a_look_reads_what_is_new_and_not_what_was_read_before(harness: Callable[..., Harness]) -> None:
    back = harness(edit=ALERT | RARELY)
    back.seconds(5)
    assert back.engine is not None
    log = WatchedLog(back.app.world.log)
    back.engine.world = replace(back.engine.world, log=log)
    back.second()
    assert 0 < log.most["predictions"] <= 3 * back.rate


def test_what_it_knows_then_is_what_it_would_have_known_at_once(
    by_parts: _Back, waiting: tuple[Path, datetime, datetime], tmp_path: Path
) -> None:
    at_once = Harness.open(shutil.copytree(waiting[0], tmp_path / "now"), now=waiting[2])
    come_back(at_once, 10**9)
    assert known(by_parts[0]) == known(at_once)
    at_once.app.close()


def known(harness: Harness) -> list[Any]:
    degraded, _ = state(harness, "watch")["trigger"]["trigger"]
    return [rounded(degraded), rounded(state(harness, "alerts")["memories"])]


def rounded(value: Any) -> Any:
    """Leave out what adding numbers up in another order may change."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, Mapping):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


def test_the_label_budget_is_spent_over_all_that_waited(
    by_parts: _Back, waiting: tuple[Path, datetime, datetime]
) -> None:
    (back, _, before), since = by_parts, waiting[1]
    picked = index(back).filter(~pl.col("id").is_in(before))
    assert 0 < len(index(back)) <= back.app.project.strategy.label.allowance(timedelta(seconds=OUTAGE_S + 30))
    seconds = (picked["received_at"] / 1e6 - since.timestamp()).to_numpy()
    thirds = [int(((seconds > low) & (seconds <= low + 15)).sum()) for low in (0, 15, 30)]
    assert min(thirds) > 0.1 * len(picked), thirds


def test_a_candidate_goes_no_step_further_on_a_part_of_the_evidence(harness: Callable[..., Harness]) -> None:
    back = harness("tried", edit={"min_requests=50": "min_requests=200"})
    while back.route.candidate is None:
        back.second()
    with loop_off(back, 20):
        pass
    back.failing = frozenset({back.route.candidate})
    with loop_off(back, 30):
        come_back(back, PART)
    back.until_closed()
    assert back.outcomes() == ["rolled back"]
    assert "failures in" in back.verdicts("release")[-1].reason


def test_status_tells_what_is_held_back_from_the_loop(harness: Callable[..., Harness]) -> None:
    back = harness()
    back.second()
    assert "is not in the log" not in shown(back)
    since = back.clock.now()
    hangs = SegmentWriter(back.app.world.home.segments, "gateway-hangs", low_at=micros(since))
    back.clock.sleep(60)
    back.seconds(2)
    assert back.app.status().known_until == since - timedelta(microseconds=1)
    assert "what came since 2026-01-01 00:00:" in shown(back) and "a gateway hangs" in shown(back)
    hangs.close()
    back.second()
    assert "is not in the log" not in shown(back)


def test_status_tells_that_no_loop_turns(harness: Callable[..., Harness]) -> None:
    back = harness()
    engine = back.app.engine()
    engine.turn()
    assert back.app.status().loop == engine.holder == back.app.status().to_json()["loop"]
    assert "no loop" not in shown(back)
    back.clock.sleep(60)  # it was killed: its lease runs out
    assert back.app.status().loop is None
    assert "no loop turns: start one with `tidemill loop`" in shown(back)
