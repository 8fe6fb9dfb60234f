"""A Python model in a worker process of its own: it may raise, hang or crash, and is then replaced."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tidemill.errors import ModelError, ModelHung
from tidemill.runtime.wire import pack_array, receive, send, unpack_array
from tidemill.schema import Array, Columns

_STDERR = 2
_LONGEST_PAUSE_S = 30.0


class WorkerProcess:
    """Runs one model in `tidemill.runtime.worker`, one batch at a time.

    A worker that dies, or does not answer within `timeout_s`, is replaced at once; the batch it had fails. One that
    does not start is tried again after a pause that doubles up to 30 s. The worker leaves when this process does.
    """

    is_python = True

    def __init__(
        self,
        folder: Path,
        loader: str,
        *,
        project_file: str | None = None,
        threads: int = 1,
        timeout_s: float = 10.0,
        start_timeout_s: float = 120.0,
    ) -> None:
        self._args = [str(folder), loader, project_file or ""]
        self._threads = str(threads)
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
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

    def scores(self, columns: Columns) -> Array:
        """Return what the model makes of a batch.

        Raises:
            ModelHung: it did not answer in time.
            ModelError: it raised, its process died, or a new one does not start.
        """
        message = {"columns": {name: pack_array(column) for name, column in columns.items()}}
        with self._lock:
            if self._ready and self._process.poll() is not None:
                self._replace()  # it died while it had nothing to do: this batch need not suffer for it
            self._await_ready()
            reply = self._ask(message)
        if "error" in reply:
            raise ModelError(f"the model raised {reply['error']}", "see the worker's standard error for its own output")
        return unpack_array(reply["scores"])

    def close(self) -> None:
        """End the worker."""
        self._closed = True
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
            self._not_before = time.monotonic() + min(_LONGEST_PAUSE_S, 0.5 * 2**self._failed_starts)
            raise ModelError(f"the Python model does not load: {reply['error']}", "check it with `tidemill check`")
        self._ready, self._failed_starts = True, 0

    def _replace(self) -> int:
        """End the worker and start the next, without waiting for it; return the exit status."""
        status = self._end()
        if not self._closed:
            self._process, self._sock = self._spawn()
        return status

    def _end(self) -> int:
        self._ready = False
        # SIGKILL: a worker that hangs in native code hears nothing else, and it holds nothing that must be kept.
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        status = self._process.wait()
        self._sock.close()
        return status

    def _spawn(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "tidemill.runtime.worker", str(theirs.fileno()), *self._args],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,
                start_new_session=True,  # Ctrl-C is for the gateway, which ends its workers when it has answered
                env={**os.environ, "OMP_NUM_THREADS": self._threads, "MKL_NUM_THREADS": self._threads},
            )
        return process, ours


def _cause(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"
