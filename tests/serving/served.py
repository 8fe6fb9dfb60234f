"""What tests of the gateway stand on: a home with a catalog, and a gateway in a thread or in a process."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from artefacts import PYTHON_MODELS, SCHEMA, inputs, onnx_artefact

from tidemill.clock import SystemClock
from tidemill.manifest import Manifest
from tidemill.records import Feedback, ModelVersion, Prediction, Route
from tidemill.serving.serve import Service, config
from tidemill.stores.belonging import open_database
from tidemill.stores.blobs import Blobs
from tidemill.stores.catalog import Catalog
from tidemill.stores.frames import read_frames
from tidemill.stores.home import Home
from tidemill.stores.segments import Segments, decode


class Place:
    """A home with one project or more, and what the loop would do to it."""

    def __init__(self, folder: Path, database: str | None = None) -> None:
        self.folder = folder
        self.home = Home(folder / "home").make()
        self.url = database
        self.database = open_database(self.home, database)
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
    service = Service(place.home, database=place.url, **{"poll_s": 0.05, **settings})
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


def metric(page: str, name: str) -> float:
    """Return the value of a metric on a Prometheus page."""
    (value,) = re.findall(rf"^{re.escape(name)} (\S+)$", page, re.MULTILINE)
    return float(value)
