"""CPU time of the gateway per request: everything on (validation, routing, ids, policy, metrics, log), 64 connections.

    python benchmarks/serving.py [--seconds 4] [--connections 1 64] [--durability process] [--shadow]

Serves an MLP 64 -> 128 -> 10 from a real home in a process of its own and loads it over loopback. CPU time is that of
the gateway's whole process tree, so it compares across busy machines where latency does not. The load comes from
`shared/bench/serving/loadgen.c` beside the checkout where that and gcc are present, else from a client in Python, which
is slower than the gateway and so measures small batches.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import psutil
from onnx import TensorProto, helper, numpy_helper

from tidemill.clock import SystemClock
from tidemill.manifest import Manifest
from tidemill.model import Artefact
from tidemill.records import ModelVersion, Route
from tidemill.runtime.artefact import MODEL_ONNX, encode_row, write_artefact
from tidemill.schema import Category, Classes, Number, Schema, Tensor
from tidemill.stores.blobs import Blobs
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database
from tidemill.stores.home import Home

LOADGEN = Path(__file__).parents[2] / "shared" / "bench" / "serving" / "loadgen.c"
SCHEMA = Schema(
    {"x": Tensor((64,)), "age": Number(tag=True), "country": Category(tag=True)}, Classes([str(i) for i in range(10)])
)


def graph(rng: np.random.Generator) -> bytes:
    constants = [
        numpy_helper.from_array(rng.normal(0, 0.1, shape).astype(np.float32), name)
        for name, shape in (("w1", (64, 128)), ("b1", (128,)), ("w2", (128, 10)), ("b2", (10,)))
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["z"]),
        helper.make_node("Softmax", ["z"], ["scores"], axis=1),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])
    made = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])
    made = helper.make_graph(nodes, "mlp", [given], [made], constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def artefact(folder: Path, rng: np.random.Generator) -> Path:
    folder.mkdir()
    raw, row = graph(rng), rng.random(64).astype("<f4")
    (folder / MODEL_ONNX).write_bytes(raw)
    scores = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"]).run(["scores"], {"x": row[None]})[0]
    about = Artefact(
        format="onnx",
        schema=SCHEMA.to_json(),
        transforms=[{"type": "Flatten", "names": ["x"]}],
        example=[encode_row({"x": row.tobytes(), "age": 1.0, "country": "nl"})],
    )
    write_artefact(folder, about, params={}, scores=scores)
    return folder


def make_home(folder: Path, *, shadow: bool) -> Home:
    home, now, rng = Home(folder / "home").make(), SystemClock().now(), np.random.default_rng(0)
    with Database.open(home.db_url) as database:
        catalog, blobs = Catalog(database), Blobs(home.blobs)
        with database.begin() as conn:
            catalog.publish(conn, Manifest(project="bench", schema=SCHEMA).to_json(), {}, file="", now=now)
            for run in ("one", "two"):
                model = ModelVersion(
                    version=0,
                    artefact=blobs.put_folder(artefact(folder / run, rng)),
                    created_at=now,
                    dataset=None,
                    strategy="",
                    parent=None,
                    cycle=None,
                    run=run,
                )
                catalog.add_model(conn, "bench", model)
            route = Route(revision=0, stable=1, candidate=2, share=0.1, salt="bench", shadows=(2,) if shadow else ())
            catalog.set_route(conn, "bench", route, now=now, by="benchmark", reason="benchmark")
    return home


def write_bodies(path: Path) -> None:
    rng = np.random.default_rng(1)
    bodies = [
        {
            "inputs": {"x": rng.integers(0, 17, 64).astype(float).tolist(), "age": 30, "country": "nl"},
            "unit": f"user-{i}",
        }
        for i in range(256)
    ]
    path.write_text("\n".join(json.dumps(body, separators=(",", ":")) for body in bodies))


def start(home: Home, durability: str) -> tuple[subprocess.Popen[str], str]:
    code = (
        "import sys; from tidemill.serving.serve import run; from tidemill.stores.home import Home;"
        "run(Home(sys.argv[1]), port=0, durability=sys.argv[2], ready=lambda a: print(a, flush=True))"
    )
    args = [sys.executable, "-c", code, str(home.folder), durability]
    process = subprocess.Popen(args, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert address, "the gateway did not start"
    return process, address


def cpu_seconds(pid: int) -> float:
    root = psutil.Process(pid)
    times = [p.cpu_times() for p in (root, *root.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def build_loadgen(folder: Path) -> Path | None:
    if not LOADGEN.is_file() or shutil.which("gcc") is None:
        return None
    subprocess.run(["gcc", "-O2", "-w", "-o", str(folder / "loadgen"), str(LOADGEN), "-lm"], check=True)
    return folder / "loadgen"


def load_with_c(binary: Path, address: str, bodies: Path, connections: int, seconds: float) -> dict[str, Any]:
    port = address.rpartition(":")[2]
    args = [str(binary), "-p", port, "-u", "/v1/predict", "-b", str(bodies), "-c", str(connections)]
    done = subprocess.run([*args, "-d", str(seconds), "-w", "0"], check=True, capture_output=True, text=True)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


async def load_with_python(address: str, bodies: Path, connections: int, seconds: float) -> dict[str, Any]:
    lines = bodies.read_bytes().splitlines()
    host, port = address.removeprefix("http://").split(":")
    ends, taken, num_errors = time.perf_counter() + seconds, [], 0

    async def connection(at: int) -> None:
        nonlocal num_errors
        reader, writer = await asyncio.open_connection(host, int(port))
        while time.perf_counter() < ends:
            body, at = lines[at % len(lines)], at + 1
            begun = time.perf_counter()
            writer.write(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(size)
            num_errors += not head.startswith(b"HTTP/1.1 200")
            taken.append(time.perf_counter() - begun)
        writer.close()

    await asyncio.gather(*(connection(7 * i) for i in range(connections)))
    p50, p99 = np.quantile(taken, [0.5, 0.99]) * 1e3
    return {"n": len(taken), "errors": num_errors, "rps": len(taken) / seconds, "p50_ms": p50, "p99_ms": p99}


def measure(pid: int, address: str, binary: Path | None, bodies: Path, connections: list[int], seconds: float) -> None:
    print(f"load: {'loadgen.c' if binary else 'python client'}; the first line warms up")
    print(f"{'connections':>11} {'cpu us/req':>10} {'rps':>8} {'p50 ms':>7} {'p99 ms':>7} {'errors':>6}")
    for num in (max(connections), *connections):
        before = cpu_seconds(pid)
        if binary:
            said = load_with_c(binary, address, bodies, num, seconds)
        else:
            said = asyncio.run(load_with_python(address, bodies, num, seconds))
        cpu_us = (cpu_seconds(pid) - before) / max(said["n"], 1) * 1e6
        shown = f"{said['rps']:>8.0f} {said['p50_ms']:>7.2f} {said['p99_ms']:>7.2f} {said['errors']:>6}"
        print(f"{num:>11} {cpu_us:>10.1f} {shown}")
    page = httpx.get(f"{address}/metrics").text.splitlines()
    answered = sum(float(line.split()[-1]) for line in page if line.startswith("tidemill_requests_total{"))
    rss = psutil.Process(pid).memory_info().rss / 2**20
    print(f"answered and logged {answered:.0f} requests; resident memory {rss:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--durability", choices=["process", "power"], default="process")
    parser.add_argument("--shadow", action="store_true", help="let the second version shadow every answer of the first")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home, bodies, binary = make_home(folder, shadow=args.shadow), folder / "bodies.jsonl", build_loadgen(folder)
        write_bodies(bodies)
        process, address = start(home, args.durability)
        try:
            measure(process.pid, address, binary, bodies, args.connections, args.seconds)
        finally:
            process.terminate()
            status = process.wait(30)
        assert status == 0, f"the gateway ended with status {status}"


if __name__ == "__main__":
    main()
