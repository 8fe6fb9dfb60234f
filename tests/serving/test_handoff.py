"""What the event loop may be kept waiting by a thread that makes a call for it."""

from __future__ import annotations

import asyncio

from tidemill.serving.handoff import _Work


def nothing() -> None:
    """Make the quickest of calls."""


def test_what_is_waited_for_the_begin_of_a_call_is_not_waited_for_its_end_again() -> None:
    async def act() -> None:
        work = _Work(nothing, lambda error, took_s: None, counts=True)
        assert work.begins_within(0.01) < 0.005, "it has not begun: all of the time is gone"
        assert not work.make()
        assert work.begins_within(60.0) > 0.0 and work.is_over_within(0.0)

    asyncio.run(act())
