"""Dataset versions: immutable, known by the hash of their content, in Arrow shards that are mapped into memory.

A version is the train rows that a strategy selected, in its order and with its weights, then all labelled test examples
of the moment, for the report. `<project>/<digest>.json` lists its shards; each is a chunk with the columns id, split,
weight, label, trust, unit, received_at, probability and one per input. Versions share the shards that are alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
from sqlalchemy import Connection, RowMapping, insert, select

from tidemill.clock import from_micros, micros
from tidemill.errors import Corrupt, StoreError
from tidemill.model import TrainingData
from tidemill.records import DatasetVersion, Example, Trust
from tidemill.schema import Schema
from tidemill.stores.chunks import Chunks, portions
from tidemill.stores.database import Database
from tidemill.stores.folders import folder_name, make_folder, whole_file
from tidemill.stores.reservoir import Reservoir
from tidemill.stores.rows import next_number
from tidemill.stores.shards import Form, Row, fitting, table
from tidemill.stores.tables import datasets, examples, projects

_JUDGES = (Trust.PEOPLE, Trust.TRUTH)  # whose labels a model is tested on
_READ_TOGETHER = 512


@dataclass(frozen=True, kw_only=True)
class DatasetDiff:
    """How a version differs from another: ids of examples, sorted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    relabelled: tuple[str, ...]
    split_changed: tuple[str, ...]


class Datasets:
    """Forms dataset versions from the reservoir and reads them.

    Args:
        db: the catalog.
        folder: where the shards lie, in a folder per project.
        reservoir: where the examples are copied from.
    """

    def __init__(self, db: Database, folder: Path, reservoir: Reservoir) -> None:
        self._db = db
        self._folder = folder
        self._reservoir = reservoir
        self._chunks: dict[str, Chunks] = {}

    def form(
        self, conn: Connection, project: str, *, ids: Sequence[str], weights: Sequence[float], formed_by: str,
        parent: str | None, schema: Schema, now: datetime,
    ) -> DatasetVersion:  # fmt: skip
        """Pin train examples with their weights, and all labelled test examples; the same content is the same version.

        Examples that do not fit `schema` are left out, as are labels that its output refuses: `num_train` of the
        version may be less than `len(ids)`.

        Raises:
            NotFound: an id is not in the reservoir.
            StoreError: an example is selected twice, is for tests or has no label, a weight is negative or not finite,
                or nothing is left to train on.
        """
        conn.execute(select(projects.c.project).where(projects.c.project == project).with_for_update())
        _check_weights(ids, weights)
        form = Form.of(schema)
        digest = hashlib.sha256(msgspec.msgpack.encode(form))
        train = self._rows(conn, project, ids, weights, schema)
        tests = self._rows(conn, project, _tests(conn, project), None, schema)
        shards = _Shards(form=form)
        num_train = self._store(project, form, train, shards.train, digest)
        num_test = self._store(project, form, tests, shards.test, digest)
        if not num_train:
            raise StoreError(f"none of {len(ids)} examples fits the schema.", "label examples that have all its inputs")
        known = _find(conn, project, digest.hexdigest())
        if known is not None:
            return known
        self._describe(project, digest.hexdigest(), shards)
        version = DatasetVersion(
            digest=digest.hexdigest(), number=next_number(conn, datasets.c.number, project), parent=parent,
            formed_by=formed_by, created_at=now, num_train=num_train, num_test=num_test,
        )  # fmt: skip
        conn.execute(insert(datasets).values(project=project, **{**vars(version), "created_at": micros(now)}))
        return version

    def get(self, project: str, digest: str) -> DatasetVersion:
        """Return a version.

        Raises:
            StoreError: there is none of that digest.
        """
        with self._db.read() as conn:
            version = _find(conn, project, digest)
        if version is None:
            raise _missing(project, digest)
        return version

    def all(self, project: str) -> list[DatasetVersion]:
        """Return all versions, the first one first."""
        query = select(datasets).where(datasets.c.project == project).order_by(datasets.c.number)
        with self._db.read() as conn:
            return [_version(row) for row in conn.execute(query).mappings()]

    def training_data(self, project: str, digest: str, schema: Schema) -> TrainingData:
        """Return the train rows as columns, with the targets of the schema's output and weights of mean 1.

        Raises:
            StoreError: there is no such version, or it was formed for other inputs.
        """
        shards = self._shards(project, digest)
        if not shards.form.covers(schema):
            raise StoreError(
                f"dataset {digest[:12]} of {project!r} was formed for the inputs {', '.join(shards.form.inputs)}, not"
                f" for {', '.join(schema.inputs)}.",
                "form a dataset for the schema in force",
            )
        rows = self._read(project, shards.train, shards.form)
        weights = rows["weight"].to_numpy()
        return TrainingData(
            schema=schema,
            columns={name: kind.column(rows[name].to_pylist()) for name, kind in schema.inputs.items()},
            targets=schema.output.targets(rows["label"].to_pylist()),
            weights=weights / weights.mean(),
            ids=tuple(rows["id"].to_pylist()),
        )

    def test_rows(self, project: str, digest: str) -> pl.DataFrame:
        """Return the test rows: id, unit, received_at (microseconds), label, trust, probability, and the inputs."""
        shards = self._shards(project, digest)
        rows = pl.DataFrame(self._read(project, shards.test, shards.form))
        return rows.select("id", "unit", "received_at", "label", "trust", "probability", *shards.form.inputs)

    def diff(self, project: str, a: str, b: str) -> DatasetDiff:
        """Return how version `b` differs from version `a`."""
        before, after = self._labels(project, a), self._labels(project, b)
        both = before.keys() & after.keys()
        return DatasetDiff(
            added=tuple(sorted(after.keys() - before.keys())),
            removed=tuple(sorted(before.keys() - after.keys())),
            relabelled=tuple(sorted(id_ for id_ in both if before[id_][0] != after[id_][0])),
            split_changed=tuple(sorted(id_ for id_ in both if before[id_][1] != after[id_][1])),
        )

    def _rows(
        self, conn: Connection, project: str, ids: Sequence[str], weights: Sequence[float] | None, schema: Schema
    ) -> Iterator[Row]:
        """Yield the rows of examples that fit, train rows where there are weights and test rows where not."""
        for at in range(0, len(ids), _READ_TOGETHER):
            some = self._reservoir.examples(project, ids[at : at + _READ_TOGETHER], conn=conn)
            together = [1.0] * len(some) if weights is None else weights[at : at + _READ_TOGETHER]
            for example, weight in zip(some, together, strict=True):
                _check_use(example, "test" if weights is None else "train")
                row = fitting(example, weight, schema)
                if row is not None:
                    yield row

    def _store(self, project: str, form: Form, rows: Iterable[Row], shards: list[str], digest: Any) -> int:
        """Write rows as shards, adding them to `shards` and to the digest; return their number."""
        num_rows = 0
        for portion in portions(rows):
            for row in portion:
                digest.update(msgspec.msgpack.encode(list(row.values())))
            shards.append(self._of(project).put(table(portion, form)))
            num_rows += len(portion)
        return num_rows

    def _describe(self, project: str, digest: str, shards: _Shards) -> None:
        path = self._path(project, digest)
        make_folder(path.parent, self._folder)
        with whole_file(path) as file:
            file.write(msgspec.json.encode(shards))

    def _shards(self, project: str, digest: str) -> _Shards:
        try:
            return msgspec.json.decode(self._path(project, digest).read_bytes(), type=_Shards)
        except FileNotFoundError as error:
            raise _missing(project, digest) from error
        except msgspec.MsgspecError as error:
            raise Corrupt(f"dataset {digest[:12]} of {project!r} is damaged: {error}.", "restore it") from error

    def _read(self, project: str, shards: Sequence[str], form: Form) -> pa.Table:
        return pa.concat_tables([table([], form), *(self._of(project).get(shard) for shard in shards)])

    def _labels(self, project: str, digest: str) -> Mapping[str, tuple[Any, str]]:
        shards = self._shards(project, digest)
        rows = self._read(project, [*shards.train, *shards.test], shards.form)
        columns = (rows[name].to_pylist() for name in ("id", "label", "split"))
        return {id_: (label, split) for id_, label, split in zip(*columns, strict=True)}

    def _path(self, project: str, digest: str) -> Path:
        return self._folder / folder_name(project) / f"{digest}.json"

    def _of(self, project: str) -> Chunks:
        return self._chunks.setdefault(project, Chunks(self._folder / folder_name(project)))


class _Shards(msgspec.Struct, kw_only=True):
    """What lies beside the shards of a version, as JSON."""

    form: Form
    train: list[str] = []
    test: list[str] = []


def _check_weights(ids: Sequence[str], weights: Sequence[float]) -> None:
    given = np.asarray(weights, dtype=np.float64)
    if len(given) != len(ids) or len(set(ids)) != len(ids):
        raise StoreError(f"{len(set(ids))} examples are selected by {len(ids)} ids with {len(given)} weights.",
                         "select each example once, with one weight")  # fmt: skip
    if not np.isfinite(given).all() or (given < 0).any() or (len(given) and not given.any()):
        raise StoreError("a weight is negative or not finite, or all are 0.", "give weights of at least 0")


def _check_use(example: Example, split: str) -> None:
    if example.split != split:
        raise StoreError(f"example {example.id!r} is a {example.split} row.", "test rows never train: leave it out")
    if example.label is None:
        raise StoreError(f"example {example.id!r} has no label.", "select labelled examples only")


def _tests(conn: Connection, project: str) -> Sequence[str]:
    """Return the ids of all test examples that can be judged by."""
    labelled = (examples.c.label.is_not(None), examples.c.trust.in_([str(trust) for trust in _JUDGES]))
    query = select(examples.c.id).where(examples.c.project == project, examples.c.split == "test", *labelled)
    return conn.execute(query.order_by(examples.c.received_at, examples.c.id)).scalars().all()


def _find(conn: Connection, project: str, digest: str) -> DatasetVersion | None:
    one = (datasets.c.project == project, datasets.c.digest == digest)
    row = conn.execute(select(datasets).where(*one)).mappings().first()
    return None if row is None else _version(row)


def _version(row: RowMapping) -> DatasetVersion:
    values = {name: value for name, value in row.items() if name not in ("project", "created_at")}
    return DatasetVersion(**values, created_at=from_micros(row["created_at"]))


def _missing(project: str, digest: str) -> StoreError:
    return StoreError(f"{project!r} has no dataset {digest[:12]!r}.", "give the digest of one of its versions")
