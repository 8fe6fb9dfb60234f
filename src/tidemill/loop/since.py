"""What has changed since the live version was trained: the rows that versions are tested on, and the training data."""

from __future__ import annotations

import hashlib

import numpy as np

from tidemill.loop.world import World
from tidemill.model import TrainingData
from tidemill.records import DatasetVersion
from tidemill.review.change import MOST_ROWS, Change, changes
from tidemill.review.report import EvaluationSet
from tidemill.schema import Array
from tidemill.stores.datasets import Split

_LEAST_NEW = 10  # examples, of which a change can be told


def live_dataset(world: World, live: int | None) -> DatasetVersion | None:
    """Return the dataset that a version was trained on, None where it has none, or its rows are gone."""
    digest = None if live is None else world.catalog.model(world.name, live).dataset
    found = None if digest is None else world.datasets.get(world.name, digest)
    return None if found is None or found.is_gone else found


def evaluation_set(
    world: World, dataset: str, ids: Array, before: DatasetVersion | None
) -> tuple[EvaluationSet, Array]:
    """Return which test rows these are, and the mask bool (N,) of those that the live version was tested on itself.

    Without a dataset `before`, all rows count as old.
    """
    name = world.name
    shards = world.datasets.shards(name, dataset).test
    version = hashlib.sha256(" ".join(shards).encode()).hexdigest()[:12]
    number, size = world.datasets.get(name, dataset).number, len(ids)
    if before is None:
        return EvaluationSet(version=version, dataset=number, num_rows=size), np.ones(size, dtype=bool)
    known = _ids(world, before.digest, "test")
    old = np.array([id_ in known for id_ in ids], dtype=bool)
    num_old = int(old.sum())
    found = EvaluationSet(
        version=version, dataset=number, num_rows=size, since=before.number, num_new=size - num_old,
        num_gone=len(known) - num_old,
    )  # fmt: skip
    return found, old


def data_changes(
    world: World, training: TrainingData, before: DatasetVersion | None, rng: np.random.Generator
) -> tuple[Change, ...]:
    """Return how the training examples that are new since the dataset `before` differ from those of it.

    Empty without one, where fewer than 10 are new, and where the inputs themselves have changed.
    """
    if before is None or not world.datasets.shards(world.name, before.digest).form.covers(training.schema):
        return ()
    known = _ids(world, before.digest, "train")
    new = np.array([i for i, id_ in enumerate(training.ids) if id_ not in known], dtype=np.int64)
    if len(new) < _LEAST_NEW:
        return ()
    rows = world.datasets.rows(world.name, before.digest, training.schema)
    then, now = rows.take(_some(len(rows), rng)), training.take(new[_some(len(new), rng)])
    return changes(training.schema, then.columns, now.columns, (then.targets, now.targets), rng)


def _some(num: int, rng: np.random.Generator) -> Array:
    """Return at most `MOST_ROWS` positions of `num`, in order."""
    return np.arange(num) if num <= MOST_ROWS else np.sort(rng.choice(num, MOST_ROWS, replace=False))


def _ids(world: World, digest: str, split: Split) -> set[str]:
    tables = world.datasets.tables(world.name, digest, split)
    return {id_ for table in tables for id_ in table["id"].to_pylist()}
