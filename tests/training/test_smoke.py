"""Smoke tests pass on whatever can work, are quick, and name the likely cause of what cannot."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from learnable import training_data
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.naive_bayes import ComplementNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier

from tidemill.model import TrainingData
from tidemill.records import Outcome
from tidemill.schema import Classes, Number, Schema
from tidemill.training import smoke
from tidemill.training.trainers import Sklearn
from tidemill.transforms import HashedNgrams


def failed(verdicts):
    return [v for v in verdicts if v.outcome is Outcome.FAIL]


def changed(data: TrainingData, **what) -> TrainingData:
    parts = {name: getattr(data, name) for name in ("schema", "columns", "targets", "weights", "ids")}
    return TrainingData(**{**parts, **what})


class Broken:
    """A trainer of one's own that does what it is told, badly."""

    def __init__(self, scores=None, error=None, pause_s=0.0):
        self.scores, self.error, self.pause_s = scores, error, pause_s

    def train(self, data, *, start_from, seed, workdir, progress):
        if self.error:
            raise self.error
        return self

    def predict(self, columns):
        time.sleep(self.pause_s)
        return self.scores(len(next(iter(columns.values()))))

    def save(self, folder):
        raise AssertionError("smoke tests save nothing")

    def to_json(self):
        return {}


@pytest.mark.parametrize(
    "estimator",
    [
        MLPClassifier((64,)),
        MLPClassifier((64,), early_stopping=True),
        LogisticRegression(),
        RandomForestClassifier(10),
        HistGradientBoostingClassifier(max_iter=5),
        KNeighborsClassifier(),
    ],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize("seed", [0, 1])
def test_what_can_learn_passes(estimator, seed, digits, tmp_path):
    verdicts = smoke.run(Sklearn(estimator), digits, seed=seed, workdir=tmp_path)
    assert not failed(verdicts), failed(verdicts)
    assert [v.by for v in verdicts] == [f"smoke.{n}" for n in ("shapes", "inputs", "labels", "memorise", "latency")]


def test_text_and_values_pass_too(titles, prices, tmp_path):
    assert not failed(smoke.run(Sklearn(ComplementNB(), (HashedNgrams("text"),)), titles, seed=0, workdir=tmp_path))
    assert not failed(smoke.run(Sklearn(Ridge()), prices, seed=0, workdir=tmp_path))


@pytest.mark.parametrize("seed", range(12))
def test_a_weak_signal_is_enough(seed, tmp_path):
    """One number that hardly tells two classes apart is a hard problem, not a broken training."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, 500)
    data = training_data(
        Schema({"n": Number()}, Classes(("no", "yes"))), {"n": rng.normal(0.8 * label)}, label.astype(np.int64)
    )
    assert not failed(smoke.run(Sklearn(LogisticRegression()), data, seed=seed, workdir=tmp_path))


def test_a_network_is_given_steps_enough(digits, tmp_path):
    """Few epochs and large batches are no reason to fail: a copy with more steps memorises the batch."""
    pytest.importorskip("torch")
    import networks

    from tidemill.training.trainers import Torch

    verdicts = smoke.run(Torch(networks.Net, epochs=1, batch_size=512), digits, seed=0, workdir=tmp_path)
    assert not failed(verdicts), failed(verdicts)
    (bad,) = failed(smoke.run(Torch(networks.Explodes, lr=1.0), digits, seed=0, workdir=tmp_path))
    assert "at step" in bad.reason
    assert bad.back_to == "training"


def test_a_network_that_learns_slowly_is_shown_the_batch_more_often(digits, tmp_path):
    """A low learning rate, and batch norm that has to see some batches first, are no reason to stop a training."""
    pytest.importorskip("torch")
    import networks

    from tidemill.training.trainers import Torch
    from tidemill.transforms import ScaleImage

    slow = Torch(networks.Cnn, transforms=[ScaleImage("image", flatten=False)], lr=5e-5)
    verdicts = smoke.run(slow, digits, seed=0, workdir=tmp_path)
    assert [v.outcome for v in verdicts if v.by == "smoke.memorise"] == [Outcome.PASS]


def test_what_learns_nothing_fails_and_sends_back_to_training(digits, prices, tmp_path):
    (bad,) = failed(smoke.run(Sklearn(DummyClassifier()), digits, seed=0, workdir=tmp_path))
    assert (bad.by, bad.back_to) == ("smoke.memorise", "training")
    assert "learning rate" in bad.reason
    (bad,) = failed(smoke.run(Sklearn(DummyRegressor()), prices, seed=0, workdir=tmp_path))
    assert (bad.by, bad.back_to) == ("smoke.memorise", "training")


@pytest.mark.parametrize(
    ("trainer", "told"),
    [
        (Broken(error=ZeroDivisionError("by nothing")), "ZeroDivisionError: by nothing (line "),
        (Broken(scores=lambda n: np.full((n, 10), np.nan)), "NaN"),
        (Broken(scores=lambda n: np.zeros((n, 3))), r"(256, 3)"),
    ],
)
def test_a_trainer_that_breaks_is_told_in_its_own_words(trainer, told, digits, tmp_path):
    (bad,) = failed(smoke.run(trainer, digits, seed=0, workdir=tmp_path))
    assert told in bad.reason
    assert bad.back_to == "training"


def test_a_line_is_told_of_a_file_that_there_is(digits, tmp_path):
    """An estimator may run code that was made of text: its lines are nobody's to look at."""

    class Made(Broken):
        def train(self, data, **how):
            exec(compile("raise ValueError('made of text')", "<template>", "exec"))

    (bad,) = failed(smoke.run(Made(), digits, seed=0, workdir=tmp_path))
    assert "made of text (line " in bad.reason and "of test_smoke.py)" in bad.reason


def test_a_slow_model_fails(digits, tmp_path):
    slow = Broken(scores=lambda n: np.eye(10)[np.zeros(n, int)], pause_s=0.02)
    verdicts = smoke.run(slow, digits, seed=0, workdir=tmp_path, max_latency_ms=5)
    assert "smoke.latency" in [v.by for v in failed(verdicts)]


def test_nothing_is_trained_on_data_that_fail(digits, tmp_path):
    one = changed(digits, targets=np.full(400, 3))
    verdicts = smoke.run(Broken(error=AssertionError("trained")), one, seed=0, workdir=Path("/nonexistent"))
    assert [v.by for v in failed(verdicts)] == ["smoke.labels"]
    assert "every label is '3'" in failed(verdicts)[0].reason


def data_that_fail(titles, prices):
    text = titles.columns["text"]
    nothing = np.array([""] * 300 + [None], dtype=object)[:-1]
    holes = np.where(np.arange(300) == 7, np.nan, titles.columns["age"])
    same = {name: np.repeat(column[1:2], 300) for name, column in titles.columns.items()}
    return [
        (titles.take(np.array([], dtype=int)), "no training rows", "labels"),
        (changed(titles, columns={**titles.columns, "text": text[:10]}), "'text' has 10 rows", "data"),
        (changed(titles, columns={**titles.columns, "age": holes}), "'age' holds NaN", "data"),
        (changed(titles, columns={**titles.columns, "text": nothing}), "'text' is empty in every row", "data"),
        (changed(titles, columns=same), "every input is the same", "data"),
        (changed(titles, weights=np.zeros(300)), "weights", "strategy"),
        (changed(titles, targets=np.array([2] + [0] * 299)), "class 'question' has a single row", "labels"),
        (changed(prices, targets=np.full(300, 2.5)), "every label is 2.5", "labels"),
    ]


@pytest.mark.parametrize("case", range(8))
def test_data_that_cannot_teach_fail_with_the_cause(case, titles, prices):
    data, told, back_to = data_that_fail(titles, prices)[case]
    (bad,) = failed(smoke.check_data(data))
    assert told in bad.reason
    assert bad.back_to == back_to


def test_a_constant_input_among_others_is_only_told(titles):
    same = np.array(["fr"] * 300 + [None], dtype=object)[:-1]
    verdicts = smoke.check_data(changed(titles, columns={**titles.columns, "country": same}))
    assert not failed(verdicts)
    assert any("constant: country" in v.reason for v in verdicts)


def test_one_odd_label_is_only_told(titles):
    """A class with a single row must not stop a loop that nobody watches."""
    verdicts = smoke.check_data(changed(titles, targets=np.array([2] + [0, 1] * 149 + [0])))
    assert not failed(verdicts)
    assert any("a single row of: question" in v.reason for v in verdicts)


def test_rows_without_weight_are_memorised_too(digits, tmp_path):
    """The batch is drawn from all rows; one of weight 0 says nothing against the trainer."""
    one = changed(digits, weights=np.where(np.arange(400) == 5, 400.0, 0.0))
    assert not failed(smoke.run(Sklearn(LogisticRegression()), one, seed=0, workdir=tmp_path))


def test_what_fits_two_rows_and_no_batch_is_inconclusive(tmp_path):
    """One bit of input, and labels that have nothing to do with it: a weak problem, not a broken training."""
    rng = np.random.default_rng(0)
    data = training_data(
        Schema({"n": Number(), "m": Number()}, Classes(("no", "yes"))),
        {"n": rng.normal(size=200), "m": rng.normal(size=200)},
        rng.integers(0, 2, 200),
    )
    verdicts = [
        v
        for seed in range(10)
        for v in smoke.run(Sklearn(SGDClassifier(loss="log_loss")), data, seed=seed, workdir=tmp_path)
        if v.by == "smoke.memorise"
    ]
    assert {v.outcome for v in verdicts} == {Outcome.PASS, Outcome.INCONCLUSIVE}
    assert all("say little about the label" in v.reason for v in verdicts if v.outcome is Outcome.INCONCLUSIVE)


def test_same_inputs_with_different_labels_are_a_fault_of_the_labels(tmp_path):
    """Where all that differs has one label, the rest contradicts itself; no training can mend that."""
    data = training_data(
        Schema({"n": Number()}, Classes(("no", "yes"))),
        {"n": np.array([1.0] * 50 + [2.0])},
        np.array([0, 1] * 25 + [0]),
    )
    bad = [
        v
        for seed in range(8)
        for v in failed(smoke.run(Sklearn(KNeighborsClassifier(1)), data, seed=seed, workdir=tmp_path))
    ]
    assert "same inputs" in " ".join(v.reason for v in bad if v.back_to == "labels")
