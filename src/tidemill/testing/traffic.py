"""Simulated users over real HTTP: they ask, get an answer, and some of them say later what was true."""

from __future__ import annotations

import heapq
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One user's request, with what is true of it."""

    inputs: dict[str, Any]
    unit: str
    truth: str | float


Draw = Callable[[np.random.Generator], Ask | None]
"""Returns the next request, None when there are no more."""
Say = Callable[[Ask, np.random.Generator], str | float | None]
"""What a user says was true, None when they say nothing."""


class Users:
    """Asks at `rate` requests a second from a few connections until stopped; feedback follows after `delay_s`.

    `draw` and `say` may be replaced while it runs: that is how traffic drifts and a crowd goes wrong.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        draw: Draw,
        say: Say,
        rate: float,
        delay_s: float,
        seed: int,
        num_threads: int = 4,
    ) -> None:
        self.host, self.port, self.draw, self.say = host, port, draw, say
        self.rate, self.delay_s, self.num_threads = rate, delay_s, num_threads
        self.counts: Counter[str] = Counter()
        self._count = threading.Lock()
        self._stop = threading.Event()
        self._rngs = np.random.default_rng(seed).spawn(num_threads)
        self._threads = [threading.Thread(target=self._work, args=(rng,), daemon=True) for rng in self._rngs]

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until there are no more requests and all is said."""
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Ask no more; what was to be said is said at once."""
        self._stop.set()
        self.join()

    def _work(self, rng: np.random.Generator) -> None:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        pending: list[tuple[float, int, str, str | float]] = []
        next_at, serial = time.monotonic(), 0
        while not self._stop.is_set():
            # After a stall, catch up by a second at most.
            next_at = max(next_at + self.num_threads / self.rate, time.monotonic() - 1.0)
            while pending and pending[0][0] <= time.monotonic():
                self._tell(connection, heapq.heappop(pending))
            time.sleep(max(0.0, next_at - time.monotonic()))
            ask = self.draw(rng)
            if ask is None:
                break
            request_id = self._ask(connection, ask)
            said = self.say(ask, rng) if request_id else None
            if request_id and said is not None:
                serial += 1
                heapq.heappush(pending, (time.monotonic() + self.delay_s, serial, request_id, said))
        for entry in sorted(pending):
            self._stop.wait(max(0.0, entry[0] - time.monotonic()))
            self._tell(connection, entry)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, ask: Ask) -> str | None:
        status, body = self._post(connection, "/v1/predict", {"inputs": ask.inputs, "unit": ask.unit})
        self._add("answered" if status == 200 else "refused" if status else "unreachable")
        return str(body["request_id"]) if status == 200 else None

    def _tell(self, connection: http.client.HTTPConnection, entry: tuple[float, int, str, str | float]) -> None:
        status, _ = self._post(connection, "/v1/feedback", {"request_id": entry[2], "label": entry[3]})
        self._add("feedback" if status == 202 else "feedback lost")

    def _post(self, connection: http.client.HTTPConnection, path: str, body: Any) -> tuple[int, Any]:
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException):
            connection.close()  # the next request opens it anew
            return 0, None

    def _add(self, what: str) -> None:
        with self._count:
            self.counts[what] += 1
