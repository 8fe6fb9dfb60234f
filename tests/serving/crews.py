"""Several gateways behind one port, for tests: the supervisor in a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
from served import Place, predict


class Crew:
    """A supervisor in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process, self.address = process, address
        self.host, port = address.removeprefix("http://").split(":")
        self.port = int(port)

    @property
    def workers(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    def ask(self) -> httpx.Response:
        """Ask on a connection of its own, so any worker may answer."""
        with httpx.Client(base_url=self.address, timeout=30) as client:
            return predict(client)

    def page(self) -> str:
        return httpx.get(f"{self.address}/metrics", timeout=30).text


@contextlib.contextmanager
def crew(place: Place, num: int = 2, *, first: str = "pass", log: int | None = None, **settings: Any) -> Iterator[Crew]:
    """A supervisor that does `first` before it begins, and tells what happens to the descriptor `log`."""
    code = (
        "import sys; from tidemill.serving.supervisor import Supervisor; from tidemill.stores.home import Home;"
        f"from tidemill.serving import supervisor, log_lines; log_lines.tell('serve'); {first};"
        "settings = {'host': '127.0.0.1', 'port': 0};"
        f"Supervisor(Home(sys.argv[1]), settings, {num}, ready=lambda a: print(a, flush=True), **{settings!r}).run()"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(place.home.folder)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
    assert started.stdout is not None
    try:
        address = started.stdout.readline().strip()
        assert address, "the workers do not start"
        yield Crew(started, address)
    finally:
        if started.poll() is None:
            started.terminate()
        started.wait(30)
        started.stdout.close()


def total(page: str, name: str) -> float:
    """Return the sum of a metric's samples."""
    return sum(map(float, re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", page, re.MULTILINE)))


def workers_told(at: Crew) -> float:
    """Return how many workers the page tells of; 0 while none listens, as where both were killed within a moment."""
    try:
        return total(at.page(), "tidemill_workers")
    except httpx.ConnectError:
        return 0.0


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
