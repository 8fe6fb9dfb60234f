"""A real gateway, in a process of its own, on a copy of the story's home."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def gateway_on(told: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    """Copy the story's folder and serve its home; give the folder and the gateway's address."""
    shutil.copytree(told, folder)
    port = free_port()
    command = [sys.executable, "-m", "tidemill.cli", "serve", "--home", str(folder / "home"), "--port", str(port)]
    with (folder / "serve.log").open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(child, url, folder / "serve.log")
        yield folder, url
    finally:
        child.terminate()
        child.wait(20)


def _wait(child: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(600):
        assert child.poll() is None, log.read_text()
        try:
            if httpx.get(f"{url}/v2/health/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text())
