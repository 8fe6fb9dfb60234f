"""The dataset versions of a project in the catalog, and the names that people give them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, select, update

from tidemill.clock import from_micros, micros
from tidemill.errors import Conflict, NotFound, StoreError
from tidemill.records import DatasetVersion
from tidemill.stores.database import Database
from tidemill.stores.rows import insert_once, parts
from tidemill.stores.tables import dataset_tags, datasets

_TAG = re.compile(r"[a-z][a-z0-9._-]{0,99}")
_PREFIX = re.compile(r"[0-9a-f]{4,64}")


class Versions:
    """Knows the versions of all projects by digest, number and tag."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, project: str, digest: str) -> DatasetVersion:
        """Return a version.

        Raises:
            StoreError: there is none of that digest.
        """
        with self._db.read() as conn:
            version = find(conn, project, digest)
        if version is None:
            raise missing(project, digest)
        return version

    def all(self, project: str) -> list[DatasetVersion]:
        """Return all versions, the first one first."""
        with self._db.read() as conn:
            return every(conn, project)

    def resolve(self, project: str, ref: str | int) -> DatasetVersion:
        """Return the version of a number, a tag, a digest or the first four or more digits of one.

        Raises:
            NotFound: there is none.
            StoreError: several digests begin so.
        """
        known, tags = self.all(project), self.tags(project)
        text = str(ref)
        found = [v for v in known if text == str(v.number) or tags.get(text) == v.digest]
        if not found and _PREFIX.fullmatch(text):
            found = [v for v in known if v.digest.startswith(text)]
        if not found:
            numbers = f"1 to {known[-1].number}" if known else "none yet"
            raise NotFound(f"{project!r} has no dataset {text!r}.", f"numbers are {numbers}, tags {_listed(tags)}")
        if len(found) > 1:
            raise StoreError(f"{len(found)} datasets of {project!r} begin with {text!r}.", "give more of the digest")
        return found[0]

    def erase(self, conn: Connection, project: str, digests: Sequence[str], *, now: datetime) -> None:
        """Say that the rows of versions are gone, because somebody in them was forgotten; the records stay."""
        _mark(conn, project, digests, erased_at=micros(now))

    def retire(self, conn: Connection, project: str, digests: Sequence[str], *, now: datetime) -> None:
        """Say that the rows of versions are gone, because they are too old to keep; the records stay."""
        _mark(conn, project, digests, retired_at=micros(now))

    # --- tags

    def tag(self, conn: Connection, project: str, name: str, digest: str, *, now: datetime, move: bool = False) -> None:
        """Name a version; a name that another one has is refused, unless `move`.

        Raises:
            StoreError: the name could be taken for a number or a digest, or there is no such version.
            Conflict: another version has the name.
        """
        if not _TAG.fullmatch(name) or _PREFIX.fullmatch(name):
            raise StoreError(
                f"{name!r} is no tag.", "use a letter, then letters, digits, '.', '_' or '-', such as 'v1' or 'golden'"
            )
        if find(conn, project, digest) is None:
            raise missing(project, digest)
        key, values = {"project": project, "name": name}, {"digest": digest, "tagged_at": micros(now)}
        if insert_once(conn, dataset_tags, key, values):
            return
        held = _tags(conn, project)[name]
        if held != digest and not move:
            raise Conflict(
                f"the tag {name!r} is on dataset {held[:12]}.", "move it with --move, or choose another name"
            )
        conn.execute(update(dataset_tags).where(*_named(project, name)).values(**values))

    def untag(self, conn: Connection, project: str, name: str) -> None:
        """Take a name away; the version stays.

        Raises:
            NotFound: no version has it.
        """
        if not conn.execute(delete(dataset_tags).where(*_named(project, name))).rowcount:
            raise NotFound(f"{project!r} has no tag {name!r}.", f"tags are {_listed(_tags(conn, project))}")

    def tags(self, project: str) -> dict[str, str]:
        """Return the digests by tag, sorted by tag."""
        with self._db.read() as conn:
            return _tags(conn, project)


def find(conn: Connection, project: str, digest: str) -> DatasetVersion | None:
    """Return a version, None where there is none of that digest."""
    one = (datasets.c.project == project, datasets.c.digest == digest)
    row = conn.execute(select(datasets).where(*one)).mappings().first()
    return None if row is None else _version(row)


def missing(project: str, digest: str) -> StoreError:
    """Return the error that says which version there is not."""
    return StoreError(f"{project!r} has no dataset {digest[:12]!r}.", "give the digest of one of its versions")


def every(conn: Connection, project: str) -> list[DatasetVersion]:
    """Return all versions as a transaction sees them, the first one first."""
    query = select(datasets).where(datasets.c.project == project).order_by(datasets.c.number)
    return [_version(row) for row in conn.execute(query).mappings()]


def gone(project: str, version: DatasetVersion) -> StoreError:
    """Return the error that says that only the record of a version is left."""
    if version.erased_at is not None:
        why = f"was erased on {version.erased_at:%Y-%m-%d}: somebody in it was forgotten"
    else:
        why = f"was retired on {version.retired_at:%Y-%m-%d}: the project keeps the newest versions only"
    return StoreError(f"dataset {version.number} of {project!r} {why}.", "name a version whose rows are kept")


def restore(conn: Connection, project: str, digest: str) -> None:
    """Say that the rows of a version are there again."""
    one = (datasets.c.project == project, datasets.c.digest == digest)
    conn.execute(update(datasets).where(*one).values(erased_at=None, retired_at=None))


def _mark(conn: Connection, project: str, digests: Sequence[str], **values: int) -> None:
    for some in parts(digests):
        conn.execute(
            update(datasets).where(datasets.c.project == project, datasets.c.digest.in_(some)).values(**values)
        )


def _version(row: RowMapping) -> DatasetVersion:
    values: dict[str, Any] = {name: value for name, value in row.items() if name != "project"}
    for name in ("created_at", "erased_at", "retired_at"):
        values[name] = None if values[name] is None else from_micros(values[name])
    return DatasetVersion(**values)


def _tags(conn: Connection, project: str) -> dict[str, str]:
    query = select(dataset_tags.c.name, dataset_tags.c.digest).where(dataset_tags.c.project == project)
    return {row.name: row.digest for row in conn.execute(query.order_by(dataset_tags.c.name))}


def _named(project: str, name: str) -> tuple[ColumnElement[bool], ...]:
    return (dataset_tags.c.project == project, dataset_tags.c.name == name)


def _listed(tags: dict[str, str]) -> str:
    return ", ".join(tags) or "none yet"
