"""Dataset versions as files of others: Parquet, CSV, or a folder of Hugging Face `datasets`.

| to | rows | images and tensors |
|---|---|---|
| `*.parquet` | all, train rows first | binary columns, as in the shards |
| `*.csv` | all, train rows first | base64 |
| a folder | the splits `train` and `test` | binary columns; the shards are copied as they are |

Columns are those of the shards: id, split, weight, label, trust, unit, received_at (microseconds), probability, inputs.
What is there is never overwritten, and what is written appears whole.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.errors import StoreError
from tidemill.stores.datasets import Datasets
from tidemill.stores.folders import whole_file
from tidemill.stores.huggingface import write_description
from tidemill.stores.shards import Form


def export(datasets: Datasets, project: str, ref: str | int, to: Path) -> int:
    """Write a version to a file or folder, by the ending of its name; return the number of rows.

    Raises:
        NotFound: there is no such version.
        StoreError: `to` exists, or cannot be written.
    """
    version = datasets.resolve(project, ref)
    if to.exists():
        raise StoreError(f"{str(to)!r} exists.", "choose another name, or remove it")
    writer = _WRITERS.get(to.suffix.lower())
    try:
        if writer is None:
            _write_folder(datasets, project, version.digest, to)
        else:
            with whole_file(to) as file:
                writer(file, _tables(datasets, project, version.digest))
    except OSError as error:
        raise StoreError(f"{str(to)!r} cannot be written: {error.strerror}.", "choose another place") from error
    return version.num_train + version.num_test


def _tables(datasets: Datasets, project: str, digest: str) -> Iterator[pa.Table]:
    yield from datasets.tables(project, digest, "train")
    yield from datasets.tables(project, digest, "test")


def _write_parquet(file: BinaryIO, tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    with pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for table in tables:
            if len(table):
                writer.write_table(table)


def _write_csv(file: BinaryIO, tables: Iterator[pa.Table]) -> None:
    for number, table in enumerate(tables):
        columns = [_text(name, table[name]) for name in table.schema.names]
        # Text is quoted, so that an empty one is not taken for none.
        pl.DataFrame(columns).write_csv(file, include_header=number == 0, quote_style="non_numeric")


def _text(name: str, column: pa.ChunkedArray) -> pl.Series:
    if pa.types.is_large_binary(column.type):
        return pl.Series(name, [base64.b64encode(value).decode() for value in column.to_pylist()], dtype=pl.String)
    return pl.Series(name, column)


def _write_folder(datasets: Datasets, project: str, digest: str, to: Path) -> None:
    part = to.with_name(f"{to.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        shards = datasets.shards(project, digest)
        for split, digests in (("train", shards.train), ("test", shards.test)):
            (part / split).mkdir(parents=True)
            names = [f"data-{at:05d}-of-{len(digests):05d}.arrow" for at in range(len(digests))]
            for name, one in zip(names, digests, strict=True):
                shutil.copyfile(datasets.chunks(project).path(one), part / split / name)
            if not names:
                names = [_write_empty(shards.form, part / split)]
            write_description(part / split, split, names, shards.form.types, digest)
        (part / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
        part.rename(to)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_empty(form: Form, folder: Path) -> str:
    table = pa.schema(form.types).empty_table()
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    return "data-00000-of-00001.arrow"


_WRITERS: dict[str, Callable[[BinaryIO, Iterator[pa.Table]], None]] = {".parquet": _write_parquet, ".csv": _write_csv}
