"""The log: every prediction, and what was learned about it later, as frames.

Times are microseconds since 1970 in the frames, and `after < received_at <= until` in the questions. Rows that a
gateway wrote twice are there once. Files written before an input was declared or retyped are read along: what they lack
is null. Where a `schema` is given, inputs and decision have the types it declares, null where a value was of another
kind or shape; else a column that has had several types is numbers where all are, and text where not (bytes as base64).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
from sqlalchemy import select

from tidemill.clock import from_micros, micros
from tidemill.errors import Corrupt
from tidemill.records import CONFIRM, LABEL_KINDS, DeviceProfile, Trust
from tidemill.schema import Schema
from tidemill.stores.columns import FEEDBACK_FIELDS, PROFILE_FIELDS, own_types
from tidemill.stores.database import Database
from tidemill.stores.declared import declared_types, of_declared_size, older_filled, told_by
from tidemill.stores.hindsight import confirmed, value_of, with_outcomes
from tidemill.stores.logfiles import LogFiles
from tidemill.stores.newest import KEY, Meets, Newest, Place, newest, parts_back
from tidemill.stores.scan import of_other_type, scan
from tidemill.stores.segments import Segments
from tidemill.stores.tables import consumed

_TRIES = 5
_KEY = ("received_at", "request_id", "role", "answered_version")
_FIRST = -(2**63)
_LAST = 2**63 - 1
_NEVER = (0, -1)
_SEED = 20_260_101
_MOST_READ = 64 << 20  # bytes of what is held against a condition at once
_ANY = pl.lit(value=True)

_Span = tuple[int, int]
_T = TypeVar("_T")


class Log:
    """Reads the log of all projects; the `Compactor` writes it.

    Args:
        db: the catalog, which says what is in the log.
        segments: what gateways appended and is not in the log yet.
        folder: the log's folder.
    """

    def __init__(self, db: Database, segments: Segments, folder: Path) -> None:
        self._db = db
        self._segments = segments
        self._files = LogFiles(db, folder)

    def complete_until(self, now: datetime) -> datetime:
        """Return the latest time, at most `now`, such that every fact received at or before it is in the log.

        `now` may not be later than the moment of the call.
        """
        present = self._segments.present()
        with self._db.read() as conn:  # after the listing: what is consumed by then was in the log when it was listed
            done = set(conn.execute(select(consumed.c.segment)).scalars())
        waiting = [segment.low_at for segment in present if segment.name not in done]
        return min([now, *(from_micros(low_at - 1) for low_at in waiting)])

    def predictions(
        self, project: str, *, after: datetime | None, until: datetime, role: str = "answer",
        columns: Sequence[str] | None = None, schema: Schema | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        """Return predictions in order of `received_at` and `request_id`; inputs and tags are columns by their names.

        Only `columns` are read, and are what the frame has; by default all.
        """
        return self._predictions(project, _span(after, until), pl.col("role") == role, columns, schema)

    def sample(
        self, project: str, *, after: datetime | None, until: datetime, at_most: int, columns: Sequence[str],
        schema: Schema | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        """Return answered predictions as `predictions` does: all, or of more than `at_most` about as many.

        They are drawn by a hash of the request id: who is drawn does not depend on what was asked or answered.
        """
        span = _span(after, until)
        share = at_most / max(self._num_rows(project, *span), 1)
        where = pl.col("role") == "answer"
        if share < 1:
            where = where & (pl.col("request_id").hash(_SEED) < int(share * 2**64))
        return self._predictions(project, span, where, columns, schema)

    def spans(
        self, project: str, *, after: datetime | None, until: datetime, at_most: int
    ) -> list[tuple[datetime | None, datetime]]:
        """Return `(after, until]` cut into spans that follow each other, of about `at_most` predictions or fewer.

        They are cut where time is halved, again and again, so a span of a busy hour is shorter than one of the night.
        """
        cuts = self._cuts(project, _span(after, until), at_most)
        edges = [after, *map(from_micros, cuts), until]
        return [(a, b) for a, b in pairwise(edges) if b is not None]

    def reach(
        self, project: str, *, after: datetime | None, until: datetime, at_most: int, kind: str = "predictions"
    ) -> datetime:
        """Return how far to read after a time, at most `until`: about `at_most` rows of a kind, or fewer."""
        cut = _first_cut(*self._covered(project, _span(after, until), kind), at_most)
        return until if cut is None else from_micros(cut)

    def _cuts(self, project: str, span: _Span, at_most: int) -> list[int]:
        return _halved(*self._covered(project, span, "predictions"), at_most)

    def _covered(self, project: str, span: _Span, kind: str) -> tuple[Sequence[tuple[int, _Span]], _Span]:
        """Return how many rows there are in which spans, and the part of `span` that they reach over."""
        first, last = span
        cover = self._cover(project, first, last, kind)
        low, high = min((a for _, (a, _) in cover), default=last), max((b for _, (_, b) in cover), default=last)
        return cover, (max(first, low), min(last, high))

    def num_predictions(self, project: str, *, after: datetime | None, until: datetime) -> int:
        """Return about how many predictions were received in (after, until], by what the files count."""
        return self._num_rows(project, *_span(after, until))

    def retyped(self, project: str, *, after: datetime | None, until: datetime, schema: Schema) -> list[str]:
        """Return the inputs of which a file with rows of a span has values of another type than is declared."""
        asked, span = declared_types(schema), _span(after, until)
        found = self._of_files(project, "predictions", span, lambda paths: of_other_type(paths, asked))
        return sorted(found & set(schema.inputs))

    def _num_rows(self, project: str, first: int, last: int) -> int:
        """Return about how many predictions were received in a span."""
        return math.ceil(_rows_in(self._cover(project, first, last), (first, last)))

    def _cover(self, project: str, first: int, last: int, kind: str = "predictions") -> list[tuple[int, _Span]]:
        """Return how many rows of a kind there are in which spans, of all that reach into one."""
        files = self._files.find(project, kind, first=first, last=last)
        return [(file.num_rows, (file.first_at, file.last_at)) for file in files]

    def feedback(
        self, project: str, *, after: datetime | None, until: datetime, kinds: Sequence[str] | None = None
    ) -> pl.DataFrame:
        """Return feedback in order of `received_at`: request_id, received_at, kind, value, source, trust.

        `value` is text where any value is, else float64 (True is 1); null where there is none.
        """
        facts = self._feedback(project, _span(after, until), kinds)
        return _valued(facts)

    def outcomes(
        self, project: str, *, after: datetime | None, until: datetime, horizon: timedelta, trust: Trust,
        events: Sequence[str] = (), role: str = "answer", columns: Sequence[str] | None = None,
        schema: Schema | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        """Return predictions with what became of them, from feedback received within `horizon` of the request.

        Added columns: `label` (of the highest trust, then the newest; null where none is of at least `trust`),
        `label_trust`, `label_at`, and a float64 `event_<name>` for each of `events`: its newest value, 1 where it came
        without a number, 0 where it did not come; null where a rating or thumbs did not come. Events count whatever
        their trust: they are acts, not judgements.

        Raises:
            ProjectError: an input has the name of one of those columns.
        """
        wanted = None if columns is None else list(dict.fromkeys([*columns, "request_id", "received_at", "decision"]))
        rows = self.predictions(project, after=after, until=until, role=role, columns=wanted, schema=schema)
        facts = self._about(project, rows, horizon, [*LABEL_KINDS, *events])
        kind = None if schema is None else declared_types(schema).get("decision")
        found = with_outcomes(rows, facts, horizon=horizon, trust=trust, events=events, kind=kind)
        return found if columns is None or "decision" in columns else found.drop("decision")

    def _about(self, project: str, rows: pl.DataFrame, horizon: timedelta, kinds: Sequence[str]) -> pl.DataFrame:
        """Return the feedback that may be about rows, which are in order of time."""
        if not len(rows):
            return self._feedback(project, _NEVER, kinds)
        times, ids = rows["received_at"], rows["request_id"]
        span = (int(times[0]), int(times[-1]) + horizon // timedelta(microseconds=1))
        # Ids lie in order of time: a long horizon does not bring in what is about later requests.
        near = pl.col("request_id").is_between(pl.lit(ids.min()), pl.lit(ids.max()))
        return self._feedback(project, span, kinds, near)

    def profiles(self, project: str, *, after: datetime, until: datetime) -> list[DeviceProfile]:
        """Return what devices posted of windows that end in a span, in order of the ends; a second post is left out."""
        first, last = _span(after, until)
        where = pl.col("until").is_between(first, last)
        rows = self._read(project, "profiles", (first, _LAST), where, list(PROFILE_FIELDS))
        rows = rows.sort("until", "device", "received_at")
        once = rows.unique(["device", "after"], keep="first", maintain_order=True)
        return [DeviceProfile(**row) for row in once.iter_rows(named=True)]

    def last_at(self, project: str) -> datetime | None:
        """Return when the newest prediction in the log was received."""
        newest = self._files.newest(project, "predictions")
        return None if newest is None else from_micros(newest)

    def last_feedback_at(
        self, project: str, *, after: datetime | None, until: datetime, kinds: Sequence[str]
    ) -> datetime | None:
        """Return when the newest feedback of these kinds was received in a span, None where none was."""
        where = pl.col("kind").is_in(list(kinds))
        newest = self._read(project, "feedback", _span(after, until), where, ["received_at"])["received_at"].max()
        return None if newest is None else from_micros(int(newest))  # type: ignore[arg-type]

    def labels(
        self, project: str, *, after: datetime | None, until: datetime, schema: Schema | None = None
    ) -> pl.DataFrame:
        """Return what feedback said to be true, in order of `received_at`: the columns of `feedback`.

        A word of `confirm` has the value of the decision that it confirms; where there was none it is left out.
        """
        facts = self._feedback(project, _span(after, until), LABEL_KINDS)
        is_confirm = facts["kind"] == CONFIRM
        if is_confirm.any():
            about = facts["request_id"].filter(is_confirm).unique().to_list()
            decided = self.lookup(project, about, columns=["request_id", "decision"], schema=schema)
            decided = decided.rename({"decision": "decided"})
            facts = confirmed(facts.join(decided, on="request_id", how="left", maintain_order="left"))
        if facts["text"].has_nulls() and facts["number"].has_nulls():
            facts = facts.filter(pl.col("text").is_not_null() | pl.col("number").is_not_null())
        return _valued(facts)

    def lookup(
        self, project: str, request_ids: Sequence[str], *, role: str = "answer", columns: Sequence[str] | None = None,
        schema: Schema | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        """Return the predictions with these ids, whenever they were received."""
        ids = pl.col("request_id")
        # The bounds let Parquet skip row groups by their statistics: ids are UUIDv7, so they lie in order of time.
        near = ids.is_between(pl.lit(min(request_ids, default="")), pl.lit(max(request_ids, default="")))
        where = (pl.col("role") == role) & near & ids.is_in(list(request_ids))
        return self._predictions(project, None if request_ids else _NEVER, where, columns, schema)

    def newest(
        self, project: str, *, after: datetime | None, until: datetime, behind: Place | None = None, limit: int,
        at_most: int, role: str = "answer", where: pl.Expr = _ANY, meets: Meets | None = None,
        columns: Sequence[str], needed: Sequence[str] = (), schema: Schema | None = None,
    ) -> Newest:  # fmt: skip
        """Return a page of the newest predictions that meet a condition: no more of the log is read than it takes.

        Args:
            project: whose.
            after: only what was received after that.
            until: only what was received until then.
            behind: where the page before ended.
            limit: how many rows.
            at_most: about how many rows are looked at before the look is cut short.
            role: answer or shadow.
            where: what is true of the rows, of the log's own columns.
            meets: says of rows with the columns `needed` which are wanted.
            columns: of the frame; they are read of the rows returned only.
            needed: what `meets` reads.
            schema: what is declared.
        """
        first, last = _span(after, until)
        last = last if behind is None else min(last, behind.last)
        where = (pl.col("role") == role) & where & (_ANY if behind is None else behind.older())
        asked = list(dict.fromkeys([*KEY, *needed]))
        found = newest(
            parts_back(
                self._files, project, first=first, last=last, most=at_most, most_bytes=_MOST_READ if needed else None
            ),
            lambda part: self._predictions(project, (part.first, part.last), where, asked, schema),
            limit=limit, at_most=at_most, meets=meets,
        )  # fmt: skip
        return replace(found, rows=self._whole(project, found.rows, role, columns, schema))

    def _whole(
        self, project: str, rows: pl.DataFrame, role: str, columns: Sequence[str], schema: Schema | None
    ) -> pl.DataFrame:
        """Return these rows with other columns, in their order."""
        if not len(rows):
            return self._predictions(project, _NEVER, _ANY, columns, schema)
        key, ids = rows.select(KEY), pl.col("request_id")
        wanted = key["request_id"].to_list()
        # As in `lookup`: by the bounds of the ids row groups are skipped.
        near = ids.is_between(pl.lit(min(wanted)), pl.lit(max(wanted)))
        where = (pl.col("role") == role) & near & ids.is_in(wanted)
        found = self._predictions(project, None, where, list(dict.fromkeys([*KEY, *columns])), schema)
        return key.join(found, on=list(KEY), how="left", maintain_order="left").select(columns)

    def about(self, project: str, request_ids: Sequence[str], *, since: datetime) -> pl.DataFrame:
        """Return all feedback about requests, of which the oldest was received at `since`, as `feedback` does."""
        if not request_ids:
            return self.feedback(project, after=None, until=from_micros(0))
        ids, bounds = pl.col("request_id"), (pl.lit(min(request_ids)), pl.lit(max(request_ids)))
        # Only the bounds skip row groups; which of the ids it is, is asked of the few rows left.
        facts = self._feedback(project, (micros(since), _LAST), None, ids.is_between(*bounds))
        facts = facts.filter(ids.is_in(list(request_ids)))
        return _valued(facts)

    def _predictions(
        self, project: str, span: _Span | None, where: pl.Expr, columns: Sequence[str] | None, schema: Schema | None
    ) -> pl.DataFrame:
        newer = [] if schema is None else [n for n in schema.defaults if columns is None or n in columns]
        beside = told_by(schema) if schema and newer else ()
        read = None if columns is None else list(dict.fromkeys([*columns, *_KEY, *beside]))
        rows = self._read(project, "predictions", span, where, read, schema)
        rows = of_declared_size(rows, schema) if schema else rows
        rows = older_filled(rows, schema, newer) if schema and newer else rows
        rows = _in_order(rows, _KEY)
        return rows if columns is None else rows[list(columns)]

    def _feedback(self, project: str, span: _Span, kinds: Sequence[str] | None, about: pl.Expr = _ANY) -> pl.DataFrame:
        where = about if kinds is None else about & pl.col("kind").is_in(list(kinds))
        facts = self._read(project, "feedback", span, where, list(FEEDBACK_FIELDS))
        return _in_order(facts, ("received_at", "request_id", "kind", "source", "text", "number", "trust"))

    def _read(
        self, project: str, kind: str, span: _Span | None, where: pl.Expr, columns: list[str] | None,
        schema: Schema | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        asked, told = ({}, ()) if schema is None else (declared_types(schema), schema.defaults)
        if span is not None:
            where = pl.col("received_at").is_between(*span) & where
        how: dict[str, Any] = {"where": where, "columns": columns, "own": own_types(kind), "asked": asked, "told": told}
        return self._of_files(project, kind, span, lambda paths: scan(paths, **how))

    def _of_files(self, project: str, kind: str, span: _Span | None, read: Callable[[list[Path]], _T]) -> _T:
        first, last = span or (None, None)
        missing, folder = "", self._files.folder
        for _ in range(_TRIES):
            try:
                return read([folder / one.path for one in self._files.find(project, kind, first=first, last=last)])
            except FileNotFoundError as error:  # merged into another file since it was found: look again
                missing = str(error)
        raise Corrupt(f"the log names a file that is not there: {missing}.", "restore it from a backup")


def _in_order(rows: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Return rows in the order of a key that begins with the time, each once.

    Only those of the same microsecond need the rest of their keys compared.
    """
    if (np.diff(rows["received_at"].to_numpy()) > 0).all():
        return rows
    if not rows["received_at"].is_sorted():
        rows = rows.sort("received_at", maintain_order=True)
    same = (rows["received_at"].diff() == 0).fill_null(value=False)
    if not same.any():
        return rows
    tied = same | same.shift(-1, fill_value=False)
    some = rows.filter(tied).sort(key).unique(key, keep="first", maintain_order=True)
    return pl.concat([rows.filter(~tied), some]).sort("received_at", maintain_order=True)


def _valued(facts: pl.DataFrame) -> pl.DataFrame:
    """Return feedback with its values as one column."""
    names = ("request_id", "received_at", "kind", "value", "source", "trust")
    value = value_of(facts)
    return pl.DataFrame([value if name == "value" else facts[name] for name in names])


def _span(after: datetime | None, until: datetime) -> _Span:
    """Return the first and the last microsecond of `(after, until]`."""
    return (_FIRST if after is None else micros(after) + 1, micros(until))


def _rows_in(cover: Sequence[tuple[int, _Span]], asked: _Span) -> float:
    """Return how many rows lie in a span, if those of each file came evenly."""
    return sum(num * _part(covered, asked) for num, covered in cover)


def _halved(cover: Sequence[tuple[int, _Span]], asked: _Span, at_most: int) -> list[int]:
    """Return where to cut a span, so that at most so many rows lie between cuts; a cut belongs to what is before it."""
    first, last = asked
    if first >= last or _rows_in(cover, asked) <= at_most:
        return []
    middle = (first + last) // 2
    before, behind = _reaching(cover, (first, middle)), _reaching(cover, (middle + 1, last))
    return [*_halved(before, (first, middle), at_most), middle, *_halved(behind, (middle + 1, last), at_most)]


def _first_cut(cover: Sequence[tuple[int, _Span]], asked: _Span, at_most: int) -> int | None:
    """Return the first of the cuts of `_halved`, None where there is none."""
    (first, last), cut = asked, None
    while first < last and _rows_in(cover, (first, last)) > at_most:
        last = cut = (first + last) // 2
        cover = _reaching(cover, (first, last))
    return cut


def _reaching(cover: Sequence[tuple[int, _Span]], asked: _Span) -> Sequence[tuple[int, _Span]]:
    """Return what reaches into a span."""
    return [one for one in cover if one[1][0] <= asked[1] and one[1][1] >= asked[0]]


def _part(covered: _Span, asked: _Span) -> float:
    """Return the share of a span that lies in another."""
    both = min(covered[1], asked[1]) - max(covered[0], asked[0]) + 1
    return max(0, both) / (covered[1] - covered[0] + 1)
