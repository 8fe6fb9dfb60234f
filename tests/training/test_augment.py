"""Augmentation changes training rows only, by the seed, and in a form that the schema allows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

import tidemill as tm
from tidemill.errors import ProjectError
from tidemill.schema import Schema
from tidemill.training.augment import Augment, augmented, with_copies

SCHEMA = Schema(
    {
        "photo": tm.Image((8, 6)), "text": tm.Text(max_chars=60), "age": tm.Number(0, 100), "kind": tm.Category(),
        "plain": tm.Number(),
    },
    tm.Classes(["a", "b"]),
)  # fmt: skip
ALL = [
    tm.augment.Flip("photo"), tm.augment.Shift("photo", 2), tm.augment.Brighten("photo", 0.3),
    tm.augment.Typos("text", 0.2), tm.augment.DropWords("text", 0.3), tm.augment.Jitter("age", 30.0),
    tm.augment.SwapCells("kind", 0.5), tm.augment.SwapCells("plain", 0.5),
]  # fmt: skip


def batch(seed: int, num: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcde"), size=5)) for _ in range(num * 4)]
    return {
        "photo": rng.integers(0, 256, size=(num, 8, 6), dtype=np.uint8),
        "text": np.array([" ".join(words[4 * i : 4 * i + 4]) for i in range(num)] + [None], dtype=object)[:-1],
        "age": rng.uniform(0, 100, size=num),
        "kind": np.array([*rng.choice(["x", "y"], size=num), None], dtype=object)[:-1],
        "plain": rng.normal(size=num),
    }


@given(st.integers(0, 1000), st.integers(0, 12), st.sampled_from(ALL))
@settings(deadline=None, max_examples=80)
def test_a_batch_keeps_its_shape_and_types_and_the_one_given_stays_as_it_was(seed: int, num: int, one: Augment):
    given_, before = batch(seed, num), batch(seed, num)
    changed = augmented([one], SCHEMA, given_, np.random.default_rng(seed))
    again = augmented([one], SCHEMA, given_, np.random.default_rng(seed))
    for name, column in before.items():
        assert np.array_equal(given_[name], column)
        assert changed[name].shape == column.shape
        assert changed[name].dtype == column.dtype
        assert np.array_equal(changed[name], again[name])
        assert name == one.input or np.array_equal(changed[name], column)
        for value in changed[name] if name in ("text", "age", "kind") else ():
            SCHEMA.inputs[name].parse(value if isinstance(value, str) else float(value), name)


def test_a_shift_moves_what_is_drawn_and_black_moves_in():
    photo = np.zeros((200, 8, 6), dtype=np.uint8)
    photo[:, 4, 3] = 255
    moved = tm.augment.Shift("photo", 2).change(photo, np.random.default_rng(0))
    places = {tuple(np.argwhere(one)[0]) for one in moved}
    assert places == {(y, x) for y in range(2, 7) for x in range(1, 6)}
    assert (moved.reshape(200, -1).sum(axis=1) == 255).all()


def test_a_flip_mirrors_some_rows_left_to_right():
    photo = batch(0, 50)["photo"]
    flipped = tm.augment.Flip("photo", 1.0).change(photo, np.random.default_rng(0))
    assert np.array_equal(flipped, photo[:, :, ::-1])


def test_typos_keep_the_letters_and_dropped_words_leave_one():
    text = batch(0, 30)["text"]
    misspelt = tm.augment.Typos("text", 0.5).change(text, np.random.default_rng(0))
    assert [sorted(t) for t in misspelt] == [sorted(t) for t in text]
    assert (misspelt != text).any()
    thinned = tm.augment.DropWords("text", 1.0).change(text, np.random.default_rng(0))
    assert all(len(short.split()) == 1 and short in whole for short, whole in zip(thinned, text, strict=True))


def data(num: int) -> tm.TrainingData:
    targets = np.arange(num) % 2
    return tm.TrainingData(
        schema=SCHEMA, columns=batch(0, num), targets=targets, weights=np.ones(num),
        ids=tuple(f"e{i}" for i in range(num)),
    )  # fmt: skip


def test_copies_come_after_the_rows_themselves_with_their_labels():
    more = with_copies(data(6), ALL, copies=2, seed=3)
    assert len(more) == 18
    assert np.array_equal(more.targets, np.tile(data(6).targets, 3))
    assert np.array_equal(more.columns["photo"][:6], data(6).columns["photo"])
    assert not np.array_equal(more.columns["photo"][6:12], more.columns["photo"][12:])


def test_a_trainer_learns_from_copies_and_its_transforms_from_the_rows_alone(tmp_path: Path):
    estimator = KNeighborsClassifier(1)
    transforms = [tm.transforms.Standardise("age")]
    plain = tm.trainers.Sklearn(estimator, transforms=transforms)
    with_noise = tm.trainers.Sklearn(
        estimator, transforms=transforms, augment=[tm.augment.Jitter("age", 5.0)], copies=3
    )

    def train(trainer: tm.trainers.Sklearn) -> tm.Model:
        return trainer.train(data(20), start_from=None, seed=1, workdir=tmp_path, progress=lambda _: None)

    one, other = train(plain), train(with_noise)
    assert one.estimator.n_samples_fit_ == 20
    assert other.estimator.n_samples_fit_ == 80
    assert list(one.fitted.params) == list(other.fitted.params)
    assert all(np.array_equal(value, other.fitted.params[name]) for name, value in one.fitted.params.items())
    assert np.array_equal(other.predict(batch(5, 9)), train(with_noise).predict(batch(5, 9)))


def test_what_is_declared_without_augmentation_is_the_same_trainer_as_before_there_was_any():
    assert "augment" not in tm.trainers.Sklearn(LogisticRegression()).to_json()
    told = tm.trainers.Sklearn(LogisticRegression(), augment=[tm.augment.Typos("text")]).to_json()
    assert told["augment"] == [{"type": "Typos", "input": "text", "chance": 0.02}]


def test_torch_learns_from_changed_batches_the_same_ones_for_the_same_seed(tmp_path: Path):
    pytest.importorskip("torch")
    from networks import Pair

    def scores(*augment: Augment) -> np.ndarray:
        transforms = [tm.transforms.Standardise("age", "plain")]
        trainer = tm.trainers.Torch(Pair, transforms, epochs=2, batch_size=8, device="cpu", augment=augment)
        model = trainer.train(data(20), start_from=None, seed=1, workdir=tmp_path, progress=lambda _: None)
        return model.predict(batch(5, 9))

    jitter = tm.augment.Jitter("age", 40.0)
    assert np.array_equal(scores(jitter), scores(jitter))
    assert not np.array_equal(scores(jitter), scores())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: tm.augment.Typos("text", 2.0),
        lambda: tm.augment.Shift("photo", 0),
        lambda: tm.trainers.Sklearn(LogisticRegression(), augment=["typos"]),
        lambda: tm.trainers.Sklearn(LogisticRegression(), copies=0),
        lambda: augmented([tm.augment.Typos("photo")], SCHEMA, batch(0, 2), np.random.default_rng(0)),
        lambda: augmented([tm.augment.Typos("nobody")], SCHEMA, batch(0, 2), np.random.default_rng(0)),
    ],
)
def test_what_does_not_fit_is_refused(wrong: object):
    with pytest.raises(ProjectError):
        wrong()  # type: ignore[operator]
