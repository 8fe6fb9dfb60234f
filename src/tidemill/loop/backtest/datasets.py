"""The dataset versions of a backtest: lists of rows of the stream."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from typing import Any

import numpy as np
import polars as pl
from sqlalchemy import Connection

from tidemill.errors import StoreError
from tidemill.loop.backtest.memo import Lesson, Memo
from tidemill.loop.backtest.reservoir import MemoryReservoir, rows_of
from tidemill.loop.backtest.stream import Stream
from tidemill.loop.backtest.values import Values
from tidemill.model import TrainingData
from tidemill.records import DatasetVersion, Trust
from tidemill.schema import Array, Schema
from tidemill.stores.datasets import Datasets, Shards, Split
from tidemill.stores.shards import Form
from tidemill.stores.versions import missing


@dataclass(frozen=True)
class _Rows:
    """Rows of the stream with the labels (as in `Values`) that they had when the version was formed."""

    rows: Array
    labels: Array
    weights: Array
    ranks: Array
    probability: Array

    @cached_property
    def digest(self) -> str:
        parts = (self.rows, self.labels, self.weights)
        return hashlib.sha256(b"\0".join(part.tobytes() for part in parts)).hexdigest()


@dataclass(frozen=True)
class _Version:
    about: DatasetVersion
    train: _Rows
    test: _Rows
    form: Form


class MemoryDatasets(Datasets):
    """Answers what `Datasets` answers, of one project: nothing is copied."""

    def __init__(self, stream: Stream, reservoir: MemoryReservoir, values: Values, memo: Memo) -> None:
        self._stream, self._examples, self._values, self._memo = stream, reservoir, values, memo
        self._versions: dict[str, _Version] = {}

    def form(
        self, conn: Connection, project: str, *, ids: Sequence[str], weights: Sequence[float], formed_by: str,
        parent: str | None, schema: Schema, now: datetime, test_trust: Trust = Trust.PEOPLE,
    ) -> DatasetVersion:  # fmt: skip
        """Pin train examples with their weights, and all test examples with a label of at least `test_trust`."""
        train = self._taken(rows_of(ids), np.asarray(weights, dtype=np.float64))
        if self._examples.is_test[train.rows].any() or np.isnan(train.labels).any():
            raise StoreError("a test row or one without a label was selected.", "select labelled train rows only")
        rows = self._examples.labelled()
        judges = rows[self._examples.is_test[rows] & (self._examples.rank[rows] >= test_trust.rank)]
        test = self._taken(judges, np.ones(len(judges)))
        digest = hashlib.sha256(f"{self._stream.digest} {train.digest} {test.digest}".encode()).hexdigest()
        if digest not in self._versions:
            about = DatasetVersion(
                digest=digest, number=len(self._versions) + 1, parent=parent, formed_by=formed_by, created_at=now,
                num_train=len(train.rows), num_test=len(test.rows),
            )  # fmt: skip
            self._versions[digest] = _Version(about, train, test, Form.of(schema))
        return self._versions[digest].about

    def _taken(self, rows: Array, weights: Array) -> _Rows:
        examples = self._examples
        return _Rows(rows, examples.label_codes[rows], weights, examples.rank[rows], examples.probability[rows])

    def get(self, project: str, digest: str) -> DatasetVersion:
        """Return a version."""
        return self._version(project, digest).about

    def all(self, project: str) -> list[DatasetVersion]:
        """Return all versions, the first one first."""
        return [version.about for version in self._versions.values()]

    def content(self, digest: str) -> str:
        """Return the hash of the train rows alone, which is all that a model learns from."""
        return self._version("", digest).train.digest

    def training_data(self, project: str, digest: str, schema: Schema) -> TrainingData:
        """Return the train rows as columns, with the targets of the schema's output and weights of mean 1."""
        return self.lesson(digest, schema)()

    def lesson(self, digest: str, schema: Schema) -> Lesson:
        """Return what gives the training data: it holds the rows, and nothing else of this run."""
        return partial(_training_data, self._version("", digest).train, schema, self._memo, self._values)

    def test_rows(self, project: str, digest: str) -> pl.DataFrame:
        """Return the test rows: id, unit, received_at (microseconds), label, trust, probability, and the inputs."""
        return self._framed(self._version(project, digest).test)

    def train_rows(self, project: str, digest: str) -> pl.DataFrame:
        """Return the train rows, with the columns of `test_rows`."""
        return self._framed(self._version(project, digest).train)

    def _framed(self, part: _Rows) -> pl.DataFrame:
        frame, trusted = self._stream.frame[part.rows], list(Trust)
        about = [
            frame["request_id"].alias("id"),
            frame["unit"],
            frame["received_at"],
            self._values.series("label", part.labels),
            pl.Series("trust", [str(trusted[rank]) for rank in part.ranks.tolist()], dtype=pl.String),
            pl.Series("probability", part.probability).fill_nan(None),
        ]
        return pl.DataFrame(about).hstack(frame.drop("request_id", "unit", "received_at"))

    def shards(self, project: str, digest: str) -> Shards:
        """Return what a version is made of."""
        version = self._version(project, digest)
        return Shards(form=version.form, train=[version.train.digest], test=[version.test.digest])

    def tables(self, project: str, digest: str, split: Split) -> Iterator[Any]:
        """Yield the ids of a version, in one table."""
        version = self._version(project, digest)
        part = version.train if split == "train" else version.test
        yield self._stream.frame["request_id"].gather(part.rows).alias("id").to_frame().to_arrow()

    def _version(self, project: str, digest: str) -> _Version:
        if digest not in self._versions:
            raise missing(project, digest)
        return self._versions[digest]


def _training_data(train: _Rows, schema: Schema, memo: Memo, values: Values) -> TrainingData:
    return TrainingData(
        schema=schema,
        columns=memo.columns(train.rows),
        targets=values.targets(train.labels),
        weights=train.weights / train.weights.mean(),
        ids=tuple(memo.stream.ids[train.rows].tolist()),
    )
