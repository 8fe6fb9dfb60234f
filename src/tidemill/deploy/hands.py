"""Who makes parts: this process itself, or one beside it that is replaced when it dies."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from typing import Any, Protocol

import msgspec

from tidemill import errors
from tidemill.clock import Clock
from tidemill.deploy.making import Maker, load_for
from tidemill.deploy.task import Task
from tidemill.errors import ModelError, TidemillError
from tidemill.records import Json
from tidemill.runtime.load import Loaded
from tidemill.runtime.threads import variables
from tidemill.runtime.wire import receive, send
from tidemill.stores.parts import Part
from tidemill.stores.tray import Tray, new_file

_TRIES = 3


class Hand(Protocol):
    """Makes one part at a time."""

    def make(self, part: Part) -> Json:
        """Make a part; return how many rows were predicted and refused."""
        ...

    def close(self) -> None:
        """Let go of the version."""
        ...


class Here:
    """Makes parts in this process."""

    def __init__(self, task: Task, clock: Clock, loaded: Loaded | None = None) -> None:
        self._loaded = load_for(task) if loaded is None else loaded
        self.make = Maker(task, self._loaded, clock).make

    def close(self) -> None:
        """Let go of the version, and end its worker process."""
        self._loaded.close()


class Beside:
    """Makes parts in a process of its own; one that dies is replaced, and its part made again, three times in all."""

    def __init__(self, task: Task) -> None:
        self._task, self._tray, self._closed = task, Tray(new_file()), False
        self._spawn()

    def make(self, part: Part) -> Json:
        """Make a part.

        Raises:
            TidemillError: what the process said.
            ModelError: it died again and again.
        """
        message = {"number": part.number, "size": self._tray.lay(part), "lost": [list(one) for one in part.lost]}
        status = 0
        for _ in range(_TRIES):
            with contextlib.suppress(OSError, EOFError):
                send(self._sock, message)
                return _answer(receive(self._sock))
            if self._closed:
                break
            status = self._end()
            self._spawn()
        cause = f"signal {-status}" if status < 0 else f"exit status {status}"
        raise ModelError(
            f"the process that predicts part {part.number} died {_TRIES} times ({cause}).",
            "see its standard error; for want of memory, use fewer --jobs or a smaller --batch-rows",
        )

    def close(self) -> None:
        """End the process."""
        self._closed = True
        self._end()
        self._tray.close()

    def _spawn(self) -> None:
        self._sock, theirs = socket.socketpair()
        with theirs:
            given = (theirs.fileno(), self._tray.descriptor)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tidemill.deploy.hand", *map(str, given)],
                pass_fds=given,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the job, which ends its hands
                env={**os.environ, **variables(self._task.threads)},
            )
        with contextlib.suppress(OSError):  # it is told by the next part
            send(self._sock, {"task": msgspec.to_builtins(self._task, builtin_types=(bytes,))})

    def _end(self) -> int:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()  # it holds nothing that must be kept
        status = self._process.wait()
        self._sock.close()
        return status


def said(error: Exception) -> Json:
    """Return an error as it is told between processes."""
    if isinstance(error, TidemillError):
        return {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    return {"error": "ModelError", "message": f"predicting raised {type(error).__name__}: {error}", "hint": ""}


def _answer(message: dict[str, Any]) -> Json:
    if "error" not in message:
        return message
    kind = getattr(errors, message["error"], ModelError)
    raise kind(message["message"], message["hint"])
