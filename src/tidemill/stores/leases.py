"""Leases with fencing tokens: one process at a time does a job, and another takes over when it is gone.

A lease is held while its token is the newest and it has not expired. A takeover gives a greater token, so a process
that was paused and wakes up later finds its own outdated: `write` looks at the token inside the very transaction that
it guards. Expiry compares the clocks of the machines, and a wrong clock can only hand a job over too early or too late;
that two of them never both write rests on the token alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, Row, Select, select, update

from tidemill.clock import from_micros, micros
from tidemill.errors import Fenced
from tidemill.stores.database import Database
from tidemill.stores.rows import insert_once
from tidemill.stores.tables import leases


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to do a job until `expires_at`; `token` grows with every grant."""

    name: str
    holder: str
    token: int
    expires_at: datetime


class Leases:
    """Grants leases and guards writes with them."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def acquire(self, name: str, holder: str, *, now: datetime, ttl: timedelta) -> Lease | None:
        """Take the lease for `ttl`, or return None while somebody holds it (`holder` itself included).

        Raises:
            StoreError: the database cannot be written.
        """
        with self._db.read() as conn:  # those who wait ask often: they must not queue for the write lock
            if _is_held(conn.execute(_row(name)).first(), now):
                return None
        with self._db.begin() as conn:
            insert_once(conn, leases, {"name": name}, {"holder": "", "token": 0, "expires_at": 0})
            row = conn.execute(_row(name).with_for_update()).one()
            if _is_held(row, now):
                return None
            lease = Lease(name=name, holder=holder, token=row.token + 1, expires_at=now + ttl)
            values = {"holder": holder, "token": lease.token, "expires_at": micros(lease.expires_at)}
            conn.execute(update(leases).where(leases.c.name == name).values(**values))
        return lease

    def renew(self, lease: Lease, *, now: datetime, ttl: timedelta) -> Lease:
        """Hold the lease for `ttl` from now.

        Raises:
            Fenced: it expired or was taken over; acquire it again.
        """
        renewed = replace(lease, expires_at=now + ttl)
        with self.write(lease, now=now) as conn:
            until = micros(renewed.expires_at)
            conn.execute(update(leases).where(leases.c.name == lease.name).values(expires_at=until))
        return renewed

    def release(self, lease: Lease) -> None:
        """Give the lease up, so that another need not wait for its end. One that is lost already is left alone."""
        mine = (leases.c.name == lease.name, leases.c.token == lease.token)
        with self._db.begin() as conn:  # the row stays: tokens must never start again
            conn.execute(update(leases).where(*mine).values(holder="", expires_at=0))

    def lease(self, name: str) -> Lease | None:
        """Return the lease as last granted, expired or not; None when it was given up or never granted."""
        with self._db.read() as conn:
            row = conn.execute(_row(name)).first()
        if row is None or not row.holder:
            return None
        return Lease(name=name, holder=row.holder, token=row.token, expires_at=from_micros(row.expires_at))

    def holder(self, name: str, *, now: datetime) -> str | None:
        """Return who holds the lease now, None where nobody does."""
        lease = self.lease(name)
        return lease.holder if lease is not None and lease.expires_at > now else None

    def token(self, name: str) -> int:
        """Return the newest token of a lease, whoever has or had it; 0 before the first."""
        with self._db.read() as conn:
            row = conn.execute(_row(name)).first()
        return 0 if row is None else int(row.token)

    @contextmanager
    def write(self, lease: Lease, *, now: datetime) -> Iterator[Connection]:
        """Give a write transaction that only the holder of the lease gets; it commits when the block ends.

        The lease's row stays locked until then, so that nobody can take the job over in between.

        Raises:
            Fenced: the lease expired or was taken over; nothing is written.
        """
        with self._db.begin() as conn:
            _check(conn.execute(_row(lease.name).with_for_update()).first(), lease, now)
            yield conn


def _row(name: str) -> Select[tuple[str, int, int]]:
    return select(leases.c.holder, leases.c.token, leases.c.expires_at).where(leases.c.name == name)


def _is_held(row: Row[tuple[str, int, int]] | None, now: datetime) -> bool:
    return row is not None and row.expires_at > micros(now)


def _check(row: Row[tuple[str, int, int]] | None, lease: Lease, now: datetime) -> None:
    if row is not None and row.token == lease.token and _is_held(row, now):
        return
    what = f"lease {lease.name!r} of {lease.holder!r} (token {lease.token})"
    if row is None:
        raise Fenced(f"{what} is not in the database.", "acquire it there")
    if row.token != lease.token:
        heir = f"{row.holder!r} has token {row.token}" if row.holder else f"token {row.token} was given up since"
        raise Fenced(f"{what} was taken over: {heir}.", "stop; the new holder goes on from the journal")
    gone = f"expired at {from_micros(row.expires_at)}, and it is {now}" if row.holder else "was given up"
    raise Fenced(f"{what} {gone}.", "acquire it again and read the journal anew")
