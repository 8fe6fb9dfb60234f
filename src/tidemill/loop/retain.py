"""The step that deletes the days of the log that are older than the project keeps it."""

from __future__ import annotations

from tidemill.loop.world import Turn


def retain(turn: Turn) -> bool:
    """Delete whole days that are over for longer than `keep_log`; return whether there were any."""
    age = turn.world.project.log_age
    return age is not None and turn.world.compactor.forget(turn.name, now=turn.now, age=age, write=turn.write) > 0
