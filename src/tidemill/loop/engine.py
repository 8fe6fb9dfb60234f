"""The engine: turns the loop under a lease, one turn after another, and survives what a step does wrong."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from tidemill.clock import Clock
from tidemill.errors import Fenced, ProjectError, StoreError
from tidemill.loop.declared import ProjectFile, publish, put_back, served
from tidemill.loop.ending import give_up
from tidemill.loop.schema_in_force import keep_declared
from tidemill.loop.steps import CYCLE, RESTS_WHILE_FOREIGN, STANDING
from tidemill.loop.trouble import Trouble
from tidemill.loop.world import MOST_ROWS, Turn, World
from tidemill.schema import Schema
from tidemill.stores.journal import Journal, Lease

LEASE_TTL = timedelta(seconds=10)
MERGE_EVERY = timedelta(seconds=30)
LONGEST_REST_S = 30.0
MAX_TRIES = 6  # of a cycle's step, resting 2, 4, 8 ... seconds in between

_logger = logging.getLogger(__name__)


class Hold:
    """One lease that this process wants to keep; safe to use from the heartbeat's thread."""

    def __init__(self, journal: Journal, name: str, holder: str, ttl: timedelta) -> None:
        self._journal, self._name, self._holder, self._ttl = journal, name, holder, ttl
        self._lease: Lease | None = None
        self._guard = threading.Lock()

    def take(self, now: datetime) -> Lease | None:
        """Return the lease, renewed or newly acquired; None while another process holds it."""
        with self._guard:
            self._renew(now)
            if self._lease is None:
                self._lease = self._journal.acquire(self._name, self._holder, now=now, ttl=self._ttl)
            return self._lease

    def keep(self, now: datetime) -> None:
        """Renew the lease if it is held."""
        with self._guard:
            self._renew(now)

    def let_go(self) -> None:
        """Give the lease up, so that another process need not wait."""
        with self._guard:
            if self._lease is not None:
                self._journal.release(self._lease)
            self._lease = None

    def _renew(self, now: datetime) -> None:
        # A third of the lease's time is left for the slow: renewing at every turn would be a write at every turn.
        if self._lease is None or self._lease.expires_at - now > self._ttl * 2 / 3:
            return
        try:
            self._lease = self._journal.renew(self._lease, now=now, ttl=self._ttl)
        except Fenced as error:
            _logger.warning("%s", error)
            self._lease = None


@dataclass
class Engine:
    """Takes turns for one project.

    `holder` names this process in its leases; when it dies, another takes over after `lease_ttl` at the latest. `pace`
    is how far turns lie apart on a clock that jumps, zero on one that runs. `declared` is the project file, where it is
    to be read again when it changes. `most_rows` bounds what a step reads of the log in one turn.
    """

    world: World
    clock: Clock
    holder: str
    poll_s: float = 0.5
    lapse: timedelta = timedelta(seconds=60)
    lease_ttl: timedelta = LEASE_TTL
    pace: timedelta = timedelta(0)
    declared: ProjectFile | None = None
    most_rows: int = MOST_ROWS
    on_turn: Callable[[bool], None] = lambda _: None
    _loop: Hold = field(init=False)
    _compactor: Hold = field(init=False)
    _merged_at: datetime = field(default=datetime(1970, 1, 1, tzinfo=UTC), init=False)
    _rest_s: float = field(default=0.0, init=False)
    _waiting: Schema | None = field(default=None, init=False)
    _served: object = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._loop = Hold(self.world.journal, f"loop/{self.world.name}", self.holder, self.lease_ttl)
        self._compactor = Hold(self.world.journal, "compactor", self.holder, self.lease_ttl)

    def run(self, stop: threading.Event) -> None:
        """Turn until told to stop; another process takes over when this one dies."""
        heartbeat = threading.Thread(target=self._beat, args=(stop,), name="loop-lease", daemon=True)
        heartbeat.start()
        try:
            while not stop.is_set():
                did = self._try_turn(stop)
                self.on_turn(did)
                if not did:
                    stop.wait(self.poll_s)
        finally:
            self.let_go()

    def _try_turn(self, stop: threading.Event) -> bool:
        """Take a turn; where the stores do not answer, rest a while: a server may be restarted, a disk made room on."""
        try:
            did = self.turn()
        except StoreError as error:
            self._rest_s = min(max(2 * self._rest_s, self.poll_s), LONGEST_REST_S)
            _logger.warning("the loop rests for %g s: %s", self._rest_s, error)
            stop.wait(self._rest_s)
            return False
        self._rest_s = 0.0
        return did

    def turn(self) -> bool:
        """Take one turn; return whether any step did something. False too while another process holds the lease."""
        now = self.clock.now()
        lease = self._loop.take(now)
        if lease is None:
            return False
        try:
            turn = Turn(
                world=self.world, lease=lease, now=now, lapse=self.lapse, known_until=now, pace=self.pace,
                most_rows=self.most_rows,
            )  # fmt: skip
            trouble = Trouble(turn)
            self._put_back(turn)
            turn = self._with_schema(self._reread(turn, trouble))
            trouble.take("compact", partial(self._compact, now))
            return self._take_steps(replace(turn, known_until=self.world.log.complete_until(now)), trouble)
        except Fenced as error:
            _logger.warning("%s", error)
            return False  # somebody took over: ask for the lease again at the next turn

    def take(self, name: str) -> bool | None:
        """Take one standing step, and no other: for a command, where no loop runs; return whether it did something.

        None while another process turns the loop.
        """
        now = self.clock.now()
        lease = self._loop.take(now)
        if lease is None:
            return None
        self._compact(now)
        known = self.world.log.complete_until(now)
        return STANDING[name](Turn(world=self.world, lease=lease, now=now, lapse=self.lapse, known_until=known))

    def _reread(self, turn: Turn, trouble: Trouble) -> Turn:
        """Go on with the project file as it is now, if it was changed and is valid."""
        if self.declared is None:
            return turn
        try:
            world = self.declared.reread(turn)
        except ProjectError as error:
            _logger.warning("the project file was changed, and is wrong; the loop goes on with the old one: %s", error)
            trouble.note("project", error)
            return turn
        if not self.declared.is_refused:
            trouble.forget("project")
        if world is None:
            return turn
        _logger.warning("the project file was changed: the loop goes on with it")
        self.world = world
        return replace(turn, world=world)

    def _put_back(self, turn: Turn) -> None:
        """See that the live version reads what is in force, whenever either is another than at the last look."""
        if self.declared is None:
            return
        seen = served(turn.world)
        if seen != self._served and put_back(turn):
            _logger.warning("the live version cannot read the inputs in force: those that it reads are back in force")
        self._served = seen

    def _with_schema(self, turn: Turn) -> Turn:
        """Say what of the project file waits; publish the rest of it once a version has put its schema in force."""
        if self.declared is None:
            return turn
        foreign = turn.world.schemas.change(turn.world.project.schema)
        waiting = turn.world.project.schema if foreign else self.declared.waiting
        if waiting != self._waiting:
            self._note_waiting(turn, waiting)
        change = foreign or ("" if waiting is None else turn.world.schemas.change(waiting))
        return replace(turn, waits=change, is_foreign=bool(foreign))

    def _note_waiting(self, turn: Turn, waiting: Schema | None) -> None:
        """Tell of a schema that waits; once it waits no more, publish what else the file declares."""
        with turn.write() as conn:
            keep_declared(turn.world.journal, conn, turn.name, waiting, turn.now)
        if waiting is None:
            publish(turn, turn.world.project)
        else:
            _logger.warning("%s", turn.world.schemas.waiting(waiting))
        self._waiting = waiting

    def _take_steps(self, turn: Turn, trouble: Trouble) -> bool:
        rests = RESTS_WHILE_FOREIGN if turn.is_foreign else ()
        did = [trouble.take(name, partial(step, turn)) for name, step in STANDING.items() if name not in rests]
        cycle = turn.world.journal.cycle(turn.name)
        if cycle is not None:
            did.append(trouble.take(cycle.step, partial(CYCLE[cycle.step], turn, cycle)))
            if trouble.times(cycle.step) >= MAX_TRIES:
                did.append(give_up(turn, cycle, trouble.last(cycle.step), trouble.times(cycle.step)))
                trouble.forget(cycle.step)
        return any(did)

    # --- leases

    def _beat(self, stop: threading.Event) -> None:
        """Renew the leases while a step takes long."""
        while not stop.wait(self.lease_ttl.total_seconds() / 3):
            for hold in (self._loop, self._compactor):
                with contextlib.suppress(StoreError):  # which the next turn meets too, and tells
                    hold.keep(self.clock.now())

    def drain(self) -> None:
        """Move everything that gateways sealed into the log, and let go: for the end of a run.

        Waits for a killed compactor's lease to run out.
        """
        patience_s = self.lease_ttl.total_seconds() + 1
        while self._compactor.take(self.clock.now()) is None and patience_s > 0:
            self.clock.sleep(0.5)
            patience_s -= 0.5
        self._compact(self.clock.now())
        self.let_go()

    def let_go(self) -> None:
        """Give the leases up, so that another process need not wait for their end."""
        self._loop.let_go()
        self._compactor.let_go()

    def _compact(self, now: datetime) -> bool:
        """Move sealed segments into the log, unless another process is doing so."""
        lease = self._compactor.take(now)
        if lease is None:
            return False
        try:
            moved = self.world.compactor.compact(lease, now=now)
            if now - self._merged_at >= MERGE_EVERY:
                self.world.compactor.merge_small(lease, now=now)
                self._merged_at = now
        except Fenced:  # another took over, and goes on where this one stopped
            return False
        return moved.segments > 0
