"""What is still to be done in this turn of the event loop, all of it together: batches, then one write of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

_logger = logging.getLogger(__name__)

Act = Callable[[], None]


class Turn:
    """Gathers what is to be done once all that has come in is taken, and does it without going back to the loop.

    Who takes a lot at once says so: then it is done as soon as that is taken. Otherwise it is done when the loop has
    gone through all that is ready now. Every method is called in the event loop.
    """

    def __init__(self) -> None:
        self._acts: list[Act] = []
        self._is_open = False
        self._num_later = 0

    @property
    def goes_on(self) -> bool:
        """Whether there is more to do once this turn is over."""
        return self._num_later > 0

    def soon(self, act: Act) -> None:
        """Do this in this turn, after what was put in before it."""
        if not self._acts and not self._is_open:
            asyncio.get_running_loop().call_soon(self._end)
        self._acts.append(act)

    def later(self, act: Act) -> None:
        """Do this in a later turn: others may have come in by then, and replies go first."""
        self._num_later += 1
        asyncio.get_running_loop().call_soon(self._act_later, act)

    def taking(self, take: Act) -> None:
        """Take what has come in, then do all that comes of it."""
        self._is_open = True
        try:
            take()
        finally:
            self._end()

    def _act_later(self, act: Act) -> None:
        self._num_later -= 1
        act()

    def _end(self) -> None:
        self._is_open = True
        while self._acts:
            acts, self._acts = self._acts, []
            for act in acts:
                try:
                    act()
                except Exception:
                    _logger.exception("what was to be done in this turn failed")
        self._is_open = False
