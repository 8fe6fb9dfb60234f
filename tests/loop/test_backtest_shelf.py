"""What processes of a backtest share, what it leaves when it is killed, and how large a candidate is in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from backtests import PROJECT, recorded, stream

import tidemill as tm
from tidemill.loop.backtest import memo as memos
from tidemill.loop.backtest import shelf as shelves
from tidemill.loop.backtest.lending import Lender, ask
from tidemill.loop.backtest.memo import Memo
from tidemill.loop.backtest.run import Setting, replay
from tidemill.loop.backtest.shelf import Shelf, size_of

STEP = timedelta(hours=12)

SCRIPT = """
import sys
from datetime import timedelta
from pathlib import Path
import tidemill as tm
from backtests import PROJECT, recorded, stream

if __name__ == "__main__":
    strategies = {"never": tm.presets.never(), "always": tm.presets.every_window(), "often": tm.presets.amount(100)}
    tm.backtest(PROJECT, stream(recorded(300)), strategies=strategies, step=timedelta(hours=2), seeds=30, jobs=2,
                folder="kept")
"""


class Weights:
    """A model of some numbers."""

    def __init__(self, size: int = 10) -> None:
        self.weights = np.arange(size, dtype=np.float64)


class Unwritten:
    """A model whose own code refuses to be written."""

    def __init__(self, refusal: Exception) -> None:
        self._refusal = refusal

    def __reduce__(self) -> str:
        raise self._refusal


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path, shared=True)


def test_features_are_made_once_and_read_back_as_they_were(shelf: Shelf, tmp_path: Path) -> None:
    dense, sparse = np.eye(3, dtype=np.float32), scipy.sparse.random(40, 30, density=0.2, format="csr", rng=0)
    for name, matrix in (("dense", dense), ("sparse", sparse)):
        shelf.features(name, lambda matrix=matrix: matrix)
        found = Shelf(tmp_path, shared=True).features(name, lambda: pytest.fail("it is there"))
        assert (found[np.array([2, 0])] != matrix[np.array([2, 0])]).sum() == 0


def test_a_model_is_found_by_whoever_shares_the_folder(shelf: Shelf, tmp_path: Path) -> None:
    model: Any = Weights()
    assert shelf.model("it") is None
    shelf.put("it", model, 0.5)
    found = Shelf(tmp_path, shared=True).model("it")
    assert found is not None and found[1] == 0.5
    np.testing.assert_array_equal(found[0].weights, model.weights)  # type: ignore[attr-defined]


def test_a_model_that_cannot_be_written_is_not_there(shelf: Shelf, tmp_path: Path) -> None:
    model: Any = Weights()
    model.link = lambda: None  # what cannot be written
    shelf.put("it", model, 0.5)
    assert shelf.model("it") is None
    assert not list(tmp_path.glob("*.model"))


@pytest.mark.parametrize("refusal", [RuntimeError, NotImplementedError, ValueError, RecursionError])
def test_a_model_may_refuse_to_be_written_in_any_way(shelf: Shelf, tmp_path: Path, refusal: type[Exception]) -> None:
    model: Any = Unwritten(refusal("it holds a handle"))
    assert size_of(model) is None
    shelf.put("it", model, 0.5)
    assert shelf.model("it") is None
    lent = {"it": (model, 0.5), "other": (Weights(), 0.5)}
    with closing(Lender(tmp_path / "it.lender", lent.get)):
        assert ask(tmp_path / "it.lender", "it") is None
        assert ask(tmp_path / "it.lender", "other")[1] == 0.5, "it goes on lending"


def test_the_oldest_models_make_room(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelves, "_MOST_BYTES", 20_000)
    for number in range(5):
        model: Any = Weights(1_000)
        shelf.put(f"model {number}", model, 0.0)
    assert [shelf.model(f"model {number}") is not None for number in range(5)] == [False, False, False, True, True]


def test_what_another_memo_has_at_hand_is_not_trained_again(tmp_path: Path) -> None:
    known = stream(recorded(200))
    setting = Setting(start=int(known.received_at[60]), step=STEP)
    given: dict[str, Any] = {"seed": 0, "metric": PROJECT.metrics[0]}
    with closing(Shelf(tmp_path, shared=True)) as mine, closing(Shelf(tmp_path, shared=True)) as theirs:
        first, second = (Memo(known, PROJECT, True, shelf) for shelf in (mine, theirs))
        one, other = (replay(tm.presets.every_window(), "it", memo, setting, **given) for memo in (first, second))
        assert mine.lending_s > 0
    assert first.spent.trainings > 1
    assert (second.spent.trainings, second.spent.trainings_known) == (0, first.spent.trainings)
    assert not list(tmp_path.glob("*.model")), "nobody was short of memory"
    np.testing.assert_array_equal(one.quality, other.quality)


def test_what_is_at_hand_no_more_is_trained_again(tmp_path: Path) -> None:
    known = stream(recorded(200))
    setting = Setting(start=int(known.received_at[60]), step=STEP)
    given: dict[str, Any] = {"seed": 0, "metric": PROJECT.metrics[0]}
    with closing(Shelf(tmp_path, shared=True)) as mine, closing(Shelf(tmp_path, shared=True)) as theirs:
        first, second = (Memo(known, PROJECT, True, shelf) for shelf in (mine, theirs))
        one = replay(tm.presets.every_window(), "it", first, setting, **given)
        first.begin(1)
        other = replay(tm.presets.every_window(), "it", second, setting, **given)
    assert second.spent.trainings == first.spent.trainings > 1
    np.testing.assert_array_equal(one.quality, other.quality)


def test_a_lender_answers_what_it_finds_and_nothing_once_it_is_closed(tmp_path: Path) -> None:
    model: Any = Weights(1_000)
    model.turned, model.none = np.asfortranarray(np.arange(12.0).reshape(3, 4)), np.zeros(0)
    model.part, model.link = np.arange(10)[::2], None
    unwritten: Any = Weights()
    unwritten.link = lambda: None
    lent = {"it": (model, 0.5), "unwritten": (unwritten, 0.5)}
    with closing(Lender(tmp_path / "it.lender", lent.get)):
        found = ask(tmp_path / "it.lender", "it")
        assert ask(tmp_path / "it.lender", "other") is None
        assert ask(tmp_path / "it.lender", "unwritten") is None
    assert ask(tmp_path / "it.lender", "it") is None
    assert found[1] == 0.5
    for name, array in vars(model).items():
        np.testing.assert_array_equal(getattr(found[0], name), array)


def test_arrays_come_back_as_they_were_and_a_write_stays_with_who_wrote(shelf: Shelf) -> None:
    model: Any = Weights(1_000)
    model.turned = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    model.none, model.part = np.zeros(0), np.arange(10)[::2]
    shelf.put("it", model, 0.5)
    first, again = shelf.model("it"), shelf.model("it")
    assert first is not None and again is not None
    changed: Any = first[0]
    changed.weights[:] = -1
    for name, array in vars(model).items():
        np.testing.assert_array_equal(getattr(again[0], name), array)


def test_a_model_that_nobody_else_may_want_is_not_written(tmp_path: Path) -> None:
    known = stream(recorded(200))
    memo = Memo(known, PROJECT, True, Shelf(tmp_path, shared=False))
    setting = Setting(start=int(known.received_at[60]), step=STEP)
    replay(tm.presets.every_window(), "it", memo, setting, seed=0, metric=PROJECT.metrics[0])
    assert memo.spent.trainings > 1
    assert not list(tmp_path.glob("*.model"))


def test_of_too_many_models_the_first_go_on_the_shelf_and_are_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memos, "_MOST_BYTES", 1)
    known = stream(recorded(200))
    memo = Memo(known, PROJECT, True, Shelf(tmp_path, shared=False))
    setting = Setting(start=int(known.received_at[60]), step=STEP)
    given: dict[str, Any] = {"seed": 0, "metric": PROJECT.metrics[0]}
    one = replay(tm.presets.every_window(), "it", memo, setting, **given)
    made = memo.spent.trainings
    other = replay(tm.presets.every_window(), "it", memo, setting, hindsight=True, **given)
    assert len(list(tmp_path.glob("*.model"))) >= made - 1
    assert memo.spent.trainings == made
    assert np.nanmean(other.quality) >= np.nanmean(one.quality)


@pytest.mark.parametrize(("max_mb", "promoted"), [(1e-4, False), (5.0, True)])
def test_a_stage_that_asks_is_told_how_much_a_candidate_takes(max_mb: float, promoted: bool) -> None:
    strategy = tm.presets.every_window(tm.Strategy(
        curate=tm.curate.Random(1.0), curate_every="1s",
        label=tm.label.Feedback(trust="truth", horizon="0s", daily_budget=None),
        offline=tm.offline.Size(max_mb), online=tm.online.Now(),
    ))  # fmt: skip
    result = tm.backtest(PROJECT, stream(recorded(200)), strategies=[strategy], step=STEP, jobs=1)
    said = result.events.filter(step="test")["reason"].to_list()
    assert said and not any("takes 0 MB" in reason for reason in said)
    assert (result.summary["promotions"].item() > 0) is promoted


def test_a_backtest_that_is_killed_leaves_no_process_and_keeps_what_was_done(tmp_path: Path) -> None:
    (tmp_path / "it.py").write_text(SCRIPT)
    (tmp_path / "tmp").mkdir()
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen([sys.executable, "it.py"], cwd=tmp_path, env=env, stderr=subprocess.PIPE) as process:
        _until(lambda: len(list((tmp_path / "kept").glob("*.json"))) >= 2, process)
        process.send_signal(signal.SIGKILL)
        assert process.stderr is not None
        process.stderr.read()  # ends when the last process that could write to it has ended
    assert not list((tmp_path / "tmp").glob("tidemill-backtest-*"))
    done = list((tmp_path / "kept").glob("*.json"))
    assert 2 <= len(done) < 90
    for file in done:
        assert json.loads(file.read_text())["windows"]
        assert file.with_suffix(".npz").exists()


def _until(is_so: Any, process: subprocess.Popen[bytes]) -> None:
    while not is_so():
        assert process.poll() is None, "the backtest ended too early"
        time.sleep(0.02)
