"""`tidemill page` and `tidemill up`: the page as a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from tidemill.dashboard.serve import PORT, free_port
from tidemill.errors import TidemillError

Start = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that runs a command on a home until the test ends, and what it says of the page."""
    with ExitStack() as stack:

        def run(folder: Path, command: str, *options: str) -> tuple[subprocess.Popen[str], str]:
            whole = [sys.executable, "-m", "tidemill.cli", command, "--home", str(folder / "home")]
            whole += ["--project", str(folder / "waves_project.py"), *options]
            env = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL")}
            child = stack.enter_context(subprocess.Popen(whole, stdout=subprocess.PIPE, text=True, env=env))
            stack.callback(_end, child)
            assert child.stdout is not None
            line = next((line for line in child.stdout if line.startswith("page on ")), "")
            return child, line.removeprefix("page on ").strip()

        yield run


def _end(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()


def answer(url: str) -> httpx.Response:
    """Return the page as soon as it answers."""
    for _ in range(600):
        try:
            return httpx.get(url, timeout=30)
        except httpx.ConnectError:
            time.sleep(0.1)
    raise AssertionError(f"{url} never answered")


def test_the_page_runs_alone_and_ends_when_it_is_told_although_pages_are_open(told: Path, start: Start) -> None:
    child, url = start(told, "page", "--port", "0")
    assert "version 2" in answer(url).text
    with httpx.stream("GET", f"{url}/-/live", timeout=30) as stream:
        assert "hello" in next(stream.iter_text())
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0


def test_beyond_this_machine_it_wants_a_token(told: Path) -> None:
    whole = [sys.executable, "-m", "tidemill.cli", "page", "--host", "0.0.0.0", "--port", "0"]
    whole += ["--home", str(told / "home"), "--project", str(told / "waves_project.py")]
    done = subprocess.run(whole, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1 and "there is no token" in done.stderr and "Traceback" not in done.stderr


def test_up_runs_it_beside_gateway_and_loop(told: Path, tmp_path: Path, start: Start) -> None:
    folder = shutil.copytree(told, tmp_path / "mine")
    child, url = start(folder, "up", "--port", "0", "--page-port", "0")
    assert answer(url).status_code == 200 and child.poll() is None


def test_a_port_that_is_taken_is_said_before_anything_starts(told: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(TidemillError, match="cannot listen"):
        free_port("127.0.0.1", taken.getsockname()[1])


def test_without_a_wish_the_next_port_that_is_free_is_taken() -> None:
    with ExitStack() as stack:
        for port in range(PORT, PORT + 3):
            with suppress(OSError):  # somebody else has it: as good
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        assert free_port("127.0.0.1", None) not in range(PORT, PORT + 3)
