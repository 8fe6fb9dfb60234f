"""Model servers under load: ours with everything on, and peers; each whole, and measured as a process tree."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import onnxruntime
import psutil

from tidemill.clock import SystemClock
from tidemill.manifest import Limits, Manifest
from tidemill.model import Artefact
from tidemill.policy import Policy
from tidemill.records import ModelVersion, Route
from tidemill.runtime.artefact import MODEL_ONNX, encode_row, write_artefact
from tidemill.schema import Classes, Schema, Tensor
from tidemill.stores.blobs import Blobs
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database
from tidemill.stores.home import Home
from tidemill.stores.segments import Segments
from tidemill.stores.tokens import Scope, Tokens

CONNECTIONS = 64
FLATTEN = {"type": "Flatten", "names": ["x"]}
AS_IS = {"type": "AsIs", "names": ["x"]}
SERVE = """
import sys
from pathlib import Path
from tidemill.serving import deployment, recorder
from tidemill.serving.serve import run
from tidemill.stores.home import Home
if sys.argv[4] == "nothing":
    recorder.Recorder.add = lambda self, batch, release, prepare=None: release(None)
    whole = deployment.predictions
    def thin(rows, answered, latency_ms=None, scores=(None,), decided=None):
        if decided is None:
            return whole(rows, answered, latency_ms)
        out = []
        for row, listed, decision, abstained in zip(rows, scores, decided.decisions, decided.abstained):
            blank = row.table.blank.__copy__()
            blank.request_id, blank.answered_version = row.request_id, answered
            blank.scores, blank.decision, blank.abstained = listed, decision, abstained
            out.append(blank)
        return out
    deployment.predictions = thin
run(Home(Path(sys.argv[1])), port=int(sys.argv[2]), durability=sys.argv[3], ready=lambda a: print(a, flush=True))
"""
PEERS = {
    "mosec": "{v}/sb-mosec/bin/python -m peers.mosec_app --port {p} --address 127.0.0.1 --log-level warning",
    "fastapi": "{v}/sb-fastapi/bin/uvicorn peers.fastapi_app:app --port {p} --no-access-log --log-level warning"
    " --loop uvloop --http httptools",
    "bentoml": "{v}/sb-bento/bin/bentoml serve peers.bento_app:Digits --port {p} --host 127.0.0.1",
    "litserve": "{v}/sb-litserve/bin/python -m peers.litserve_app",
    "rayserve": "{v}/sb-ray/bin/python -m peers.ray_app",
}
PATHS = {"bentoml": "/infer", "litserve": "/predict"}
BODIES = {"bentoml": "bento.jsonl"}


@dataclass
class Server:
    """A server that is up, and how it is asked."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    path: str
    bodies: Path
    headers: Sequence[str] = ()
    ready_cpu_s: float = 0.0
    turns: list[dict[str, float]] = field(default_factory=list)

    def cpu_s(self) -> float:
        """CPU seconds of the whole process tree so far."""
        total = 0.0
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def memory_mb(self) -> float:
        """Resident memory of the whole process tree."""
        return float(sum(process.memory_info().rss for process in self._tree())) / 2**20

    def _tree(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        session = [p for p in psutil.process_iter() if _session(p.pid) == self.process.pid]
        return list({p.pid: p for p in (root, *root.children(recursive=True), *session)}.values())

    def num_files(self) -> int:
        """Open files of the process tree, sockets among them."""
        return sum(process.num_fds() for process in self._tree())

    def stop(self) -> None:
        """End it and whatever it started."""
        tree = self._tree()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def _wait(server: Server, seconds: float = 300.0) -> None:
    """Wait for an answer; on a machine that others load too, a start of seconds may take minutes."""
    body = server.bodies.read_bytes()
    body = body if server.bodies.suffix == ".bin" else body.splitlines()[0]
    headers = dict(header.split(": ", 1) for header in ("Content-Type: application/json", *server.headers))
    ends = time.monotonic() + seconds
    while True:
        try:
            url = f"http://127.0.0.1:{server.port}{server.path}"
            reply = httpx.post(url, content=body, headers=headers, timeout=30.0)
            if reply.is_success:
                break
            last = f"status {reply.status_code}: {reply.text[:300]}"
        except httpx.HTTPError as error:
            last = repr(error)
        code = server.process.poll()
        assert code is None, f"{server.name} ended with code {code} (see --verbose); last: {last}"
        assert time.monotonic() < ends, f"{server.name} does not answer within {seconds:g} s; last: {last}"
        time.sleep(0.02)
    server.ready_cpu_s = server.cpu_s()


def server_cores() -> set[int]:
    """Return the cores that servers may use: all but the load generator's."""
    cores = sorted(os.sched_getaffinity(0))
    return set(cores[:-1] or cores)


class Bench:
    """Where everything lies, and the servers of the table under way."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.loadgen = folder / "loadgen"
        source = args.folder / "loadgen.c"
        subprocess.run(["gcc", "-O2", "-w", "-o", str(self.loadgen), str(source), "-lm"], check=True)
        self._num = 0

    @contextlib.contextmanager
    def up(self, *starts: Callable[[], Server]) -> Iterator[list[Server]]:
        """Start servers, and stop them in the end."""
        servers: list[Server] = []
        over = threading.Event()
        loop = threading.Thread(target=self._take_segments, args=(over,))
        loop.start()
        try:
            for start in starts:
                servers.append(start())
                _wait(servers[-1])
            yield servers
        finally:
            over.set()
            loop.join()
            for server in servers:
                server.stop()

    def _take_segments(self, over: threading.Event) -> None:
        """Delete what is sealed, as the loop does that runs beside every gateway once it has taken the rows."""
        while not over.wait(0.1):
            for folder in self.folder.glob("home-*/segments"):
                Segments(folder).remove([sealed.stem for sealed in folder.glob("*.seg")])

    def ours(
        self,
        name: str = "tidemill",
        *,
        model: str = "digits",
        log: str = "process",
        shadow: bool = False,
        split: bool = True,
        version: str = "v2",
        limits: Limits | None = None,
        bodies: Path | None = None,
        headers: Sequence[str] = (),
    ) -> Server:
        """Start our gateway with everything on: a token, two versions in traffic, a policy, metrics and the log."""
        self._num += 1
        home = Home(self.folder / f"home-{self._num}").make()
        token = make_home(home, self.args.folder / "models" / f"{model}.onnx", shadow, split, limits or Limits())
        port = _free_port()
        kind = "process" if log == "nothing" else log
        args = [sys.executable, "-c", SERVE, str(home.folder), str(port), kind, log]
        process = self._process(args, {})
        bodies = bodies or self.args.folder / "bodies" / "v2.jsonl"
        path = "/v2/models/bench/infer"
        if version == "v1":
            bodies, path = _plain(bodies, self.folder / "v1.jsonl"), "/v1/predict"
        return Server(name, process, port, path, bodies, [f"Authorization: Bearer {token}", *headers])

    def peer(self, name: str, model: str = "digits") -> Server:
        """Start another server."""
        port = _free_port()
        command = shlex.split(PEERS[name].format(v=self.args.venvs, p=port))
        process = self._process(command, {"PORT": str(port), "MODEL": model, "MODE": "async"})
        bodies = self.args.folder / "bodies" / BODIES.get(name, "v2.jsonl")
        return Server(name, process, port, PATHS.get(name, "/v2/models/digits/infer"), bodies)

    def _process(self, args: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, sorted(server_cores()))), *args],
            cwd=self.args.folder,
            env={**os.environ, "PYTHONPATH": str(self.args.folder), "OMP_NUM_THREADS": "1", **env},
            stdout=subprocess.DEVNULL,
            stderr=None if self.args.verbose else subprocess.DEVNULL,
            start_new_session=True,
        )

    def load(self, server: Server, seconds: float, connections: int = CONNECTIONS, rate: float = 0) -> dict[str, Any]:
        """Load one server; closed loop without a rate, open loop with one."""
        args = [
            "taskset",
            "-c",
            str(max(os.sched_getaffinity(0))),
            str(self.loadgen),
            "-p",
            str(server.port),
            "-u",
            server.path,
        ]
        args += [
            *(["-B"] if server.bodies.suffix == ".bin" else []),
            "-b",
            str(server.bodies),
            "-c",
            str(connections),
            "-d",
            str(seconds),
            "-w",
            "0.2",
        ]
        args += [part for header in server.headers for part in ("-H", header)]
        before = server.cpu_s()
        done = subprocess.run([*args, *(["-r", str(rate)] if rate else [])], capture_output=True, check=True)
        said: dict[str, Any] = json.loads(done.stdout)
        num = (said["n"] + said["errors"]) * (seconds + 0.2) / seconds
        return said | {"cpu_us": (server.cpu_s() - before) / max(num, 1) * 1e6}

    def turns(self, servers: Sequence[Server], **load: Any) -> None:
        """Load all servers in turns, in another order each round."""
        for _ in range(self.args.rounds):
            for server in random.sample(list(servers), len(servers)):
                server.turns.append(self.load(server, self.args.seconds, **load))


def make_home(home: Home, model: Path, shadow: bool, split: bool, limits: Limits) -> str:
    """Fill a home with two versions of a model and a route; return a token."""
    now = SystemClock().now()
    graph = onnx.load(model)
    graph.graph.node[-1].output[0] = graph.graph.output[0].name = "scores"
    shape = tuple(d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim)[1:]
    schema = Schema({"x": Tensor(shape)}, Classes([str(i) for i in range(10)]))
    manifest = Manifest(project="bench", schema=schema, policy=Policy(abstain_below=0.3), limits=limits)
    with Database.open(home.db_url) as database:
        catalog, blobs = Catalog(database), Blobs(home.blobs)
        with database.begin() as conn:
            catalog.publish(conn, manifest.to_json(), {}, file="", now=now)
            digest = blobs.put_folder(_artefact(home.folder / "made", graph.SerializeToString(), schema, shape))
            for run in ("one", "two"):
                version = ModelVersion(
                    version=0, artefact=digest, created_at=now, dataset=None, strategy="", parent=None, cycle=None,
                    run=run,
                )  # fmt: skip
                catalog.add_model(conn, "bench", version)
            candidate = 2 if split else None
            route = Route(
                revision=0, stable=1, candidate=candidate, share=0.1 if split else 0.0, salt="bench",
                shadows=(2,) if shadow else (),
            )  # fmt: skip
            catalog.set_route(conn, "bench", route, now=now, by="benchmark", reason="benchmark")
            scopes = {Scope.PREDICT, Scope.FEEDBACK}
            return Tokens(database).add(conn, "bench", scopes=scopes, now=now, by="benchmark", project="bench")


def _artefact(folder: Path, raw: bytes, schema: Schema, shape: tuple[int, ...]) -> Path:
    folder.mkdir()
    row = np.random.default_rng(0).random(shape).astype("<f4")
    (folder / MODEL_ONNX).write_bytes(raw)
    scores = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"]).run(["scores"], {"x": row[None]})[0]
    about = Artefact(
        format="onnx",
        schema=schema.to_json(),
        transforms=[FLATTEN if len(shape) == 1 else AS_IS],
        example=[encode_row({"x": row.tobytes()})],
    )
    write_artefact(folder, about, params={}, scores=scores)
    return folder


def _plain(bodies: Path, path: Path) -> Path:
    """Write the same rows as bodies of `/v1/predict`."""
    rows = [json.loads(line)["inputs"][0]["data"] for line in bodies.read_bytes().splitlines() if line]
    path.write_text("\n".join(json.dumps({"inputs": {"x": row}}, separators=(",", ":")) for row in rows))
    return path
