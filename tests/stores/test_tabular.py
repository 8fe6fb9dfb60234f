"""Files of others become examples: any of the formats, checked row by row, and the same rows are the same examples."""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tidemill.errors import ProjectError
from tidemill.records import Trust
from tidemill.schema import Category, Classes, Image, Number, Schema, Sensitive, Tensor, Text, Value, keyed_hash
from tidemill.stores.tabular import examples_from, read_table

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PETS = Schema({"weight_kg": Number(low=0), "name": Text(), "country": Category()}, Classes(["cat", "dog"]))
ROWS = [
    {"weight_kg": 3.5, "name": "Tom", "country": "NL", "label": "cat"},
    {"weight_kg": 20.0, "name": "Rex, the 2nd", "country": "BE", "label": "dog"},
    {"weight_kg": 4.0, "name": "Müsli", "country": "NL", "label": "cat"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix.lower() == ".parquet":
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(path)
    elif path.suffix.lower() == ".csv":
        pl.DataFrame(rows, infer_schema_length=None).write_csv(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def examples(rows: list[dict[str, Any]], schema: Schema = PETS, **named: Any) -> list[Any]:
    return examples_from(pl.DataFrame(rows, infer_schema_length=None), schema, now=NOW, **named)


# --- files


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl", ".ndjson", ".CSV"])
def test_every_format_gives_the_same_examples(tmp_path: Path, ending: str) -> None:
    frame = read_table(write(tmp_path / f"pets{ending}", ROWS), PETS)
    found = examples_from(frame, PETS, now=NOW)
    assert [(e.inputs, e.label) for e in found] == [({n: r[n] for n in PETS.inputs}, r["label"]) for r in ROWS]
    assert [e.id for e in found] == [e.id for e in examples(ROWS)]


def test_text_in_csv_that_looks_like_a_number_stays_text(tmp_path: Path) -> None:
    rows = [
        {"weight_kg": "1", "name": "007", "country": "31", "label": "0"},
        {"weight_kg": "2", "name": "42", "country": "32", "label": "1"},
    ]
    schema = Schema(PETS.inputs, Classes(["0", "1"]))
    path = write(tmp_path / "pets.csv", rows)
    found = examples_from(read_table(path, schema), schema, now=NOW)
    assert [e.inputs for e in found] == [
        {"weight_kg": 1.0, "name": "007", "country": "31"},
        {"weight_kg": 2.0, "name": "42", "country": "32"},
    ]
    assert [e.label for e in found] == ["0", "1"]


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_the_last_row_of_a_long_file_may_be_of_another_kind_than_the_first(tmp_path: Path, ending: str) -> None:
    rows = [{"weight_kg": 1, "name": "a", "country": "NL", "label": "cat"} for _ in range(2_000)]
    rows.append({"weight_kg": 1.5, "name": "b", "country": "NL", "label": "dog"})
    found = examples_from(read_table(write(tmp_path / f"pets{ending}", rows), PETS), PETS, now=NOW)
    assert len(found) == 2_001 and found[-1].inputs["weight_kg"] == 1.5


@pytest.mark.parametrize("name", ["none.csv", "pets.xlsx", "pets", "folder.csv"])
def test_a_file_that_is_not_there_or_of_no_known_format_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "pets.xlsx").write_text("x")
    with pytest.raises(ProjectError, match=name) as caught:
        read_table(tmp_path / name)
    assert ".parquet" in caught.value.hint


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00{]", b'{"a": 1}\n{"a": '])
def test_a_damaged_file_is_refused_or_lacks_the_columns(tmp_path: Path, ending: str, content: bytes) -> None:
    path = tmp_path / f"pets{ending}"
    path.write_bytes(content)
    with pytest.raises(ProjectError):
        examples_from(read_table(path), PETS, now=NOW)


# --- rows


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weight_kg": None}, "'weight_kg'"),
        ({"weight_kg": float("nan")}, "'weight_kg'"),
        ({"weight_kg": -1.0}, "'weight_kg'"),
        ({"name": None}, "'name'"),
        ({"country": "x" * 201}, "'country'"),
        ({"label": "bird"}, "label 'bird'"),
        ({"label": None}, "label None"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_with_its_number_and_column(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ProjectError, match=f"row 2: {says}") as caught:
        examples([*ROWS[:2], {**ROWS[2], **change}])
    assert caught.value.hint


@pytest.mark.parametrize("missing", ["weight_kg", "label", "when", "owner"])
def test_a_missing_column_is_refused_with_those_that_are_there(missing: str) -> None:
    rows = [{n: v for n, v in {**row, "when": NOW, "owner": "ann"}.items() if n != missing} for row in ROWS]
    with pytest.raises(ProjectError, match=f"no column '{missing}'.*'?country"):
        examples(rows, time="when", unit="owner")


def test_the_label_may_be_called_otherwise_and_more_columns_do_not_matter() -> None:
    rows = [{**{n: v for n, v in row.items() if n != "label"}, "truth": row["label"], "more": 1} for row in ROWS]
    assert [e.label for e in examples(rows, label="truth")] == ["cat", "dog", "cat"]


def test_no_rows_are_no_examples() -> None:
    assert examples_from(pl.DataFrame(ROWS)[:0], PETS, now=NOW) == []


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt8, pl.Int64])
def test_whole_numbers_are_class_names_where_those_are_digits(dtype: Any) -> None:
    schema = Schema({"x": Number()}, Classes([str(i) for i in range(10)]))
    frame = pl.DataFrame({"x": [1.0, 2.0], "label": pl.Series([3, 9], dtype=dtype)})
    assert [e.label for e in examples_from(frame, schema, now=NOW)] == ["3", "9"]


def test_a_number_that_is_no_class_is_refused() -> None:
    schema = Schema({"x": Number()}, Classes(["0", "1"]))
    with pytest.raises(ProjectError, match="row 0: label 2"):
        examples_from(pl.DataFrame({"x": [1.0], "label": [2]}), schema, now=NOW)


def test_numbers_are_labels_of_a_value() -> None:
    schema = Schema({"x": Number()}, Value(low=0))
    assert [e.label for e in examples_from(pl.DataFrame({"x": [1], "label": [3]}), schema, now=NOW)] == [3.0]
    with pytest.raises(ProjectError, match="row 1: 'label' is -1"):
        examples_from(pl.DataFrame({"x": [1, 1], "label": [3, -1]}), schema, now=NOW)


# --- images and tensors

PIXELS = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
VECTOR = np.array([1.5, -2.0, 0.25], dtype="<f4")
SEEN = Schema({"image": Image((2, 2, 3)), "vector": Tensor((3,))}, Classes(["a", "b"]))
FORMS: dict[str, tuple[Any, Any]] = {
    "bytes": (PIXELS.tobytes(), VECTOR.tobytes()),
    "lists": (PIXELS.tolist(), VECTOR.tolist()),
    "base64": (base64.b64encode(PIXELS.tobytes()).decode(), base64.b64encode(VECTOR.tobytes()).decode()),
}


@pytest.mark.parametrize("ending", [".parquet", ".jsonl"])
@pytest.mark.parametrize("form", FORMS)
def test_images_and_tensors_come_as_bytes_lists_or_base64(tmp_path: Path, ending: str, form: str) -> None:
    if form == "bytes" and ending == ".jsonl":
        return  # JSON has no bytes
    image, vector = FORMS[form]
    path = write(tmp_path / f"seen{ending}", [{"image": image, "vector": vector, "label": "a"}])
    (example,) = examples_from(read_table(path, SEEN), SEEN, now=NOW)
    assert example.inputs == {"image": PIXELS.tobytes(), "vector": VECTOR.tobytes()}


def test_arrays_of_fixed_size_in_parquet_are_read(tmp_path: Path) -> None:
    frame = pl.DataFrame({"image": PIXELS[None], "vector": VECTOR[None], "label": ["a"]})
    frame.write_parquet(tmp_path / "seen.parquet")
    (example,) = examples_from(read_table(tmp_path / "seen.parquet"), SEEN, now=NOW)
    assert example.inputs == {"image": PIXELS.tobytes(), "vector": VECTOR.tobytes()}


@pytest.mark.parametrize(
    ("image", "vector", "says"),
    [
        (PIXELS.tobytes()[:-1], VECTOR.tobytes(), "'image' has 11 bytes, not 12"),
        (PIXELS.tobytes(), VECTOR.tobytes()[:-4], "'vector' has 8 bytes, not 12"),
        (PIXELS.tobytes(), np.array([1, np.nan, 2], dtype="<f4").tobytes(), "'vector' holds NaN"),
    ],
    ids=["short image", "short vector", "NaN"],
)
def test_bytes_are_checked_like_everything_else(image: bytes, vector: bytes, says: str) -> None:
    with pytest.raises(ProjectError, match=f"row 0: {says}"):
        examples([{"image": image, "vector": vector, "label": "a"}], SEEN)


def test_a_large_image_takes_no_longer_than_its_bytes() -> None:
    large = Schema({"image": Image((512, 512, 3))}, Classes(["a", "b"]))
    rows = [{"image": bytes(512 * 512 * 3), "label": "a"}] * 20
    begun = time.process_time()
    assert len(examples(rows, large)) == 20
    assert time.process_time() - begun < 1.0


# --- what an example is


def test_the_same_rows_have_the_same_ids_in_any_order_and_twice_the_same_row_is_two_examples() -> None:
    ids = {e.id for e in examples(ROWS)}
    assert {e.id for e in examples(ROWS[::-1])} == ids and len(ids) == 3
    twice = [e.id for e in examples([*ROWS, *ROWS])]
    assert len(set(twice)) == 6 and set(twice) > ids


def test_an_imported_example_says_where_it_came_from() -> None:
    (example, *_) = examples(ROWS)
    assert (example.request_id, example.unit, example.probability) == (None, example.id, 1.0)
    assert (example.trust, example.source, example.reason) == (Trust.TRUTH, "import", "import")
    assert example.received_at == example.picked_at == example.labelled_at == NOW


@pytest.mark.parametrize(
    "when",
    [
        NOW - timedelta(days=9),
        (NOW - timedelta(days=9)).replace(tzinfo=None),
        (NOW - timedelta(days=9)).astimezone(timezone(timedelta(hours=5))),
        "2026-02-20T12:00:00",
        "2026-02-20T12:00:00Z",
        "2026-02-20 14:00:00+02:00",
        1_771_588_800_000_000,
    ],
    ids=["utc", "naive", "elsewhere", "iso", "iso Z", "iso +02", "microseconds"],
)
def test_the_time_of_a_row_is_taken_as_utc(when: Any) -> None:
    (example,) = examples([{**ROWS[0], "when": when, "owner": 7}], time="when", unit="owner")
    assert example.received_at == NOW - timedelta(days=9) and example.labelled_at == example.received_at
    assert example.unit == "7"


def test_rows_that_are_nobodys_are_each_a_unit_of_their_own() -> None:
    found = examples([{**row, "owner": None} for row in ROWS], unit="owner")
    assert [e.unit for e in found] == [e.id for e in found]


def test_times_survive_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "pets.csv", [{**row, "when": NOW - timedelta(days=i)} for i, row in enumerate(ROWS)])
    found = examples_from(read_table(path, PETS), PETS, now=NOW, time="when")
    assert [e.received_at for e in found] == [NOW - timedelta(days=i) for i in range(3)]


@pytest.mark.parametrize("when", ["yesterday", 1.5, True, None, 10**18, ""])
def test_what_is_no_time_is_refused_with_row_and_column(when: Any) -> None:
    with pytest.raises(ProjectError, match=r"row 0: 'when' is .*, not a time"):
        examples([{**ROWS[0], "when": when}], time="when")


def test_a_sensitive_value_is_hashed_and_in_no_message() -> None:
    schema = Schema({"mail": Sensitive(), "x": Number()}, Classes(["a", "b"]))
    rows = [{"mail": "ann@example.org", "x": 1.0, "label": "a"}]
    (example,) = examples(rows, schema, key=b"k")
    assert example.inputs["mail"] == keyed_hash("ann@example.org", b"k")
    with pytest.raises(ProjectError) as caught:
        examples([{**rows[0], "x": None}], schema, key=b"k")
    assert "ann@" not in str(caught.value)
