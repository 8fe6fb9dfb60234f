"""What has changed, at the price of a few small reads: a number by topic that is another after each change."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

from sqlalchemy import Connection, Table, func, select

from tidemill.stores.database import Database
from tidemill.stores.tables import (
    alerts,
    audit,
    commands,
    cycles,
    dataset_tags,
    datasets,
    log_files,
    models,
    projects,
    queue,
    routes,
    states,
    steps,
    verdicts,
)


class Found(NamedTuple):
    """Revisions by topic, and how many alerts are open and examples wait."""

    topics: Mapping[str, Hashable]
    counts: Mapping[str, int]


class Revisions:
    """Tells what of a project changed since it was last asked."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def read(self, project: str) -> Found:
        """Return the revisions as of now.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._db.read() as conn:
            topics = {
                name: tuple(_mark(conn, table, which, project) for table, which in of) for name, of in _OF.items()
            }
            is_open = (alerts.c.project == project, alerts.c.closed_at.is_(None))
            waits = (queue.c.project == project, queue.c.answered_at.is_(None))
            counts = {"alerts": _count(conn, alerts, *is_open), "queue": _count(conn, queue, *waits)}
        return Found({**topics, "queue": (topics["queue"], counts["queue"])}, counts)


_OF: Mapping[str, tuple[tuple[Table, tuple[str, ...]], ...]] = {
    "route": ((routes, ("revision",)), (projects, ("paused_at", "updated_at"))),
    "cycle": ((cycles, ("number", "closed_at")), (steps, ("done_at",)), (verdicts, ("id",)), (states, ("updated_at",))),
    "commands": ((commands, ("id", "handled_at")),),
    "alerts": ((alerts, ("id", "fired_at", "closed_at", "silent_until")),),
    "queue": (
        (queue, ("answered_at",)),
    ),  # a new question is seen by how many wait: no index has the time it was asked
    "log": ((log_files, ("committed_at",)),),
    "models": ((models, ("version",)), (datasets, ("number",)), (dataset_tags, ("tagged_at",))),
    "audit": ((audit, ("id",)),),
}
_EVERYWHERE = frozenset({"verdicts", "audit"})
"""Tables that grow for ever: their greatest id, of any project, is found at once."""


def _mark(conn: Connection, table: Table, columns: tuple[str, ...], project: str) -> Hashable:
    greatest = select(*(func.max(table.c[name]) for name in columns))
    greatest = greatest if table.name in _EVERYWHERE else greatest.where(table.c.project == project)
    return tuple(conn.execute(greatest).one())


def _count(conn: Connection, table: Table, *where: object) -> int:
    return int(conn.execute(select(func.count()).select_from(table).where(*where)).scalar_one())  # type: ignore[arg-type]
