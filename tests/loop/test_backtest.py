"""A backtest: nothing looks ahead, what users got is measured apart, and results can be trusted and repeated."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from backtests import HOUR, PROJECT, START, USUAL, recorded, stream, with_strategy
from sklearn.linear_model import SGDClassifier

import tidemill as tm
from tidemill.errors import BacktestError, ProjectError
from tidemill.loop.backtest.memo import Memo
from tidemill.loop.backtest.run import Run, Setting, replay
from tidemill.loop.backtest.stream import Stream
from tidemill.strategy.strategy import FAMILIES

STEP = timedelta(hours=6)
TABLE = recorded(500)
CHANGES_AT = 420
NOWS_BEFORE = START + CHANGES_AT * timedelta(minutes=6)

STRATEGIES: dict[str, dict[str, Any]] = {
    "log: a share": {"log": tm.log.Sample(0.5)},
    "curate: where unsure": {
        "curate": tm.curate.Uncertain(0.6) + tm.curate.Random(0.4),
        "label": tm.label.Feedback(trust="truth", horizon="2h", daily_budget=120),
    },
    "curate: by value": {"curate": tm.curate.Stratified(1.0, by="app")},
    "curate: what feedback contradicts": {"curate": tm.curate.FeedbackDriven(0.5) + tm.curate.Random(0.5)},
    "label: people": {"label": tm.label.Queue(daily_budget=200, horizon="1d")},
    "label: both": {"label": tm.label.Queue(daily_budget=150, horizon="1d") | tm.label.Feedback(horizon="2h")},
    "trigger: time": {"trigger": tm.trigger.Every("15h")},
    "trigger: worse": {"trigger": tm.trigger.Degraded("accuracy", drop=0.05, reference=60)},
    "trigger: drift": {"trigger": tm.trigger.Drift(window="12h", min_rows=100) | tm.trigger.Amount(90)},
    "trigger: drift of traffic": {
        "trigger": tm.trigger.Drift(window="11h", min_rows=100, reference="11h") | tm.trigger.Amount(90)
    },
    "trigger: composed": {"trigger": (tm.trigger.Amount(50) & tm.trigger.Every("7h")).at_most("14h")},
    "dataset: recent and some of all": {"dataset": tm.dataset.Window("1d") + tm.dataset.Replay(100)},
    "dataset: the newest, balanced": {"dataset": tm.dataset.Balanced(tm.dataset.Recent(150))},
    "offline: several": {
        "offline": [tm.offline.BeatsBaseline(tm.offline.Majority()), tm.offline.AtLeast("accuracy", 0.6)]
    },
    "offline: somebody approves": {"offline": [tm.offline.NoWorse("accuracy"), tm.offline.Approval()]},
    "online: at once": {"online": tm.online.Now()},
    "online: step by step": {"online": tm.online.Gradual((0.2, 0.6, 1.0), min_requests=15)},
    "adapt: abstain": {"adapt": tm.adapt.Abstain(every="6h", window="2d", errors=0.3)},
}


@cache
def as_recorded() -> Stream:
    """The stream of `TABLE`, read once."""
    return stream(TABLE)


@cache
def with_another_end() -> Stream:
    """The stream of `TABLE` until `CHANGES_AT`, and of other rows from there."""
    return stream(changed_after(TABLE, CHANGES_AT))


def changed_after(table: pl.DataFrame, row: int) -> pl.DataFrame:
    """The same rows until `row`, then others: inputs, users and labels."""
    other = recorded(len(table), seed=9, turns_at=0.9).with_columns(pl.lit("v2").alias("app"))
    flipped = other["label"].replace({"high": "low", "low": "high"})
    return pl.concat([table[:row], other.with_columns(flipped)[row:]])


def played(strategy: tm.Strategy, known: Stream | None = None, *, seed: int | None = 0, **given: Any) -> Run:
    known = known or as_recorded()
    start = int(known.received_at[120])
    setting = Setting(**{"start": start, "step": STEP, "label_delay": HOUR, **given})
    return replay(strategy, "it", Memo(known, PROJECT), setting, seed=seed, metric=PROJECT.metrics[0])


@pytest.mark.parametrize("name", STRATEGIES)
def test_nothing_looks_ahead(name: str) -> None:
    strategy = with_strategy(**STRATEGIES[name])
    as_it_was, otherwise = played(strategy), played(strategy, with_another_end())
    before = [w for w in as_it_was.windows if w["end"] < NOWS_BEFORE.timestamp() * 1e6]
    assert len(before) > 3
    assert _without_cost(before) == _without_cost(otherwise.windows[: len(before)])
    assert _events_until(as_it_was, before[-1]["end"]) == _events_until(otherwise, before[-1]["end"])
    same = CHANGES_AT - as_it_was.first
    np.testing.assert_array_equal(as_it_was.quality[:same], otherwise.quality[:same])
    np.testing.assert_array_equal(as_it_was.version[:same], otherwise.version[:same])
    assert not np.array_equal(as_it_was.quality[same:], otherwise.quality[same:])


def test_every_family_of_stages_is_tried_on_a_changed_future() -> None:
    assert {name.partition(":")[0] for name in STRATEGIES} == set(FAMILIES)


def _without_cost(windows: list[Any]) -> list[Any]:
    return [{name: value for name, value in window.items() if name != "train_cpu_s"} for window in windows]


def _events_until(run: Run, until: int) -> list[Any]:
    last = (START + timedelta(microseconds=until - int(START.timestamp() * 1e6))).isoformat()
    found = [event for event in run.events if event["at"] <= last]
    assert found
    return found


def test_labels_teach_nobody_before_they_arrive() -> None:
    strategy = with_strategy(label=_feedback("12h"), trigger=tm.trigger.Amount(1))
    soon, late = (played(strategy, label_delay=delay) for delay in (HOUR, 12 * HOUR))
    known = [np.cumsum([window["labels"] for window in run.windows]) for run in (soon, late)]
    assert known[0][0] == 0 and known[1][0] == 0  # feedback counts once it has matured
    answered = np.cumsum([window["rows"] for window in soon.windows])
    for labels in known:
        assert (labels[2:] <= answered[:-2]).all()


def _feedback(horizon: str) -> tm.label.Feedback:
    return tm.label.Feedback(trust="truth", horizon=horizon, daily_budget=None)


def test_people_answer_no_more_than_they_have_time_for() -> None:
    asks = with_strategy(label=tm.label.Queue(daily_budget=200, horizon="1d"))
    run = played(asks, label_budget_per_day=24)
    labels = np.cumsum([window["labels"] for window in run.windows])
    days = np.array([(window["end"] - run.windows[0]["start"]) / 86_400e6 for window in run.windows])
    assert (labels <= 24 * days + 1).all()
    assert labels[-1] > 12 * days[-1]


def test_a_budget_for_the_day_is_one_for_each_day_of_a_long_step() -> None:
    asks = with_strategy(label=tm.label.Queue(daily_budget=24, horizon="1d"), trigger=tm.trigger.Manual())
    labels = [played(asks, step=step, label_delay=timedelta(0)).facts["labels"] for step in (STEP, 19 * HOUR)]
    assert labels == pytest.approx([24 * 380 / 240] * 2, abs=12)


def test_what_users_got_is_judged_by_the_truth_whatever_people_say() -> None:
    honest, mistaken = (played(with_strategy(trigger=tm.trigger.Manual()), label_noise=noise) for noise in (0.0, 0.4))
    np.testing.assert_array_equal(honest.quality, mistaken.quality)
    noisy, told = (played(tm.presets.every_window(), label_noise=noise, label_delay=timedelta(0)) for noise in (0.4, 0))
    assert noisy.facts["quality"] < told.facts["quality"]


def test_titles_alone_are_watched_for_drift() -> None:
    rng, words = np.random.default_rng(3), {"old": ["parser", "logic", "proof"], "new": ["network", "deep", "gradient"]}
    said = ["new" if i > 450 else "old" for i in range(800)]
    titles = [" ".join(rng.choice(words[one], size=4)) for one in said]
    table = recorded(800).select("time", "user", "label").with_columns(title=pl.Series(titles))
    project = tm.Project(
        name="titles", inputs={"title": tm.Text()}, output=PROJECT.output, unit="user",
        trainer=tm.trainers.Sklearn(
            SGDClassifier(loss="log_loss"), transforms=[tm.transforms.HashedNgrams("title", bits=10)]
        ),
    )  # fmt: skip
    strategy = tm.presets.drift("12h", with_strategy())
    strategy = replace(strategy, trigger=replace(strategy.trigger, min_rows=100), offline=(), online=tm.online.Now())
    result = tm.backtest(project, table, strategies={"drift": strategy}, start=0.4, step="6h", jobs=1)
    fired = result.events.filter(pl.col("outcome") == "fire")
    assert fired["reason"].to_list()[0].startswith("title (auc ")
    assert len(fired) >= 1 and fired["at"].min() > START + 450 * timedelta(minutes=6)


def test_a_strategy_that_retrains_serves_users_better_when_the_meaning_turns() -> None:
    result = tm.backtest(
        PROJECT, as_recorded(), strategies={"never": tm.presets.never(), "always": tm.presets.sliding_window("10h")},
        start=0.2, step=STEP, jobs=1,
    )  # fmt: skip
    assert result.compare("never", "always").verdict == "better"
    assert result.compare("always", "never").verdict == "worse"
    assert result.compare("never", "never").verdict == "inconclusive"
    quality = dict(result.summary.select("strategy", "accuracy").iter_rows())
    right = result.summary.filter(pl.col("strategy") == "never")
    assert quality["always"] > 0.85 and quality["never"] < 0.75
    assert right["retrainings"].item() == 0
    assert right["regret"].item() > 0.1


def test_the_oracle_gets_no_less_than_the_strategy_whose_versions_it_chooses_from() -> None:
    strategies = {"oracle": tm.presets.oracle(), "always": tm.presets.everything()}
    result = tm.backtest(PROJECT, as_recorded(), strategies=strategies, step=STEP, jobs=1)
    best, always = (result.of(name)[0] for name in strategies)
    pairs = [(a["quality"], b["quality"]) for a, b in zip(best.windows, always.windows, strict=True) if a["judged"]]
    assert all(a >= b for a, b in pairs)
    assert result.summary["regret"][0] == 0


def test_runs_of_a_seed_share_trainings_and_give_what_they_give_alone() -> None:
    strategies = {
        name: tm.presets.usual(period="1d", labels=200, replayed=50)[name]
        for name in ("everything", "amount", "every window")
    }
    shared, alone = (
        tm.backtest(PROJECT, as_recorded(), strategies=strategies, step=2 * STEP, seeds=2, jobs=1, memoise=memoise)
        for memoise in (True, False)
    )
    for a, b in zip(shared.runs, alone.runs, strict=True):
        np.testing.assert_array_equal(a.quality, b.quality)
        assert a.events == b.events
    assert shared.spent["trainings"] < alone.spent["trainings"] / 1.9


def test_processes_give_what_one_process_gives() -> None:
    strategies = {"own": USUAL, "never": tm.presets.never()}
    here, apart = (
        tm.backtest(PROJECT, as_recorded(), strategies=strategies, step=4 * STEP, jobs=jobs) for jobs in (1, 2)
    )
    for a, b in zip(here.runs, apart.runs, strict=True):
        np.testing.assert_array_equal(a.quality, b.quality)
        assert a.events == b.events


def test_a_backtest_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    strategies = {"own": USUAL, "never": tm.presets.never(), "always": tm.presets.every_window()}
    known, told = stream(TABLE), []

    def stop(fraction: float, left_s: float | None) -> None:
        told.append((fraction, left_s))
        if fraction > 0.4:
            raise KeyboardInterrupt

    settings: dict[str, Any] = {"strategies": strategies, "step": STEP, "jobs": 1, "folder": tmp_path / "kept"}
    with pytest.raises(KeyboardInterrupt):
        tm.backtest(PROJECT, known, **settings, progress=stop)
    assert told[-1][1] is not None and told[-1][1] > 0
    resumed = tm.backtest(PROJECT, known, **settings)
    whole = tm.backtest(PROJECT, known, **{**settings, "folder": None})
    assert resumed.spent["trainings"] < whole.spent["trainings"]
    for a, b in zip(resumed.runs, whole.runs, strict=True):
        np.testing.assert_array_equal(a.quality, b.quality)
        assert (a.strategy, a.seed, a.events, a.facts["quality"]) == (b.strategy, b.seed, b.events, b.facts["quality"])
    assert tm.backtest(PROJECT, known, **settings).spent["trainings"] == 0


def test_nothing_is_concluded_where_too_little_is_known() -> None:
    rng = np.random.default_rng(1)
    some = TABLE.with_columns(pl.when(pl.Series(rng.random(len(TABLE)) < 0.5)).then(pl.col("label")).alias("label"))
    strategies = {"never": tm.presets.never(), "always": tm.presets.every_window()}
    result = tm.backtest(PROJECT, stream(some), strategies=strategies, step=STEP, jobs=1)
    compared = result.compare("never", "always")
    assert compared.low > 0
    assert compared.verdict == "inconclusive"
    assert "can be judged" in compared.reason
    assert 0.4 < result.coverage < 0.6


def test_a_label_that_nobody_has_cannot_be_bought() -> None:
    rng = np.random.default_rng(1)
    some = TABLE.with_columns(pl.when(pl.Series(rng.random(len(TABLE)) < 0.5)).then(pl.col("label")).alias("label"))
    run = played(with_strategy(label=tm.label.Queue(daily_budget=100, horizon="1d")), stream(some))
    assert run.facts["labels"] == pytest.approx(run.facts["asked"] / 2, rel=0.3)
    assert run.facts["unanswerable"] > 0
    assert run.facts["coverage"] <= 1 - run.facts["unanswerable"] / run.facts["asked"]


def test_the_report_shows_strategies_windows_and_reasons(tmp_path: Path) -> None:
    strategies = {"<never>": tm.presets.never(), "own": USUAL}
    result = tm.backtest(PROJECT, as_recorded(), strategies=strategies, step=STEP, seeds=2, jobs=1)
    text = result.report(tmp_path / "report.html").read_text()
    assert "&lt;never&gt;" in text and "<never>" not in text
    assert text.count("<svg") == 5
    assert text.count("<polyline") == 2
    assert "http" not in text.replace("http-equiv", "")
    assert result.windows.filter(pl.col("strategy") == "own")["window"].n_unique() == len(result.runs[0].windows)
    assert set(result.events["step"]) == {"watch", "test", "release"}


def test_a_strategy_whose_feedback_always_comes_too_late_is_refused() -> None:
    with pytest.raises(ProjectError, match="none would count"):
        tm.backtest(PROJECT, as_recorded(), strategies=[tm.presets.never()], label_delay="1h")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"start": 1.5}, "start is 1.5"),
        ({"start": "2031-01-01"}, "start is 2031-01-01"),
        ({"step": 0}, "step is 0"),
        ({"label_noise": 1.0}, "label_noise is 1.0"),
        ({"seeds": 0}, "seeds is 0"),
        ({"strategies": {}}, "no strategy"),
        ({"strategies": ["never"]}, "'never'"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        tm.backtest(PROJECT, as_recorded(), **{"jobs": 1, **wrong})


def test_a_column_that_is_missing_or_does_not_fit_is_named() -> None:
    with pytest.raises(ProjectError, match="no column 'when'"):
        Stream.read(TABLE, PROJECT, time="when")
    with pytest.raises(ProjectError, match="'x'"):
        Stream.read(TABLE.with_columns(pl.lit("far").alias("x")), PROJECT)
    with pytest.raises(ProjectError, match="'middle'"):
        Stream.read(TABLE.with_columns(pl.lit("middle").alias("label")), PROJECT)


def test_a_step_that_fails_is_told_at_once() -> None:
    strategy = with_strategy(curate=tm.curate.Stratified(1.0, by="nothing"))
    with pytest.raises(BacktestError, match=r"step curate failed.*nothing"):
        tm.backtest(PROJECT, as_recorded(), strategies=[strategy], step=STEP, jobs=1)


def test_rows_of_one_time_keep_their_order() -> None:
    known = stream(TABLE.with_columns(pl.lit(START).alias("time")))
    assert known.frame["x"].to_list() == TABLE["x"].to_list()
    assert (np.diff(known.received_at) > 0).all()
