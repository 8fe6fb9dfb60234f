"""The declared projects and their strategies, as `tidemill check` compiled them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, insert, select, update

from tidemill.clock import from_micros, micros
from tidemill.errors import StoreError
from tidemill.fingerprint import digest
from tidemill.records import Json
from tidemill.stores.database import Database, dumps, loads
from tidemill.stores.rows import insert_once, next_number
from tidemill.stores.tables import projects, strategies, strategy_spells


@dataclass(frozen=True, kw_only=True)
class StrategyVersion:
    """A strategy that is or was in force; `number` counts from 1 within a project, `since` is when it last came in."""

    number: int
    digest: str
    body: Json
    since: datetime


@dataclass(frozen=True, kw_only=True)
class StrategySpell:
    """A time in which a strategy was in force, until the next spell; one that comes in again has several."""

    number: int
    digest: str
    since: datetime


class Projects:
    """Keeps manifests, secrets, strategies and pauses, by project."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def publish(self, conn: Connection, manifest: Json, strategy: Json, *, file: str, now: datetime) -> int:
        """Make this declaration the one in force, and return the number of its strategy.

        Publishing the same again changes nothing; going back to an earlier strategy gives its number again. The first
        time, the project gets its secret, which stays.
        """
        project, wanted = manifest["project"], digest(strategy)
        said = {"manifest": dumps(manifest), "strategy": wanted, "file": file, "updated_at": micros(now)}
        insert_once(conn, projects, {"project": project}, {**said, "secret": secrets.token_bytes(32)})
        changed = lock_project(conn, project) != wanted
        conn.execute(update(projects).where(projects.c.project == project).values(**said))
        number, is_new = _number(conn, project, wanted, strategy, now)
        if is_new or changed:
            _begin_spell(conn, project, number, now)
        return number

    def projects(self) -> list[str]:
        """Return the names of the published projects, sorted."""
        with self._db.read() as conn:
            return _names(conn)

    def manifest(self, project: str) -> Json:
        """Return the manifest in force.

        Raises:
            StoreError: no such project was published.
        """
        return loads(self._column(project, projects.c.manifest))

    def declare(self, conn: Connection, manifest: Json, *, now: datetime) -> None:
        """Put another manifest in force for a published project, under the same strategy.

        Raises:
            StoreError: no such project was published.
        """
        project = manifest["project"]
        lock_project(conn, project)
        said = {"manifest": dumps(manifest), "updated_at": micros(now)}
        conn.execute(update(projects).where(projects.c.project == project).values(**said))

    def secret(self, project: str) -> bytes:
        """Return the 32 bytes that key the project's request ids and hashes of sensitive inputs.

        Raises:
            StoreError: no such project was published.
        """
        return bytes(self._column(project, projects.c.secret))

    def file(self, project: str) -> str:
        """Return where the project file was when it was published.

        Raises:
            StoreError: no such project was published.
        """
        return str(self._column(project, projects.c.file))

    def strategies(self, project: str) -> list[StrategyVersion]:
        """Return every strategy by the time it came into force: the last is the one in force now."""
        wanted = select(strategies).where(strategies.c.project == project)
        with self._db.read() as conn:
            rows = conn.execute(wanted.order_by(strategies.c.since, strategies.c.number)).all()
        return [
            StrategyVersion(number=r.number, digest=r.digest, body=loads(r.body), since=from_micros(r.since))
            for r in rows
        ]

    def strategy_spells(self, project: str) -> list[StrategySpell]:
        """Return which strategy was in force since when, oldest first: the last is in force now."""
        same = (strategies.c.project == strategy_spells.c.project) & (strategies.c.number == strategy_spells.c.number)
        wanted = select(strategy_spells.c.number, strategy_spells.c.since, strategies.c.digest).join(strategies, same)
        wanted = wanted.where(strategy_spells.c.project == project).order_by(strategy_spells.c.revision)
        with self._db.read() as conn:
            rows = conn.execute(wanted).all()
        return [StrategySpell(number=r.number, digest=r.digest, since=from_micros(r.since)) for r in rows]

    def pause(self, conn: Connection, project: str, at: datetime | None) -> None:
        """Say that the loop rests since `at`, or, with None, that it goes on."""
        lock_project(conn, project)
        conn.execute(
            update(projects).where(projects.c.project == project).values(paused_at=None if at is None else micros(at))
        )

    def paused_at(self, project: str) -> datetime | None:
        """Return since when the loop rests, None when it works.

        Raises:
            StoreError: no such project was published.
        """
        at = self._column(project, projects.c.paused_at)
        return None if at is None else from_micros(at)

    def _declared(self, conn: Connection, project: str) -> Json | None:
        """Return the manifest as a transaction sees it, None before the first."""
        row = conn.execute(select(projects.c.manifest).where(projects.c.project == project)).first()
        return None if row is None else loads(row.manifest)

    def _column(self, project: str, column: Column[Any]) -> Any:
        with self._db.read() as conn:
            row = conn.execute(select(column).where(projects.c.project == project)).first()
            if row is None:
                raise _unknown(conn, project)
        return row[0]


def lock_project(conn: Connection, project: str) -> str:
    """Take the project's row until the transaction ends, and return the digest of its strategy.

    Whoever numbers something within a project (versions, revisions, cycles) takes it first, so that numbers have no
    gaps and no rivals. On SQLite the write transaction itself is that lock.

    Raises:
        StoreError: no such project was published.
    """
    wanted = select(projects.c.strategy).where(projects.c.project == project).with_for_update()
    row = conn.execute(wanted).first()
    if row is None:
        raise _unknown(conn, project)
    return str(row.strategy)


def _number(conn: Connection, project: str, wanted: str, body: Json, now: datetime) -> tuple[int, bool]:
    """Return the strategy's number, and whether it is a new one."""
    same = (strategies.c.project == project, strategies.c.digest == wanted)
    known = conn.execute(select(strategies.c.number).where(*same)).scalar()
    if known is not None:
        return int(known), False
    number = next_number(conn, strategies.c.number, project)
    row = {"number": number, "digest": wanted, "body": dumps(body), "since": micros(now)}
    conn.execute(insert(strategies).values(project=project, **row))
    return number, True


def _begin_spell(conn: Connection, project: str, number: int, now: datetime) -> None:
    """Note that a strategy comes into force now."""
    one = (strategies.c.project == project, strategies.c.number == number)
    conn.execute(update(strategies).where(*one).values(since=micros(now)))
    revision = next_number(conn, strategy_spells.c.revision, project)
    spell = {"revision": revision, "number": number, "since": micros(now)}
    conn.execute(insert(strategy_spells).values(project=project, **spell))


def _names(conn: Connection) -> list[str]:
    return list(conn.execute(select(projects.c.project).order_by(projects.c.project)).scalars())


def _unknown(conn: Connection, project: str) -> StoreError:
    known = ", ".join(map(repr, _names(conn))) or "none"
    return StoreError(
        f"no project {project!r} is published here; there is {known}.", "run `tidemill check` on its file"
    )
