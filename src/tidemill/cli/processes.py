"""A gateway and a loop as the two real processes they are, for the demo."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from tidemill.cli.settings import child_environment
from tidemill.errors import TidemillError

_READY_S, _END_S = 60.0, 20.0


class Processes:
    """Runs `tidemill serve` and `tidemill loop` on a home folder until the block ends; only these are ended."""

    def __init__(self, home: Path, project: str) -> None:
        self.home, self.project, self.port = home, project, _free_port()
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Processes:
        try:
            gateway = self._start("serve", "--home", str(self.home), "--port", str(self.port))
            self._start("loop", "--home", str(self.home), "--project", self.project, "--poll", "200ms")
            self._wait_until_ready(gateway)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.home / f"{command[0]}.log").open("ab") as log:
            env = child_environment(None) | {"OMP_NUM_THREADS": "1"}
            called = [sys.executable, "-m", "tidemill.cli", *command]
            child = subprocess.Popen(called, stdout=log, stderr=log, env=env, start_new_session=True)
        self._children.append(child)
        return child

    def _wait_until_ready(self, gateway: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _READY_S
        while not self._is_ready():
            if gateway.poll() is not None or time.monotonic() > deadline:
                raise TidemillError("the gateway did not come up.", f"see {self.home / 'serve.log'}")
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def _end(self) -> None:
        """End the gateway first, so that the loop still takes what it sealed into the log."""
        for child in self._children:
            child.terminate()
            try:
                child.wait(_END_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
