"""What a report finds beside its cells: periods, calibration, forgetting, changes of the data, groups of failures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import ProjectError
from tidemill.review.calibration import calibration
from tidemill.review.change import Change, changes
from tidemill.review.constant import by_rule
from tidemill.review.failures import failure_groups
from tidemill.review.forgetting import forgotten
from tidemill.review.periods import newest, periods
from tidemill.review.population import Rows
from tidemill.schema import Category, Classes, Image, Number, Schema, Sensitive, Tensor, Text, Value
from tidemill.stats.metrics import Judged
from tidemill.strategy.baseline import Rule

DAY = 86_400_000_000
CLASSES = ("ok", "toxic")


def named(index: np.ndarray) -> np.ndarray:
    return np.array(CLASSES, dtype=object)[index]


def judged(decided: np.ndarray, true: np.ndarray, sure: np.ndarray | float = 0.8) -> Judged:
    sure = np.broadcast_to(sure, decided.shape)
    scores = np.where(decided[:, None] == np.arange(2), sure[:, None], 1 - sure[:, None])
    return Judged(decisions=named(decided), labels=named(true), scores=scores, targets=true, classes=CLASSES)


def every(num: int, weights: np.ndarray | None = None) -> Rows:
    return Rows("all", np.arange(num), np.ones(num) if weights is None else weights)


# ---------------------------------------------------------------- periods


def test_rows_of_several_months_are_told_apart_by_month():
    at = np.arange(0, 100, 5) * DAY  # from the first of January 1970
    found = periods(at)
    assert list(found) == ["1970-01", "1970-02", "1970-03", "1970-04"]
    assert found["1970-01"].sum() == 7


def test_of_many_months_the_newest_are_told_apart_and_the_rest_is_one():
    found = periods(np.arange(0, 900, 5) * DAY)
    assert len(found) == 12
    assert next(iter(found)) == "before 1971-08"


def test_rows_of_one_month_are_cut_into_four_parts():
    found = periods(np.arange(100) * DAY // 10)
    assert [mask.sum() for mask in found.values()] == [26, 25, 24, 25]
    assert next(iter(found)) == "1. 1970-01-01 to 1970-01-03"


@given(st.lists(st.integers(0, 3 * 365), max_size=80))
def test_every_row_is_in_one_period_and_the_newest_fifth_is_newer_than_the_rest(days: list[int]):
    at = np.array(days, dtype=np.int64) * DAY
    masks = list(periods(at).values())
    if masks:
        assert (np.sum(masks, axis=0) == 1).all()
        assert all(mask.any() for mask in masks)
    for mask in newest(at).values():
        assert mask.any() and at[mask].min() > at[~mask].max()
        assert mask.mean() <= 0.2 + 1 / len(at)


def test_rows_of_one_moment_have_no_periods():
    assert periods(np.zeros(50, dtype=np.int64)) == {}
    assert newest(np.zeros(50, dtype=np.int64)) == {}


# ---------------------------------------------------------------- calibration


def draw(rng: np.random.Generator, num: int, *, off: float) -> Judged:
    """Rows whose confidence is `off` above the chance to be right."""
    sure = rng.uniform(0.6, 0.95, size=num)
    true = rng.integers(0, 2, size=num)
    return judged(np.where(rng.random(num) < sure - off, true, 1 - true), true, sure)


@pytest.mark.parametrize("off", [0.0, 0.1])
def test_the_interval_of_the_calibration_error_holds_the_truth(off: float):
    rng, runs, held = np.random.default_rng(3), 200, 0
    for _ in range(runs):
        found = calibration(draw(rng, 600, off=off), every(600), rng)
        held += found is not None and found.low <= off <= found.high
    assert held / runs >= 0.93 - 3 * np.sqrt(0.05 * 0.95 / runs)


def test_bins_hold_equally_many_rows_and_show_where_the_scores_are_wrong():
    rng = np.random.default_rng(4)
    found = calibration(draw(rng, 3000, off=0.2), every(3000), rng)
    assert found is not None and len(found.bins) == 15 and {b.n for b in found.bins} == {200}
    assert all(b.accuracy < b.confidence for b in found.bins)
    assert found.low > 0.15


def test_rows_count_by_their_weight_in_the_calibration_too():
    rng = np.random.default_rng(5)
    rows = draw(rng, 2000, off=0.0)
    wrong = rows.decisions != rows.labels
    heavy = calibration(rows, every(2000, np.where(wrong, 5.0, 1.0)), rng)
    assert heavy is not None and heavy.low > 0.2  # five times the errors, with the same confidence


def test_numbers_and_a_handful_of_rows_have_no_calibration():
    rng = np.random.default_rng(6)
    numbers = Judged(decisions=np.ones(50), labels=np.ones(50), scores=np.ones((50, 1)), targets=np.ones(50))
    assert calibration(numbers, every(50), rng) is None
    assert calibration(draw(rng, 29, off=0), every(29), rng) is None


# ---------------------------------------------------------------- forgetting


def test_what_the_live_version_got_right_and_the_candidate_gets_wrong_is_counted_on_old_rows_only():
    true, num = np.zeros(100, dtype=np.int64), np.arange(100)
    live = judged((num >= 80).astype(np.int64), true)  # right on the first 80
    candidate = judged((num < 20).astype(np.int64), true)  # wrong on the first 20, right where live was wrong
    (whole,) = forgotten(candidate, live, [every(100)], np.ones(100, dtype=bool))
    assert (whole.n, whole.lost, whole.share) == (80, 20, 0.25)
    (old,) = forgotten(candidate, live, [every(100)], num >= 10)
    assert (old.n, old.lost) == (70, 10)


def test_the_lower_bounds_hold_for_all_cohorts_together():
    rng, runs, wrong = np.random.default_rng(7), 300, 0
    cohorts = [Rows(f"c{k}", np.arange(50 * k, 50 * k + 50), np.ones(50)) for k in range(10)]
    true = np.zeros(500, dtype=np.int64)
    for _ in range(runs):
        candidate = judged((rng.random(500) < 0.1).astype(np.int64), true)
        found = forgotten(candidate, judged(true, true), cohorts, np.ones(500, dtype=bool))
        wrong += any(f.low > 0.1 for f in found)
    assert wrong / runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


# ---------------------------------------------------------------- changes of the data


SCHEMA = Schema(
    {
        "text": Text(),
        "age": Number(),
        "country": Category(),
        "user": Sensitive(),
        "photo": Image((2, 2)),
        "v": Tensor((3,)),
    },
    Classes(CLASSES),
)


def columns(rng: np.random.Generator, num: int, *, word: str = "fine", age: float = 30.0) -> dict[str, np.ndarray]:
    return {
        "text": np.array([f"that is {word}" if rng.random() < 0.5 else "hello you" for _ in range(num)], dtype=object),
        "age": rng.normal(age, 5, size=num),
        "country": rng.choice(np.array(["de", "fr"], dtype=object), size=num),
        "user": np.array([f"{i:032x}" for i in rng.integers(0, 5, size=num)], dtype=object),
        "photo": rng.integers(0, 256, size=(num, 2, 2)).astype(np.uint8),
        "v": rng.normal(size=(num, 3)).astype(np.float32),
    }


def test_what_has_moved_comes_first_and_what_has_not_stays_below_what_chance_does():
    rng = np.random.default_rng(8)
    before, after = columns(rng, 800), columns(rng, 400, word="rubbish", age=40.0)
    targets = (rng.integers(0, 2, 800), rng.integers(0, 2, 400))
    found = changes(SCHEMA, before, after, targets, rng)
    by: Mapping[tuple[str, str], Change] = {(c.name, c.what): c for c in found}
    assert [(c.name, c.what) for c in found[:1]] == [("age", "values")]
    assert {key for key, c in by.items() if c.distance > 2 * c.chance} == {
        ("age", "values"), ("text", "words"), ("text", "length"),
    }  # fmt: skip
    assert (by["age", "values"].num_before, by["age", "values"].num_after) == (800, 400)
    assert by["age", "values"].before == "mean 29.6"
    assert by["text", "words"].after.startswith("fine 0.0%") or by["text", "words"].after.startswith("rubbish")
    assert "one value" in by["user", "hashed values"].before  # a person's hash is not shown


def test_two_samples_of_the_same_are_below_chance_about_19_times_in_20():
    rng, beyond, of = np.random.default_rng(9), 0, 0
    for _ in range(40):
        targets = (rng.integers(0, 2, 200), rng.integers(0, 2, 200))
        found = changes(SCHEMA, columns(rng, 200), columns(rng, 200), targets, rng)
        beyond, of = beyond + sum(c.distance > c.chance for c in found), of + len(found)
    assert beyond / of <= 0.10


# ---------------------------------------------------------------- failures


def failing(rng: np.random.Generator, num: int = 400) -> tuple[Judged, dict[str, np.ndarray]]:
    """Ok texts with the word `sick` are called toxic, and toxic ones from France are called ok."""
    found = columns(rng, num)
    slang = np.arange(num) % 8 == 0
    found["text"] = np.where(slang, "that is sick", found["text"]).astype(object)
    true = np.where(slang, 0, rng.integers(0, 2, size=num))
    french = (found["country"] == "fr") & (true == 1) & (np.arange(num) % 3 == 0)
    decided = np.where(slang, 1, np.where(french, 0, true))
    return judged(decided, true), found


def test_failures_that_are_alike_are_one_group_and_say_what_is_typical():
    made, found = failing(np.random.default_rng(10))
    ids = np.array([f"e{i}" for i in range(400)], dtype=object)
    groups = failure_groups(made, SCHEMA, found, ids, most=2)
    texts = [" | ".join(group.typical) for group in groups]
    assert any("said toxic, was ok" in text and "text has 'sick'" in text for text in texts)
    assert any("said ok, was toxic" in text and "country is 'fr'" in text for text in texts)
    assert groups == failure_groups(made, SCHEMA, found, ids, most=2)
    wrong = {f"e{i}" for i in np.flatnonzero(made.decisions != made.labels)}
    assert all(set(group.ids) <= wrong and group.ids for group in groups)
    assert 0 < sum(group.loss_share for group in groups) <= 1
    assert not any("user" in text for text in texts)


def test_numbers_that_are_far_off_are_grouped_too():
    rng = np.random.default_rng(11)
    x, true = rng.normal(size=500), rng.normal(size=500)
    said = np.where(x > 1.5, true + 9, true + 0.01)
    made = Judged(decisions=said, labels=true, scores=said[:, None], targets=true)
    groups = failure_groups(made, Schema({"x": Number()}, Value()), {"x": x}, np.arange(500).astype(object), most=1)
    assert len(groups) == 1 and groups[0].loss_share > 0.5
    assert groups[0].typical[0].startswith("x 1.") or groups[0].typical[0].startswith("x 2")


def test_without_failures_there_are_no_groups():
    true = np.zeros(50, dtype=np.int64)
    found = columns(np.random.default_rng(12), 50)
    assert failure_groups(judged(true, true), SCHEMA, found, np.arange(50).astype(object)) == ()


# ---------------------------------------------------------------- a rule


def shouts(inputs: Mapping[str, Any]) -> str:
    return "toxic" if inputs["text"].isupper() else "ok"


def typo(inputs: Mapping[str, Any]) -> str:
    return "okay"


def broken(inputs: Mapping[str, Any]) -> str:
    return inputs["mood"]


def test_a_rule_is_judged_on_the_rows_like_a_model():
    true = np.array([1, 0, 1], dtype=np.int64)
    asked = {"text": np.array(["HEY", "hey", "psst"], dtype=object)}
    said = by_rule(judged(true, true), Rule(shouts), Classes(CLASSES), asked)
    assert said.decisions.tolist() == ["toxic", "ok", "ok"]
    assert said.scores.tolist() == [[0, 1], [1, 0], [1, 0]]


@pytest.mark.parametrize(("rule", "problem"), [(typo, "no label.*row 0|row 0.*no label"), (broken, "KeyError.*row 0")])
def test_a_rule_that_does_not_answer_is_told_with_its_row(rule: Any, problem: str):
    true = np.zeros(1, dtype=np.int64)
    with pytest.raises(ProjectError, match=problem):
        by_rule(judged(true, true), Rule(rule), Classes(CLASSES), {"text": np.array(["a"], dtype=object)})
