"""What devices post adds up as if their rows had come, and drift is seen in it."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from log_rows import Mill
from mail import NOON, mail

import tidemill as tm
from tidemill.clock import micros
from tidemill.errors import ProjectError
from tidemill.monitor.drift import check_drift, look
from tidemill.monitor.profiled import merged
from tidemill.project import Project
from tidemill.records import DeviceProfile
from tidemill.stats.alarm import NUM_SETS
from tidemill.stats.drift import number_effect, word_effect
from tidemill.stats.drift_report import DriftReport
from tidemill.stats.profile import Profile
from tidemill.strategy.drift_needs import DriftNeeds

HOUR = timedelta(hours=1)


def on_devices(**changes: Any) -> Project:
    return mail(strategy=tm.Strategy(log=tm.log.Profile(), label=tm.label.Queue()), **changes)


def rows(rng: Any, shift: float = 0.0) -> dict[str, Any]:
    country = rng.choice(["NL", "BE", "DE"], 30).astype(object)
    country[rng.random(30) < 0.05] = None
    return {"age": rng.normal(40 + shift, 9, 30), "country": country}


def posted(mill: Mill, *, shift: float = 0.0, hours: int = 24, devices: int = 3) -> dict[int, list[dict[str, Any]]]:
    """Let devices post every quarter of an hour; in the last hour ages have moved. Return the rows by hour."""
    rng, kept, written = np.random.default_rng(3), {}, []
    for quarter in range(4 * hours):
        until = NOON - (4 * hours - quarter - 1) * HOUR / 4
        for device in range(devices):
            seen = rows(rng, shift if quarter >= 4 * hours - 4 else 0.0)
            kept.setdefault(quarter // 4, []).append(seen)
            written.append(DeviceProfile(
                device=f"phone-{device}", received_at=micros(until), after=micros(until - HOUR / 4),
                until=micros(until), body=Profile().add(seen).to_bytes(),
            ))  # fmt: skip
    mill.put(*written, project="mail")
    return kept


def looked(mill: Mill, training: Any = None, **asked: Any) -> DriftReport:
    usual: dict[str, Any] = {"columns": None, "window": HOUR, "past": 23 * HOUR, "alpha": 0.01, "min_rows": 100}
    return look(on_devices(), mill.log, training, DriftNeeds(**{**usual, **asked}), NOON, np.random.default_rng(1))


@pytest.mark.parametrize("shift", [0.0, 9.0])
def test_drift_is_seen_in_what_devices_posted_with_the_effects_that_their_rows_have(mill: Mill, shift: float) -> None:
    kept = posted(mill, shift=shift)
    found = looked(mill)
    assert [c.name for c in found.moved] == (["age"] if shift else [])
    assert (found.num_rows, found.num_reference) == (360, 23 * 360)
    effects = {column.name: column.effects for column in found.columns}
    ages = [np.concatenate([part["age"] for hour in side for part in kept[hour]]) for side in (range(23), [23])]
    exact = number_effect(*ages)
    assert effects["age"]["ks"] == pytest.approx(exact.ks, abs=0.006)
    assert effects["age"]["psi"] == pytest.approx(exact.psi, abs=0.002 + 0.02 * exact.psi)
    words = [[w for hour in side for part in kept[hour] for w in part["country"]] for side in (range(23), [23])]
    counts = [{word: side.count(word) for word in ("NL", "BE", "DE")} for side in words]
    exact = word_effect(*counts, (words[0].count(None), words[1].count(None)))
    assert effects["country"]["js"] == pytest.approx(exact.js)
    assert effects["country"]["missing"] == pytest.approx(exact.missing)


def test_what_is_posted_twice_counts_once_and_what_does_not_read_is_left_out(
    mill: Mill, caplog: pytest.LogCaptureFixture
) -> None:
    body = Profile().add({"age": np.arange(5.0)}).to_bytes()
    usual: dict[str, Any] = {"received_at": micros(NOON), "after": micros(NOON - HOUR), "until": micros(NOON)}
    again = DeviceProfile(device="a", body=body, **{**usual, "received_at": micros(NOON) + 5})
    broken = DeviceProfile(device="b", body=body[:20], **usual)
    words = Profile().add({"age": np.array(["x"], dtype=object)}).to_bytes()
    retyped = DeviceProfile(device="c", body=words, **usual)
    mill.put(DeviceProfile(device="a", body=body, **usual), again, broken, retyped, project="mail")
    kept = mill.log.profiles("mail", after=NOON - HOUR, until=NOON)
    assert [one.device for one in kept] == ["a", "b", "c"]
    with caplog.at_level(logging.WARNING):
        (profile,) = merged(kept)
    assert profile.num_rows == 5
    assert "device b" in caplog.text and "device c" in caplog.text
    assert mill.log.profiles("mail", after=NOON, until=NOON + HOUR) == []


def test_the_training_data_is_a_reference_for_devices_too(mill: Mill) -> None:
    posted(mill, hours=3)
    rng = np.random.default_rng(2)
    made = {name: np.concatenate([rows(rng)[name] for _ in range(40)]) for name in ("age", "country")}
    training = pl.DataFrame({
        "age": made["age"], "country": made["country"].tolist(), "num_links": rng.normal(size=1200),
        "text": ["hello"] * 1200,
        "received_at": range(1200), "probability": 1.0,
    })  # fmt: skip
    found = looked(mill, training=lambda: training, past=None, columns=("age", "country"))
    assert found.moved == () and found.num_reference == 1200
    older = training.with_columns(pl.col("age") + 6)
    assert [c.name for c in looked(mill, training=lambda: older, past=None).moved] == ["age"]


def test_too_few_profiles_tell_nothing_and_say_what_would_help(mill: Mill) -> None:
    posted(mill, hours=3)
    assert looked(mill, min_rows=500).problem == "360 of 500 rows in the window"
    assert "let devices post more often" in looked(mill, past=HOUR, alpha=1 / (NUM_SETS + 1)).problem
    assert looked(mill, columns=("colour",)).problem == "no profile has a column that is asked for"


def test_profiles_know_of_no_cohorts() -> None:
    with pytest.raises(ProjectError, match="keeps no rows"):
        check_drift(on_devices(alerts=[tm.alert.Drifts(cohort="dutch")]))
