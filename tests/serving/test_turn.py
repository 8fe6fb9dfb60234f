"""What comes of all that was taken together is done together, and nothing of it is lost."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import pytest

from tidemill.serving.turn import Turn


def test_what_is_taken_together_is_done_before_the_loop_goes_on_and_in_order() -> None:
    done: list[str] = []

    async def main() -> None:
        turn = Turn()

        def batch(name: str) -> None:
            done.append(name)
            if "write" not in done:
                turn.soon(partial(done.append, "write"))

        def take() -> None:
            turn.soon(partial(batch, "stable"))
            turn.soon(partial(batch, "candidate"))

        asyncio.get_running_loop().call_soon(done.append, "next turn")
        turn.taking(take)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert [name for name in done if name != "write"] == ["stable", "candidate", "next turn"]
    assert done.index("candidate") < done.index("write") < done.index("next turn"), "batches first, then their write"


def test_what_comes_singly_is_done_once_the_loop_has_gone_through_what_is_ready() -> None:
    done: list[int] = []

    async def main() -> None:
        turn = Turn()
        turn.soon(partial(done.append, 1))
        asyncio.get_running_loop().call_soon(turn.soon, partial(done.append, 2))
        assert done == []
        for _ in range(3):
            await asyncio.sleep(0)

    asyncio.run(main())
    assert done == [1, 2]


def test_one_that_fails_takes_no_other_with_it(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    def fail() -> None:
        raise ValueError("broken")

    async def main() -> None:
        turn = Turn()
        turn.soon(fail)
        turn.soon(partial(done.append, "other"))
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="broken"):
            turn.taking(fail)
        turn.taking(partial(turn.soon, partial(done.append, "later")))

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert (done, "failed" in caplog.text) == (["other", "later"], True)


def test_what_is_for_later_is_done_after_what_is_ready_and_the_turn_knows_of_it() -> None:
    done: list[str] = []

    async def main() -> None:
        turn = Turn()
        asyncio.get_running_loop().call_soon(done.append, "ready")
        turn.taking(partial(turn.later, partial(done.append, "later")))
        assert (done, turn.goes_on) == ([], True)
        await asyncio.sleep(0)
        assert (done, turn.goes_on) == (["ready", "later"], False)

    asyncio.run(main())
