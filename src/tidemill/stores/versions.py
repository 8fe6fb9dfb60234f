"""The dataset versions of a project in the catalog, and the names that people give them."""

from __future__ import annotations

import re
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, select, update

from tidemill.clock import from_micros, micros
from tidemill.errors import Conflict, NotFound, StoreError
from tidemill.records import DatasetVersion
from tidemill.stores.database import Database
from tidemill.stores.rows import insert_once
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
        query = select(datasets).where(datasets.c.project == project).order_by(datasets.c.number)
        with self._db.read() as conn:
            return [_version(row) for row in conn.execute(query).mappings()]

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


def _version(row: RowMapping) -> DatasetVersion:
    values = {name: value for name, value in row.items() if name not in ("project", "created_at")}
    return DatasetVersion(**values, created_at=from_micros(row["created_at"]))


def _tags(conn: Connection, project: str) -> dict[str, str]:
    query = select(dataset_tags.c.name, dataset_tags.c.digest).where(dataset_tags.c.project == project)
    return {row.name: row.digest for row in conn.execute(query.order_by(dataset_tags.c.name))}


def _named(project: str, name: str) -> tuple[ColumnElement[bool], ...]:
    return (dataset_tags.c.project == project, dataset_tags.c.name == name)


def _listed(tags: dict[str, str]) -> str:
    return ", ".join(tags) or "none yet"
