"""The reservoir of a backtest: which rows of the stream were picked, as arrays over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
from sqlalchemy import Connection

from tidemill.clock import from_micros, micros
from tidemill.loop.backtest.stream import Stream
from tidemill.loop.backtest.values import Values
from tidemill.loop.picked import PROBABILITY, REASON, PickedRows
from tidemill.records import Example, Trust
from tidemill.schema import Array
from tidemill.stores.database import dumps
from tidemill.stores.duplicates import Sameness
from tidemill.stores.examples import INDEX
from tidemill.stores.picked import unknown
from tidemill.stores.reservoir import Reservoir

_NEVER = -1


def rows_of(ids: Sequence[str] | pl.Series) -> Array:
    """Return the numbers of rows in the stream, int64 (N,): an id is the number in digits."""
    texts = ids if isinstance(ids, pl.Series) else pl.Series(ids, dtype=pl.String)
    return texts.cast(pl.Int64).to_numpy()


class MemoryReservoir(Reservoir):
    """Answers what `Reservoir` answers, of one project, about rows of a stream. A write cannot be undone.

    Every array has an element for each row of the stream. `label` and `decision` are as in `Values`.
    """

    def __init__(self, stream: Stream, values: Values) -> None:
        num = len(stream)
        self._stream, self._values = stream, values
        self.picked_at = np.full(num, _NEVER, dtype=np.int64)
        self.labelled_at = np.full(num, _NEVER, dtype=np.int64)
        self.rank = np.full(num, _NEVER, dtype=np.int64)
        self.label_codes = np.full(num, np.nan)
        self.is_test = np.zeros(num, dtype=bool)
        self.probability = np.full(num, np.nan)
        self.decision_codes = np.full(num, np.nan)
        self._version = np.full(num, _NEVER, dtype=np.int64)
        self._source = np.full(num, _NEVER, dtype=np.int64)
        self._sources: dict[str, int] = {}
        self._reason = np.zeros(num, dtype=np.uint32)
        self._reasons: dict[str, int] = {}
        self._group_split = np.full(int(stream.group.max(initial=-1)) + 1, _NEVER, dtype=np.int8)
        self._asked_at = np.full(num, _NEVER, dtype=np.int64)
        self._answered = np.zeros(num, dtype=bool)
        self._asks = False  # whether anything was ever put into the queue
        self._priority = np.zeros(num)
        self._num_labelled: int | None = None  # until the next write

    def add(self, conn: Connection, project: str, new: Sequence[Example], *, sameness: Sameness = Sameness()) -> int:  # noqa: B008 - frozen
        """Insert picked rows and return how many were new; one that is known stays as it is."""
        if not len(new):
            return 0
        assert isinstance(new, PickedRows), "a backtest picks rows of its stream"
        frame = new.frame
        rows = rows_of(frame["request_id"])
        fresh = self.picked_at[rows] == _NEVER
        if not fresh.all():
            rows, frame = rows[fresh], frame.filter(pl.Series(fresh))
        if not len(rows):
            return 0
        self._num_labelled = None
        self._fix_splits(rows)
        self.picked_at[rows] = micros(new.picked_at)
        self.probability[rows] = frame[PROBABILITY].cast(pl.Float64).to_numpy()  # NaN where it is null
        self.decision_codes[rows] = self._values.codes(frame["decision"])
        versions = frame["answered_version"]
        self._version[rows] = (versions.fill_null(_NEVER) if versions.has_nulls() else versions).to_numpy()
        self._give_reasons(rows, frame[REASON])
        some, known = rows, frame
        if frame["label"].has_nulls():
            labelled = frame["label"].is_not_null()
            some, known = rows[labelled.to_numpy()], frame.filter(labelled)
        self.label_codes[some] = self._values.codes(known["label"])
        self.rank[some] = _ranks(known["label_trust"])
        self.labelled_at[some] = known["label_at"].to_numpy()
        imported = self._version[some] == _NEVER
        self._source[some] = np.where(imported, self._number_of("import"), self._number_of("feedback"))
        return len(rows)

    def _give_reasons(self, rows: Array, texts: pl.Series) -> None:
        alike = bool((texts == texts[0]).all())  # mostly all are
        found = [texts[0]] if alike else texts.unique(maintain_order=True).to_list()
        numbers = np.array([self._reasons.setdefault(text, len(self._reasons)) for text in found], dtype=np.uint32)
        self._reason[rows] = numbers[0] if len(numbers) == 1 else numbers[_places(texts, pl.Enum(found))]

    def _fix_splits(self, rows: Array) -> None:
        """Give new rows the split of their group, which its first row fixes."""
        groups = self._stream.group[rows]
        new = np.flatnonzero(self._group_split[groups] == _NEVER)[::-1]  # of several the last that is written stays
        self._group_split[groups[new]] = self._stream.is_test[rows[new]]
        self.is_test[rows] = self._group_split[groups] == 1

    @property
    def _picked(self) -> Array:
        return np.flatnonzero(self.picked_at != _NEVER)

    def labelled(self) -> Array:
        """Return the rows with a label, int64 (N,), in order of time."""
        return np.flatnonzero(self.rank != _NEVER)

    def index(self, project: str) -> pl.DataFrame:
        """Return the metadata of all examples, in order of time."""
        rows = self._picked
        frame = self._stream.frame.select("request_id", "unit", "received_at")[rows]
        imported = pl.Series(self._version[rows] == _NEVER)
        trusts = pl.Series([None, *map(str, Trust)], dtype=pl.String)
        sources = pl.Series([None, *self._sources], dtype=pl.String)
        columns = {
            "id": frame["request_id"],
            "request_id": frame["request_id"].zip_with(~imported, pl.Series([None], dtype=pl.String)),
            "unit": frame["unit"],
            "received_at": frame["received_at"],
            "picked_at": pl.Series(self.picked_at[rows]),
            "reason": pl.Series(list(self._reasons), dtype=pl.String).gather(self._reason[rows]),
            "probability": pl.Series(self.probability[rows]).fill_nan(None),
            "split": pl.Series(["train", "test"]).gather(self.is_test[rows].astype(np.uint32)),
            "duplicates": pl.Series(self._stream.group[rows]).cast(pl.String),
            "decision": self._values.series("decision", self.decision_codes[rows]),
            "version": _known(self._version[rows]),
            "label": self._values.series("label", self.label_codes[rows]),
            "trust": trusts.gather((self.rank[rows] + 1).astype(np.uint32)),
            "source": sources.gather((self._source[rows] + 1).astype(np.uint32)),
            "labelled_at": _known(self.labelled_at[rows]),
        }
        return pl.DataFrame([columns[name].alias(name) for name in INDEX])

    def inputs(self, project: str, ids: Sequence[str], *, conn: Connection | None = None) -> list[dict[str, Any]]:
        """Return the canonical inputs of examples, in the order of `ids`."""
        rows = self._checked(project, ids)
        return self._stream.frame[rows].drop("request_id", "received_at", "unit").to_dicts()

    def examples(self, project: str, ids: Sequence[str], *, conn: Connection | None = None) -> list[Example]:
        """Return whole examples, in the order of `ids`."""
        about = {row["id"]: row for row in self.index(project).iter_rows(named=True)}
        inputs = self.inputs(project, ids)
        return [_example(about[id_], values) for id_, values in zip(ids, inputs, strict=True)]

    def consolidate(self, conn: Connection, project: str, *, now: datetime) -> int:
        """Return 0: there are no chunks."""
        return 0

    def present(self, project: str, ids: Sequence[str]) -> set[str]:
        """Return those of `ids` that are examples."""
        there = self.picked_at[rows_of(ids)] != _NEVER
        if there.all():
            return set(ids)
        return {id_ for id_, known in zip(ids, there.tolist(), strict=True) if known}

    def are_present(self, project: str, ids: pl.Series) -> pl.Series:
        """Return for each id whether it is an example."""
        return pl.Series(self.picked_at[rows_of(ids)] != _NEVER)

    def num_labelled(self, project: str) -> int:
        """Return the number of labelled examples that are not for tests."""
        if self._num_labelled is None:  # asked at every turn
            self._num_labelled = int(((self.rank != _NEVER) & ~self.is_test).sum())
        return self._num_labelled

    def label(
        self, conn: Connection, project: str, id: str, *, value: str | float, trust: Trust, source: str, at: datetime
    ) -> bool:
        """Give an example a label; return whether it counts now."""
        rows = self._checked(project, [id])
        code = self._values.codes([value])
        return bool(self._give(rows, code, np.array([trust.rank]), np.array([micros(at)]), source)[0])

    def label_all(self, conn: Connection, project: str, labels: pl.DataFrame) -> None:
        """Give examples the labels that came as feedback."""
        if not labels["received_at"].is_sorted():
            labels = labels.sort("received_at", maintain_order=True)
        one = bool((labels["source"] == labels["source"][0]).all()) if len(labels) else False
        for part in [labels] if one else labels.partition_by("source", maintain_order=True):
            ranks, codes = _ranks(part["trust"]), self._values.codes(part["value"])
            rows, at = self._checked(project, part["request_id"]), part["received_at"].to_numpy()
            self._give(rows, codes, ranks, at, part["source"][0])

    def answer_rows(self, rows: Array, codes: Array, at: Array, *, trust: Trust) -> None:
        """Label rows as people answered, and take them off the queue; all arrays (N,)."""
        self._give(rows, codes, np.full(len(rows), trust.rank), at, "queue")
        self._answered[rows] = True

    def _give(self, rows: Array, codes: Array, ranks: Array, at: Array, source: str) -> Array:
        """Give each row its label unless a better one is there, of higher trust or newer; return which counts."""
        before, when = self.rank[rows], self.labelled_at[rows]
        counts: Array = (ranks > before) | ((ranks == before) & (at > when))
        same = (self._source[rows] == self._number_of(source)) & (self.label_codes[rows] == codes)
        for i in np.flatnonzero((ranks == before) & (at == when) & ~same):  # as in SQL: by name, then by value
            counts[i] = self._is_later(int(rows[i]), source, codes[i])
        some, self._num_labelled = rows[counts], None
        self.label_codes[some], self.rank[some], self.labelled_at[some] = codes[counts], ranks[counts], at[counts]
        self._source[some] = self._number_of(source)
        return counts

    def _is_later(self, row: int, source: str, code: float) -> bool:
        """Tell whether a label counts more than the one that came at the same time with the same trust."""
        known, new = self._values.series("", np.array([self.label_codes[row], code])).to_list()
        return (source, dumps(new)) > (list(self._sources)[self._source[row]], dumps(known))

    def _number_of(self, source: str) -> int:
        return self._sources.setdefault(source, len(self._sources))

    # --- the queue

    def ask(self, conn: Connection, project: str, ids: Iterable[str], *, priority: float, now: datetime) -> None:
        """Put examples into the queue; one that is or was in it stays as it is."""
        rows = rows_of(list(ids))
        rows = rows[self._asked_at[rows] == _NEVER]
        self._asks |= len(rows) > 0
        self._asked_at[rows], self._priority[rows] = micros(now), priority

    def ask_again(self, conn: Connection, project: str, ids: Iterable[str], *, priority: float, now: datetime) -> None:
        """Put examples into the queue, whether they waited, were answered or never were in it."""
        rows = rows_of(list(ids))
        self._asks |= len(rows) > 0
        self._asked_at[rows], self._priority[rows], self._answered[rows] = micros(now), priority, False

    def asked(self, project: str) -> dict[str, datetime]:
        """Return when each example was asked for last."""
        rows = np.flatnonzero(self._asked_at != _NEVER)
        ids = self._stream.frame["request_id"][rows]
        return {id_: from_micros(int(at)) for id_, at in zip(ids, self._asked_at[rows], strict=True)}

    def skip(self, conn: Connection, project: str, id: str, *, by: str, now: datetime) -> None:
        """Take an example off the queue."""
        self._answered[int(id)] = True

    def waiting(self) -> Array:
        """Return the rows that wait for a label, the most urgent first."""
        rows = np.flatnonzero((self._asked_at != _NEVER) & ~self._answered) if self._asks else np.zeros(0, np.int64)
        return rows[np.lexsort((rows, self._asked_at[rows], -self._priority[rows]))]

    def take_off(self, rows: Array) -> None:
        """Take rows off the queue: somebody works on them, or nobody can."""
        self._answered[rows] = True

    def asked_at(self, rows: Array) -> Array:
        """Return when rows were put into the queue, int64 microseconds (N,)."""
        return self._asked_at[rows]

    def num_waiting(self, project: str) -> int:
        """Return how many examples wait for a label."""
        return len(self.waiting())

    def next_in_queue(self, project: str, limit: int) -> list[Example]:
        """Return examples that wait for a label, the most urgent first."""
        return self.examples(project, [f"{row:09d}" for row in self.waiting()[:limit]])

    def answer(
        self, conn: Connection, project: str, id: str, *, value: str | float, by: str, now: datetime, trust: Trust
    ) -> bool:
        """Label an example as somebody answered, and take it off the queue; return whether the label counts."""
        counts = self.label(conn, project, id, value=value, trust=trust, source="queue", at=now)
        self.skip(conn, project, id, by=by, now=now)
        return counts

    def _checked(self, project: str, ids: Sequence[str] | pl.Series) -> Array:
        rows = rows_of(ids)
        missing = rows[self.picked_at[rows] == _NEVER]
        if len(missing):
            raise unknown(project, [f"{row:09d}" for row in missing.tolist()])
        return rows


def _places(texts: pl.Series, names: pl.Enum) -> Array:
    """Return where each text is among the names, int64 (N,)."""
    return texts.cast(names).to_physical().to_numpy().astype(np.int64)


def _ranks(trusts: pl.Series) -> Array:
    """Return the rank of each trust, int64 (N,): mostly all are the same."""
    if len(trusts) and not trusts.has_nulls() and (trusts == trusts[0]).all():
        return np.full(len(trusts), Trust(trusts[0]).rank, dtype=np.int64)
    return _places(trusts, pl.Enum([str(trust) for trust in Trust]))


def _known(numbers: Array) -> pl.Series:
    """Return numbers as a column, null where there is none."""
    return pl.Series(numbers).zip_with(pl.Series(numbers != _NEVER), pl.Series([None], dtype=pl.Int64))


def _example(row: dict[str, Any], inputs: dict[str, Any]) -> Example:
    times: dict[str, Any] = {name: from_micros(row[name]) for name in ("received_at", "picked_at")}
    labelled = row["labelled_at"]
    return Example(
        id=row["id"], request_id=row["request_id"], unit=row["unit"], **times, reason=row["reason"],
        probability=row["probability"], split=row["split"], inputs=inputs, decision=row["decision"],
        version=row["version"], label=row["label"], trust=None if row["trust"] is None else Trust(row["trust"]),
        source=row["source"], labelled_at=None if labelled is None else from_micros(labelled),
    )  # fmt: skip
