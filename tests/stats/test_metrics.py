"""Metrics agree with scikit-learn's, know what they do not know, and are found by name."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, log_loss, mean_absolute_error

from tidemill.errors import ProjectError
from tidemill.stats.metrics import (
    F1,
    Accuracy,
    EventRate,
    Judged,
    LogLoss,
    MeanAbsoluteError,
    Metric,
    Rating,
    Thumbs,
    events_of,
    match,
)  # fmt: skip

CLASSES = ("ok", "toxic", "spam")
METRICS: list[Metric] = [Accuracy(), F1("toxic"), LogLoss(), MeanAbsoluteError(), EventRate("appeal")]


def classes(seed: int, num: int, unknown: float = 0.0) -> Judged:
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet([1.0, 1.0, 1.0], size=num)
    targets = rng.integers(0, 3, size=num)
    targets[rng.random(num) < unknown] = -1
    return Judged(
        decisions=np.array([CLASSES[i] for i in scores.argmax(axis=1)], dtype=object),
        labels=np.array([CLASSES[i] if i >= 0 else None for i in targets], dtype=object),
        scores=scores,
        targets=targets,
        classes=CLASSES,
        events={"appeal": np.where(rng.random(num) < 0.2, np.nan, rng.random(num) < 0.3)},
    )


def numbers(seed: int, num: int) -> Judged:
    rng = np.random.default_rng(seed)
    true = rng.normal(size=num)
    said = true + rng.normal(size=num)
    return Judged(decisions=said, labels=true, scores=said[:, None], targets=true)


def weights(seed: int, num: int) -> np.ndarray:
    return np.random.default_rng(seed + 1).uniform(0.1, 5.0, size=num)


seeds, sizes = st.integers(0, 10_000), st.integers(2, 60)


@given(seeds, sizes)
@settings(deadline=None, max_examples=40)
def test_values_agree_with_scikit_learn_with_and_without_weights(seed: int, num: int):
    rows, w = classes(seed, num), weights(seed, num)
    labels, decisions = rows.labels.tolist(), rows.decisions.tolist()
    for weight in (None, w):
        assert Accuracy().value(rows, weight) == pytest.approx(accuracy_score(labels, decisions, sample_weight=weight))
        theirs = f1_score(
            labels, decisions, labels=["toxic"], average=None, sample_weight=weight, zero_division=np.nan
        )[0]
        assert F1("toxic").value(rows, weight) == pytest.approx(theirs, nan_ok=True)
        theirs = log_loss(rows.targets, rows.scores, labels=[0, 1, 2], sample_weight=weight)
        assert LogLoss().value(rows, weight) == pytest.approx(theirs, rel=1e-5)
    away = numbers(seed, num)
    for weight in (None, w):
        theirs = mean_absolute_error(away.labels, away.decisions, sample_weight=weight)
        assert MeanAbsoluteError().value(away, weight) == pytest.approx(theirs)


@given(seeds, sizes, st.floats(0.01, 100.0))
@settings(deadline=None)
def test_the_scale_of_the_weights_does_not_matter(seed: int, num: int, scale: float):
    rows, w = classes(seed, num, unknown=0.2), weights(seed, num)
    for metric in METRICS[:3]:
        assert metric.value(rows, w * scale) == pytest.approx(metric.value(rows, w), nan_ok=True)


@given(seeds, sizes)
@settings(deadline=None)
def test_rows_without_a_label_count_for_nothing(seed: int, num: int):
    rows, w = classes(seed, num, unknown=0.4), weights(seed, num)
    known = rows.known
    for metric in METRICS[:3]:
        assert metric.value(rows, w) == pytest.approx(metric.value(rows.take(known), w[known]), nan_ok=True)
        values = metric.rows(rows)
        assert values is None or (np.isnan(values) == ~known).all()


@given(seeds, sizes)
@settings(deadline=None)
def test_the_mean_of_the_rows_is_the_value_and_lies_within_the_bounds(seed: int, num: int):
    for metric, rows in [(m, classes(seed, num)) for m in METRICS[:3]] + [(METRICS[3], numbers(seed, num))]:
        values = metric.rows(rows)
        if values is None:
            assert metric.name == "f1_toxic"
            continue
        low, high = metric.bounds
        assert (values >= low).all()
        assert high is None or (values <= high).all()
        assert metric.value(rows) == pytest.approx(values.mean())


def test_one_confident_mistake_cannot_outweigh_all_other_rows():
    rows = Judged(
        decisions=np.array(["ok"], dtype=object), labels=np.array(["toxic"], dtype=object),
        scores=np.array([[1.0, 0.0, 0.0]]), targets=np.array([1]), classes=CLASSES,
    )  # fmt: skip
    assert LogLoss().value(rows) == pytest.approx(-math.log(1e-7)) == LogLoss().bounds[1]


def test_an_answer_that_never_came_is_not_judged():
    rows = Judged(
        decisions=np.array([None, "ok"], dtype=object), labels=np.array(["ok", "ok"], dtype=object),
        scores=np.array([[np.nan] * 3, [1.0, 0.0, 0.0]]), targets=np.array([0, 0]), classes=CLASSES,
    )  # fmt: skip
    for metric in (Accuracy(), LogLoss()):
        assert np.isnan(metric.rows(rows)).tolist() == [True, False]
    assert Accuracy().value(rows) == 1.0


def test_an_event_rate_is_the_share_of_requests_that_the_event_followed():
    rows = classes(0, 200)
    seen = rows.events["appeal"][~np.isnan(rows.events["appeal"])]
    assert EventRate("appeal").value(rows) == pytest.approx(seen.mean())
    bought = Judged(
        decisions=rows.decisions[:3], labels=rows.labels[:3], scores=rows.scores[:3], targets=rows.targets[:3],
        events={"buy": np.array([19.5, 0.0, np.nan])},
    )  # fmt: skip
    assert EventRate("buy").value(bought) == 0.5  # a value counts as one event
    assert math.isnan(EventRate("never").value(rows))


def test_thumbs_and_ratings_are_means_over_those_who_said_something():
    rows = classes(0, 4)
    said = replace(rows, events={"thumbs": np.array([1.0, 0.0, np.nan, 1.0]), "rating": np.array([np.nan, 0, 9, 4.5])})
    assert Thumbs().value(said) == pytest.approx(2 / 3)
    assert Rating().rows(said)[1:].tolist() == [1.0, 5.0, 4.5], "beyond the scale its end counts"
    assert Rating(0, 10).value(said) == 4.5
    assert math.isnan(Thumbs().value(rows)) and math.isnan(Rating().value(rows)), "nobody has said anything"
    assert events_of([Accuracy(), Thumbs(), Rating(), EventRate("buy")]) == ("thumbs", "rating", "buy")
    assert Rating(0, 10).to_json() == {"metric": "Rating", "params": {"low": 0, "high": 10}}
    with pytest.raises(ProjectError, match="a rating from 5 to 5 says nothing"):
        Rating(5, 5)


def test_nothing_known_is_nan_and_not_a_number_to_believe():
    rows = classes(0, 5, unknown=1.1)
    for metric in METRICS[:3]:
        assert math.isnan(metric.value(rows))
    assert math.isnan(F1("toxic").value(classes(0, 30).take(np.zeros(30, dtype=bool))))


def test_log_loss_of_a_number_is_refused():
    with pytest.raises(ProjectError, match="log_loss needs an output with classes"):
        LogLoss().rows(numbers(0, 3))


def test_names_are_plain_and_stable():
    names = [metric.name for metric in METRICS]
    assert names == ["accuracy", "f1_toxic", "log_loss", "mean_absolute_error", "event_rate_appeal"]
    assert F1("not ok!").name == "f1_not_ok"
    assert [metric.higher_is_better for metric in METRICS] == [True, True, False, False, True]
    assert not EventRate("appeal", higher_is_better=False).higher_is_better


def test_a_metric_and_its_parameters_are_plain_json():
    for metric in METRICS:
        assert json.loads(json.dumps(metric.to_json())) == metric.to_json()
    assert F1("toxic").to_json() != F1("spam").to_json()


def test_a_metric_is_found_by_its_name_or_by_the_first_word_of_just_one():
    names = [metric.name for metric in METRICS]
    assert match(names, "accuracy") == 0
    assert match(names, "f1") == 1
    assert match(names, None) == 0
    with pytest.raises(ProjectError, match="'recall' is no metric"):
        match(names, "recall")
    with pytest.raises(ProjectError, match="'f1' means several metrics"):
        match([*names, "f1_spam"], "f1")
    assert match(["f1_spam", "f1"], "f1") == 1
