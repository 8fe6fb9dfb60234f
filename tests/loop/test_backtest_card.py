"""The card of a change of strategy, on the command line; and the ledger, which keeps what it foretold."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backtests import PROJECT, recorded, stream
from hypothesis import given
from hypothesis import strategies as st

import tidemill as tm
from tidemill.app import App
from tidemill.cli import main
from tidemill.loop.backtest.card import Card
from tidemill.monitor.ledger import ledger
from tidemill.stats.paired_blocks import mean_span
from tidemill.stores.backtests import Backtests

STEP = timedelta(hours=8)

FILE = """
from sklearn.linear_model import LogisticRegression
import tidemill as tm

project = tm.Project(
    name="waves",
    inputs={"x": tm.Number(), "y": tm.Number(), "app": tm.Category(tag=True)},
    output=tm.Classes(["low", "high"]),
    unit="user",
    trainer=tm.trainers.Sklearn(LogisticRegression(), transforms=[tm.transforms.Standardise("x", "y")]),
    strategy=tm.Strategy(
        curate=tm.curate.Random(1.0), curate_every="1s",
        label=tm.label.Feedback(trust="truth", horizon="1h", daily_budget=None),
        trigger=TRIGGER, dataset=tm.dataset.Window("10h"), offline=(), online=tm.online.Now(),
    ),
)
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stream, and two project files that differ in the trigger."""
    monkeypatch.chdir(tmp_path)
    recorded(400).write_parquet("stream.parquet")
    Path("waves_new.py").write_text(FILE.replace("TRIGGER", "tm.trigger.Amount(1)"))
    Path("waves_main.py").write_text(FILE.replace("TRIGGER", "tm.trigger.Manual()"))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    fixed = ["backtest", "stream.parquet", "--project", "waves_new.py", "--step", "8h", "--jobs", "1"]
    with pytest.raises(SystemExit) as ended:
        main.run([*fixed, *arguments])
    said = capsys.readouterr()
    assert not ended.value.code, said.err
    return said.out


def test_a_card_says_better_with_intervals_and_the_ledger_keeps_it(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = App.open("waves_new.py", "home")
    said = run(capsys, "--against", "waves_main.py", "--home", "home", "--unit", "user", "--label-delay", "1h")
    assert said.startswith("## waves_new against waves_main: better\n")
    rows = [line.split("|")[1:-1] for line in said.splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in rows[1:]] == [
        "accuracy that users get", "retrainings", "labels", "CPU s of training"
    ]  # fmt: skip
    assert " to " in rows[1][2] and " to " in rows[3][2]
    world = app.world
    (period,) = ledger(
        app.project, catalog=world.catalog, journal=world.journal, log=world.log, reservoir=world.reservoir,
        now=app.clock.now(),
    )  # fmt: skip
    app.close()
    (found,) = Backtests(world.home).all()
    assert found.card_markdown is not None and found.card_markdown.strip() == said.strip()
    assert (found.project, found.source, found.names) == ("waves", "stream.parquet", ["waves_new", "waves_main"])
    assert [(one["a"], one["b"], one["verdict"]) for one in found.comparisons] == [
        ("waves_main", "waves_new", "better")
    ]
    assert found.windows["strategy"].unique(maintain_order=True).to_list() == found.names
    assert len(found.events) and found.report.read_text().startswith("<!doctype html>")
    assert period.expected is not None
    value, low, high = period.expected["quality"]
    assert low < value < high
    assert period.expected["retrainings"][0] > 1  # a day
    with pytest.raises(SystemExit):
        main.run(["strategy", "log", "--project", "waves_new.py", "--home", "home", "--json"])
    assert json.loads(capsys.readouterr().out)["strategies"][0]["expected"] == period.expected


def test_a_change_that_changes_nothing_is_not_better(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("waves_same.py").write_text(Path("waves_new.py").read_text())
    said = run(capsys, "--against", "waves_same.py", "--home", "nowhere", "--label-delay", "1h")
    assert said.startswith("## waves_new against waves_same: inconclusive\n")
    assert not Path("nowhere").exists()


def test_presets_and_files_stand_side_by_side_on_the_command_line(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("only.py").write_text("import tidemill as tm\nstrategy = tm.presets.never()\n")
    chosen = ["waves_main.py", "only.py", "preset:periodic:10h", "preset:sliding_window:12h", "preset:oracle"]
    said = json.loads(run(capsys, *(word for one in chosen for word in ("--strategy", one)), "--json"))
    names = [row["strategy"] for row in said["summary"]]
    assert names == ["waves_main", "only", "periodic:10h", "sliding_window:12h", "oracle"]
    run(capsys, "--strategy", "only.py", "--report", "it.html")
    assert Path("it.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategy", "preset:sometimes"], "no preset 'sometimes'"),
        (["--strategy", "preset:periodic:1:2:3"], "does not fit"),
        (["--strategy", "none.py"], "does not exist"),
        (["--time", "when"], "no column 'when'"),
    ],
)
def test_what_is_wrong_is_one_line(
    files: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        main.run(["backtest", "stream.parquet", "--project", "waves_new.py", *arguments])
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ") and "\n next: " in said


def test_the_log_of_a_project_is_a_stream(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.run(["backtest", "log", "--project", "waves_new.py", "--home", "empty"])
    assert "holds no request" in capsys.readouterr().err


def test_costs_are_totals_over_the_stream_and_a_day_in_the_prediction() -> None:
    known = stream(recorded(400))
    strategies = {"never": tm.presets.never(), "always": tm.presets.every_window()}
    result = tm.backtest(PROJECT, known, strategies=strategies, step=STEP, seeds=2, jobs=1)
    card = Card.of(result, "never", "always")
    retrained = next(line for line in card.lines if line.name == "retrainings")
    assert retrained.new.value == result.summary.filter(strategy="always")["retrainings"].mean()
    assert retrained.old.value == 0 and retrained.change.value == retrained.new.value
    assert card.prediction()["retrainings"][0] == pytest.approx(retrained.new.value / card.days)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=60), st.integers(0, 99))
def test_an_interval_holds_its_mean_and_is_nothing_for_what_does_not_vary(values: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.array([values, values])
    span = mean_span(rows, rng=rng, rounds=200)
    assert span.value == pytest.approx(np.mean(values), abs=1e-9)
    assert min(values) - 1e-9 <= span.low <= span.high <= max(values) + 1e-9
    flat = mean_span(np.full((2, len(values)), values[0]), rng=rng, rounds=50)
    assert flat.low == pytest.approx(values[0]) and flat.high == pytest.approx(values[0])


def test_an_interval_of_blocks_covers_the_mean_of_a_series_whose_rows_are_alike_when_near() -> None:
    """A plain bootstrap of these rows covers the mean in half of the cases only."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        noise, rows = rng.normal(size=3_000), np.zeros(3_000)
        for i in range(1, 3_000):
            rows[i] = 0.8 * rows[i - 1] + noise[i]
        span: Any = mean_span(rows[None, :], rng=rng, rounds=200)
        covered += span.low <= 0 <= span.high
    assert 0.85 <= covered / 200 <= 0.99


def test_nothing_known_has_no_interval() -> None:
    assert mean_span(np.full((1, 5), np.nan), rng=np.random.default_rng(0)).num == 0
