"""Hands side by side: parts go in, results come out, and the first thing that goes wrong ends all."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from tidemill.deploy.hands import Hand
from tidemill.errors import StoreError
from tidemill.records import Json
from tidemill.stores.parts import Part

_LOOK_S = 0.1


class Crew:
    """Makes parts with one thread for each hand; a hand begins when its thread does.

    `tick` is called in between by whoever waits, so that progress can be told.
    """

    def __init__(self, hands: Sequence[Callable[[], Hand]], tick: Callable[[], None]) -> None:
        self._parts: queue.Queue[Part | None] = queue.Queue(maxsize=len(hands))
        self._results: queue.SimpleQueue[tuple[int, Json]] = queue.SimpleQueue()
        self._errors: list[Exception] = []
        self._open: list[Hand] = []
        self._tick, self._closed = tick, False
        self._threads = [threading.Thread(target=self._work, args=(make,), daemon=True) for make in hands]
        for thread in self._threads:
            thread.start()

    def put(self, part: Part) -> None:
        """Hand a part out; wait while all are busy.

        Raises:
            TidemillError: a part could not be made.
        """
        while True:
            self._check()
            with contextlib.suppress(queue.Full):
                self._parts.put(part, timeout=_LOOK_S)
                return
            self._tick()

    def results(self) -> Iterator[tuple[int, Json]]:
        """Yield the number and the counts of each part that was made since."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._results.get_nowait()

    def finish(self) -> None:
        """Wait until every part is made.

        Raises:
            TidemillError: one could not be made.
        """
        for _ in self._threads:
            while self._parts.full():
                self._check()
                self._wait()
            self._parts.put(None)
        while any(thread.is_alive() for thread in self._threads):
            self._check()
            self._wait()
        self._check()

    def close(self) -> None:
        """Let go of the hands, whatever they are doing."""
        self._closed = True
        for hand in self._open:
            hand.close()

    def _wait(self) -> None:
        for thread in self._threads:
            if thread.is_alive():
                thread.join(_LOOK_S)
                break
        self._tick()

    def _work(self, make: Callable[[], Hand]) -> None:
        try:
            hand = make()
            self._open.append(hand)
            while not self._closed and not self._errors:
                part = self._parts.get()
                if part is None:
                    return
                self._results.put((part.number, hand.make(part)))
        except Exception as error:
            self._errors.append(error)

    def _check(self) -> None:
        if not self._errors:
            return
        error = self._errors[0]
        if isinstance(error, OSError):
            raise StoreError(f"a part could not be written: {error}.", "make room, and run it again") from error
        raise error
