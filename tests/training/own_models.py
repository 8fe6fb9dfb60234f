"""Models of one's own, in a file that a worker imports quickly."""

from __future__ import annotations

import numpy as np

from tidemill.training.fitted import Fitted
from tidemill.transforms import Pipeline, ScaleImage


class NoLoad:
    """Gives the same scores whatever it is asked, and cannot be loaded."""

    def __init__(self, scores, files=("scores",)):
        self.scores, self.files = scores, files

    def predict(self, columns):
        return np.tile(self.scores, (len(next(iter(columns.values()))), 1))

    def save(self, folder):
        for name in self.files:
            (folder / name).write_bytes(np.asarray(self.scores, dtype=float).tobytes())


class Constant(NoLoad):
    """Remembers its scores."""

    @classmethod
    def load(cls, folder):
        return cls(np.frombuffer((folder / "scores").read_bytes()))


class Forgets(NoLoad):
    """Is another model after it was loaded."""

    @classmethod
    def load(cls, folder):
        return cls(np.zeros(10))


class Liar(Constant):
    """Has a graph that is not its own."""

    notes = ""
    fitted = Fitted(Pipeline((ScaleImage("image"),)), {})
    graph = b""

    def to_onnx(self, columns):
        return self.graph

    def save_weights(self, folder):
        raise AssertionError("there is no graph to put them beside")
