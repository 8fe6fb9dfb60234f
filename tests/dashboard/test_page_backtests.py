"""The backtests view: what was replayed, what it shows of it, and what can be taken away."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from page_served import Serve, Served
from sklearn.linear_model import LogisticRegression

import tidemill as tm
from tidemill.app import App
from tidemill.dashboard.backtest_shown import compared, fronts, means
from tidemill.dashboard.markdown import markdown
from tidemill.loop.backtest.archive import archive
from tidemill.loop.backtest.card import Card
from tidemill.stores.backtests import Backtests, KeptBacktest
from tidemill.stores.home import Home

_NOW = datetime(2026, 3, 1, tzinfo=UTC)
_HOSTILE = "<script>window.hacked = 1</script>"


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> KeptBacktest:
    """A backtest of three strategies on a stream whose meaning turns half-way, kept in a folder."""
    home = Home(tmp_path_factory.mktemp("replayed"))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 600))
    high = np.where(np.arange(600) > 300, x - y, x + y) > 0
    stream = pl.DataFrame({
        "time": [datetime(2026, 1, 1, tzinfo=UTC) + i * timedelta(minutes=5) for i in range(600)], "x": x, "y": y,
        "label": np.where(high, "high", "low"),
    })  # fmt: skip
    project = tm.Project(
        name="waves", inputs={"x": tm.Number(), "y": tm.Number()}, output=tm.Classes(["low", "high"]),
        trainer=tm.trainers.Sklearn(LogisticRegression(), transforms=[tm.transforms.Standardise("x", "y")]),
    )  # fmt: skip
    strategies = {
        "sliding": tm.presets.sliding_window("8h"),
        "often": tm.presets.every_window(),
        _HOSTILE: tm.presets.never(),
    }
    result = tm.backtest(project, stream, strategies=strategies, start=0.2, step="4h", jobs=1, seeds=2)
    card = Card.of(result, _HOSTILE, "sliding")
    id = archive(result, Backtests(home), project="waves", source="stream.parquet", card=card, now=_NOW)
    return Backtests(home).one(id)


@pytest.fixture
def served(replayed: KeptBacktest, home: App, serve: Serve) -> Iterator[Served]:
    """The page of a home that has the backtest."""
    place = home.world.home.backtests
    place.mkdir(exist_ok=True)
    (place / replayed.id).symlink_to(replayed.folder)
    return serve(home)


def test_a_home_without_backtests_says_how_to_run_one(shared: Served) -> None:
    assert "tidemill backtest log --strategy preset:never" in shared.client.get("/backtests").text
    assert shared.client.get("/backtests/20260501T120000Z-0123456789abcdef").status_code == 404
    assert shared.client.get("/backtests/..%2f..").status_code == 404


def test_the_list_names_the_best_and_the_verdict_on_the_change(served: Served) -> None:
    text = served.client.get("/backtests").text
    assert "stream.parquet" in text and 'class="pill good"' in text
    [row] = csv.DictReader(io.StringIO(served.client.get("/backtests/backtests.csv").text))
    assert row["best"] in ("sliding", "often") and row["change"] == "better"


def test_one_shows_curves_costs_the_card_and_each_verdicts_reason(served: Served, replayed: KeptBacktest) -> None:
    text = served.client.get(f"/backtests/{replayed.id}").text
    assert "<h3>sliding against &lt;script&gt;" in text and _HOSTILE not in text
    assert text.count('class="plot') >= 5
    assert "accuracy by retrainings" in text and "accuracy by labels" in text and "CPU s of training" in text
    assert replayed.comparisons[0]["reason"] in text.replace("&#43;", "+")
    first = replayed.events.filter(pl.col("step") == "test")["reason"][0]
    body = served.client.get(f"/backtests/events.csv?id={replayed.id}&step=test").text
    assert first in [row["reason"] for row in csv.DictReader(io.StringIO(body))]


def test_what_can_be_taken_away_is_whole(served: Served, replayed: KeptBacktest) -> None:
    text = served.client.get(f"/backtests/{replayed.id}").text
    for name in ("summary", "comparisons", "events"):
        assert f"/backtests/{name}.csv?id={replayed.id}" in text
    rows = list(csv.DictReader(io.StringIO(served.client.get(f"/backtests/windows.csv?id={replayed.id}").text)))
    assert len(rows) == len(replayed.windows)
    file = served.client.get(f"/backtests/-/file?id={replayed.id}")
    assert file.headers["content-disposition"].startswith("attachment")
    assert file.content == replayed.report.read_bytes()


def test_any_two_compare_and_turning_them_round_turns_the_sign(replayed: KeptBacktest) -> None:
    there, back = compared(replayed, _HOSTILE, "sliding"), compared(replayed, "sliding", _HOSTILE)
    assert (there.verdict, back.verdict) == ("better", "worse")
    assert there.gain is not None and there.low is not None and there.gain > there.low > 0
    assert (back.gain, back.low, back.high) == (-there.gain, -(there.high or 0), -there.low)
    other, turned = compared(replayed, "sliding", "often"), compared(replayed, "often", "sliding")
    assert other.unit == "windows" and other.gain == pytest.approx(-(turned.gain or 0))
    assert len(fronts(replayed)) == 3 and [row["seeds"] for row in means(replayed)] == [2, 2, 2]


def test_markdown_is_shown_and_markup_in_it_stays_text() -> None:
    shown = markdown("## a <b>\n\nsaid: <i>x</i>\n\n| | a |\n|---|--:|\n| q | 1 \\| 2 |\n\n- one\n- two")
    assert shown == (
        "<h3>a &lt;b&gt;</h3>\n<p>said: &lt;i&gt;x&lt;/i&gt;</p>\n"
        '<div class="table-box" tabindex="0" role="region" aria-label="Card"><table class="table"><thead><tr><th></th>'
        '<th class="number">a</th></tr></thead><tbody><tr><td>q</td><td class="number">1 | 2</td></tr></tbody></table>'
        "</div>\n<ul><li>one</li><li>two</li></ul>"
    )


def test_two_strategies_are_compared_in_the_browser(served: Served, replayed: KeptBacktest, tab: Any) -> None:
    tab.goto(f"{served.url}/backtests")
    tab.get_by_role("link", name=replayed.id).click()
    tab.locator("#curves canvas").wait_for()
    tab.locator("select[name=b]").select_option("often")
    tab.wait_for_url("**b=often**")
    assert "over" in tab.locator("#compare").inner_text()
    assert tab.evaluate("window.hacked") is None


def test_the_python_of_it_runs(served: Served, replayed: KeptBacktest, capsys: pytest.CaptureFixture[str]) -> None:
    text = served.client.get(f"/backtests/{replayed.id}").text
    code = text.partition('<details class="python">')[2].partition("<code>")[2].partition("</code>")[0]
    assert Path(served.app.world.home.folder).name in code
    exec(html.unescape(code), {})  # what people copy
    assert replayed.id in capsys.readouterr().out
