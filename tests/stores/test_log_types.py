"""Every kind of input that can be declared goes into the log and comes out as it was, however large it may be."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from log_rows import Mill, feedback, prediction

from tidemill.records import Trust
from tidemill.schema import (
    INPUT_TYPES,
    Category,
    Classes,
    Image,
    Input,
    Number,
    Schema,
    Sensitive,
    Tensor,
    Text,
    Value,
    keyed_hash,
)
from tidemill.stores.database import Database
from tidemill.stores.logfiles import LogFiles
from tidemill.stores.sql import Sql

DAY = timedelta(days=1)
RNG = np.random.default_rng(1)
MEGABYTE = 1 << 20


@pytest.fixture
def mill(tmp_path: Path, database: Database, noon: datetime) -> Mill:
    return Mill(tmp_path, database, noon)


CASES: dict[str, tuple[Input, list[Any]]] = {
    "text": (Text(), ["", "é\n\0", "x" * 10_000]),
    "tag": (Category(tag=True), ["NL", "", "grün"]),
    "category": (Category(["a", "b"]), ["a", "b", "a"]),
    "number": (Number(), [0, -1e308, 0.1]),
    "number_tag": (Number(tag=True), [3, 2.5, -0.0]),
    "sensitive": (Sensitive(), ["Ann", "Bob", "x" * 1000]),
    "grey": (Image((28, 28)), RNG.integers(0, 256, (3, 28, 28)).tolist()),
    "photo": (Image((512, 683, 3)), [RNG.integers(0, 256, (512, 683, 3)).tolist() for _ in range(3)]),
    "embedding": (Tensor((768,)), RNG.normal(size=(3, 768)).tolist()),
    "volume": (Tensor((64, 64, 64)), [RNG.normal(size=(64, 64, 64)).tolist() for _ in range(3)]),
}


def test_every_kind_is_tried() -> None:
    assert {type(kind).__name__ for kind, _ in CASES.values()} == set(INPUT_TYPES)
    assert np.prod(CASES["photo"][0].shape) > MEGABYTE * 0.99  # type: ignore[attr-defined]
    assert np.prod(CASES["volume"][0].shape) * 4 == MEGABYTE  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", CASES)
def test_an_input_comes_out_of_the_log_as_it_was_validated(mill: Mill, name: str) -> None:
    kind, given = CASES[name]
    schema = Schema({name: kind}, Classes(["ok", "toxic"]))
    canonical = [schema.validate({name: value}, key=b"k") for value in given]
    rows = []
    for number, inputs in enumerate(canonical):
        kept = {"tags": inputs, "inputs": {}} if kind.tag else {"tags": {}, "inputs": inputs}
        rows.append(prediction(number, mill.at(number), **kept))
    mill.put(rows[0])
    mill.put(*rows[1:])
    mill.compactor.merge_small(mill.lease(), now=mill.now + 3 * DAY)
    assert len(mill.files()) == 1
    frame = mill.log.predictions("p", after=None, until=mill.now + DAY, columns=[name], schema=schema)
    assert frame[name].to_list() == [inputs[name] for inputs in canonical]
    columns = schema.columns(frame.to_dicts())
    assert len(columns[name]) == 3
    found = Sql(files=LogFiles(mill.db, mill.folder / "log"), project="p", schema=schema, horizon=DAY).ask(
        f'SELECT "{name}" FROM predictions ORDER BY received_at'
    )
    assert [row[0] for row in found.rows] == [inputs[name] for inputs in canonical]


def test_a_sensitive_value_is_in_the_log_as_its_keyed_hash() -> None:
    schema = Schema({"name": Sensitive()}, Classes(["ok", "toxic"]))
    assert schema.validate({"name": "Ann"}, key=b"k") == {"name": keyed_hash("Ann", b"k")}


def test_large_inputs_lie_in_row_groups_that_fit_into_memory(mill: Mill) -> None:
    images = [RNG.bytes(MEGABYTE) for _ in range(40)]
    for part in (images[:20], images[20:]):
        mill.put(*[prediction(i, mill.at(i), inputs={"photo": image}, tags={}) for i, image in enumerate(part)])
    mill.compactor.merge_small(mill.lease(), now=mill.now + 3 * DAY)
    for path in mill.files():
        meta = pq.ParquetFile(path).metadata
        assert max(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)) < 40 * MEGABYTE
    frame = mill.log.predictions("p", after=None, until=mill.now + DAY, columns=["request_id", "photo"])
    assert len(frame) == 20, "the second part has the keys of the first"


# --- as they are declared now


def declared(mill: Mill, **inputs: Input) -> pl.DataFrame:
    schema = Schema(inputs, Classes(["ok", "toxic"]))
    return mill.log.predictions("p", after=None, until=mill.now + DAY, columns=list(inputs), schema=schema)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Text(), ["old", "7.5", "AAECAw==", None]),
        (Category(), ["old", "7.5", "AAECAw==", None]),
        (Number(), [None, 7.5, None, None]),
        (Image((2, 2)), [None, None, b"\0\1\2\3", None]),
        (Tensor((1,)), [None, None, b"\0\1\2\3", None]),
        (Image((3, 3)), [None, None, None, None]),
    ],
)
def test_a_column_has_the_declared_type_and_no_value_where_it_was_another(
    mill: Mill, kind: Input, expected: list[Any]
) -> None:
    for number, value in enumerate(["old", 7.5, b"\0\1\2\3"]):
        mill.put(prediction(number, mill.at(number), inputs={"it": value}))
    mill.put(prediction(3, mill.at(3), inputs={"other": 1.0}))
    assert declared(mill, it=kind)["it"].to_list() == expected


def test_a_declared_column_has_its_type_where_no_file_has_it(mill: Mill) -> None:
    mill.put(prediction(1, mill.at(1)))
    frame = declared(mill, new=Number(), photo=Image((2, 2)), word=Text())
    assert list(frame.schema.values()) == [pl.Float64(), pl.Binary(), pl.String()]
    assert frame.row(0) == (None, None, None)


def test_an_undeclared_column_is_read_as_before(mill: Mill) -> None:
    mill.put(prediction(1, mill.at(1), inputs={"gone": "x", "kept": 1.0}))
    schema = Schema({"kept": Number()}, Classes(["ok", "toxic"]))
    frame = mill.log.predictions("p", after=None, until=mill.now + DAY, schema=schema)
    assert (frame["gone"].to_list(), frame["kept"].to_list()) == (["x"], [1.0])


def test_decisions_and_labels_of_an_output_that_changed_are_unknown(mill: Mill) -> None:
    mill.put(prediction(1, mill.at(1)), prediction(2, mill.at(2), decision=2.5))
    mill.put(feedback(1, mill.at(3), "toxic"), feedback(2, mill.at(3), 3.0))
    asked = {"after": None, "until": mill.now + DAY, "horizon": DAY, "trust": Trust.CROWD}
    for output, expected in (
        (Value(), [(None, None), (2.5, 3.0)]),
        (Classes(["ok", "toxic"]), [("ok", "toxic"), ("2.5", "3.0")]),
    ):
        frame = mill.log.outcomes("p", **asked, schema=Schema({"text": Text()}, output))
        assert frame.select("decision", "label").rows() == expected


# --- feedback, whenever it comes


def test_feedback_that_is_months_late_is_joined_within_its_horizon(mill: Mill) -> None:
    late = 200 * 86_400
    mill.put(prediction(1, mill.at(0)), prediction(2, mill.at(1)))
    mill.put(feedback(1, mill.at(5), "ok", trust="crowd"))
    mill.put(feedback(1, mill.at(late), "toxic", trust="truth"), feedback(2, mill.at(late + 1), "toxic"))
    mill.compactor.merge_small(mill.lease(), now=mill.now + 300 * DAY)
    asked = {"after": None, "until": mill.now + DAY, "trust": Trust.CROWD}
    soon = mill.log.outcomes("p", **asked, horizon=10 * DAY)
    assert soon["label"].to_list() == ["ok", None]
    end = mill.log.outcomes("p", **asked, horizon=timedelta(seconds=late))
    assert end["label"].to_list() == ["toxic", "toxic"]
    assert end["label_at"].to_list() == [mill.at(late), mill.at(late + 1)]


def test_several_labels_of_one_source_are_all_kept_and_the_newest_counts(mill: Mill) -> None:
    mill.seal(prediction(1, mill.at(0)))  # its feedback is compacted first
    for second, value in ((30, "ok"), (10, "toxic"), (20, "toxic")):
        mill.put(feedback(1, mill.at(second), value))
    facts = mill.log.feedback("p", after=None, until=mill.now + DAY, kinds=["label"])
    assert facts["value"].to_list() == ["toxic", "toxic", "ok"]
    frame = mill.log.outcomes("p", after=None, until=mill.now + DAY, horizon=DAY, trust=Trust.CROWD)
    assert (frame["label"].to_list(), frame["label_at"].to_list()) == (["ok"], [mill.at(30)])
