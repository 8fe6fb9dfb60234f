"""The fakes are what they stand for: trainers that train, models that come back from disk, a labeller who errs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tidemill.errors import TrainingError
from tidemill.model import Model, Progress, Trainer, TrainingData
from tidemill.schema import Classes, Image, Number, Schema, Text, Value
from tidemill.testing.fakes import CentroidModel, CentroidTrainer, Labeller, MajorityModel, MajorityTrainer

SCHEMA = Schema({"x": Number(), "pixels": Image((2, 2)), "note": Text()}, Classes(("low", "high", "never")))


def data(schema: Schema = SCHEMA, num: int = 60) -> TrainingData:
    rng = np.random.default_rng(0)
    targets = (np.arange(num) % 3 == 0).astype(np.int64)
    rows = [{"x": 5.0 * t + rng.normal(), "pixels": bytes([200 * int(t)] * 4), "note": "hello"} for t in targets]
    columns = schema.columns(rows)
    labels = targets if isinstance(schema.output, Classes) else 10.0 * targets
    return TrainingData(
        schema=schema, columns=columns, targets=labels, weights=np.ones(num), ids=tuple(map(str, range(num)))
    )


def train(trainer: Trainer, rows: TrainingData, folder: Path) -> tuple[Model, list[Progress]]:
    heard: list[Progress] = []
    return trainer.train(rows, start_from=None, seed=0, workdir=folder, progress=heard.append), heard


@pytest.mark.parametrize("trainer", [MajorityTrainer(), CentroidTrainer()])
def test_a_fake_trainer_makes_a_model_that_comes_back_from_disk(trainer: Trainer, tmp_path: Path):
    assert isinstance(trainer, Trainer)
    model, heard = train(trainer, data(), tmp_path)
    assert isinstance(model, Model)
    assert heard[-1].fraction == 1.0
    scores = model.predict(data().columns)
    assert scores.dtype == np.float32
    assert scores.shape == (60, 3)
    assert scores.sum(axis=1) == pytest.approx(1.0)
    model.save(tmp_path)
    again = type(model).load(tmp_path)  # type: ignore[attr-defined]
    assert (again.predict(data().columns) == scores).all()


def test_the_centroid_trainer_learns_what_the_majority_trainer_cannot(tmp_path: Path):
    rows = data()
    centroid, majority = (train(t, rows, tmp_path)[0] for t in (CentroidTrainer(), MajorityTrainer()))
    assert (centroid.predict(rows.columns).argmax(axis=1) == rows.targets).mean() > 0.95
    assert majority.predict(rows.columns)[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert isinstance(centroid, CentroidModel)
    assert isinstance(majority, MajorityModel)


def test_weights_count(tmp_path: Path):
    rows = data()
    heavy = TrainingData(
        schema=rows.schema, columns=rows.columns, targets=rows.targets,
        weights=np.where(rows.targets == 1, 2.0, 1.0), ids=rows.ids,
    )  # fmt: skip
    model, _ = train(MajorityTrainer(), heavy, tmp_path)
    assert model.predict(rows.columns)[0].tolist() == pytest.approx([0.5, 0.5, 0.0])


def test_numbers_are_answered_by_their_mean(tmp_path: Path):
    rows = data(Schema(SCHEMA.inputs, Value()))
    model, _ = train(MajorityTrainer(), rows, tmp_path)
    assert model.predict(rows.columns)[:2].tolist() == [[pytest.approx(10 / 3)]] * 2


def test_what_the_centroid_trainer_cannot_learn_from_it_says(tmp_path: Path):
    with pytest.raises(TrainingError, match="classes and a numeric input"):
        train(CentroidTrainer(), data(Schema(SCHEMA.inputs, Value())), tmp_path)
    words = Schema({"note": Text()}, SCHEMA.output)
    only = TrainingData(
        schema=words, columns={"note": data().columns["note"]}, targets=data().targets,
        weights=np.ones(60), ids=data().ids,
    )  # fmt: skip
    with pytest.raises(TrainingError, match="classes and a numeric input"):
        train(CentroidTrainer(), only, tmp_path)


def test_trainers_with_equal_parameters_have_equal_json():
    assert CentroidTrainer(2.0).to_json() == CentroidTrainer(2.0).to_json() != CentroidTrainer().to_json()


def test_a_labeller_is_right_as_often_as_told_and_else_names_another_class():
    ann = Labeller(lambda inputs: inputs["true"], ("a", "b", "c"), accuracy=0.8, rng=np.random.default_rng(0))
    said = [ann({"true": "a"}) for _ in range(2000)]
    assert said.count("a") / 2000 == pytest.approx(0.8, abs=0.04)
    assert said.count("b") > 100 < said.count("c")
    sure = Labeller(lambda inputs: "b", ("a", "b"), rng=np.random.default_rng(0))
    assert {sure({}) for _ in range(50)} == {"b"}
