"""A Python model in worker processes of its own: they may raise, hang, crash or leak, and are then replaced."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tidemill.clock import rest_s
from tidemill.errors import ModelError, ModelHung
from tidemill.runtime.batches import in_batches
from tidemill.runtime.threads import variables
from tidemill.runtime.wire import pack_array, receive, send, unpack_array
from tidemill.schema import Array, Columns

_STDERR = 2
_LONGEST_PAUSE_S = 30.0

_Started = tuple[subprocess.Popen[bytes], socket.socket]

_logger = logging.getLogger(__name__)


class WorkerProcess:
    """Runs one model in `tidemill.runtime.worker`, one batch at a time.

    A worker that dies, or does not answer within `timeout_s`, is replaced at once; the batch it had fails. One that
    does not start is tried again after a pause that doubles up to 30 s. One whose memory has grown by `growth_bytes`
    since its first batch goes on until its successor is ready, and is ended between two batches. The worker leaves when
    this process does.
    """

    is_python = True
    copies = 1
    device = "process"

    def __init__(
        self,
        folder: Path,
        loader: str,
        *,
        project_file: str | None = None,
        threads: int = 1,
        timeout_s: float = 10.0,
        start_timeout_s: float = 120.0,
        growth_bytes: int | None = None,
    ) -> None:
        self._args = [str(folder), loader, project_file or ""]
        self._threads = threads
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._growth_bytes = growth_bytes
        self._first_bytes: int | None = None
        self._heir: _Started | None = None
        self._no_heir_before = 0.0
        self._lock = threading.Lock()
        self._failed_starts = 0
        self._not_before = 0.0
        self._ready = False
        self._closed = False
        self._process, self._sock = self._spawn()
        with self._lock:
            self._await_ready()

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def scores(self, columns: Columns, *, batch_rows: int | None = None) -> Array:
        """Return what the model makes of rows, `batch_rows` at a time.

        Raises:
            ModelHung: it did not answer in time.
            ModelError: it raised, its process died, or a new one does not start.
        """
        scores: Array = in_batches(self._scores, columns, batch_rows)
        return scores

    def _scores(self, columns: Columns) -> Array:
        message = {"columns": {name: pack_array(column) for name, column in columns.items()}}
        with self._lock:
            if self._ready and self._process.poll() is not None:
                self._replace()  # it died while it had nothing to do: this batch need not suffer for it
            if self._heir is not None:
                self._succeed(self._heir)
            self._await_ready()
            reply = self._ask(message)
            self._weigh(reply.get("memory"))
        if "error" in reply:
            raise ModelError(f"the model raised {reply['error']}", "see the worker's standard error for its own output")
        return unpack_array(reply["scores"])

    def close(self) -> None:
        """End the worker."""
        self._closed = True
        self._drop_heir()
        self._end()

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            send(self._sock, message, timeout_s=self._timeout_s)
            return receive(self._sock, timeout_s=self._timeout_s)
        except TimeoutError:
            self._replace()
            raise ModelHung(
                f"the model did not answer within {self._timeout_s:g} s; its worker was replaced."
            ) from None
        except (OSError, EOFError):
            status = self._replace()
            raise ModelError(f"the model's worker process died ({_cause(status)}); it was replaced.") from None

    def _await_ready(self) -> None:
        if self._ready:
            return
        if time.monotonic() < self._not_before:
            raise ModelError("the model's worker process does not start.", "see its standard error")
        if self._process.returncode is not None and not self._closed:
            self._process, self._sock = self._spawn()
        try:
            reply = receive(self._sock, timeout_s=self._start_timeout_s)
        except (OSError, EOFError) as error:
            reply = {"error": f"it {'took too long' if isinstance(error, TimeoutError) else 'died'} while starting"}
        if "error" in reply:
            self._end()
            self._failed_starts += 1
            self._not_before = time.monotonic() + rest_s(self._failed_starts, first_s=1.0, longest_s=_LONGEST_PAUSE_S)
            raise ModelError(f"the Python model does not load: {reply['error']}", "check it with `tidemill check`")
        self._ready, self._failed_starts = True, 0

    def _replace(self) -> int:
        """End the worker and start the next, without waiting for it; return the exit status."""
        status = self._end()
        if not self._closed:
            heir, self._heir = self._heir, None
            self._process, self._sock = heir or self._spawn()
        return status

    def _weigh(self, num_bytes: int | None) -> None:
        """Start a successor when the worker has grown too much, and have it get ready meanwhile."""
        if num_bytes is None or self._growth_bytes is None:
            return
        if self._first_bytes is None:
            self._first_bytes = num_bytes
        grown = num_bytes - self._first_bytes
        if grown > self._growth_bytes and self._heir is None and time.monotonic() >= self._no_heir_before:
            _logger.warning("a model's worker has grown by %d MiB: it is replaced", grown >> 20)
            self._heir = self._spawn()

    def _succeed(self, heir: _Started) -> None:
        """Let the successor take over if it is ready; one that does not start is given up for a while."""
        process, sock = heir
        if not select.select([sock], [], [], 0)[0]:
            return
        try:
            is_ready = "ready" in receive(sock, timeout_s=1.0)
        except (OSError, EOFError):
            is_ready = False
        if not is_ready:
            _logger.error("the successor of a model's worker does not start")
            self._drop_heir()
            self._no_heir_before = time.monotonic() + _LONGEST_PAUSE_S
            return
        self._end()
        self._heir, self._ready = None, True
        self._process, self._sock = process, sock

    def _drop_heir(self) -> None:
        if self._heir is not None:
            process, sock = self._heir
            self._heir = None
            _kill(process, sock)

    def _end(self) -> int:
        self._ready, self._first_bytes = False, None
        return _kill(self._process, self._sock)

    def _spawn(self) -> _Started:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "tidemill.runtime.worker", str(theirs.fileno()), *self._args],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,
                start_new_session=True,  # Ctrl-C is for the gateway, which ends its workers when it has answered
                env={**os.environ, **variables(self._threads)},
            )
        return process, ours


class WorkerPool:
    """Several workers of one model: a batch goes to whichever is free, and waits only while none is.

    `make` starts one. As many threads as there are workers may ask at the same time.
    """

    is_python = True
    device = "process"

    def __init__(self, make: Callable[[], WorkerProcess], copies: int) -> None:
        self.copies = copies
        with ThreadPoolExecutor(copies, thread_name_prefix="tidemill-start") as starting:
            started = [starting.submit(make) for _ in range(copies)]
        self._workers = [future.result() for future in started if future.exception() is None]
        if len(self._workers) < copies:
            self.close()
            raise next(error for future in started if (error := future.exception()) is not None)
        self._free: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)

    @property
    def pids(self) -> list[int]:
        """The workers' process ids."""
        return [worker.pid for worker in self._workers]

    def scores(self, columns: Columns, *, batch_rows: int | None = None) -> Array:
        """Return what the model makes of rows; raises what a `WorkerProcess` does."""
        worker = self._free.get()
        try:
            return worker.scores(columns, batch_rows=batch_rows)
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.close()


def _kill(process: subprocess.Popen[bytes], sock: socket.socket) -> int:
    """End a worker and return its exit status."""
    # SIGKILL: a worker that hangs in native code hears nothing else, and it holds nothing that must be kept.
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    status = process.wait()
    sock.close()
    return status


def _cause(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"
