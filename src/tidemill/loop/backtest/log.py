"""The log of a backtest: frames in memory, which know nothing that was not yet received."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import polars as pl

from tidemill.clock import from_micros
from tidemill.records import Trust
from tidemill.schema import Schema
from tidemill.stores.columns import own_types
from tidemill.stores.log import Log

_Span = tuple[int, int]


class MemoryLog(Log):
    """Answers what `Log` answers, of one project, from frames that are appended in order of time."""

    def __init__(self) -> None:
        self._frames: dict[str, list[tuple[int, int, pl.DataFrame]]] = defaultdict(list)
        self._matured: tuple[tuple[object, ...], pl.DataFrame] | None = None

    def append(self, kind: str, frame: pl.DataFrame) -> None:
        """Add rows of `predictions` or `feedback`, sorted by `received_at`; none may be behind what was read."""
        if len(frame):
            self._matured = None
            times = frame["received_at"]
            self._frames[kind].append((int(times[0]), int(times[-1]), frame))

    def outcomes(
        self, project: str, *, after: datetime | None, until: datetime, horizon: timedelta, trust: Trust,
        events: Sequence[str] = (), role: str = "answer", columns: Sequence[str] | None = None,
        schema: Schema | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        """Return predictions with what became of them; two steps that ask of one window have it joined once."""
        question = (project, after, until, horizon, tuple(events), role, schema is None)
        if trust is not Trust.FUNCTIONS and self._matured is not None and columns is not None:
            asked, found = self._matured
            if asked == question and set(columns) <= set(found.columns):
                return _trusted(found, trust, columns, events)
        found = super().outcomes(
            project, after=after, until=until, horizon=horizon, trust=trust, events=events, role=role, columns=columns,
            schema=schema,
        )  # fmt: skip
        if trust is Trust.FUNCTIONS:
            self._matured = (question, found)
        return found

    def complete_until(self, now: datetime) -> datetime:
        """Return `now`: what was received by then was appended by then."""
        return now

    def last_at(self, project: str) -> datetime | None:
        """Return when the newest prediction was received."""
        lasts = [last for _, last, _ in self._frames["predictions"]]
        return from_micros(max(lasts)) if lasts else None

    def _cover(self, project: str, first: int, last: int, kind: str = "predictions") -> list[tuple[int, _Span]]:
        """Return how many rows of a kind there are in which spans."""
        return [(len(frame), (a, b)) for a, b, frame in self._frames[kind] if a <= last and b >= first]

    def _read(
        self, project: str, kind: str, span: _Span | None, where: pl.Expr, columns: list[str] | None,
        asked: Mapping[str, pl.DataType] | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        first, last = span or (-(2**63), 2**63 - 1)
        met = [(a, b, frame) for a, b, frame in self._frames[kind] if a <= last and b >= first]
        parts = [_within(frame, first, last, whole=a >= first and b <= last) for a, b, frame in met]
        own = own_types(kind)
        types = {**own, **(asked or {})}
        names = columns if columns is not None else _names(own, parts)
        if not parts:
            return pl.DataFrame(schema={name: types.get(name, pl.Null()) for name in names})
        known = [_columns(_filtered(part, where), names, types) for part in parts]
        return known[0] if len(known) == 1 else pl.concat(known, how="vertical")


def _trusted(found: pl.DataFrame, trust: Trust, columns: Sequence[str], events: Sequence[str]) -> pl.DataFrame:
    """Return outcomes of any trust without the labels of too little: the label that counts is that of the highest."""
    labels, said = ("label", "label_trust", "label_at"), [f"event_{name}" for name in events]
    names = dict.fromkeys([*columns, "request_id", "received_at", *labels, *said])
    enough = pl.col("label_trust").is_in([str(one) for one in Trust if one.rank >= trust.rank])
    found = found[list(names)]
    if found.select(enough).to_series().all():  # that of a row without a label counts as enough
        return found
    return found.with_columns(pl.when(enough).then(pl.col(name)).alias(name) for name in labels)


def _within(frame: pl.DataFrame, first: int, last: int, *, whole: bool) -> pl.DataFrame:
    """Return the rows of a frame received from `first` to `last`; they are in order of time."""
    if whole:
        return frame
    times = frame["received_at"]
    start = int(times.search_sorted(first, side="left"))
    return frame[start : int(times.search_sorted(last, side="right"))]


def _filtered(part: pl.DataFrame, where: pl.Expr) -> pl.DataFrame:
    """Return the rows that meet a condition: mostly all do, and then nothing is copied."""
    met = part.select(where).to_series()
    return part if len(met) == len(part) and met.sum() == len(part) else part.filter(where)


def _columns(part: pl.DataFrame, names: Sequence[str], types: Mapping[str, pl.DataType]) -> pl.DataFrame:
    there = set(part.columns)
    if there.issuperset(names):
        return part[list(names)]
    return pl.DataFrame([part[name] if name in there else _nothing(part, name, types) for name in names])


def _names(own: Mapping[str, pl.DataType], parts: Sequence[pl.DataFrame]) -> list[str]:
    others = sorted({name for part in parts for name in part.columns} - set(own))
    return [*own, *others]


def _nothing(part: pl.DataFrame, name: str, types: Mapping[str, pl.DataType]) -> pl.Series:
    return pl.Series(name, [None], dtype=types.get(name, pl.Null())).new_from_index(0, len(part))
