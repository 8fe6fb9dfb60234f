"""What a look at a window said about drift: whether it is alarming, which columns moved, how far, and what shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tidemill.clock import from_micros, micros

_MOST_KEPT = 20


@dataclass(frozen=True, kw_only=True)
class ColumnDrift:
    """How far a column has moved. `unusual` is minus the decimal logarithm of how rare its `statistic` is by chance.

    `effects` are those of `stats.drift` that are defined for it, `auc` for vectors.
    """

    name: str
    statistic: str
    unusual: float
    moved: bool
    effects: Mapping[str, float] = field(default_factory=dict)

    @property
    def effect(self) -> float | None:
        """The effect that says most: of the statistic that was most unusual, if it is one."""
        return self.effects.get(self.statistic)


@dataclass(frozen=True, kw_only=True)
class DriftReport:
    """A window (after, until] beside its reference.

    `rank` is the window's among sets of blocks (see `stats.alarm`), None where there are too few rows to tell; then
    `problem` says why. `columns` come the most unusual first; `examples` are ids of requests that show best what moved.
    """

    after: datetime
    until: datetime
    num_rows: int
    num_reference: int
    rank: float | None = None
    columns: tuple[ColumnDrift, ...] = ()
    examples: tuple[str, ...] = ()
    problem: str = ""

    @property
    def moved(self) -> tuple[ColumnDrift, ...]:
        """The columns that moved."""
        return tuple(column for column in self.columns if column.moved)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON, with what moved and the most unusual of the rest: at most 20 columns."""
        columns = [{**vars(column), "effects": dict(column.effects)} for column in self.columns[:_MOST_KEPT]]
        times = {"after": micros(self.after), "until": micros(self.until)}
        return {**vars(self), **times, "columns": columns, "examples": list(self.examples)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DriftReport:
        """Read what `to_json` returned."""
        columns = tuple(ColumnDrift(**column) for column in data["columns"])
        times = {"after": from_micros(data["after"]), "until": from_micros(data["until"])}
        return cls(**{**data, **times, "columns": columns, "examples": tuple(data["examples"])})
