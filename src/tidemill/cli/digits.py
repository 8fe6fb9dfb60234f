"""Real handwritten digits (scikit-learn's copy of the UCI set: 1,797 pictures of 8 x 8) for the demo and `init`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.datasets import load_digits

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Digits:
    """Pictures uint8 (N, 8, 8) and what they show, as text."""

    pictures: Pixels
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, index: npt.NDArray[np.int64]) -> Digits:
        """Return the pictures at `index`."""
        return Digits(self.pictures[index], tuple(self.labels[i] for i in index))


def load() -> Digits:
    """Return all pictures, ink from 0 to 255."""
    bunch = load_digits()
    return Digits((bunch.images * (255 / 16)).astype(np.uint8), tuple(str(d) for d in bunch.target))


def washed_out(pictures: Pixels) -> Pixels:
    """Return the pictures as a badly exposed camera gives them: grey paper, weak ink."""
    return (0.4 * 255 + 0.6 * pictures.astype(np.float64)).astype(np.uint8)


def digits_table(digits: Digits | None = None) -> pl.DataFrame:
    """Return pictures of the old app with their labels, as `tidemill train` reads them."""
    digits = digits or load()
    images = [picture.tobytes() for picture in digits.pictures]
    return pl.DataFrame({"image": images, "app": ["v1"] * len(digits), "label": list(digits.labels)})
