"""Several gateway processes behind one port, and the one that keeps them: it starts, restarts and ends, and no more.

A worker that dies is replaced, and so is one that hangs: its event loop no longer beats (see `Heart`), so it is killed.

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
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import msgspec

from tidemill.clock import rest_s
from tidemill.errors import TidemillError
from tidemill.serving.heart import Heart, memory, unnamed
from tidemill.serving.hello import Answer, Hello, send
from tidemill.serving.listening import bound
from tidemill.serving.watchdog import Sign, Watchdog, waits_for_disk

if TYPE_CHECKING:
    from tidemill.stores.home import Home

_FIRST_REST_S, _LONGEST_REST_S = 0.5, 30.0
_STEADY_S = 5.0  # who served this long and then died is started again at once
_MORE_S = 5.0  # beyond the grace of requests, to seal the log
_STILL_S = 10.0  # more than anything takes that runs in the event loop of a gateway
_START_S = 300.0  # to import, to wait for a database, and to load for as long as `Service` waits for versions

_logger = logging.getLogger(__name__)


@dataclass
class Worker:
    """A place for a gateway process, and the process in it, if there is one.

    `stood_s` is for how long it had stood still when it was killed for that.
    """

    number: int
    heart: Heart
    process: subprocess.Popen[bytes] | None = None
    channel: socket.socket | None = None
    heard: bytes = b""
    began: float = 0.0
    serves: bool = False
    stood_s: float = 0.0
    num_failures: int = 0
    start_at: float = 0.0


@dataclass
class Supervisor:
    """Keeps `num_workers` gateways running until SIGTERM or SIGINT; then ends them all and waits for their last rows.

    Where the system spreads connections over the sockets of one port (Linux), each worker listens on its own; elsewhere
    all take them from one. A worker that dies is started again at once; one that cannot serve after a growing rest. One
    that stands still is killed, so that it dies.

    Args:
        home: the stores' folder.
        settings: of `serve.run`, as JSON can hold them.
        grace_s: how long requests may take once they are told to end.
        ready: called with the address when all workers serve for the first time.
        share: whether each worker has a socket of its own; by default where the system can.
        still_s: for how long the event loop of a worker that serves may stand still.
        start_s: how long a worker may take until it serves.
    """

    home: Home
    settings: dict[str, Any]
    num_workers: int
    grace_s: float = 15.0
    ready: Callable[[str], None] | None = None
    share: bool = sys.platform == "linux"
    still_s: float = _STILL_S
    start_s: float = _START_S
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
            self._counts = [stack.enter_context(unnamed("tidemill-counts")) for _ in range(self.num_workers)]
            self._hearts = stack.enter_context(memory(self.num_workers))
            self._watchdog = Watchdog(min(self.still_s, self.start_s))
            self._selector = stack.enter_context(selectors.DefaultSelector())
            stack.enter_context(self._signals())
            hearts = self._hearts.fileno()
            self._workers = [Worker(number, Heart(hearts, number)) for number in range(self.num_workers)]
            stack.callback(self._end)
            while not self._stopping:
                self._start_due()
                self._hear()
                self._watch()

    def _bound(self) -> socket.socket:
        """Take the port, so that it stays ours while workers come and go."""
        host, port = self.settings["host"], self.settings["port"]
        if self.share and port:
            bound(host, port).close()  # somebody else's workers would share theirs with ours
        sock = bound(host, port, share=self.share)
        self.settings["port"] = sock.getsockname()[1]
        return sock

    @property
    def _end_s(self) -> float:
        return self.grace_s + _MORE_S

    # ---- one turn

    def _start_due(self) -> None:
        for worker in self._workers:
            if worker.process is None and time.monotonic() >= worker.start_at:
                self._start(worker)

    def _hear(self) -> None:
        waits = [w.start_at - time.monotonic() for w in self._workers if w.process is None]
        for key, _ in self._selector.select(max(0.0, min([self._watchdog.look_every_s, *waits]))):
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

    def _watch(self) -> None:
        """Kill who stands still. A worker is replaced when it has ended, however that came."""
        now = time.monotonic()
        running = {worker.process.pid: worker for worker in self._workers if worker.process is not None}
        signs = {pid: self._sign(worker) for pid, worker in running.items() if not worker.stood_s}
        for pid, still_s in self._watchdog.look(signs, now).items():
            self._judge(running[pid], pid, signs[pid], still_s)
        for worker in running.values():
            assert worker.process is not None and worker.channel is not None
            if worker.process.poll() is not None:  # and its channel may be open still, in a process that it forked
                worker.channel.setblocking(False)
                self._read(worker)

    def _sign(self, worker: Worker) -> Sign:
        if not worker.serves:
            return Sign("starts", 0, self.start_s)
        if worker.heart.leaves:
            return Sign("ends", 0, self._end_s)
        return Sign("serves", worker.heart.num_beats, self.still_s)

    def _judge(self, worker: Worker, pid: int, sign: Sign, still_s: float) -> None:
        told = {
            "starts": "has not come to serve in",
            "serves": "answers nobody: its event loop has stood still for",
            "ends": "was told to end and has not in",
        }[sign.phase]
        if waits_for_disk(pid):
            self._watchdog.pardon(pid)
            doing = "waits for the disk, so it is left alone: it goes on when that answers"
            _logger.warning("worker %s (pid %s) %s %.1f s, and %s", worker.number, pid, told, still_s, doing)
            return
        assert worker.process is not None
        worker.process.kill()
        worker.stood_s = still_s
        _logger.error("worker %s (pid %s) %s %.1f s, so it was killed", worker.number, pid, told, still_s)

    # ---- processes

    def _start(self, worker: Worker) -> None:
        channel, theirs = socket.socketpair()
        counts = [file.fileno() for file in self._counts]
        listener = None if self.share else self._socket.fileno()
        given = [theirs.fileno(), self._hearts.fileno(), *counts, *([] if listener is None else [listener])]
        worker.heart.reset()  # whoever had this place has ended
        with theirs:
            worker.process = subprocess.Popen(
                [sys.executable, "-m", "tidemill.serving.supervised", str(theirs.fileno())],
                pass_fds=given,
                start_new_session=True,  # Ctrl-C asks the supervisor, which asks them
            )
        worker.channel, worker.heard, worker.serves, worker.began = channel, b"", False, time.monotonic()
        worker.stood_s = 0.0
        self._selector.register(channel, selectors.EVENT_READ, worker)
        send(channel, Hello(
            home=str(self.home.folder),
            settings={**self.settings, "grace_s": self.grace_s},
            number=worker.number,
            counts=counts,
            hearts=self._hearts.fileno(),
            end_s=self._end_s,
            listener=listener,
        ))  # fmt: skip

    def _ended(self, worker: Worker) -> None:
        """Note a worker's end, and when the next one takes its place."""
        code = self._let_go(worker)
        if self._stopping:
            return
        if not self._was_ready:
            raise TidemillError(f"worker {worker.number} ended with code {code} before it served.", "see its messages")
        steady = worker.serves and time.monotonic() - worker.began - worker.stood_s >= _STEADY_S
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
        ends_at = time.monotonic() + self._end_s
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
