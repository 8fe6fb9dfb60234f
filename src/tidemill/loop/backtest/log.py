"""The log of a backtest: frames in memory, which know nothing that was not yet received."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import polars as pl

from tidemill.clock import from_micros
from tidemill.records import Trust
from tidemill.schema import Schema
from tidemill.stores.columns import own_types
from tidemill.stores.declared import declared_types
from tidemill.stores.log import Log

_Span = tuple[int, int]
_ALL = pl.lit(value=True)
_MARKS = {"predictions": "role", "feedback": "kind"}
_WHOSE = {role: pl.col("role") == role for role in ("answer", "shadow")}


class _Part(NamedTuple):
    """Rows that were appended at once, in order of time; `alike` is the one role, or kind, of all, None for several."""

    first: int
    last: int
    frame: pl.DataFrame
    alike: str | None

    def meets(self, first: int, last: int) -> bool:
        """Tell whether it reaches into a span."""
        return self.first <= last and self.last >= first

    def within(self, first: int, last: int) -> pl.DataFrame:
        """Return the rows received from `first` to `last`."""
        if self.first >= first and self.last <= last:
            return self.frame
        times = self.frame["received_at"]
        start = int(times.search_sorted(first, side="left"))
        return self.frame[start : int(times.search_sorted(last, side="right"))]


class MemoryLog(Log):
    """Answers what `Log` answers, of one project, from frames that are appended in order of time."""

    def __init__(self) -> None:
        self._parts: dict[str, list[_Part]] = defaultdict(list)
        self._matured: tuple[tuple[object, ...], pl.DataFrame] | None = None

    def append(self, kind: str, frame: pl.DataFrame) -> None:
        """Add rows of `predictions` or `feedback`, sorted by `received_at`; none may be behind what was read."""
        if len(frame):
            self._matured = None
            times = frame["received_at"]
            self._parts[kind].append(_Part(int(times[0]), int(times[-1]), frame, _alike(frame[_MARKS[kind]])))

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
        lasts = [part.last for part in self._parts["predictions"]]
        return from_micros(max(lasts)) if lasts else None

    def retyped(self, project: str, *, after: datetime | None, until: datetime, schema: Schema) -> list[str]:
        """Return nothing: a stream has the types that are declared."""
        return []

    def _cover(self, project: str, first: int, last: int, kind: str = "predictions") -> list[tuple[int, _Span]]:
        """Return how many rows of a kind there are in which spans."""
        return [(len(part.frame), (part.first, part.last)) for part in self._parts[kind] if part.meets(first, last)]

    def _about(self, project: str, rows: pl.DataFrame, horizon: timedelta, kinds: Sequence[str]) -> pl.DataFrame:
        """Return the feedback that may be about rows: what else came in that time is not looked at one by one."""
        times = rows["received_at"]
        if not len(rows):
            return super()._about(project, rows, horizon, kinds)
        return self._feedback(project, (int(times[0]), int(times[-1]) + horizon // timedelta(microseconds=1)), kinds)

    def _feedback(self, project: str, span: _Span, kinds: Sequence[str] | None, about: pl.Expr = _ALL) -> pl.DataFrame:
        """Return feedback in order; where all of it is of these kinds, no row is asked."""
        met = [part for part in self._parts["feedback"] if part.meets(*span)]
        asked = None if kinds is None or all(part.alike in kinds for part in met) else kinds
        return super()._feedback(project, span, asked, about)

    def _read(
        self, project: str, kind: str, span: _Span | None, where: pl.Expr, columns: list[str] | None,
        schema: Schema | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        first, last = span or (-(2**63), 2**63 - 1)
        met = [part for part in self._parts[kind] if part.meets(first, last)]
        parts = [part.within(first, last) for part in met]
        own = own_types(kind)
        types = {**own, **({} if schema is None else declared_types(schema))}
        names = columns if columns is not None else _names(own, parts)
        if not parts:
            return pl.DataFrame(schema={name: types.get(name, pl.Null()) for name in names})
        role = next((role for role, whose in _WHOSE.items() if where.meta.eq(whose)), None)
        whole = [where is _ALL or (role is not None and part.alike == role) for part in met]
        known = [
            _columns(part if every else _filtered(part, where), names, types)
            for part, every in zip(parts, whole, strict=True)
        ]
        return known[0] if len(known) == 1 else pl.concat(known, how="vertical")


def _trusted(found: pl.DataFrame, trust: Trust, columns: Sequence[str], events: Sequence[str]) -> pl.DataFrame:
    """Return outcomes of any trust without the labels of too little: the label that counts is that of the highest."""
    labels, said = ("label", "label_trust", "label_at"), [f"event_{name}" for name in events]
    names = dict.fromkeys([*columns, "request_id", "received_at", *labels, *said])
    found, known = found[list(names)], [str(one) for one in Trust if one.rank >= trust.rank]
    if not len(found) or _alike(found["label_trust"]) in known:
        return found
    enough = pl.col("label_trust").is_in(known)
    if found.select(enough).to_series().all():  # that of a row without a label counts as enough
        return found
    return found.with_columns(pl.when(enough).then(pl.col(name)).alias(name) for name in labels)


def _alike(column: pl.Series) -> str | None:
    """Return the one value of a column, None where it has several."""
    first = column[0]
    return str(first) if first is not None and not column.has_nulls() and (column == first).all() else None


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
