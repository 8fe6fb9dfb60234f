"""Several gateway processes behind one port, and the one that keeps them: it starts, restarts and ends, and no more.

It imports nothing of what a gateway is made of, which would cost as much memory as another worker.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import msgspec

from tidemill.clock import rest_s
from tidemill.errors import TidemillError
from tidemill.serving.hello import Answer, Hello, send
from tidemill.serving.listening import bound

if TYPE_CHECKING:
    from tidemill.stores.home import Home

_FIRST_REST_S, _LONGEST_REST_S = 0.5, 30.0
_STEADY_S = 5.0  # who served this long and then died is started again at once
_MORE_S = 5.0  # beyond the grace of requests, to seal the log

_logger = logging.getLogger(__name__)


@dataclass
class Worker:
    """A place for a gateway process, and the process in it, if there is one."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    channel: socket.socket | None = None
    heard: bytes = b""
    began: float = 0.0
    serves: bool = False
    num_failures: int = 0
    start_at: float = 0.0


@dataclass
class Supervisor:
    """Keeps `num_workers` gateways running until SIGTERM or SIGINT; then ends them all and waits for their last rows.

    Where the system spreads connections over the sockets of one port (Linux), each worker listens on its own; elsewhere
    all take them from one. A worker that dies is started again at once; one that cannot serve after a growing rest.

    Args:
        home: the stores' folder.
        settings: of `serve.run`, as JSON can hold them.
        grace_s: how long requests may take once they are told to end.
        ready: called with the address when all workers serve for the first time.
        share: whether each worker has a socket of its own; by default where the system can.
    """

    home: Home
    settings: dict[str, Any]
    num_workers: int
    grace_s: float = 15.0
    ready: Callable[[str], None] | None = None
    share: bool = sys.platform == "linux"
    _workers: list[Worker] = field(default_factory=list)
    _counts: list[IO[bytes]] = field(default_factory=list)
    _was_ready: bool = False
    _stopping: bool = False

    def run(self) -> None:
        """Run until told to end.

        Raises:
            TidemillError: the port is taken, or no worker can serve at all.
        """
        with contextlib.ExitStack() as stack:
            self._socket = stack.enter_context(self._bound())
            self._counts = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(self.num_workers)]
            self._selector = stack.enter_context(selectors.DefaultSelector())
            stack.enter_context(self._signals())
            self._workers = [Worker(number) for number in range(self.num_workers)]
            stack.callback(self._end)
            while not self._stopping:
                self._start_due()
                self._hear()

    def _bound(self) -> socket.socket:
        """Take the port, so that it stays ours while workers come and go."""
        host, port = self.settings["host"], self.settings["port"]
        if self.share and port:
            bound(host, port).close()  # somebody else's workers would share theirs with ours
        sock = bound(host, port, share=self.share)
        self.settings["port"] = sock.getsockname()[1]
        return sock

    # ---- one turn

    def _start_due(self) -> None:
        for worker in self._workers:
            if worker.process is None and time.monotonic() >= worker.start_at:
                self._start(worker)

    def _hear(self) -> None:
        waits = [w.start_at - time.monotonic() for w in self._workers if w.process is None]
        for key, _ in self._selector.select(max(0.0, min(waits, default=3600.0))):
            if isinstance(key.data, Worker):
                self._read(key.data)
            else:
                self._wake.recv(64)

    def _read(self, worker: Worker) -> None:
        assert worker.channel is not None
        try:
            data = worker.channel.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self._ended(worker)
            return
        *lines, worker.heard = (worker.heard + data).split(b"\n")
        for line in lines:
            self._answered(worker, msgspec.json.decode(line, type=Answer))

    def _answered(self, worker: Worker, answer: Answer) -> None:
        if answer.problem and not self._was_ready:
            raise TidemillError(answer.problem, answer.hint)  # as for one that is not supervised
        if answer.problem:
            _logger.error("worker %s cannot serve: %s Next: %s", worker.number, answer.problem, answer.hint)
            return
        worker.serves, worker.began = True, time.monotonic()
        if not self._was_ready and all(w.serves for w in self._workers):
            self._was_ready = True
            _logger.info("%s workers serve at %s", self.num_workers, answer.address)
            if self.ready is not None:
                self.ready(answer.address)

    # ---- processes

    def _start(self, worker: Worker) -> None:
        channel, theirs = socket.socketpair()
        counts = [file.fileno() for file in self._counts]
        listener = None if self.share else self._socket.fileno()
        given = [theirs.fileno(), *counts, *([] if listener is None else [listener])]
        with theirs:
            worker.process = subprocess.Popen(
                [sys.executable, "-m", "tidemill.serving.supervised", str(theirs.fileno())],
                pass_fds=given,
                start_new_session=True,  # Ctrl-C asks the supervisor, which asks them
            )
        worker.channel, worker.heard, worker.serves, worker.began = channel, b"", False, time.monotonic()
        self._selector.register(channel, selectors.EVENT_READ, worker)
        send(channel, Hello(
            home=str(self.home.folder), settings=self.settings, number=worker.number, counts=counts, listener=listener
        ))  # fmt: skip

    def _ended(self, worker: Worker) -> None:
        """Note a worker's end, and when the next one takes its place."""
        code = self._let_go(worker)
        if self._stopping:
            return
        if not self._was_ready:
            raise TidemillError(f"worker {worker.number} ended with code {code} before it served.", "see its messages")
        steady = worker.serves and time.monotonic() - worker.began >= _STEADY_S
        worker.num_failures = 0 if steady else worker.num_failures + 1
        # A first death is met at once, whenever it comes.
        late = worker.num_failures - 1 if worker.serves else worker.num_failures
        pause_s = rest_s(late, first_s=_FIRST_REST_S, longest_s=_LONGEST_REST_S)
        worker.start_at = time.monotonic() + pause_s
        _logger.error("worker %s ended with code %s; starting another in %g s", worker.number, code, pause_s)

    def _let_go(self, worker: Worker) -> int | None:
        assert worker.process is not None and worker.channel is not None
        self._selector.unregister(worker.channel)
        worker.channel.close()
        process, worker.process = worker.process, None
        return _wait(process, _MORE_S)

    def _end(self) -> None:
        """Ask all workers to end, and wait for what they still write."""
        left = [worker.process for worker in self._workers if worker.process is not None]
        for process in left:
            process.terminate()
        ends_at = time.monotonic() + self.grace_s + _MORE_S
        for process in left:
            _wait(process, max(0.0, ends_at - time.monotonic()))
        for worker in self._workers:
            if worker.channel is not None:
                worker.channel.close()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT end the loop, also while it waits."""
        self._wake, wakes = socket.socketpair()
        wakes.setblocking(False)
        self._selector.register(self._wake, selectors.EVENT_READ)

        def ask(*_: object) -> None:
            self._stopping = True

        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.unregister(self._wake)
            self._wake.close()
            wakes.close()


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Wait for a process to end, and kill it when it does not."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
