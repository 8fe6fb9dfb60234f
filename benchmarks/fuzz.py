"""Sends a real gateway what nobody should: HTTP that is none, JSON, binary tensors, gRPC messages and broken HTTP/2.

    python benchmarks/fuzz.py [--num 200000] [--seed 1] [--threads 4] [--workers 1]

Ends with 1 if a reply is malformed or a status 500, if a call hangs, if the gateway ends or no longer answers, or if
its memory, its files or its connections grow. A case that fails can be sent again alone: `--only INDEX`.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "runtime"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "serving"))
from artefacts import graph, inputs
from fuzzing import Caller, Tally, make
from fuzzing_grpc import GrpcCaller
from served import Place

GRPC_SHARE = 0.15
MAX_GROWTH_MB = 40.0


@contextmanager
def gateway(folder: Path, num_workers: int) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """Run `tidemill serve` on a home with one project; give the process and both its ports."""
    place = Place(folder)
    place.publish()
    place.route(stable=place.add(graph(1)))
    place.database.close()
    port, grpc_port = free_port(), free_port()
    command = [sys.executable, "-m", "tidemill.cli", "serve", "--home", str(place.home.folder), "--port", str(port)]
    command += ["--grpc-port", str(grpc_port), "--workers", str(num_workers)]
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        while not answers(port):
            assert process.poll() is None, (folder / "gateway.log").read_text()
            time.sleep(0.1)
        yield process, port, grpc_port
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    try:
        reply = httpx.post(f"http://127.0.0.1:{port}/v1/predict", json={"inputs": inputs()}, timeout=10)
    except httpx.HTTPError:
        return False
    return reply.status_code == 200


class Usage:
    """What a process tree holds."""

    def __init__(self, pid: int) -> None:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
        self.rss_mb = sum(p.memory_info().rss for p in tree) / 1e6
        self.files = sum(p.num_fds() for p in tree)
        self.connections = sum(c.status == "ESTABLISHED" for p in tree for c in p.net_connections("tcp"))
        self.threads = sum(p.num_threads() for p in tree)
        self.cpu_s = sum(sum(p.cpu_times()[:2]) for p in tree)

    def __str__(self) -> str:
        return (
            f"{self.rss_mb:6.1f} MB, {self.files} files, {self.connections} connections, "
            f"{self.threads} threads, {self.cpu_s:.1f} s CPU"
        )


def share(num: int, threads: int, work: Callable[[int, range], None]) -> None:
    """Let threads work on every so-manieth index each."""
    running = [threading.Thread(target=work, args=(at, range(at, num, threads))) for at in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def fuzz(port: int, grpc_port: int, *, first: int, num: int, seed: int, threads: int, tally: Tally) -> None:
    """Send cases `first` to `first + num`."""

    def work(at: int, indices: range) -> None:
        caller, other = Caller("127.0.0.1", port, tally), GrpcCaller("127.0.0.1", grpc_port, tally)
        for index in indices:
            if index % 100 < 100 * GRPC_SHARE:
                other.run(seed, first + index)
            else:
                caller.run(f"case {first + index}", make(seed, first + index, tally.ids[:50]))
        caller.close()
        other.close()

    share(num, threads, work)


def run(pid: int, port: int, grpc_port: int, given: argparse.Namespace, tally: Tally) -> list[str]:
    """Send all cases, looking at the gateway ten times; return what is wrong with it."""
    steps = 10
    size, began, first = given.num // steps, time.monotonic(), Usage(pid)
    for step in range(steps):
        fuzz(port, grpc_port, first=step * size, num=size, seed=given.seed, threads=given.threads, tally=tally)
        time.sleep(1.5)  # what lingers is closed
        if not answers(port):
            return ["the gateway no longer answers"]
        now = Usage(pid)
        first = now if step == 1 else first  # what it keeps for good is there by then
        print(f"{(step + 1) * size:9,} cases, {time.monotonic() - began:5.0f} s: {now}", flush=True)
    wrong = []
    if now.rss_mb - first.rss_mb > MAX_GROWTH_MB:
        wrong.append(f"memory grew by {now.rss_mb - first.rss_mb:.1f} MB after the first fifth")
    if now.files > first.files + 10 or now.connections > first.connections:
        wrong.append("files or connections grew")
    return wrong


def one(port: int, grpc_port: int, given: argparse.Namespace, tally: Tally) -> list[str]:
    """Send one case again, both ways."""
    case = make(given.seed, given.only)
    print(case)
    Caller("127.0.0.1", port, tally).run("only", case)
    GrpcCaller("127.0.0.1", grpc_port, tally).run(given.seed, given.only)
    return []


def print_counts(tally: Tally) -> None:
    kinds: dict[str, str] = {}
    for kind, count in sorted(tally.statuses.items()):
        name, _, status = kind.partition(" ")
        kinds[name] = kinds.get(name, "") + f"  {status}: {count:,}"
    for name, counts in kinds.items():
        print(f"{name:>10}{counts}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("num", 200_000), ("seed", 1), ("threads", 4), ("workers", 1), ("only", -1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given, tally = parser.parse_args(), Tally()
    with tempfile.TemporaryDirectory() as folder:
        with gateway(Path(folder), given.workers) as (process, port, grpc_port):
            if given.only >= 0:
                wrong = one(port, grpc_port, given, tally)
            else:
                wrong = run(process.pid, port, grpc_port, given, tally)
        said = (Path(folder) / "gateway.log").read_text(errors="replace")
    if process.returncode or "Traceback" in said:
        wrong.append(f"the gateway ended with {process.returncode} and said\n{said[:6000]}")
    print_counts(tally)
    wrong += tally.problems
    print(f"{len(wrong)} problems", *wrong[:30], sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
