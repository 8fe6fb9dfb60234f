"""Lines over time with deploy markers, as data that `static/chart.js` draws with uPlot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from tidemill.records import Json

Unit = Literal["share", "count", "number", "ms"]


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line: a value for each time, None where there is none, with an interval where it has one.

    `tone` is its colour: main, other, good, bad, unsure or muted.
    """

    name: str
    values: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    tone: str = "main"


@dataclass(frozen=True, kw_only=True)
class Marker:
    """Something that happened: an upright line with a word beside it."""

    at: datetime
    text: str
    tone: str = ""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over the same times, told in words by `title` and `desc`; `unit` says how the values are written."""

    title: str
    times: Sequence[datetime]
    series: Sequence[Series]
    markers: Sequence[Marker] = ()
    unit: Unit = "number"
    desc: str = ""
    height: int = 220

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(_known(v) is not None for one in self.series for v in one.values)

    def to_json(self) -> Json:
        """Return what the script draws; times are seconds since 1970."""
        return {
            "title": self.title,
            "unit": self.unit,
            "height": self.height,
            "times": [at.timestamp() for at in self.times],
            "series": [
                {"name": one.name, "tone": one.tone, "values": _all(one.values), "low": _all(one.low),
                 "high": _all(one.high)}
                for one in self.series
            ],
            "markers": [{"at": one.at.timestamp(), "text": one.text, "tone": one.tone} for one in self.markers],
        }  # fmt: skip


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _all(values: Sequence[float | None] | None) -> list[float | None] | None:
    return None if values is None else [_known(value) for value in values]
