"""Models that a process of a backtest has at hand, handed to the others when they ask: most nobody asks for."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

_BACKLOG = 64
_GONE = (OSError, EOFError)  # who asked, or was asked, is there no more

Find = Callable[[str], Any]
"""Returns what is lent under a name, None where it is at hand no more."""


def apart(value: Any) -> tuple[bytes, list[memoryview]] | None:
    """Return a value as bytes, and its arrays beside it, which are not copied; None where it cannot be written."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        head = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append)
        return head, [buffer.raw() for buffer in buffers]
    except Exception:  # a model's own code says how it is written, and may raise anything
        return None


class Lender:
    """Answers, in a thread of its own, whoever asks through a socket in the backtest's folder.

    `spent_s` is the CPU seconds that it took: what runs beside them would count them as its own.
    """

    def __init__(self, address: Path, find: Find) -> None:
        self._address, self._find = address, find
        self.spent_s = 0.0
        self._listener = Listener(str(address), family="AF_UNIX", backlog=_BACKLOG)
        self._thread = threading.Thread(target=self._serve, name="lender", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more."""
        with Client(str(self._address), family="AF_UNIX") as line:
            line.send(None)
        self._thread.join()

    def _serve(self) -> None:
        with self._listener:
            wanted: str | None = ""
            while wanted is not None:
                with suppress(*_GONE), self._listener.accept() as line:
                    wanted = line.recv()
                    if wanted is not None:
                        _send(line, self._find(wanted))
                self.spent_s = time.thread_time()


def ask(address: Path, name: str) -> Any:
    """Return what a process lends under a name, None where it does no more."""
    try:
        with Client(str(address), family="AF_UNIX") as line:
            line.send(name)
            return _receive(line)
    except _GONE:
        return None


def _send(line: Connection, value: Any) -> None:
    head, arrays = apart(value) or (pickle.dumps(None), [])
    line.send((head, [array.nbytes for array in arrays]))
    for array in arrays:
        if array.nbytes:
            line.send_bytes(array)


def _receive(line: Connection) -> Any:
    head, sizes = line.recv()
    return pickle.loads(head, buffers=_arrays(line, sizes))


def _arrays(line: Connection, sizes: Sequence[int]) -> list[bytearray]:
    arrays = [bytearray(size) for size in sizes]
    for array in arrays:
        if array:
            line.recv_bytes_into(array)
    return arrays


def point_to(link: Path, address: Path) -> None:
    """Note where something is lent, instead of where it was; nobody else may be doing so."""
    part = link.with_name(f".{link.name}.part")
    part.symlink_to(address.name)
    part.replace(link)


def pointed_to(link: Path) -> Path | None:
    """Return where something is lent, None where nobody has said."""
    try:
        return link.with_name(str(link.readlink()))
    except FileNotFoundError:
        return None
