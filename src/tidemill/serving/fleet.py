"""The versions of one project at work: switched with the route, and closed when nobody needs them any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from tidemill.serving.batching import INLINE_BELOW_S, Batcher, Scored
from tidemill.serving.table import Plan, Table, Unloaded, Version, Warm
from tidemill.serving.turn import Turn

VersionDone = Callable[[Version, "Sequence[Any]", Scored], None]


class Fleet:
    """Holds the table in force, and those before it until the last request they routed is answered.

    A version that a new plan has too is kept as it is. `done` and `shadowed` are called with every batch (see
    `Batcher`).
    """

    def __init__(self, plan: Plan, *, done: VersionDone, shadowed: VersionDone, turn: Turn) -> None:
        self._done, self._shadowed, self._turn = done, shadowed, turn
        self._open: set[Version] = set()
        self._retired: list[Table] = []
        self.table = self._made(plan)

    @property
    def versions(self) -> Collection[Version]:
        """Every version that is not closed."""
        return self._open

    def switch(self, plan: Plan) -> None:
        """Route by this plan from now on; what was routed before is answered by the plan it came under."""
        self._retired.append(self.table)
        self.table = self._made(plan)
        self.close_unused()

    def close_unused(self) -> None:
        """Close versions that neither the route in force nor a request in flight needs."""
        if not self._retired:
            return
        self._retired = [table for table in self._retired if table.num_rows]
        needed = {version for table in (self.table, *self._retired) for version in table.versions.values()}
        for version in self._open - needed:
            version.close()
        self._open &= needed

    async def close(self) -> None:
        """Close all versions."""
        closing = [version.close() for version in self._open]
        self._open.clear()
        await asyncio.gather(*(wait for wait in closing if wait is not None))

    def _made(self, plan: Plan) -> Table:
        versions = {number: self._version(number, state, plan) for number, state in plan.versions.items()}
        self._open.update(versions.values())
        return Table(plan.manifest, plan.route, plan.policy, versions, plan.spare)

    def _version(self, number: int, state: Warm | Unloaded, plan: Plan) -> Version:
        max_batch = plan.manifest.limits.max_batch
        for version in self._open:
            if version.state is state:
                if version.batcher is not None:
                    version.batcher.max_batch = max_batch
                return version
        version = Version(number, state)
        if isinstance(state, Warm):
            version.batcher = Batcher(
                state.loaded,
                done=partial(self._done, version),
                shadowed=partial(self._shadowed, version),
                max_batch=max_batch,
                inline=state.batch_s < INLINE_BELOW_S,
                turn=self._turn,
            )
        return version
