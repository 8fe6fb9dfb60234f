"""Batch prediction beside what a person would write by hand, in pairs and in shuffled turns: wall time and CPU time.

    python benchmarks/batch.py [--rounds 5] [--rows 1000000] [--heavy-rows 120000]

Our side is the whole command, imports and all, and CPU time is that of all processes.

1. `tidemill batch` over 1,000,000 handwritten digits, against a loop of pyarrow and ONNX Runtime over the same file
   with the same model, imports and all, which checks nothing, and keeps nothing if killed. At most 1.3 times as long.
2. `tidemill batch` with a model of about 1 ms a row, against ONNX Runtime alone: one process per core, one thread each,
   its inputs in memory, no output, timed from when the model is loaded and warm. Ours is the whole command: Python and
   its imports, loading the model once in each process, finding the pace, reading Parquet, checking pixels and scaling
   them, deciding, writing each part to disk and the output. At least 90 % of its throughput over 120,000 rows, a minute
   on two cores; what our command takes to start is told apart, since it is the same for a thousand times as many rows.

Wall time means something only where nothing else runs; the ratio of CPU times hardly depends on it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

from tidemill.clock import SystemClock
from tidemill.manifest import Manifest
from tidemill.model import Artefact
from tidemill.records import ModelVersion, Route
from tidemill.runtime.artefact import MODEL_ONNX, encode_row, write_artefact
from tidemill.schema import Classes, Image, Schema
from tidemill.stores.blobs import Blobs
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database
from tidemill.stores.home import Home

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

SIZE = 64 * 64 * 3
SIZES = (8, 32, 128)  # of batches
CHANNELS = 16

BY_HAND = """
import sys
import numpy as np, onnxruntime, pyarrow as pa, pyarrow.parquet as pq

model, source, to = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
names, writer = pa.array([str(i) for i in range(10)]), None
for batch in pq.ParquetFile(source).iter_batches(4096, columns=["id", "image"]):
    image, num = batch.column("image"), len(batch)
    first = np.frombuffer(image.buffers()[1], dtype=np.int32)[image.offset]
    raw = np.frombuffer(image.buffers()[2], dtype=np.uint8)[first : first + 64 * num].reshape(num, 64)
    scores = session.run(["scores"], {"x": raw.astype(np.float32) / np.float32(255)})[0]
    made = pa.table({
        "id": batch.column("id"),
        "decision": names.take(pa.array(scores.argmax(axis=1))),
        "scores": pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), 10),
    })
    writer = writer or pq.ParquetWriter(to, made.schema)
    writer.write_table(made)
writer.close()
"""

ALONE = """
import sys, time
import numpy as np, onnxruntime

model, rows, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
x = np.random.default_rng(0).normal(size=(size, 3, 64, 64)).astype(np.float32)
session.run(["scores"], {"x": x})
print("ready", flush=True)
sys.stdin.readline()
for at in range(0, rows, size):
    session.run(["scores"], {"x": x[: rows - at]})
"""


def measured(command: list[str], folder: Path) -> tuple[float, float]:
    """Run a command; return its wall and its CPU seconds, with all that it started."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    told = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    assert process.returncode == 0, told.decode()
    return time.perf_counter() - begun, used.ru_utime + used.ru_stime


def in_pairs(
    rounds: int, sides: dict[str, Callable[[], tuple[float, float]]], *, start: tuple[float, float] | None = None
) -> None:
    """Measure both sides in every round, whose order is drawn, and print medians and the ratios of pairs.

    With `start`, the wall and CPU seconds that the first side takes for next to nothing, ratios without it too.
    """
    rng, found = random.Random(0), {name: [] for name in sides}
    for _ in range(rounds):
        for name in rng.sample(list(sides), len(sides)):
            found[name].append(sides[name]())
    ours, theirs = sides
    for name, times in found.items():
        wall, cpu = (statistics.median(t[i] for t in times) for i in (0, 1))
        print(f"  {name:<28} wall {wall:6.2f} s   cpu {cpu:6.2f} s")
    for i, what in enumerate(("wall", "cpu")):
        ratios = [a[i] / b[i] for a, b in zip(found[ours], found[theirs], strict=True)]
        ratio, shown = statistics.median(ratios), " ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
        print(f"  {what:<5} {ratio:.2f} x, a throughput of {1 / ratio:.0%}; pairs: {shown}")
        if start is not None:
            bare = statistics.median((a[i] - start[i]) / b[i] for a, b in zip(found[ours], found[theirs], strict=True))
            print(
                f"        {bare:.2f} x, a throughput of {1 / bare:.0%}, without {start[i]:.2f} s that it takes to start"
            )


def tidemill(folder: Path, *arguments: str) -> tuple[float, float]:
    return measured([sys.executable, "-m", "tidemill.cli", *arguments], folder)


# ---- digits


def digits(folder: Path, rows: int, rounds: int) -> None:
    tidemill(folder, "init")
    tidemill(folder, "train", "digits.parquet")
    pictures = pq.read_table(folder / "digits.parquet")["image"].to_pylist()
    index = np.random.default_rng(0).integers(0, len(pictures), rows)
    raw = np.frombuffer(b"".join(pictures), dtype=np.uint8).reshape(-1, 64)[index]
    bounds = np.arange(0, 64 * (rows + 1), 64, dtype=np.int32)
    image = pa.Array.from_buffers(
        pa.binary(), rows, [None, pa.py_buffer(bounds), pa.py_buffer(np.ascontiguousarray(raw))]
    )
    table = pa.table(
        {"id": np.arange(rows), "image": image, "app": pa.array(["v1"]).take(pa.array(np.zeros(rows, int)))}
    )
    pq.write_table(table, folder / "in.parquet")
    model = str(next((folder / ".tidemill" / "blobs").rglob(MODEL_ONNX)))
    print(f"1. {rows:,} digits, whole commands, {rounds} pairs, {CORES} cores")
    by_hand = [sys.executable, "-c", BY_HAND, model, "in.parquet", "hand.parquet"]
    in_pairs(
        rounds,
        {
            "tidemill batch": lambda: tidemill(folder, "batch", "in.parquet", "out.parquet", "--replace"),
            "pyarrow and ONNX Runtime": lambda: measured(by_hand, folder),
        },
    )
    ours, theirs = pq.read_table(folder / "out.parquet"), pq.read_table(folder / "hand.parquet")
    same = np.mean(np.array(ours["decision"]) == np.array(theirs["decision"]))
    assert ours["id"].equals(theirs["id"]) and same > 0.9999, same


# ---- a model of about 1 ms


def heavy(folder: Path, rows: int, rounds: int) -> None:
    depth, row_s = sized()
    raw = graph(depth)
    (folder / "heavy.onnx").write_bytes(raw)
    make_home(folder, raw)
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(folder / "heavy.parquet", pa.schema([("id", pa.int64()), ("x", pa.binary(SIZE))])) as writer:
        for first in range(0, rows, 5_000):
            num = min(5_000, rows - first)
            pixels = pa.py_buffer(rng.integers(0, 256, num * SIZE, dtype=np.uint8))
            image = pa.Array.from_buffers(pa.binary(SIZE), num, [None, pixels])
            writer.write_table(pa.table({"id": np.arange(first, first + num), "x": image}))
    size = min(SIZES, key=lambda size: seconds(raw, size))
    print(
        f"2. {rows:,} rows, {row_s * 1e3:.2f} ms each on one thread, {rounds} pairs, {CORES} cores; batches of {size}"
    )
    pq.write_table(
        pq.ParquetFile(folder / "heavy.parquet").read_row_group(0).slice(0, 2 * CORES), folder / "few.parquet"
    )
    few = ("batch", "few.parquet", "few_out.parquet", "--replace", "--jobs", str(CORES))
    tidemill(folder, *few)
    start = [tidemill(folder, *few) for _ in range(3)]
    in_pairs(
        rounds,
        {
            "tidemill batch": lambda: tidemill(folder, "batch", "heavy.parquet", "heavy_out.parquet", "--replace"),
            "ONNX Runtime alone": lambda: alone(folder, rows, size),
        },
        start=(min(wall for wall, _ in start), min(cpu for _, cpu in start)),
    )


def graph(depth: int) -> bytes:
    """Return so many convolutions over a picture of 3 x 64 x 64."""
    rng = np.random.default_rng(0)
    shapes = {f"w{at}": (CHANNELS, CHANNELS if at else 3, 3, 3) for at in range(depth)} | {"w": (CHANNELS, 10)}
    constants = [
        numpy_helper.from_array((rng.normal(size=shape) / np.prod(shape[1:]) ** 0.5).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes, last = [], "x"
    for at in range(depth):
        nodes.append(helper.make_node("Conv", [last, f"w{at}"], [f"c{at}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{at}"], [last := f"r{at}"]))
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["e"]), helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["g"]), helper.make_node("Softmax", ["g"], ["scores"], axis=1),
    ]  # fmt: skip
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 64, 64])
    made = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])
    whole = helper.make_graph(nodes, "heavy", [given], [made], constants)
    return bytes(
        helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    )


def seconds(raw: bytes, size: int) -> float:
    """Return the CPU seconds of a row on one thread: what else the machine does hardly counts."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    x, taken = np.zeros((size, 3, 64, 64), np.float32), []
    for _ in range(10):  # the quickest is the least disturbed
        begun = time.thread_time()
        session.run(["scores"], {"x": x})
        taken.append(time.thread_time() - begun)
    return min(taken) / size


def sized() -> tuple[int, float]:
    """Return how many convolutions take about 1 ms a row in batches of the best size, and what they take."""
    found = {depth: min(seconds(graph(depth), size) for size in SIZES) for depth in range(2, 12)}
    depth = min(found, key=lambda depth: abs(found[depth] - 1e-3))
    return depth, found[depth]


def alone(folder: Path, rows: int, size: int) -> tuple[float, float]:
    """Start a process per core, and measure from the moment that all have loaded and warmed the model."""
    command = [sys.executable, "-c", ALONE, "heavy.onnx", str(rows // CORES), str(size)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    crew = [subprocess.Popen(command, cwd=folder, **pipes, text=True) for _ in range(CORES)]
    for one in crew:
        assert one.stdout is not None and one.stdout.readline().strip() == "ready"
    before, begun = [cpu_of(one.pid) for one in crew], time.perf_counter()
    for one in crew:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    cpu = 0.0
    for one, was in zip(crew, before, strict=True):
        _, status, used = os.wait4(one.pid, 0)
        one.returncode = os.waitstatus_to_exitcode(status)
        assert one.returncode == 0
        cpu += used.ru_utime + used.ru_stime - was
        for pipe in (one.stdin, one.stdout):
            assert pipe is not None
            pipe.close()
    return time.perf_counter() - begun, cpu


def cpu_of(pid: int) -> float:
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def make_home(folder: Path, raw: bytes) -> None:
    schema = Schema({"x": Image((64, 64, 3))}, Classes([str(i) for i in range(10)]))
    home, now = Home(folder / ".tidemill").make(), SystemClock().now()
    (folder / "model").mkdir()
    (folder / "model" / MODEL_ONNX).write_bytes(raw)
    x = np.zeros((1, 3, 64, 64), np.float32)
    scores = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"]).run(["scores"], {"x": x})[0]
    about = Artefact(
        format="onnx",
        schema=schema.to_json(),
        transforms=[{"type": "ScaleImage", "name": "x", "flatten": False, "channels_first": True}],
        example=[encode_row({"x": bytes(SIZE)})],
    )
    write_artefact(folder / "model", about, params={}, scores=scores)
    with Database.open(home.db_url) as database:
        catalog = Catalog(database)
        artefact = Blobs(home.blobs).put_folder(folder / "model")
        model = ModelVersion(
            version=0, artefact=artefact, created_at=now, dataset=None, strategy="", parent=None, cycle=None, run="one"
        )
        with database.begin() as conn:
            manifest = Manifest(project="heavy", schema=schema).to_json()
            catalog.publish(conn, manifest, {}, file=str(folder / "project.py"), now=now)
            catalog.add_model(conn, "heavy", model)
            catalog.set_route(conn, "heavy", Route(revision=0, stable=1), now=now, by="benchmark", reason="benchmark")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--heavy-rows", type=int, default=120_000)
    args = parser.parse_args()
    print(json.dumps({"cores": CORES, "load": os.getloadavg(), "onnxruntime": onnxruntime.__version__}))
    for number, (work, rows) in enumerate(((digits, args.rows), (heavy, args.heavy_rows))):
        with tempfile.TemporaryDirectory(prefix=f"tidemill-batch-{number}-") as name:
            if rows:
                work(Path(name), rows, args.rounds)


if __name__ == "__main__":
    main()
