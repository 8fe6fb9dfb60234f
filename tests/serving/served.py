"""What tests serve: small real models, a home with a catalog, and a gateway in a thread or in a process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import uvicorn
from onnx import TensorProto, helper, numpy_helper

from tidemill.clock import SystemClock
from tidemill.manifest import Manifest
from tidemill.model import Artefact
from tidemill.records import Feedback, ModelVersion, Prediction, Route
from tidemill.runtime.artefact import MODEL_ONNX, encode_row, write_artefact
from tidemill.schema import Category, Classes, Number, Schema, Tensor
from tidemill.serving.serve import Service, config
from tidemill.stores.blobs import Blobs
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database
from tidemill.stores.home import Home
from tidemill.stores.segments import Segments, decode, read_frames

CLASSES = ("cat", "dog", "fish")
SCHEMA = Schema({"x": Tensor((4,)), "age": Number(0, 150, tag=True), "country": Category(tag=True)}, Classes(CLASSES))
PYTHON_MODELS = Path(__file__).with_name("python_models.py")
NAN, RAISES = 0.5, 1.5
"""What x[0] must be above for `touchy` models to give NaN, or to raise."""


def inputs(x: Sequence[float] = (0.1, 0.2, 0.3, 0.4), *, age: float = 30, country: str = "nl") -> dict[str, Any]:
    return {"x": list(map(float, x)), "age": age, "country": country}


def graph(seed: int, *, touchy: bool = False, width: int = 0) -> bytes:
    """A linear softmax model; `touchy` ones fail on some rows, `width` adds work."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(4, 3)).astype(np.float32)
    nodes, constants = [], [numpy_helper.from_array(weights, "w")]
    hidden = "x"
    if width:
        constants += [
            numpy_helper.from_array(rng.normal(size=(4, width)).astype(np.float32), "up"),
            numpy_helper.from_array(np.eye(width, dtype=np.float32), "same"),
            numpy_helper.from_array(rng.normal(size=(width, 4)).astype(np.float32) / width, "down"),
        ]
        nodes += [helper.make_node("MatMul", ["x", "up"], ["h0"])]
        nodes += [helper.make_node("MatMul", [f"h{i}", "same"], [f"h{i + 1}"]) for i in range(20)]
        nodes += [helper.make_node("MatMul", ["h20", "down"], ["h"])]
        hidden = "h"
    nodes += [helper.make_node("MatMul", [hidden, "w"], ["z"]), helper.make_node("Softmax", ["z"], ["p"], axis=1)]
    if touchy:
        constants += [
            numpy_helper.from_array(np.array([0], np.int64), "zero"),
            numpy_helper.from_array(np.array([NAN], np.float32), "nan_above"),
            numpy_helper.from_array(np.array([RAISES], np.float32), "raise_above"),
            numpy_helper.from_array(np.array([5], np.int64), "five"),
            numpy_helper.from_array(np.ones(1, np.float32), "table"),
        ]
        nodes += [
            helper.make_node("Gather", ["x", "zero"], ["first"], axis=1),  # (N, 1)
            helper.make_node("Sub", ["nan_above", "first"], ["left"]),
            helper.make_node("Sqrt", ["left"], ["root"]),
            helper.make_node("Greater", ["first", "raise_above"], ["bad"]),
            helper.make_node("Cast", ["bad"], ["bad_index"], to=TensorProto.INT64),
            helper.make_node("Mul", ["bad_index", "five"], ["index"]),
            helper.make_node("Gather", ["table", "index"], ["one"], axis=0),  # out of bounds raises
            helper.make_node("Mul", ["root", "zero_f"], ["nothing"]),
            helper.make_node("Add", ["p", "nothing"], ["q"]),
            helper.make_node("Mul", ["q", "one"], ["scores"]),
        ]
        constants.append(numpy_helper.from_array(np.zeros(1, np.float32), "zero_f"))
    else:
        nodes.append(helper.make_node("Identity", ["p"], ["scores"]))
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


EXAMPLE = [
    {"x": np.array(row, "<f4").tobytes(), "age": 30.0, "country": "nl"} for row in ([0.1, 0.2, 0.3, 0.4], [-1, 0, 1, 0])
]


def onnx_artefact(folder: Path, raw: bytes, *, schema: Schema = SCHEMA, scores: Any = None) -> Path:
    folder.mkdir(parents=True)
    (folder / MODEL_ONNX).write_bytes(raw)
    artefact = Artefact(
        format="onnx",
        schema=schema.to_json(),
        transforms=[{"type": "Flatten", "names": ["x"]}],
        example=[encode_row(row) for row in EXAMPLE],
    )
    if scores is None:
        scores = expected(raw, [np.frombuffer(row["x"], "<f4") for row in EXAMPLE])
    write_artefact(folder, artefact, params={}, scores=scores)
    return folder


def python_artefact(folder: Path, kind: str, **kwargs: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "weights.txt").write_text("1.0")
    artefact = Artefact(
        format="python",
        schema=SCHEMA.to_json(),
        loader=f"python_models:{kind}",
        example=[encode_row(row) for row in EXAMPLE],
    )
    write_artefact(folder, artefact, params={}, scores=np.full((2, 3), 1 / 3, np.float32), **kwargs)
    return folder


def expected(raw: bytes, rows: Any) -> Any:
    """What ONNX Runtime itself says to these rows."""
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    return session.run(["scores"], {"x": np.asarray(rows, np.float32)})[0]


class Place:
    """A home with one project or more, and what the loop would do to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home(folder / "home").make()
        self.database = Database.open(self.home.db_url)
        self.catalog = Catalog(self.database)
        self.blobs = Blobs(self.home.blobs)
        self._num = 0

    def publish(self, name: str = "pets", **changes: Any) -> Manifest:
        manifest = Manifest(project=name, schema=SCHEMA, events=("click", "buy"))
        manifest = replace(manifest, **changes)
        with self.database.begin() as conn:
            self.catalog.publish(
                conn, manifest.to_json(), {"project": name}, file=str(PYTHON_MODELS), now=SystemClock().now()
            )
        return manifest

    def add(self, artefact: Path | bytes | str, name: str = "pets") -> int:
        """Register a version from a folder, an ONNX graph or the digest of a blob."""
        self._num += 1
        if isinstance(artefact, bytes):
            artefact = onnx_artefact(self.folder / f"artefact-{self._num}", artefact)
        digest = artefact if isinstance(artefact, str) else self.blobs.put_folder(artefact)
        model = ModelVersion(
            version=0,
            artefact=digest,
            created_at=SystemClock().now(),
            dataset=None,
            strategy="",
            parent=None,
            cycle=None,
            run=f"run-{self._num}",
        )
        with self.database.begin() as conn:
            return self.catalog.add_model(conn, name, model)

    def route(self, name: str = "pets", **route: Any) -> Route:
        before = self.catalog.route(name)
        revision = 0 if before is None else before.revision
        with self.database.begin() as conn:
            return self.catalog.set_route(
                conn,
                name,
                Route(revision=revision, **route),
                now=SystemClock().now(),
                by="test",
                reason="test",
            )

    def rows(self) -> tuple[list[Prediction], list[Feedback]]:
        """Everything in the segments, open ones included."""
        predictions, feedback = [], []
        for segment in Segments(self.home.segments).present():
            for payload in read_frames(segment.path).payloads:
                batch = decode(payload, name=segment.name)
                predictions += batch.predictions
                feedback += batch.feedback
        return predictions, feedback


@contextlib.contextmanager
def running(place: Place, **settings: Any) -> Iterator[httpx.Client]:
    """A gateway in a thread of this process, and a client of it."""
    service = Service(place.home, poll_s=0.05, **settings)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    started = threading.Event()
    service.on_start = started.set
    server = uvicorn.Server(config(service, grace_s=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        assert started.wait(30), "the gateway does not start"
        sock.listen()
        address = f"http://127.0.0.1:{sock.getsockname()[1]}"
        with httpx.Client(base_url=address, timeout=30) as client:
            client.service = service  # type: ignore[attr-defined]
            yield client
    finally:
        server.should_exit = True
        thread.join(30)
        sock.close()
        assert not thread.is_alive()


@contextlib.contextmanager
def process(place: Place, **settings: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A gateway in a process of its own, and its address."""
    code = (
        "import sys; from tidemill.serving.serve import run; from tidemill.stores.home import Home;"
        f"run(Home(sys.argv[1]), port=0, poll_s=0.05, ready=lambda a: print(a, flush=True), **{settings!r})"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = subprocess.Popen(
        [sys.executable, "-c", code, str(place.home.folder)], stdout=subprocess.PIPE, text=True, env=env
    )
    assert started.stdout is not None
    try:
        address = started.stdout.readline().strip()
        assert address, "the gateway does not start"
        yield started, address
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGKILL)
        started.wait()
        started.stdout.close()


def predict(client: httpx.Client, **body: Any) -> httpx.Response:
    return client.post("/v1/predict", json={"inputs": inputs(), **body})


def until(condition: Any, seconds: float = 20.0) -> Any:
    """Wait until `condition()` is true, and return what it gave."""
    ends = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < ends, "it did not come about in time"
        time.sleep(0.02)
    return found
