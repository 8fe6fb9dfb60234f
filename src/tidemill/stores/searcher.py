"""Conditions that anybody may have written, answered in processes that can be ended whatever they are busy with.

DuckDB looks between batches of rows whether it was interrupted. A pattern of a few hundred characters can take a minute
over one value, and nothing but the end of the process stops it; so each question has a time, and a process that takes
longer is killed. Its successor is started by who asks next.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl

from tidemill.errors import ProjectError, Unavailable
from tidemill.records import Json
from tidemill.schema import Array
from tidemill.stores.conditions import condition_columns
from tidemill.stores.searched import packed, receive, send, unpacked

_logger = logging.getLogger(__name__)

LIMIT_S = 10.0
"""Of one search, all in all."""


class Searcher:
    """Answers conditions as `evaluate` does, each in a process of its own, `most` of them at a time."""

    def __init__(self, *, most: int = 2) -> None:
        self._free: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        self._most = most
        for _ in range(most):
            self._free.put(None)

    def start(self) -> None:
        """Start a process where there is none, so that the first question finds one; it returns at once."""
        try:
            process = self._free.get_nowait()
        except queue.Empty:  # all are busy
            return
        try:
            process = process or _Process()
        except OSError as error:  # too many processes, too little memory: tried again when it is asked
            _logger.warning("no process for searches could be started: %s", error)
        finally:
            self._free.put(process)

    def close(self) -> None:
        """End the processes, each once it has answered."""
        for _ in range(self._most):
            process = self._free.get()
            if process is not None:
                process.end()

    def evaluate(
        self, conditions: Mapping[str, str], frame: pl.DataFrame, *, left_s: float = LIMIT_S
    ) -> dict[str, Array]:
        """Return, by name, which of the N rows of `frame` meet each condition, as bool (N,).

        Raises:
            ProjectError: a condition is not allowed, cannot be computed, or is not answered in `left_s`.
            Unavailable: all processes are busy for that long, or one could not be started, or died, as where there is
                too little memory.
        """
        columns = sorted({name for sql in conditions.values() for name in condition_columns(sql, frame.columns)})
        rows = frame.select(columns) if columns else pl.DataFrame({"": np.zeros(len(frame))})
        until = time.monotonic() + left_s
        if left_s <= 0:
            raise too_slow(conditions)
        with self._one(left_s) as process:
            try:
                words, body = process.ask(dict(conditions), packed(rows), left_s=until - time.monotonic())
            except TimeoutError:
                raise too_slow(conditions) from None
            except (OSError, EOFError):
                raise Unavailable(
                    f"the search for {_shown(conditions)} died.", "it may need too much memory: look at less time"
                ) from None
        if words:
            raise ProjectError(words["message"], words["hint"])
        return unpacked(conditions, body, len(frame))

    @contextlib.contextmanager
    def _one(self, left_s: float) -> Iterator[_Process]:
        """Give a process that nobody else asks; one that was killed is not kept."""
        try:
            process = self._free.get(timeout=left_s)
        except queue.Empty:
            raise Unavailable("other searches take all the time there is.", "try again in some seconds") from None
        try:
            if process is not None and not process.is_alive:
                process.end()
                process = None
            process = process or _started()
            yield process
        finally:
            self._free.put(process if process is not None and process.is_alive else None)


def _started() -> _Process:
    try:
        return _Process()
    except OSError as error:
        raise Unavailable(f"no process for a search could be started: {error}.", "try again in some seconds") from error


def too_slow(conditions: Mapping[str, str]) -> ProjectError:
    """Return the error that says that conditions took longer than a search may."""
    return ProjectError(
        f"the search for {_shown(conditions)} took longer than {LIMIT_S:g} s.",
        "look at less time, such as an hour, or write a simpler condition: patterns take longest",
    )


def _shown(conditions: Mapping[str, str]) -> str:
    return " and ".join(repr(sql if len(sql) <= 200 else f"{sql[:197]}...") for sql in conditions.values())


class _Process:
    """One process that answers."""

    def __init__(self) -> None:
        called = [sys.executable, "-m", "tidemill.stores.searched"]
        self._process = subprocess.Popen(called, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._killed = False

    @property
    def is_alive(self) -> bool:
        return not self._killed and self._process.poll() is None

    def ask(self, words: Json, body: bytes, *, left_s: float) -> tuple[Json, bytes]:
        """Return the answer.

        Raises:
            TimeoutError: it took too long, and the process is no more.
            OSError, EOFError: the process died.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        timer = threading.Timer(max(left_s, 0.0), self._kill)
        timer.daemon = True
        timer.start()
        try:
            send(self._process.stdin, words, body)
            return receive(self._process.stdout)
        except (OSError, EOFError):
            if self._killed:
                raise TimeoutError from None
            self._kill()  # what broke off answers nothing more
            raise
        finally:
            timer.cancel()
            timer.join()
            if self._killed:
                self.end()

    def end(self) -> None:
        """End it."""
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what was not written goes nowhere
                if pipe is not None:
                    pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        if self._process.poll() is None:
            self._kill()
            self._process.wait()

    def _kill(self) -> None:
        self._killed = True
        self._process.kill()
