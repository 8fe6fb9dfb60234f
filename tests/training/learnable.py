"""Rows to learn from: digits (pictures), titles (text and a number), and prices (values)."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from tidemill.model import TrainingData
from tidemill.schema import Category, Classes, Image, Number, Schema, Text, Value


def training_data(
    schema: Schema, columns: dict, targets: np.ndarray, weights: np.ndarray | None = None
) -> TrainingData:
    ids = tuple(f"e{i}" for i in range(len(targets)))
    return TrainingData(
        schema=schema,
        columns=columns,
        targets=targets,
        weights=np.ones(len(ids)) if weights is None else weights,
        ids=ids,
    )


def digit_rows() -> TrainingData:
    """400 pictures of 8 x 8 and their digits."""
    pictures, digit = load_digits(return_X_y=True)
    pixels = np.minimum(pictures[:400].reshape(-1, 8, 8) * 16, 255).astype(np.uint8)
    schema = Schema({"image": Image((8, 8))}, Classes(tuple("0123456789")))
    return training_data(schema, {"image": pixels}, digit[:400].astype(np.int64))


WORDS = {
    0: ["lovely", "great", "thanks 👍", "so good", "Ünique"],
    1: ["awful", "broken", "refund!", "so bad 😡", "never again"],
    2: ["where is it?", "opening hours", "how much", "is it open", "which size"],
}


def made_titles(num: int, num_classes: int, seed: int = 0) -> tuple[dict, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, num_classes, num)
    text = [" ".join(rng.choice(WORDS[int(k)], 3)) for k in label]
    text[0] = ""  # nothing at all, as users do
    age = rng.normal(40 + 10 * label, 5)
    country = np.array([*rng.choice(["fr", "de", "it"], num).tolist(), None], dtype=object)[:-1]
    return {"text": np.array([*text, None], dtype=object)[:-1], "age": age, "country": country}, label.astype(np.int64)


TITLES = {"text": Text(), "age": Number(), "country": Category()}


def title_rows() -> TrainingData:
    """300 short texts with an age and a country, of three classes."""
    columns, label = made_titles(300, 3)
    return training_data(Schema(TITLES, Classes(("praise", "complaint", "question"))), columns, label)


def two_title_rows() -> TrainingData:
    """The same with two classes."""
    columns, label = made_titles(300, 2)
    return training_data(Schema(TITLES, Classes(("praise", "complaint"))), columns, label)


def price_rows() -> TrainingData:
    """Values that follow from two numbers."""
    rng = np.random.default_rng(0)
    size, rooms = rng.uniform(20, 200, 300), rng.integers(1, 6, 300).astype(float)
    return training_data(
        Schema({"size": Number(), "rooms": Number()}, Value()),
        {"size": size, "rooms": rooms},
        0.01 * size + 0.2 * rooms + rng.normal(0, 0.05, 300),
    )
