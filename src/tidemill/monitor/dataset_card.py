"""What a dataset version is made of, beyond what its shards say: why examples were picked, and who labelled them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from tidemill.stores.datasets import DatasetContents, Datasets, Split
from tidemill.stores.reservoir import Reservoir

UNKNOWN = "no longer known"
_SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """Counts of a version: `reasons` and `sources` are rows by value and split.

    Examples that the reservoir has dropped since count under `UNKNOWN`.
    """

    contents: DatasetContents
    reasons: Mapping[str, Mapping[str, int]]
    sources: Mapping[str, Mapping[str, int]]


def dataset_card(datasets: Datasets, reservoir: Reservoir, project: str, digest: str) -> DatasetCard:
    """Return the card of a version; it reads the ids of its rows and the index of the reservoir.

    Raises:
        StoreError: there is no such version.
    """
    known = reservoir.index(project).select("id", "reason", "source")
    rows = {split: _ids(datasets, project, digest, split).join(known, on="id", how="left") for split in _SPLITS}
    return DatasetCard(
        contents=datasets.contents(project, digest),
        reasons={split: _counted(frame["reason"]) for split, frame in rows.items()},
        sources={split: _counted(frame["source"]) for split, frame in rows.items()},
    )


def _ids(datasets: Datasets, project: str, digest: str, split: Split) -> pl.DataFrame:
    found = [pl.DataFrame(table.select(["id"])) for table in datasets.tables(project, digest, split)]
    return pl.concat(found).with_columns(pl.col("id").cast(pl.String))


def _counted(values: pl.Series) -> dict[str, int]:
    counts = values.fill_null(UNKNOWN).value_counts(sort=True)
    return dict(counts.iter_rows())
