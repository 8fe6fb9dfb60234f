"""The gateway beside other Python model servers: the same model, bodies and load generator, in short shuffled turns.

    python benchmarks/gateway.py FOLDER [--venvs FOLDER] [--only calls power ...] [--peers mosec ...] [--rounds 5]

FOLDER has `loadgen.c`, `models/`, `bodies/` and `peers/` (one module for each peer); `--venvs` has their environments.
Ours checks the schema, tokens, routing and policy, counts, and logs every answer before it leaves; the peers do none of
that. Sealed segments are deleted, as they are once a loop has taken the rows. CPU is that of a server's whole process
tree, so that it compares on a busy machine where rates do not. All servers of a table are up at once, an idle one costs
nothing, and the ratio is the median over rounds of that to the first one. The load generator has the last core, and the
servers share the others.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
from servers import PEERS, Bench, Server, server_cores
from tritonclient.http import InferenceServerClient, InferInput

from tidemill.manifest import Limits


def table(title: str, servers: Sequence[Server]) -> None:
    """Print what servers did, medians over rounds, and their ratio to the first."""
    print(f"\n{title}")
    print(f"{'server':<22}{'cpu us':>8}{'x':>7}{'rps':>9}{'x':>7}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}")
    first = servers[0].turns
    for server in servers:
        shown = {key: statistics.median(t[key] for t in server.turns) for key in ("cpu_us", "rps", "p50_ms", "p99_ms")}
        cpu, rps = (
            statistics.median(own[key] / other[key] for own, other in zip(server.turns, first, strict=True))
            for key in ("cpu_us", "rps")
        )
        errors = sum(turn["errors"] for turn in server.turns)
        print(
            f"{server.name:<22}{shown['cpu_us']:>8.1f}{cpu:>7.2f}{shown['rps']:>9.0f}{rps:>7.2f}"
            f"{shown['p50_ms']:>9.2f}{shown['p99_ms']:>9.2f}{errors:>8.0f}"
        )


def calls(bench: Bench) -> None:
    """One sample per request, digits model, 64 connections, beside the peers; then p99 at 500 requests a second."""
    starts = [bench.ours, lambda: bench.ours("tidemill /v1/predict", version="v1")]
    with bench.up(*starts, *(lambda name=name: bench.peer(name) for name in bench.args.peers)) as servers:
        bench.turns(servers)
        table("digits, 64 connections, everything on, log by write()", servers)
        for server in servers:
            print(f"{server.name:<22}start {server.ready_cpu_s:.2f} s CPU, {server.memory_mb():.0f} MB")
            server.turns.clear()
        bench.turns(servers, rate=500)
        table("digits, 500 requests a second", servers)


def power(bench: Bench) -> None:
    """The same with every write synced before the answer leaves."""
    print(f"\nsync of 20 kB: p50 {sync_ms(bench.folder):.2f} ms")
    with bench.up(lambda: bench.peer("mosec"), lambda: bench.ours("tidemill power", log="power")) as servers:
        bench.turns(servers)
        table("digits, 64 connections, durability power", servers)
        for server in servers:
            server.turns.clear()
        bench.turns(servers, connections=256)
        table("digits, 256 connections, durability power", servers)


def sync_ms(folder: Path) -> float:
    """Median milliseconds of a synced write of 20 kB into a preallocated file."""
    file = os.open(folder / "sync", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(file, 0, 8 << 20)
    taken = []
    for i in range(200):
        begun = time.perf_counter()
        os.pwritev(file, [bytes(20_000)], i * 20_000, os.RWF_DSYNC)
        taken.append(time.perf_counter() - begun)
    os.close(file)
    return statistics.median(taken) * 1e3


def log(bench: Bench) -> None:
    """What the log costs, and what an equal shadow of every request costs."""
    with bench.up(
        lambda: bench.ours("no log", log="nothing"),
        bench.ours,
        lambda: bench.ours("power", log="power"),
    ) as servers:
        bench.turns(servers)
        table("digits, 64 connections: the price of the log", servers)
        bare, *logged = (statistics.median(t["cpu_us"] for t in server.turns) for server in servers)
        print(f"logging is {1 - bare / logged[0]:.0%} of a request's CPU, {1 - bare / logged[1]:.0%} with power")
    with bench.up(
        lambda: bench.ours(split=False), lambda: bench.ours("shadow of every request", split=False, shadow=True)
    ) as servers:
        bench.turns(servers)
        table("digits, 64 connections: the price of a shadow", servers)
        page = httpx.get(f"http://127.0.0.1:{servers[1].port}/metrics").text
        dropped = sum(map(float, re.findall(r"^tidemill_shadows_dropped_total\{.*\} (\S+)$", page, re.MULTILINE)))
        print(f"shadows dropped: {dropped:.0f}")


def heavy(bench: Bench) -> None:
    """A model that computes for milliseconds: throughput beside ONNX Runtime alone, and three times its capacity."""
    model = bench.args.folder / "models" / "heavy.onnx"
    size = max((1, 2, 4, 8, 16, 32), key=lambda size: _throughput(model, size)[0])
    ratios, costs, rates = [], [], []
    with bench.up(lambda: bench.ours(model="heavy", split=False)) as (server,):
        for _ in range(bench.args.rounds):
            alone, cpu_us = _throughput(model, size)
            served = bench.load(server, bench.args.seconds)
            rates.append(served["rps"])
            ratios.append(served["rps"] / alone)
            costs.append(cpu_us / served["cpu_us"])
    rps = statistics.median(rates)
    print(
        f"\nheavy model: {rps:.0f} requests/s, {statistics.median(ratios):.2f} of ONNX Runtime in process at batch"
        f" {size}; by CPU {statistics.median(costs):.2f}"
    )
    limits = Limits(max_wait_s=8 / rps)
    with bench.up(lambda: bench.ours(model="heavy", split=False, limits=limits)) as (server,):
        calm = bench.load(server, 4 * bench.args.seconds, rate=0.25 * rps)
        busy = bench.load(server, 4 * bench.args.seconds, connections=256, rate=3 * rps)
    print(f"  at a quarter of its capacity: p99 {calm['p99_ms']:.1f} ms, {calm['errors']} errors")
    print(
        f"  at three times its capacity: answered {busy['rps']:.0f}/s, refused {busy['errors']}, p99 of what was"
        f" answered {busy['p99_ms']:.1f} ms ({busy['p99_ms'] / calm['p99_ms']:.1f}x)"
    )


def image(bench: Bench) -> None:
    """An image of 3 x 64 x 64 as bytes, and as the JSON that clients make of the same float32 numbers."""
    binary = bench.args.folder / "bodies" / "v2_image.bin"
    num_head = int(Path(f"{binary}.hlen").read_text())
    header = f"Inference-Header-Content-Length: {num_head}"
    pixels = np.frombuffer(binary.read_bytes()[num_head:], dtype="<f4").reshape(1, 3, 64, 64)
    nested, short = bench.folder / "nested.jsonl", bench.args.folder / "bodies" / "v2_image.jsonl"
    request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [*pixels.shape], "data": pixels.tolist()}]}
    nested.write_text(json.dumps(request))
    client = InferInput("x", pixels.shape, "FP32").set_data_from_numpy(pixels, binary_data=False)
    written, _ = InferenceServerClient.generate_request_body([client])
    (bench.folder / "triton.jsonl").write_bytes(written)
    with bench.up(
        lambda: bench.ours("bytes", model="image", split=False, bodies=binary, headers=(header,)),
        lambda: bench.ours("JSON of tritonclient", model="image", split=False, bodies=bench.folder / "triton.jsonl"),
        lambda: bench.ours("JSON, nested lists", model="image", split=False, bodies=nested),
        lambda: bench.ours("JSON, six digits", model="image", split=False, bodies=short),
    ) as servers:
        bench.turns(servers, connections=16)
        table("an image of 3 x 64 x 64, 16 connections", servers)


def soak(bench: Bench) -> None:
    """Minutes at half load: memory, files and connections must not grow, and nothing may fail."""
    with bench.up(bench.ours) as (server,):
        rps = bench.load(server, bench.args.seconds)["rps"]
        seen, failed = [], 0
        for _ in range(bench.args.minutes):
            failed += bench.load(server, 60, rate=rps / 2)["errors"]
            seen.append((server.memory_mb(), server.num_files()))
    warm = min(2, len(seen))  # minutes until every path was taken
    (early_mb, early), (late_mb, late) = seen[warm - 1], seen[-1]
    print(f"\n{len(seen)} minutes at {rps / 2:.0f} requests/s, {failed} failed")
    print(f"  memory {early_mb:.1f} MB after {warm} minutes, {late_mb:.1f} at the end; open files {early} and {late}")
    print(f"  by the minute: {' '.join(f'{mb:.1f}' for mb, _ in seen)}")


def _throughput(model: Path, size: int) -> tuple[float, float]:
    """Return rows a second and CPU microseconds a row of ONNX Runtime, on the servers' cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, server_cores())
    try:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model.read_bytes(), options, providers=["CPUExecutionProvider"])
        batch = {"x": np.random.default_rng(0).random((size, 64)).astype(np.float32)}
        begun, cpu, num = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - begun < 1.5:
            session.run(None, batch)
            num += size
        return num / (time.perf_counter() - begun), (time.process_time() - cpu) / num * 1e6
    finally:
        os.sched_setaffinity(0, before)


SECTIONS = {"calls": calls, "power": power, "log": log, "heavy": heavy, "image": image, "soak": soak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--venvs", type=Path)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=[n for n in SECTIONS if n != "soak"])
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=["mosec", "fastapi"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=int, default=15, help="of the soak")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    args.folder, args.venvs = args.folder.resolve(), args.venvs or args.folder / ".venvs"
    print(f"load average before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(args, Path(name))
        for section in args.only:
            SECTIONS[section](bench)
    print(f"\nload average after: {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
