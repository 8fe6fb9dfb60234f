"""What steps raise: told, written down for `status`, and tried again after a growing rest while the other steps go on.

It is kept in the journal, so that a restart does not forget the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta

from tidemill.clock import micros, rest_s
from tidemill.errors import Conflict, Fenced, TidemillError, told
from tidemill.loop.world import Turn

_STATE = "trouble"

_logger = logging.getLogger(__name__)


class Trouble:
    """The steps that failed before this turn."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._known = turn.state(_STATE)

    def take(self, name: str, step: Callable[[], bool]) -> bool:
        """Take a step unless it rests; return whether it did something."""
        if name in self._known and micros(self._turn.now) < self._known[name]["again_at"]:
            return False
        try:
            did = step()
        except Fenced:
            raise
        except Conflict:
            return True  # somebody moved the route in between: look again
        except Exception as error:
            self._tell(name, error)
            self.note(name, error)
            return False
        self.forget(name)
        return did

    def forget(self, name: str) -> None:
        """Count a step's failures from nothing again."""
        if self._known.pop(name, None) is not None:
            self._write()

    def times(self, name: str) -> int:
        """Return how often in a row a step has failed."""
        return int(self._known.get(name, {}).get("times", 0))

    def last(self, name: str) -> str:
        """Return what a step raised last."""
        return str(self._known.get(name, {}).get("error", ""))

    def note(self, name: str, error: Exception) -> None:
        """Write down that a step failed, and let it rest."""
        before = self._known.get(name, {})
        times = before.get("times", 0) + 1
        rest = timedelta(seconds=rest_s(times))
        self._known[name] = {
            "error": told(error),
            "times": times,
            "since": before.get("since", micros(self._turn.now)),
            "again_at": micros(self._turn.now + rest),
        }
        self._write()

    def _tell(self, name: str, error: Exception) -> None:
        """Tell the loop's log; of an error that nobody foresaw where it came from too, once."""
        is_known = isinstance(error, TidemillError) or told(error) == self.last(name)
        _logger.warning("step %s failed: %s", name, told(error), exc_info=None if is_known else error)

    def _write(self) -> None:
        with self._turn.write() as conn:
            self._turn.world.journal.put_state(conn, self._turn.name, _STATE, self._known, self._turn.now)
