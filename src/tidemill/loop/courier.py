"""Carries news of alerts to the webhook on a thread of its own, so that no step waits for somebody else's server."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tidemill.clock import Clock
from tidemill.loop.webhook import Webhook

Event = Literal["opened", "closed"]


@dataclass(frozen=True, kw_only=True)
class Letter:
    """One piece of news: that an alert was opened, or closed. `key` is the same at every try."""

    alert: int
    event: Event
    key: str
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """What became of a letter: `problem` says why it was not taken, "" when it was."""

    letter: Letter
    problem: str


class Courier:
    """Takes some letters at a time. After the first that is not taken it returns, and the others wait for their turn.

    What it carries when the process is killed is carried again by the next: a letter may come twice, and none is lost.
    `said` holds the alerts that this process has written to its own log.
    """

    def __init__(self, webhook: Webhook | None, clock: Clock) -> None:
        self.webhook, self.said = webhook, dict[int, str]()
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._back: list[Delivered] = []
        self._guard = threading.Lock()

    @property
    def is_away(self) -> bool:
        """Whether it still carries what it was given."""
        return self._thread is not None and self._thread.is_alive()

    def carry(self, letters: Sequence[Letter]) -> None:
        """Begin to deliver; it must not be away."""
        assert not self.is_away, "one round at a time"
        self._thread = threading.Thread(target=self._go, args=(tuple(letters),), name="alerts-webhook", daemon=True)
        self._thread.start()

    def back(self) -> list[Delivered]:
        """Return what became of letters since it was last asked."""
        with self._guard:
            found, self._back = self._back, []
        return found

    def _go(self, letters: tuple[Letter, ...]) -> None:
        assert self.webhook is not None
        for letter in letters:
            problem = self.webhook.post(letter.body, key=letter.key, at=self._clock.now())
            with self._guard:
                self._back.append(Delivered(letter=letter, problem=problem))
            if problem:
                return
