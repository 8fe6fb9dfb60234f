"""Baselines: what a candidate must beat to be worth its cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tidemill.strategy.member import Member


class Baseline(Member):
    """Base of the baselines. Those that answer are judged on the very test rows that the candidate is judged on."""

    stage: ClassVar[str] = "baseline"


@dataclass(frozen=True)
class Majority(Baseline):
    """The constant answer that the training labels suggest: the commonest class, or the median number."""


@dataclass(frozen=True)
class Rule(Baseline):
    """A function of yours: it takes one example's inputs by name and returns the answer, as a label is written."""

    function: Callable[[Mapping[str, Any]], str | float]

    def check(self) -> None:
        """Refuse what cannot be called."""
        self.require(callable(self.function), f"{self.function!r} is no function", "name a function of one example")


@dataclass(frozen=True)
class Linear(Baseline):
    """A logistic or ridge regression on the usual transforms of the inputs, trained on the candidate's training rows.

    It learns from at most `max_rows` of them, drawn by chance, so that it stays cheap beside the candidate.
    """

    max_rows: int = 20_000

    def check(self) -> None:
        """Refuse too few rows."""
        self.require(self.max_rows >= 1, f"max_rows is {self.max_rows!r}", "give 1 or more")


@dataclass(frozen=True)
class Human(Baseline):
    """What people reach on the metric, measured elsewhere and declared here."""

    value: float


@dataclass(frozen=True)
class Previous(Baseline):
    """The version that answers now. Before there is one, everything beats it."""
