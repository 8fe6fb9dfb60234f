"""What backtests found is kept whole, listed newest first, and says which is broken."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tidemill.errors import Corrupt, NotFound, StoreError
from tidemill.stores.backtests import Backtests
from tidemill.stores.home import Home

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
ABOUT: dict[str, Any] = {
    "project": "waves", "source": "stream.parquet", "metric": "accuracy", "higher_is_better": True, "coverage": 1.0,
    "conclusive": True, "names": ["never", "own"], "bodies": {"never": {}, "own": {}}, "setting": {}, "spent": {},
    "summary": [{"strategy": "never", "seed": 0, "accuracy": 0.5}], "comparisons": [], "card": None,
    "card_markdown": None,
}  # fmt: skip
TABLES = {name: pl.DataFrame({"strategy": [name], "answered_by": [[1, 2]]}) for name in ("windows", "events", "kept")}


@pytest.fixture
def backtests(tmp_path: Path) -> Backtests:
    return Backtests(Home(tmp_path))


def test_a_home_without_backtests_has_none(backtests: Backtests) -> None:
    assert backtests.all() == []
    with pytest.raises(NotFound, match="there is no backtest '20260501T120000Z-0123456789abcdef'"):
        backtests.one("20260501T120000Z-0123456789abcdef")


def test_what_was_kept_is_read_back_newest_first(backtests: Backtests) -> None:
    times = [NOW, NOW + timedelta(days=2), NOW + timedelta(microseconds=1)]
    ids = [backtests.put(ABOUT, TABLES, "<html>", now=now) for now in times]
    assert [one.id for one in backtests.all()] == [ids[1], ids[2], ids[0]]
    one = backtests.one(ids[0])
    assert (one.made_at, one.names, one.summary, one.card) == (NOW, ["never", "own"], ABOUT["summary"], None)
    assert one.report.read_text() == "<html>"
    assert_frame_equal(one.windows, TABLES["windows"])
    assert_frame_equal(one.events, TABLES["events"])
    assert_frame_equal(one.kept, TABLES["kept"])


def test_keeping_the_same_twice_keeps_it_once(backtests: Backtests) -> None:
    assert backtests.put(ABOUT, TABLES, "", now=NOW) == backtests.put(ABOUT, TABLES, "", now=NOW)
    assert len(backtests.all()) == 1


def test_what_could_not_be_written_leaves_nothing(backtests: Backtests, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="coverage"):
        backtests.put({**ABOUT, "coverage": float("nan")}, TABLES, "", now=NOW)
    assert not (tmp_path / "backtests").exists()


def test_a_broken_one_is_told_by_its_id_and_hides_no_other(backtests: Backtests) -> None:
    broken, torn, whole = (backtests.put(ABOUT, TABLES, "", now=NOW + timedelta(days=i)) for i in range(3))
    (backtests.one(broken).folder / "about.json").write_text("{")
    (backtests.one(torn).folder / "windows.parquet").write_bytes(b"PAR1")
    assert [one.id for one in backtests.all()] == [whole, torn]
    with pytest.raises(Corrupt, match=broken):
        backtests.one(broken)
    with pytest.raises(Corrupt, match=f"windows of backtest {torn}"):
        _ = backtests.one(torn).windows


@pytest.mark.parametrize("id", ["..", "../log", "", ".", "20260501T120000Z-0123456789abcdef/.."])
def test_an_id_is_no_path(backtests: Backtests, id: str) -> None:
    backtests.put(ABOUT, TABLES, "", now=NOW)
    with pytest.raises(NotFound):
        backtests.one(id)
