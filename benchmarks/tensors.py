"""What an image of 3 x 64 x 64 costs as JSON and by the binary extension, and what reading a request costs alone.

    python benchmarks/tensors.py [--seconds 3] [--rounds 4] [--connections 16]

The gateway serves a model that averages the channels, with everything on; the turns of JSON (flat), JSON (nested) and
bytes are shuffled. The client writes prepared requests over raw sockets.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
import time
import timeit
from pathlib import Path

import numpy as np
import onnxruntime
from grpc_unary import GATEWAY, Served
from onnx import TensorProto, helper, numpy_helper

from tidemill.clock import SystemClock
from tidemill.manifest import Manifest
from tidemill.model import Artefact
from tidemill.records import ModelVersion, Route
from tidemill.runtime.artefact import MODEL_ONNX, encode_row, write_artefact
from tidemill.schema import Classes, Image, Schema, Tensor
from tidemill.serving.infer import InferForm
from tidemill.stores.blobs import Blobs
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database
from tidemill.stores.home import Home

SHAPE = (3, 64, 64)
SCHEMA = Schema({"x": Image(SHAPE)}, Classes(["red", "green", "blue"]))


def graph() -> bytes:
    """Softmax of the mean of each channel."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["image"]),
        helper.make_node("ReduceMean", ["image"], ["means"], axes=[2], keepdims=0),
        helper.make_node("Softmax", ["means"], ["scores"], axis=1),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3 * 64 * 64])
    made = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])
    shape = numpy_helper.from_array(np.array([-1, 3, 64 * 64], np.int64), "shape")
    made = helper.make_graph(nodes, "means", [given], [made], [shape])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def make_home(folder: Path) -> Home:
    home, now, made, raw = Home(folder / "home").make(), SystemClock().now(), folder / "artefact", graph()
    made.mkdir()
    (made / MODEL_ONNX).write_bytes(raw)
    pixels = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    about = Artefact(
        format="onnx",
        schema=SCHEMA.to_json(),
        transforms=[{"type": "Flatten", "names": ["x"]}],
        example=[encode_row({"x": pixels.tobytes()})],
    )
    flat = pixels.reshape(1, -1).astype(np.float32)
    write_artefact(made, about, params={}, scores=session.run(["scores"], {"x": flat})[0])
    with Database.open(home.db_url) as database:
        catalog, blobs = Catalog(database), Blobs(home.blobs)
        with database.begin() as conn:
            catalog.publish(conn, Manifest(project="pictures", schema=SCHEMA).to_json(), {}, file="", now=now)
            model = ModelVersion(
                version=0, artefact=blobs.put_folder(made), created_at=now, dataset=None, strategy="", parent=None,
                cycle=None, run="one",
            )  # fmt: skip
            catalog.add_model(conn, "pictures", model)
            route = Route(revision=0, stable=1)
            catalog.set_route(conn, "pictures", route, now=now, by="benchmark", reason="benchmark")
    return home


def requests() -> dict[str, bytes]:
    """The same image as each way writes it: head and body of HTTP."""
    pixels = np.random.default_rng(1).integers(0, 256, (1, *SHAPE)).astype(np.uint8)
    about = {"name": "x", "datatype": "UINT8", "shape": [1, *SHAPE]}

    def post(body: bytes, *headers: str) -> bytes:
        lines = ["POST /v2/models/pictures/infer HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers]
        return "\r\n".join([*lines, "", ""]).encode() + body

    head = json.dumps({"inputs": [{**about, "parameters": {"binary_data_size": pixels.size}}]}).encode()
    return {
        "JSON, flat": post(json.dumps({"inputs": [{**about, "data": pixels.ravel().tolist()}]}).encode()),
        "JSON, nested": post(json.dumps({"inputs": [{**about, "data": pixels.tolist()}]}).encode()),
        "bytes": post(head + pixels.tobytes(), f"inference-header-content-length: {len(head)}"),
    }


async def load(port: int, request: bytes, seconds: float, connections: int) -> int:
    ends, num = time.perf_counter() + seconds, 0

    async def connection() -> None:
        nonlocal num
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < ends:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            num += 1
        writer.close()

    await asyncio.gather(*(connection() for _ in range(connections)))
    return num


def alone() -> None:
    """Print what reading one request, and writing its reply, costs by itself."""
    form = InferForm("digits", Schema({"x": Tensor((64,))}, Classes([str(i) for i in range(10)])))
    x = np.random.default_rng(0).integers(0, 17, 64).astype(float).tolist()
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": x}]}).encode()
    best = min(timeit.repeat(lambda: form.read(body), number=20_000, repeat=5)) / 20_000 * 1e6
    print(f"reading a row of 64 numbers from JSON: {best:.1f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--connections", type=int, default=16)
    args = parser.parse_args()
    alone()
    with tempfile.TemporaryDirectory() as name:
        home = make_home(Path(name))
        server = Served("tidemill", GATEWAY, [str(home.folder), "0"], 0)
        if (os.cpu_count() or 1) > 1:
            os.sched_setaffinity(0, set(range(1, os.cpu_count() or 1)))
        try:
            compare(server, args)
        finally:
            server.process.terminate()
            server.process.wait(30)


def compare(server: Served, args: argparse.Namespace) -> None:
    port, order, ways = int(server.address.rpartition(":")[2]), random.Random(0), requests()
    rates: dict[str, list[float]] = {way: [] for way in ways}
    cpu_us: dict[str, list[float]] = {way: [] for way in ways}
    print(f"load of the machine before: {os.getloadavg()[0]:.2f}")
    for turn in range(args.rounds + 1):
        for way in order.sample(list(ways), len(ways)):
            before = server.cpu_s()
            num = asyncio.run(load(port, ways[way], args.seconds if turn else 0.5, args.connections))
            if turn:  # the first one warms up
                rates[way].append(num / args.seconds)
                cpu_us[way].append((server.cpu_s() - before) / num * 1e6)
    for way in ways:
        ratio = statistics.median(b / a for a, b in zip(rates[way], rates["bytes"], strict=True))
        rate, cpu = statistics.median(rates[way]), statistics.median(cpu_us[way])
        print(f"{way:<13} {rate:>7.0f} requests/s {cpu:>7.1f} cpu us each; bytes are {ratio:.1f} times as fast")


if __name__ == "__main__":
    main()
