"""Dataset versions: immutable, known by the hash of their content, in Arrow shards that are mapped into memory.

A version is the train rows that a strategy selected, in its order and with its weights, then all labelled test examples
of the moment, for the report. `<project>/<digest>.json` lists its shards; each is a chunk with the columns id, split,
weight, label, trust, unit, received_at, probability and one per input. Versions share the shards that are alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Connection, insert, select

from tidemill.clock import micros
from tidemill.errors import Corrupt, StoreError
from tidemill.model import TrainingData
from tidemill.records import DatasetVersion, Trust
from tidemill.schema import Schema
from tidemill.stores.chunks import Chunks
from tidemill.stores.database import Database
from tidemill.stores.folders import clear, folder_name, make_folder, whole_file
from tidemill.stores.loader import Rows
from tidemill.stores.picked import Picked
from tidemill.stores.reservoir import Reservoir
from tidemill.stores.rows import next_number
from tidemill.stores.shards import Digest, Form, FormedRows
from tidemill.stores.tables import datasets, projects
from tidemill.stores.versions import Versions, every, find, gone, missing, restore

Split = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class DatasetDiff:
    """How a version differs from another: ids of examples, sorted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    relabelled: tuple[str, ...]
    split_changed: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DatasetContents:
    """What a version holds: by split how many rows of each label (of numbers: lowest, mean and highest) and trust.

    `inputs` are the kinds of the inputs by name, `num_bytes` is what its shards take on disk.
    """

    labels: Mapping[str, Mapping[str, Any]]
    trusts: Mapping[str, Mapping[str, int]]
    inputs: Mapping[str, str]
    num_bytes: int


class Shards(msgspec.Struct, kw_only=True):
    """What lies beside the shards of a version, as JSON: its form, and the digests of its shards in order."""

    form: Form
    train: list[str] = []
    test: list[str] = []


class Datasets(Versions):
    """Forms dataset versions from the reservoir and reads them.

    Args:
        db: the catalog.
        folder: where the shards lie, in a folder per project.
        reservoir: where the examples are copied from.
    """

    def __init__(self, db: Database, folder: Path, reservoir: Reservoir) -> None:
        super().__init__(db)
        self._folder = folder
        self._reservoir = reservoir
        self._chunks: dict[str, Chunks] = {}

    def form(
        self, conn: Connection, project: str, *, ids: Sequence[str], weights: Sequence[float], formed_by: str,
        parent: str | None, schema: Schema, now: datetime, test_trust: Trust = Trust.PEOPLE,
    ) -> DatasetVersion:  # fmt: skip
        """Pin train examples with their weights, and all test examples with a label of at least `test_trust`.

        The same content is the same version.

        Examples that do not fit `schema` are left out, as are labels that its output refuses: `num_train` of the
        version may be less than `len(ids)`.

        Raises:
            NotFound: an id is not in the reservoir.
            StoreError: an example is selected twice, is for tests or has no label, a weight is negative or not finite,
                or nothing is left to train on.
        """
        conn.execute(select(projects.c.project).where(projects.c.project == project).with_for_update())
        _check_weights(ids, weights)
        shards = Shards(form=Form.of(schema))
        digest = Digest(shards.form)
        train, test = Picked.named(conn, project, ids), Picked.judging(conn, project, test_trust)
        num_train = self._store(project, self._formed(project, train, weights, schema, "train"), shards.train, digest)
        num_test = self._store(project, self._formed(project, test, None, schema, "test"), shards.test, digest)
        if not num_train:
            raise StoreError(f"none of {len(ids)} examples fits the schema.", "label examples that have all its inputs")
        known = find(conn, project, digest.hexdigest())
        if known is not None and not known.is_gone:
            return known
        self._describe(project, digest.hexdigest(), shards)
        if known is not None:
            restore(conn, project, known.digest)
            return replace(known, erased_at=None, retired_at=None)
        version = DatasetVersion(
            digest=digest.hexdigest(), number=next_number(conn, datasets.c.number, project), parent=parent,
            formed_by=formed_by, created_at=now, num_train=num_train, num_test=num_test,
        )  # fmt: skip
        conn.execute(insert(datasets).values(project=project, **{**vars(version), "created_at": micros(now)}))
        return version

    def rows(self, project: str, ref: str | int, schema: Schema, *, split: Split = "train") -> Rows:
        """Return the rows of a version (see `resolve`), read from the disk when they are asked for.

        Raises:
            NotFound: there is no such version.
            StoreError: it was formed for other inputs.
        """
        return self._rows(project, self.resolve(project, ref).digest, schema, split)

    def loader(
        self, project: str, ref: str | int, schema: Schema, *, batch_size: int,
        rng: np.random.Generator | None = None, split: Split = "train",
    ) -> Iterator[TrainingData]:  # fmt: skip
        """Yield mini-batches of all rows of a version: shuffled by `rng`, or in order.

        Raises:
            NotFound: there is no such version.
            StoreError: it was formed for other inputs.
        """
        return self.rows(project, ref, schema, split=split).batches(batch_size, rng=rng)

    def training_data(self, project: str, digest: str, schema: Schema) -> TrainingData:
        """Return the train rows as columns, with the targets of the schema's output and weights of mean 1.

        Raises:
            StoreError: there is no such version, or it was formed for other inputs.
        """
        return self._rows(project, digest, schema, "train").all()

    def test_rows(self, project: str, digest: str) -> pl.DataFrame:
        """Return the test rows: id, unit, received_at (microseconds), label, trust, probability, and the inputs."""
        return self._frame(project, digest, "test")

    def train_rows(self, project: str, digest: str) -> pl.DataFrame:
        """Return the train rows, with the columns of `test_rows`."""
        return self._frame(project, digest, "train")

    def _frame(self, project: str, digest: str, split: Split) -> pl.DataFrame:
        shards = self.shards(project, digest)
        rows = pl.DataFrame(pa.concat_tables(self._tables(project, shards, getattr(shards, split))))
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

    def contents(self, project: str, digest: str) -> DatasetContents:
        """Return what a version holds, counted.

        Raises:
            StoreError: there is no such version.
        """
        shards = self.shards(project, digest)
        counts = {split: self._counted(project, shards, getattr(shards, split)) for split in ("train", "test")}
        paths = {self.chunks(project).path(shard) for shard in (*shards.train, *shards.test)}
        return DatasetContents(
            labels={split: labels for split, (labels, _) in counts.items()},
            trusts={split: trusts for split, (_, trusts) in counts.items()},
            inputs=dict(shards.form.inputs),
            num_bytes=sum(path.stat().st_size for path in paths),
        )

    def shards(self, project: str, digest: str) -> Shards:
        """Return what a version is made of.

        Raises:
            StoreError: there is no such version, or its rows were erased.
            Corrupt: its description is damaged.
        """
        version = self.get(project, digest)
        if version.is_gone:
            raise gone(project, version)
        return self._described(project, digest)

    def _described(self, project: str, digest: str) -> Shards:
        try:
            return msgspec.json.decode(self._path(project, digest).read_bytes(), type=Shards)
        except FileNotFoundError as error:
            raise missing(project, digest) from error
        except msgspec.MsgspecError as error:
            raise Corrupt(f"dataset {digest[:12]} of {project!r} is damaged: {error}.", "restore it") from error

    def holding(self, project: str, ids: Collection[str]) -> list[DatasetVersion]:
        """Return the versions that one of these examples is in; of those whose rows are gone it is not known."""
        wanted, known = pa.array(sorted(ids), pa.large_string()), dict[str, bool]()

        def holds(shard: str) -> bool:
            if shard not in known:
                known[shard] = bool(pc.any(pc.is_in(self.chunks(project).get(shard)["id"], wanted)).as_py())
            return known[shard]

        found = []
        for version in self.all(project) if ids else ():
            if version.is_gone:
                continue
            shards = self._described(project, version.digest)
            if any(holds(shard) for shard in (*shards.train, *shards.test)):
                found.append(version)
        return found

    def sweep(self, conn: Connection, project: str) -> int:
        """Delete what no version names that is still there, and return how many bytes that were.

        In `conn`, a write transaction, the project is locked meanwhile, so that nothing is being formed.
        """
        conn.execute(select(projects.c.project).where(projects.c.project == project).with_for_update())
        kept = set()
        for version in every(conn, project):
            if not version.is_gone:
                shards = self._described(project, version.digest)
                kept |= {self._path(project, version.digest).name}
                kept |= {self.chunks(project).path(shard).name for shard in (*shards.train, *shards.test)}
        return clear(self._path(project, "").parent, kept)

    def tables(self, project: str, digest: str, split: Split) -> Iterator[pa.Table]:
        """Yield the rows of a version, shard by shard; without rows, one empty table."""
        shards = self.shards(project, digest)
        yield from self._tables(project, shards, getattr(shards, split))

    def _rows(self, project: str, digest: str, schema: Schema, split: Split) -> Rows:
        shards = self.shards(project, digest)
        if not shards.form.covers(schema):
            raise StoreError(
                f"dataset {digest[:12]} of {project!r} was formed for the inputs {', '.join(shards.form.inputs)}, not"
                f" for {', '.join(schema.inputs)}.",
                "form a dataset for the schema in force",
            )
        return Rows(self.chunks(project), getattr(shards, split), shards.form, schema)

    def _formed(
        self, project: str, picked: Picked, weights: Sequence[float] | None, schema: Schema, split: Split
    ) -> FormedRows:
        inputs = self._reservoir.columns(project, picked.places, Form.of(schema).input_types, schema.defaults)
        return FormedRows(picked, [1.0] * len(picked) if weights is None else weights, inputs, schema, split)

    def _store(self, project: str, rows: FormedRows, shards: list[str], digest: Digest) -> int:
        """Write rows as shards, adding them to `shards` and to the digest; return their number."""
        for table in rows.tables():
            digest.update(table)
            shards.append(self.chunks(project).put(table))
        return len(rows)

    def _describe(self, project: str, digest: str, shards: Shards) -> None:
        path = self._path(project, digest)
        make_folder(path.parent, self._folder)
        with whole_file(path) as file:
            file.write(msgspec.json.encode(shards))

    def _tables(self, project: str, shards: Shards, digests: Sequence[str]) -> Iterator[pa.Table]:
        if not digests:
            yield pa.schema(shards.form.types).empty_table()
        yield from (self.chunks(project).get(digest) for digest in digests)

    def _counted(self, project: str, shards: Shards, digests: Sequence[str]) -> tuple[dict[str, Any], dict[str, int]]:
        tables = [table.select(["label", "trust"]) for table in self._tables(project, shards, digests)]
        rows = pl.DataFrame(pa.concat_tables(tables))
        trusts = dict(sorted(rows["trust"].value_counts().iter_rows()))
        if shards.form.label == "text":
            return dict(sorted(rows["label"].value_counts().iter_rows())), trusts
        label = rows["label"]
        return {"lowest": label.min(), "mean": label.mean(), "highest": label.max()}, trusts

    def _labels(self, project: str, digest: str) -> Mapping[str, tuple[Any, str]]:
        tables = [table for split in ("train", "test") for table in self.tables(project, digest, split)]
        rows = pa.concat_tables(tables).select(["id", "label", "split"])
        return {id_: (label, split) for id_, label, split in zip(*(c.to_pylist() for c in rows.columns), strict=True)}

    def _path(self, project: str, digest: str) -> Path:
        return self._folder / folder_name(project) / f"{digest}.json"

    def chunks(self, project: str) -> Chunks:
        """Return the shards of a project's versions."""
        return self._chunks.setdefault(project, Chunks(self._folder / folder_name(project)))


def _check_weights(ids: Sequence[str], weights: Sequence[float]) -> None:
    given = np.asarray(weights, dtype=np.float64)
    if len(given) != len(ids) or len(set(ids)) != len(ids):
        raise StoreError(f"{len(set(ids))} examples are selected by {len(ids)} ids with {len(given)} weights.",
                         "select each example once, with one weight")  # fmt: skip
    if not np.isfinite(given).all() or (given < 0).any() or (len(given) and not given.any()):
        raise StoreError("a weight is negative or not finite, or all are 0.", "give weights of at least 0")
