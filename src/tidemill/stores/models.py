"""Model versions, the training runs they came from, and the reports about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, insert, select, update

from tidemill.clock import from_micros, micros
from tidemill.errors import StoreError
from tidemill.records import Json, ModelVersion
from tidemill.stores.database import Database, dumps, loads
from tidemill.stores.projects import lock_project
from tidemill.stores.rows import insert_once, next_number, parts, put
from tidemill.stores.tables import models, reports, runs


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training: what went in (`body` from its start) and what came out (added at its end)."""

    run: str
    cycle: int | None
    started_at: datetime
    ended_at: datetime | None
    status: str  # running, done, failed
    body: Json


class Models:
    """Keeps model versions, runs and reports, by project."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add_model(self, conn: Connection, project: str, model: ModelVersion) -> int:
        """Register a model and return its version; `model.version` is ignored.

        A run has one model: registering for the same run again, as after a crash, returns the version it has.

        Raises:
            StoreError: no such project was published.
        """
        lock_project(conn, project)
        of_run = select(models.c.version).where(models.c.project == project, models.c.run == model.run)
        known = conn.execute(of_run).scalar()
        if known is not None:
            return int(known)
        version = next_number(conn, models.c.version, project)
        conn.execute(
            insert(models).values(
                project=project,
                version=version,
                artefact=model.artefact,
                created_at=micros(model.created_at),
                dataset=model.dataset,
                strategy=model.strategy,
                parent=model.parent,
                cycle=model.cycle,
                run=model.run,
                status=model.status,
            )
        )
        return version

    def model(self, project: str, version: int) -> ModelVersion:
        """Return one version.

        Raises:
            StoreError: the project has no such version.
        """
        with self._db.read() as conn:
            row = conn.execute(select(models).where(models.c.project == project, models.c.version == version)).first()
        if row is None:
            raise no_version(project, version)
        return _model(row)

    def artefact(self, project: str, version: int) -> str:
        """Return the digest of a version's artefact, to load it.

        Raises:
            StoreError: the project has no such version, or the artefact was deleted because it is too old to keep.
        """
        model = self.model(project, version)
        if model.retired_at is not None:
            raise retired(project, version, model.retired_at)
        return model.artefact

    def digests(self, project: str, versions: Sequence[int]) -> dict[int, str]:
        """Return the digests of the artefacts that versions have now, by version; without those that were deleted."""
        mine = (models.c.project == project, models.c.version.in_(versions), models.c.retired_at.is_(None))
        with self._db.read() as conn:
            rows = conn.execute(select(models.c.version, models.c.artefact).where(*mine)).all()
        return {row.version: row.artefact for row in rows}

    def retire(self, conn: Connection, project: str, versions: Sequence[int], *, now: datetime) -> None:
        """Say that the artefacts of versions are gone, because they are too old to keep; the records stay."""
        for some in parts(versions):
            mine = (models.c.project == project, models.c.version.in_(some))
            conn.execute(update(models).where(*mine).values(retired_at=micros(now)))

    def artefacts(self, conn: Connection) -> tuple[set[str], set[str]]:
        """Return the artefacts that versions of all projects have, and those that only retired ones had."""
        rows = conn.execute(select(models.c.artefact, models.c.retired_at)).all()
        kept = {row.artefact for row in rows if row.retired_at is None}
        return kept, {row.artefact for row in rows} - kept

    def models(self, project: str) -> list[ModelVersion]:
        """Return every version, oldest first."""
        with self._db.read() as conn:
            rows = conn.execute(select(models).where(models.c.project == project).order_by(models.c.version)).all()
        return [_model(row) for row in rows]

    def set_status(self, conn: Connection, project: str, version: int, status: str) -> None:
        """Say what became of a version: ready, live, retired, rejected or rolled back.

        Raises:
            StoreError: the project has no such version.
        """
        lock_project(conn, project)  # first, as everywhere: so that no two transactions wait for each other
        one = (models.c.project == project, models.c.version == version)
        if not conn.execute(update(models).where(*one).values(status=status)).rowcount:
            raise no_version(project, version)

    def replace_artefact(self, conn: Connection, project: str, old: str, new: str) -> None:
        """Let the versions that an artefact is of have another in its place, which answers as it does."""
        lock_project(conn, project)
        mine = (models.c.project == project, models.c.artefact == old)
        conn.execute(update(models).where(*mine).values(artefact=new))

    def is_named(self, artefact: str) -> bool:
        """Tell whether a version of any project has this artefact."""
        with self._db.read() as conn:
            found = conn.execute(select(models.c.version).where(models.c.artefact == artefact).limit(1)).first()
        return found is not None

    def start_run(self, conn: Connection, project: str, run: str, cycle: int | None, body: Json, now: datetime) -> None:
        """Note that a training began, or begins again after it failed; one that runs or is done is left as it is."""
        row = {"cycle": cycle, "started_at": micros(now), "status": "running", "body": dumps(body)}
        if not insert_once(conn, runs, {"project": project, "run": run}, row):
            failed = (runs.c.project == project, runs.c.run == run, runs.c.status == "failed")
            conn.execute(update(runs).where(*failed).values(**row, ended_at=None))

    def end_run(self, conn: Connection, project: str, run: str, status: str, body: Json, now: datetime) -> None:
        """Note how a training ended, `done` or `failed`; `body` adds to its start's. The first end of a start counts.

        Raises:
            StoreError: no such run was started.
        """
        one = (runs.c.project == project, runs.c.run == run)
        started = conn.execute(select(runs).where(*one).with_for_update()).first()
        if started is None:
            raise no_run(project, run)
        if started.ended_at is None:
            whole = dumps({**loads(started.body), **body})
            conn.execute(update(runs).where(*one).values(status=status, body=whole, ended_at=micros(now)))

    def runs(self, project: str) -> list[Run]:
        """Return every run, oldest first."""
        with self._db.read() as conn:
            wanted = select(runs).where(runs.c.project == project).order_by(runs.c.started_at, runs.c.run)
            rows = conn.execute(wanted).all()
        return [_run(row) for row in rows]

    def run(self, project: str, run: str) -> Run | None:
        """Return one run, None where there is none of that name."""
        with self._db.read() as conn:
            row = conn.execute(select(runs).where(runs.c.project == project, runs.c.run == run)).first()
        return None if row is None else _run(row)

    def add_report(self, conn: Connection, project: str, version: int, body: Json, now: datetime) -> None:
        """Keep the report about a version; a newer one replaces it."""
        put(
            conn,
            reports,
            {"project": project, "version": version},
            {"body": dumps(body), "created_at": micros(now)},
        )

    def report(self, project: str, version: int) -> Json | None:
        """Return the report about a version, None when there is none."""
        with self._db.read() as conn:
            of_version = (reports.c.project == project, reports.c.version == version)
            body = conn.execute(select(reports.c.body).where(*of_version)).scalar()
        return None if body is None else loads(body)

    def reported(self, project: str) -> dict[int, datetime]:
        """Return when the report about each version was made, by version; versions without one are left out."""
        wanted = select(reports.c.version, reports.c.created_at).where(reports.c.project == project)
        with self._db.read() as conn:
            rows = conn.execute(wanted.order_by(reports.c.version)).all()
        return {row.version: from_micros(row.created_at) for row in rows}


def no_version(project: str, version: int) -> StoreError:
    """Return the error for a version that is not in the catalog."""
    return StoreError(f"project {project!r} has no version {version}.", "`tidemill status` lists the versions")


def retired(project: str, version: int, at: datetime) -> StoreError:
    """Return the error for a version whose artefact is gone."""
    return StoreError(
        f"the artefact of version {version} of {project!r} was deleted on {at:%Y-%m-%d}: the project keeps those of the"
        " newest versions only.",
        "choose a newer version, or train one; `keep_versions` of the project says how many are kept",
    )


def no_run(project: str, run: str) -> StoreError:
    """Return the error for a training that nobody started."""
    return StoreError(f"project {project!r} has no run {run!r}.", "start it before it ends")


def _model(row: Row[tuple[object, ...]]) -> ModelVersion:
    return ModelVersion(
        version=row.version,
        artefact=row.artefact,
        created_at=from_micros(row.created_at),
        dataset=row.dataset,
        strategy=row.strategy,
        parent=row.parent,
        cycle=row.cycle,
        run=row.run,
        status=row.status,
        retired_at=None if row.retired_at is None else from_micros(row.retired_at),
    )


def _run(row: Row[tuple[object, ...]]) -> Run:
    return Run(
        run=row.run,
        cycle=row.cycle,
        started_at=from_micros(row.started_at),
        ended_at=None if row.ended_at is None else from_micros(row.ended_at),
        status=row.status,
        body=loads(row.body),
    )
