"""What is exported can be imported again, by Tidemill and by others, with every value as it was."""

from __future__ import annotations

import base64
import csv
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from dataset_pool import SCHEMA, Pool
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.clock import from_micros
from tidemill.errors import NotFound, StoreError
from tidemill.schema import Category, Classes, Image, Number, Schema, Tensor, Text, Value
from tidemill.stores.database import Database
from tidemill.stores.export import export
from tidemill.stores.tabular import examples_from, read_table

FORMATS = ["out.parquet", "out.csv", "out"]
NUMBERS = count()


@pytest.fixture
def pool(tmp_path: Path, noon: datetime) -> Iterator[Pool]:
    with Database.open(f"sqlite:///{tmp_path / 'tidemill.db'}") as database:
        yield Pool(database, tmp_path, noon)


@pytest.fixture
def version(pool: Pool) -> Pool:
    """A version with rows in both splits, in several shards."""
    pool.fill(30)
    train = pool.ids("train")
    pool.form(train, weights=tuple(float(1 + i % 2) for i in range(len(train))))
    return pool


@pytest.mark.parametrize("name", FORMATS)
def test_all_rows_of_both_splits_are_written_with_what_is_known_of_them(version: Pool, name: str) -> None:
    to = version.folder / name
    assert export(version.datasets, "p", 1, to) == 30
    frame = read_table(to, SCHEMA)
    assert frame.columns == [
        "id", "split", "weight", "label", "trust", "unit", "received_at", "probability", "text", "age"
    ]  # fmt: skip
    assert list(map(str, frame["id"])) == [*version.ids("train"), *version.ids("test")]
    assert frame["split"].to_list() == ["train"] * len(version.ids("train")) + ["test"] * len(version.ids("test"))
    assert set(frame["weight"]) == {1.0, 2.0}
    assert frame["text"].to_list() == [f"text {id_}" for id_ in frame["id"]]


def test_a_version_of_many_shards_is_one_file(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.stores.shards._MAX_ROWS", 4)
    pool.fill(30)
    pool.form()
    for name in FORMATS:
        export(pool.datasets, "p", 1, pool.folder / name)
        assert len(read_table(pool.folder / name, SCHEMA)) == 30
    assert len(list((pool.folder / "out" / "train").glob("*.arrow"))) > 3


@pytest.mark.parametrize("name", FORMATS)
def test_a_version_without_test_rows_is_written_too(pool: Pool, name: str) -> None:
    pool.fill(12)
    only = pool.ids("train")[0]
    pool.add("q", only, text=f"text {only}")
    pool.form(project="q")
    assert export(pool.datasets, "q", 1, pool.folder / name) == 1
    assert list(map(str, read_table(pool.folder / name, SCHEMA)["id"])) == [only]


EVERYTHING = {"text": Text(), "kind": Category(), "age": Number(), "picture": Image((1, 3)), "vector": Tensor((1,))}
ROWS = st.fixed_dictionaries(
    {
        "text": st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
        "kind": st.sampled_from(["", "a", '"', "null", "1", " b ", "x\r\ny"]),
        "age": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5).map(float),
        "picture": st.binary(min_size=3, max_size=3),
        "vector": st.floats(width=32, allow_nan=False, allow_infinity=False).map(lambda x: np.float32(x).tobytes()),
    }
)
OUTPUTS = [(Classes(["ok", "007", "yes, no", ""]), ["ok", "007", "yes, no", ""]), (Value(), [0.1, -3.0, 1e300])]


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_exporting_and_importing_changes_nothing(pool: Pool, name: str, data: st.DataObject) -> None:
    output, labels = data.draw(st.sampled_from(OUTPUTS))
    schema, project = Schema(EVERYTHING, output), f"p{next(NUMBERS)}"
    rows = data.draw(st.lists(st.tuples(ROWS, st.sampled_from(labels)), min_size=1, max_size=12))
    for number, (inputs, label) in enumerate(rows):
        pool.add(project, f"{number}", text="", inputs=inputs, label=label, unit=f"user {number % 3}")
    train = pool.ids("train", project)
    if not train:
        return
    pool.form(train, project, schema=schema)
    to = pool.folder / project / name
    to.parent.mkdir()
    export(pool.datasets, project, 1, to)
    found = examples_from(read_table(to, schema), schema, now=pool.now, time="received_at", unit="unit")
    stored = pool.reservoir.examples(project, [*train, *pool.ids("test", project)])
    assert [(dict(e.inputs), e.label, e.unit, e.received_at) for e in found] == [
        ({n: e.inputs[n] for n in schema.inputs}, e.label, e.unit, e.received_at) for e in stored
    ]
    assert [{n: type(v) for n, v in e.inputs.items()} for e in found] == [
        {n: type(e.inputs[n]) for n in schema.inputs} for e in stored
    ]


def test_arrays_are_base64_in_csv_and_bytes_elsewhere(pool: Pool) -> None:
    schema = Schema({"picture": Image((2, 2))}, SCHEMA.output)
    for i in range(12):
        pool.add("p", str(i), text="", inputs={"picture": bytes([i, 0, 255, 10])})
    pool.form(schema=schema)
    for name in FORMATS:
        export(pool.datasets, "p", 1, pool.folder / name)
    with (pool.folder / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [base64.b64decode(row["picture"]) for row in rows] == [bytes([int(r["id"]), 0, 255, 10]) for r in rows]
    assert pl.read_parquet(pool.folder / "out.parquet")["picture"].to_list() == [
        bytes([int(r["id"]), 0, 255, 10]) for r in rows
    ]


def test_importing_an_export_into_another_project_gives_the_same_examples(version: Pool) -> None:
    export(version.datasets, "p", 1, version.folder / "out")
    frame = read_table(version.folder / "out", SCHEMA)
    found = examples_from(frame, SCHEMA, now=version.now, time="received_at", unit="unit")
    assert Counter((e.inputs["text"], e.label, e.received_at) for e in found) == Counter(
        (row["text"], row["label"], from_micros(row["received_at"])) for row in frame.to_dicts()
    )


# --- what goes wrong


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_there_is_not_overwritten(version: Pool, name: str) -> None:
    to = version.folder / name
    to.write_text("mine")
    with pytest.raises(StoreError, match="exists"):
        export(version.datasets, "p", 1, to)
    assert to.read_text() == "mine"


@pytest.mark.parametrize("name", FORMATS)
def test_what_cannot_be_written_leaves_nothing_behind(version: Pool, name: str) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        export(version.datasets, "p", 1, version.folder / "tidemill.db" / name)
    (shard, *_) = (version.folder / "datasets" / "p").glob("*.arrow")
    shard.rename(version.folder / "gone")
    with pytest.raises(StoreError):
        export(version.datasets, "p", 1, version.folder / name)
    assert not list(version.folder.glob("out*"))


def test_an_unknown_version_is_not_found(version: Pool, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        export(version.datasets, "p", "golden", tmp_path / "x.csv")
