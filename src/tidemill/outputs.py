"""The types of outputs: what scores mean, and what a label may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tidemill.errors import InvalidInput, ProjectError
from tidemill.inputs import Array, Number, shown
from tidemill.records import Json


class Output(Protocol):
    """What a model gives. No stage assumes classes: everything about scores and labels is asked here."""

    @property
    def num_scores(self) -> int:
        """Length K of a score row."""
        ...

    def decide(self, scores: Array) -> list[str | float]:
        """Turn scores (N, K) into N decisions, in the form labels have."""
        ...

    def parse_label(self, value: object) -> str | float:
        """Check a label and return its canonical form, or raise `InvalidInput`."""
        ...

    def targets(self, labels: Sequence[Any]) -> Array:
        """Turn canonical labels into what a loss takes: class indices int64 (N,), or values float64 (N,)."""
        ...

    def to_json(self) -> Json:
        """Return the declaration as JSON."""
        ...


@dataclass(frozen=True)
class Classes:
    """One of several named classes; scores are probabilities (N, K) in the order of `names`."""

    names: Sequence[str]

    def __post_init__(self) -> None:
        names = tuple(str(n) for n in self.names)
        if isinstance(self.names, str) or len(names) < 2 or len(set(names)) != len(names):
            raise ProjectError(f"Classes({self.names!r}) needs two or more distinct names.", "name each class once")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "_index", {n: i for i, n in enumerate(names)})

    @property
    def num_scores(self) -> int:
        """One score a class."""
        return len(self.names)

    def decide(self, scores: Array) -> list[str | float]:
        """Return the name of the likeliest class of each row."""
        return list(map(self.names.__getitem__, scores.argmax(axis=1).tolist()))

    def parse_label(self, value: object) -> str:
        """Check that it is one of the names."""
        if not isinstance(value, str) or value not in self._index:  # type: ignore[attr-defined]
            raise InvalidInput(f"label {shown(value)} is no class.", f"send one of {', '.join(self.names)}", "label")
        return value

    def targets(self, labels: Sequence[Any]) -> Array:
        """Return class indices int64 (N,)."""
        index: dict[str, int] = self._index  # type: ignore[attr-defined]
        return np.array([index[label] for label in labels], dtype=np.int64)

    def to_json(self) -> Json:
        """Return the declaration as JSON."""
        return {"type": "Classes", "names": list(self.names)}


@dataclass(frozen=True)
class Value:
    """A number; scores are (N, 1) and the decision is the number itself."""

    low: float | None = None
    high: float | None = None

    @property
    def num_scores(self) -> int:
        """One."""
        return 1

    def decide(self, scores: Array) -> list[str | float]:
        """Return the predicted numbers."""
        return [float(v) for v in scores[:, 0]]

    def parse_label(self, value: object) -> float:
        """Check that it is a finite number in range."""
        return Number(self.low, self.high).parse(value, "label")

    def targets(self, labels: Sequence[Any]) -> Array:
        """Return the values float64 (N,)."""
        return np.array(labels, dtype=np.float64)

    def to_json(self) -> Json:
        """Return the declaration as JSON."""
        return {"type": "Value", "low": self.low, "high": self.high}


OUTPUT_TYPES: Mapping[str, type[Any]] = {t.__name__: t for t in (Classes, Value)}
