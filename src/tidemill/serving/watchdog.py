"""Tells which workers stand still, from signs that change while they go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_LOOKS = 5  # within the shortest limit


@dataclass(frozen=True)
class Sign:
    """What a worker shows: what it is at, how often it has beaten, and for how long that may stay as it is."""

    phase: Literal["starts", "serves", "ends"]
    num_beats: int
    limit_s: float


class Watchdog:
    """Remembers since when each worker has shown the same.

    It counts only time that it watched: where a look comes late, this process stood still itself (the machine was
    suspended, all were stopped, or nothing got its turn), as the others may have. Then each gets its whole time again.

    Args:
        shortest_s: the shortest of the limits.
    """

    def __init__(self, shortest_s: float) -> None:
        self.look_every_s = shortest_s / _LOOKS
        """How long there may be from one look to the next; one after more than twice that is late."""
        self._looked_at = float("-inf")
        self._since: dict[int, tuple[Sign, float]] = {}

    def look(self, signs: Mapping[int, Sign], now: float) -> dict[int, float]:
        """Return who has shown the same for longer than it may, by process id, and for how long.

        Args:
            signs: what each process shows, by its id; who is not among them is forgotten.
            now: `time.monotonic` from before the signs were read, seconds.
        """
        is_late, self._looked_at = now - self._looked_at > 2 * self.look_every_s, now
        before, self._since = self._since, {}
        for pid, sign in signs.items():
            seen = before.get(pid)
            self._since[pid] = (sign, now) if seen is None or seen[0] != sign or is_late else seen
        return {pid: now - at for pid, (sign, at) in self._since.items() if now - at > sign.limit_s}

    def pardon(self, pid: int) -> None:
        """Give a process its whole time again."""
        self._since.pop(pid, None)


def waits_for_disk(pid: int) -> bool:
    """Tell whether a process is in a system call that nothing interrupts (Linux; False where that is not known).

    To kill it would have no effect until the disk answers, and then it goes on by itself.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b") ")[2].startswith(b"D")  # behind the program's name, which may hold anything
