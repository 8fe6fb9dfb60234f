"""Python models that behave badly on request: x[0] says how."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

DAWDLES, CRASHES, HANGS, RAISES, LEAKS = 555.0, 666.0, 777.0, 888.0, 999.0


class Fickle:
    """Gives equal scores, unless told to dawdle, crash, hang, raise or leak."""

    leaked: list[bytes] = []  # noqa: RUF012

    @classmethod
    def load(cls, folder: Path) -> Fickle:
        assert (folder / "weights.txt").read_text() == "1.0"
        print("loading, to standard output")
        return cls()

    def predict(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        first = columns["x"][:, 0]
        if (first == DAWDLES).any():
            time.sleep(1)
        if (first == CRASHES).any():
            os._exit(3)
        if (first == HANGS).any():
            time.sleep(600)
        if (first == RAISES).any():
            raise ValueError("told to")
        if (first == LEAKS).any():
            self.leaked.append(b"x" * (40 << 20))
        return np.full((len(first), 3), 1 / 3, np.float32)

    def save(self, folder: Path) -> None:
        (folder / "weights.txt").write_text("1.0")


class Unloadable(Fickle):
    @classmethod
    def load(cls, folder: Path) -> Fickle:
        raise RuntimeError("no such weights")


class Leaky(Fickle):
    """Keeps a megabyte of every batch."""

    def predict(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        self.leaked.append(b"x" * (1 << 20))
        return super().predict(columns)
