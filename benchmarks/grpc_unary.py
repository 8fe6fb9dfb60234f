"""CPU time of a unary gRPC call: the gateway with everything on, beside plain grpcio.aio with the same model inline.

    python benchmarks/grpc_unary.py [--seconds 4] [--rounds 6] [--connections 8] [--calls 64]

Both serve the same MLP 64 -> 128 -> 10 to the same client, which sends the same `ModelInfer` bytes; the turns are
shuffled. The plain server parses the request, runs ONNX Runtime in the event loop and answers the scores, on asyncio
and on uvloop. The gateway also validates, routes, applies the policy, gives an id and logs (`process`) before it
answers, and answers all its outputs. CPU time is that of the server's process tree, so it compares across busy machines
where latency does not. Not called grpc.py, which would hide the package of that name.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
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
from tidemill.serving.grpc_messages import SERVICE, messages
from tidemill.stores.blobs import Blobs
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database
from tidemill.stores.home import Home

METHOD = f"/{SERVICE}/ModelInfer"
SCHEMA = Schema({"x": Tensor((64,))}, Classes([str(i) for i in range(10)]))
GATEWAY = """
import sys
from tidemill.serving.serve import run
from tidemill.stores.home import Home
run(Home(sys.argv[1]), port=0, grpc_port=int(sys.argv[2]), ready=lambda a: print(a, flush=True))
"""
PLAIN = """
import asyncio, sys
import grpc, numpy as np, onnxruntime
from tritonclient.grpc import service_pb2 as pb, service_pb2_grpc

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    async def ModelInfer(self, request, context):
        x = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(-1, 64)
        (scores,) = session.run(["scores"], {"x": x})
        reply = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        output = reply.outputs.add(name="scores", datatype="FP32")
        output.shape.extend(scores.shape)
        reply.raw_output_contents.append(scores.tobytes())
        return reply


async def serve():
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[2]}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if sys.argv[3] == "uvloop":
    import uvloop
    uvloop.run(serve())
else:
    asyncio.run(serve())
"""


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


def make_home(folder: Path, raw: bytes) -> Home:
    home, now, made = Home(folder / "home").make(), SystemClock().now(), folder / "artefact"
    made.mkdir()
    (made / MODEL_ONNX).write_bytes(raw)
    x = np.random.default_rng(1).random(64).astype("<f4")
    about = Artefact(
        format="onnx",
        schema=SCHEMA.to_json(),
        transforms=[{"type": "Flatten", "names": ["x"]}],
        example=[encode_row({"x": x.tobytes()})],
    )
    write_artefact(made, about, params={}, scores=scores_of(raw, x))
    with Database.open(home.db_url) as database:
        catalog, blobs = Catalog(database), Blobs(home.blobs)
        with database.begin() as conn:
            catalog.publish(conn, Manifest(project="digits", schema=SCHEMA).to_json(), {}, file="", now=now)
            model = ModelVersion(
                version=0, artefact=blobs.put_folder(made), created_at=now, dataset=None, strategy="", parent=None,
                cycle=None, run="one",
            )  # fmt: skip
            catalog.add_model(conn, "digits", model)
            catalog.set_route(conn, "digits", Route(revision=0, stable=1), now=now, by="benchmark", reason="benchmark")
    return home


def scores_of(raw: bytes, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["scores"], {"x": x[None]})[0])


class Served:
    """A server in a process of its own, pinned to the first core."""

    def __init__(self, name: str, code: str, arguments: list[str], port: int) -> None:
        self.name, self.port = name, port
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, env=env
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address, f"{name} does not start"
        for task in psutil.Process(self.process.pid).threads():
            os.sched_setaffinity(task.id, {0})
        self.cpu_us: list[float] = []
        self.rps: list[float] = []

    def cpu_s(self) -> float:
        root = psutil.Process(self.process.pid)
        times = [p.cpu_times() for p in (root, *root.children(recursive=True))]
        return sum(t.user + t.system for t in times)

    def turn(self, seconds: float, connections: int, calls: int) -> None:
        before = self.cpu_s()
        num = asyncio.run(load(self.port, seconds, connections, calls))
        self.cpu_us.append((self.cpu_s() - before) / num * 1e6)
        self.rps.append(num / seconds)


async def load(port: int, seconds: float, connections: int, calls: int) -> int:
    """Send calls over and over for a while, `calls` at once; return how many were answered."""
    x = np.random.default_rng(0).integers(0, 17, (256, 1, 64)).astype("<f4")
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 64]}
    kind = messages()["ModelInferRequest"]
    bodies = [
        kind(model_name="digits", inputs=[tensor], raw_input_contents=[row.tobytes()]).SerializeToString() for row in x
    ]
    ends, num = time.perf_counter() + seconds, 0

    async def caller(call: Any, at: int) -> None:
        nonlocal num
        while time.perf_counter() < ends:
            reply = await call(bodies[at % len(bodies)])
            assert len(reply) > 60
            at, num = at + 1, num + 1

    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) for _ in range(connections)]
    await asyncio.gather(*(caller(channels[i % connections].unary_unary(METHOD), 7 * i) for i in range(calls)))
    await asyncio.gather(*(channel.close() for channel in channels))
    return num


def free_ports(num: int) -> list[int]:
    import socket

    socks = [socket.socket() for _ in range(num)]
    for sock in socks:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in socks]
    for sock in socks:
        sock.close()
    return ports


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--calls", type=int, default=64)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, raw = Path(name), graph(np.random.default_rng(0))
        (folder / "model.onnx").write_bytes(raw)
        home, ports = make_home(folder, raw), free_ports(3)
        servers = [
            Served("tidemill", GATEWAY, [str(home.folder), str(ports[0])], ports[0]),
            Served("plain aio", PLAIN, [str(folder / "model.onnx"), str(ports[1]), "asyncio"], ports[1]),
            Served("plain aio, uvloop", PLAIN, [str(folder / "model.onnx"), str(ports[2]), "uvloop"], ports[2]),
        ]
        if (os.cpu_count() or 1) > 1:
            os.sched_setaffinity(0, set(range(1, os.cpu_count() or 1)))
        try:
            compare(servers, args)
        finally:
            for server in servers:
                server.process.terminate()
                server.process.wait(30)


def compare(servers: list[Served], args: argparse.Namespace) -> None:
    order = random.Random(0)
    print(f"load of the machine before: {os.getloadavg()[0]:.2f}")
    for server in servers:
        server.turn(1.0, args.connections, args.calls)
        server.cpu_us.clear(), server.rps.clear()
    for _ in range(args.rounds):
        for server in order.sample(servers, len(servers)):
            server.turn(args.seconds, args.connections, args.calls)
    print(f"{'server':<18} {'cpu us/call':>11} {'calls/s':>8} {'ratio to tidemill, by round':>28}")
    for server in servers:
        ratios = [b / a for a, b in zip(servers[0].cpu_us, server.cpu_us, strict=True)]
        shown = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        cpu, rate = statistics.median(server.cpu_us), statistics.median(server.rps)
        print(f"{server.name:<18} {cpu:>11.1f} {rate:>8.0f} {shown:>28}")


if __name__ == "__main__":
    main()
