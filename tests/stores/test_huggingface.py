"""The folders of Hugging Face `datasets`: ours open there as they are, and theirs are read here without the library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from dataset_pool import Pool

from tidemill.errors import ProjectError
from tidemill.schema import Classes, Image, Number, Schema, Tensor, Text
from tidemill.stores.database import Database
from tidemill.stores.export import export
from tidemill.stores.huggingface import is_folder, read_folder
from tidemill.stores.tabular import examples_from, read_table

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
needs_library = pytest.mark.skipif(find_spec("datasets") is None, reason="pip install datasets")


def with_library(code: str, *arguments: Path) -> Any:
    """Run code with the real library, in a process of its own and without a network; return the JSON that it prints."""
    told = f"import datasets, json, sys; datasets.disable_progress_bars()\n{code}"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(arguments[0].parent / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", told, *map(str, arguments)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# --- ours, opened by the library


@needs_library
def test_the_library_opens_an_export_without_converting_it(tmp_path: Path, noon: datetime) -> None:
    schema = Schema({"text": Text(), "picture": Image((2, 2)), "vector": Tensor((3,))}, Classes(["ok", "toxic"]))
    with Database.open(f"sqlite:///{tmp_path / 'db'}") as database:
        pool = Pool(database, tmp_path, noon)
        for i in range(25):
            vector = np.array([i, 0, 1], "<f4").tobytes()
            pool.add("p", str(i), text="", inputs={"text": f"t {i}", "picture": bytes([i] * 4), "vector": vector})
        pool.form(schema=schema)
        export(pool.datasets, "p", 1, tmp_path / "out")
        train, test = pool.ids("train"), pool.ids("test")
        shards = {path.read_bytes() for path in (tmp_path / "datasets" / "p").glob("*.arrow")}
    assert {path.read_bytes() for path in (tmp_path / "out").rglob("*.arrow")} == shards, "they are the shards"
    found = with_library(
        """
import numpy as np
d = datasets.load_from_disk(sys.argv[1])
pictures = [np.frombuffer(row["picture"], np.uint8).reshape(2, 2).tolist() for row in d["train"]]
again = d["train"].filter(lambda row: row["text"] != "t 0").map(lambda row: {"n": len(row["text"])})
print(json.dumps({"ids": {s: d[s]["id"][:] for s in d}, "pictures": pictures, "columns": d["train"].column_names,
                  "shuffled": sorted(d["train"].shuffle(seed=1)["id"]), "n": len(again)}))
""",
        tmp_path / "out",
    )
    assert found["ids"] == {"train": train, "test": test}
    assert found["pictures"] == [[[int(id_)] * 2] * 2 for id_ in train]
    assert found["columns"][-3:] == ["text", "picture", "vector"]
    assert found["shuffled"] == sorted(train)
    assert found["n"] == len([id_ for id_ in train if id_ != "0"])


# --- theirs, read here

MAKE = """
from datasets import *
features = Features({
    "text": Value("string"), "number": Value("int32"), "label": ClassLabel(names=["cat", "dog"]),
    "vector": List(Value("float32")), "fixed": List(Value("float32"), length=2), "pixels": Array2D((2, 2), "uint8"),
    "raw": Value("binary"), "picture": {"bytes": Value("binary"), "path": Value("string")},
    "when": Value("timestamp[us]"), "parts": {"a": Value("int32")},
})
rows = [{"text": f"t {i}", "number": i, "label": i % 2, "vector": [i, 1.0], "fixed": [i, 2.0], "raw": bytes([i] * 4),
         "pixels": [[i, 0], [0, i]], "picture": {"bytes": b"png", "path": None}, "when": 1_000_000 * i,
         "parts": {"a": i}} for i in range(9)]
whole = Dataset.from_list(rows, features=features).cast_column("picture", Image())
whole.save_to_disk(sys.argv[1] + "/one", num_shards=2)
DatasetDict(train=whole.select(range(6)), test=whole.select([8, 7, 6])).save_to_disk(sys.argv[1] + "/two")
print("1")
"""
SEEN = Schema(
    {"text": Text(), "number": Number(), "vector": Tensor((2,)), "fixed": Tensor((2,)), "pixels": Image((2, 2))},
    Classes(["cat", "dog"]),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("datasets") is None:
        pytest.skip("pip install datasets")
    folder = tmp_path_factory.mktemp("saved")
    with_library(MAKE, folder)
    return folder


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_saved_dataset_becomes_examples_with_the_names_of_its_classes(saved: Path, name: str) -> None:
    found = examples_from(read_table(saved / name, SEEN), SEEN, now=NOW, time="when")
    assert sorted((e.inputs["text"], e.label) for e in found) == [(f"t {i}", ["cat", "dog"][i % 2]) for i in range(9)]
    for example in found:
        number = int(example.inputs["number"])
        assert np.frombuffer(example.inputs["vector"], "<f4").tolist() == [number, 1.0]
        assert np.frombuffer(example.inputs["fixed"], "<f4").tolist() == [number, 2.0]
        assert list(example.inputs["pixels"]) == [number, 0, 0, number]
        assert example.received_at == datetime(1970, 1, 1, 0, 0, number, tzinfo=UTC)


def test_one_split_can_be_read_alone(saved: Path) -> None:
    assert read_table(saved / "two" / "test", SEEN)["text"].to_list() == ["t 8", "t 7", "t 6"]


@pytest.mark.parametrize(("name", "feature"), [("picture", "Image"), ("parts", "a structure")])
def test_a_column_that_needs_decoding_is_refused_only_where_it_is_wanted(saved: Path, name: str, feature: str) -> None:
    assert name not in read_folder(saved / "one").columns
    with pytest.raises(ProjectError, match=f"column '{name}' is of the feature '{feature}'") as caught:
        read_table(saved / "one", Schema({name: Image((2, 2))}, SEEN.output))
    assert "Array3D of uint8" in caught.value.hint


# --- without the library


def save(folder: Path, table: pa.Table, features: Any) -> Path:
    folder.mkdir()
    with pa.ipc.new_stream(str(folder / "data.arrow"), table.schema) as writer:
        writer.write_table(table)
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    return folder


def test_a_folder_without_features_is_read_by_its_arrow_types(tmp_path: Path) -> None:
    table = pa.table({"x": [1.0, 2.0], "label": ["a", None]})
    assert read_folder(save(tmp_path / "d", table, None)).equals(pl.DataFrame({"x": [1.0, 2.0], "label": ["a", None]}))


def test_a_label_that_is_none_of_the_classes_is_none(tmp_path: Path) -> None:
    features = {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    frame = read_folder(save(tmp_path / "d", pa.table({"label": [1, 0, -1, None]}), features))
    assert frame["label"].to_list() == ["b", "a", None, None]


def break_state(folder: Path) -> None:
    (folder / "state.json").write_text("{")


def break_info(folder: Path) -> None:
    (folder / "dataset_info.json").unlink()


def break_stream(folder: Path) -> None:
    (folder / "data.arrow").write_bytes(b"no stream")


def break_names(folder: Path) -> None:
    (folder / "state.json").write_text('{"_data_files": [{"filename": "../../etc/passwd"}]}')


def break_shape(folder: Path) -> None:
    (folder / "state.json").write_text('{"_data_files": []}')


@pytest.mark.parametrize("damage", [break_state, break_info, break_stream, break_names, break_shape])
def test_a_damaged_folder_is_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = save(tmp_path / "d", pa.table({"x": [1.0]}), None)
    assert is_folder(folder) and not is_folder(tmp_path)
    damage(folder)
    with pytest.raises(ProjectError, match=r"d' cannot be read"):
        read_folder(folder)
