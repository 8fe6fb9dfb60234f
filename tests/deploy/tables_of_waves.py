"""A home with versions of a small linear model, tables for it, and what it must say of them, worked out with NumPy."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

from tidemill.clock import SystemClock
from tidemill.deploy.batch import Done, predict_table
from tidemill.deploy.order import Order
from tidemill.manifest import Manifest
from tidemill.model import Artefact
from tidemill.records import ModelVersion, Route
from tidemill.runtime.artefact import MODEL_ONNX, encode_row, write_artefact
from tidemill.schema import Category, Classes, Number, Schema, Tensor
from tidemill.stores.addresses import read_place
from tidemill.stores.blobs import Blobs
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database
from tidemill.stores.home import Home

SCHEMA = Schema(
    {"height": Number(low=0, high=100), "shape": Tensor((3,)), "beach": Category(["north", "south"], tag=True)},
    Classes(["calm", "storm"]),
)
_PROCESS = multiprocessing.get_context("forkserver")

WEIGHTS = {1: np.array([[0.02, -0.02], [1, -1], [0.5, 0.1], [0, 1]], dtype=np.float32)}
WEIGHTS[2] = -WEIGHTS[1]


def graph(version: int) -> bytes:
    weights = numpy_helper.from_array(WEIGHTS[version], "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Softmax", ["z"], ["scores"], axis=1)]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    made = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])
    whole = helper.make_graph(nodes, "waves", [given], [made], [weights])
    return bytes(
        helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    )


def make_home(folder: Path, *, versions: int = 1, policy: Any = None) -> Home:
    """Make a home with versions of the model, the first one stable."""
    home, now = Home(folder / "home").make(), SystemClock().now()
    declared = {} if policy is None else {"policy": policy}
    with Database.open(home.db_url) as database:
        catalog, blobs = Catalog(database), Blobs(home.blobs)
        with database.begin() as conn:
            manifest = Manifest(project="waves", schema=SCHEMA, **declared).to_json()
            catalog.publish(conn, manifest, {}, file=str(folder / "project.py"), now=now)
            for version in range(1, versions + 1):
                artefact = blobs.put_folder(_artefact(folder / f"model-{version}", version))
                model = ModelVersion(
                    version=0, artefact=artefact, created_at=now, dataset=None, strategy="", parent=None, cycle=None,
                    run=f"run-{version}",
                )  # fmt: skip
                catalog.add_model(conn, "waves", model)
            catalog.set_route(conn, "waves", Route(revision=0, stable=1), now=now, by="test", reason="test")
    return home


def _artefact(folder: Path, version: int) -> Path:
    folder.mkdir()
    (folder / MODEL_ONNX).write_bytes(raw := graph(version))
    row = {"height": 1.0, "shape": np.ones(3, "<f4").tobytes(), "beach": "north"}
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    about = Artefact(
        format="onnx",
        schema=SCHEMA.to_json(),
        transforms=[{"type": "Flatten", "names": ["height", "shape"]}],
        example=[encode_row(row)],
    )
    write_artefact(folder, about, params={}, scores=session.run(["scores"], {"x": np.ones((1, 4), np.float32)})[0])
    return folder


def waves(num_rows: int, *, seed: int = 0) -> pa.Table:
    """Rows that all fit, with an id that is in no order."""
    rng = np.random.default_rng(seed)
    shapes = rng.normal(size=3 * num_rows).astype(np.float32)
    return pa.table({
        "id": rng.permutation(num_rows),
        "height": rng.integers(0, 101, num_rows).astype(np.float64),
        "shape": pa.FixedSizeListArray.from_arrays(pa.array(shapes), 3),
        "beach": rng.choice(["north", "south"], num_rows),
    })  # fmt: skip


def scores_of(table: pa.Table, version: int = 1) -> Any:
    """What a version says of rows, worked out without it."""
    shapes = np.array(table["shape"].to_pylist(), dtype=np.float32).reshape(-1, 3)
    x = np.column_stack([table["height"].to_numpy().astype(np.float32), shapes])
    z = x @ WEIGHTS[version]
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def check_output(made: pa.Table | pl.DataFrame, table: pa.Table, *, version: int = 1) -> None:
    """Each row of `table` once, in order, with what the version says."""
    rows = made.to_pylist() if isinstance(made, pa.Table) else made.to_dicts()
    assert [int(row["id"]) for row in rows] == table["id"].to_pylist()
    scores = scores_of(table, version)
    told = [row["scores"] if isinstance(row["scores"], list) else json.loads(row["scores"]) for row in rows]
    np.testing.assert_allclose(np.array(told).reshape(-1, 2), scores, rtol=1e-4, atol=1e-6)
    assert [row["decision"] for row in rows] == [["calm", "storm"][i] for i in scores.argmax(axis=1)]
    assert {row["version"] for row in rows} <= {version}


def run(home: Home, source: Path | str, to: Path | str, **options: Any) -> Done:
    """Predict a table in this process."""
    tell = options.pop("tell", lambda _: None)
    with Database.open(home.db_url) as database:
        order = Order(source=read_place(str(source)), to=read_place(str(to)), **options)
        return predict_table(
            order, project="waves", home=home, catalog=Catalog(database), clock=SystemClock(), tell=tell
        )


# ---- kills


def _doomed(home: Home, source: str, to: str, options: dict[str, Any], fate: int) -> None:
    """Predict a table, and die at the `fate`-th operation on the disk that others could see."""
    left = fate

    def around(act: Callable[..., Any]) -> Callable[..., Any]:
        def acted(*args: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            done = act(*args, **more)
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return acted

    os.fsync = around(os.fsync)
    os.unlink = around(os.unlink)
    Path.replace = around(Path.replace)  # type: ignore[method-assign]
    run(home, source, to, **options)


def start(home: Home, source: Path | str, to: Path | str, *, fate: int = -1, **options: Any) -> Any:
    """Predict a table in a process of its own."""
    process = _PROCESS.Process(target=_doomed, args=(home, str(source), str(to), options, fate))
    process.start()
    return process
