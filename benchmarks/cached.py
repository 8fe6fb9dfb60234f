"""What an answer from remembered scores costs beside one that the model is run for: the gateway's CPU per request.

    python benchmarks/cached.py [--seconds 2] [--rounds 5] [--layers 12] [--width 1024] [--connections 1 16]

One gateway with a heavy model, everything on, and a memory of 100 entries. Hits ask for the same 10 inputs over and
over, misses for 2,000 in turn, each forgotten before it comes again. A gateway without a memory tells what a miss pays
for having looked. Turns are short and shuffled; the load comes from a client in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

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
from tidemill.schema import Classes, Schema, Tensor
from tidemill.stores.blobs import Blobs
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database
from tidemill.stores.home import Home

NUM_HIT, NUM_MISS, NUM_ENTRIES, ENTRY_BYTES = 10, 2_000, 100, 360
SCHEMA = Schema({"x": Tensor((64,))}, Classes([str(i) for i in range(10)]))
SERVE = """
import sys
from pathlib import Path
from tidemill.serving.serve import run
from tidemill.stores.home import Home
run(Home(Path(sys.argv[1])), port=0, ready=lambda address: print(address, flush=True))
"""
CLIENT = """
import asyncio, json, sys, time
import httpx
address, seconds, connections, first, num = sys.argv[1], float(sys.argv[2]), *map(int, sys.argv[3:6])
bodies = [json.dumps({"inputs": {"x": [float(first + i)] + [0.5] * 63}}) for i in range(num)]
async def main():
    done, ends, turn = 0, time.monotonic() + seconds, iter(range(10 ** 9))
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        async def ask():
            nonlocal done
            while time.monotonic() < ends:
                reply = await client.post("/v1/predict", content=bodies[next(turn) % num])
                reply.raise_for_status()
                done += 1
        await asyncio.gather(*(ask() for _ in range(connections)))
    print(done)
asyncio.run(main())
"""


def graph(layers: int, width: int) -> bytes:
    """Return a deep multilayer perceptron."""
    rng, sizes = np.random.default_rng(0), [64, *[width] * layers, 10]
    weights = [
        numpy_helper.from_array(rng.normal(0, 1 / a**0.5, (a, b)).astype(np.float32), f"w{i}")
        for i, (a, b) in enumerate(itertools.pairwise(sizes))
    ]
    nodes, last = [], "x"
    for i in range(len(weights)):
        nodes += [
            helper.make_node("MatMul", [last, f"w{i}"], [f"h{i}"]),
            helper.make_node("Tanh", [f"h{i}"], [f"t{i}"]),
        ]
        last = f"t{i}"
    nodes.append(helper.make_node("Softmax", [last], ["scores"], axis=1))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])
    made = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])
    model = helper.make_model(
        helper.make_graph(nodes, "mlp", [given], [made], weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    return model.SerializeToString()


def make_home(folder: Path, raw: bytes, cache_bytes: int) -> Home:
    """Make a home whose one version is this model."""
    home, made, now = Home(folder / "home").make(), folder / "made", SystemClock().now()
    made.mkdir()
    (made / MODEL_ONNX).write_bytes(raw)
    row = {"x": np.zeros(64, "<f4").tobytes()}
    artefact = Artefact(
        format="onnx", schema=SCHEMA.to_json(), transforms=[{"type": "Flatten", "names": ["x"]}],
        example=[encode_row(row)],
    )  # fmt: skip
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    write_artefact(made, artefact, params={}, scores=session.run(None, {"x": np.zeros((1, 64), np.float32)})[0])
    manifest = Manifest(project="bench", schema=SCHEMA, cache_bytes=cache_bytes)
    with Database.open(home.db_url) as database, database.begin() as conn:
        catalog = Catalog(database)
        catalog.publish(conn, manifest.to_json(), {}, file="", now=now)
        version = ModelVersion(
            version=0, artefact=Blobs(home.blobs).put_folder(made), created_at=now, dataset=None, strategy="",
            parent=None, cycle=None, run="one",
        )  # fmt: skip
        catalog.add_model(conn, "bench", version)
        catalog.set_route(conn, "bench", Route(revision=0, stable=1), now=now, by="bench", reason="")
    return home


@contextlib.contextmanager
def gateway(home: Home) -> Iterator[tuple[psutil.Process, str]]:
    """Run a gateway in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(home.folder)], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        yield psutil.Process(process.pid), process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU seconds that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def turn(process: psutil.Process, address: str, *, seconds: float, connections: int, inputs: tuple[int, int]) -> float:
    """Return the gateway's CPU in microseconds per request over some seconds."""
    before = cpu_s(process)
    settings = [str(value) for value in (seconds, connections, *inputs)]
    said = subprocess.run(
        [sys.executable, "-c", CLIENT, address, *settings], capture_output=True, text=True, check=True
    ).stdout
    return (cpu_s(process) - before) / int(said) * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16])
    args = parser.parse_args()
    raw = graph(args.layers, args.width)
    with contextlib.ExitStack() as stack:
        up = {}
        for name, size in (("with", NUM_ENTRIES * ENTRY_BYTES), ("without", 0)):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            up[name] = stack.enter_context(gateway(make_home(folder, raw, size)))
        about = httpx.get(f"{up['with'][1]}/v1/models").json()["models"][0]["versions"][0]
        kinds = {
            "no memory": ("without", (0, NUM_MISS)), "miss": ("with", (0, NUM_MISS)),
            "hit": ("with", (-NUM_HIT, NUM_HIT)),
        }  # fmt: skip
        for connections in args.connections:
            found: dict[str, list[float]] = {kind: [] for kind in kinds}
            for number in range(args.rounds + 1):
                for kind in random.sample(list(kinds), len(kinds)):
                    name, inputs = kinds[kind]
                    took = turn(*up[name], seconds=args.seconds, connections=connections, inputs=inputs)
                    if number:  # the first round warms up
                        found[kind].append(took)
            medians = {kind: round(statistics.median(values)) for kind, values in found.items()}
            ratio = statistics.median(h / m for h, m in zip(found["hit"], found["miss"], strict=True))
            load = [round(value, 2) for value in os.getloadavg()]
            print(json.dumps({
                "connections": connections, "batch_ms": about["batch_ms"], "cpu_us": medians,
                "hit_to_miss": round(ratio, 3), "load": load, "cores": os.cpu_count(), "at": time.strftime("%F %T"),
            }))  # fmt: skip


if __name__ == "__main__":
    main()
