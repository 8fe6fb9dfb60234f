"""Moves what gateways appended into the log: sealed segments become Parquet files, exactly once.

The files are written and on disk before one transaction names them and their segments; only then are the segments
deleted. A compactor that is killed leaves either files that no row names, which the next one deletes, or segments that
are named as consumed, which it deletes too. One that lost its lease can name nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Connection, delete, insert, select

from tidemill.clock import from_micros, micros
from tidemill.errors import Conflict, Fenced
from tidemill.records import DeviceProfile, Feedback, Prediction
from tidemill.stores.columns import feedback_table, prediction_tables, profile_table
from tidemill.stores.database import Database
from tidemill.stores.frames import read_frames
from tidemill.stores.journal import Journal, Lease
from tidemill.stores.logfiles import LogFile, LogFiles, add_files, drop_files
from tidemill.stores.segments import Segment, Segments, decode
from tidemill.stores.tables import consumed

_GROUP_BYTES = 64 << 20  # of the segments that are read and committed together
_MERGED_BYTES = 64 << 20  # of the files merged into one
_FAN_IN = 16
_DAY = 86_400_000_000
_LEFT_BEHIND_S = 3600.0

Write = Callable[[], AbstractContextManager[Connection]]


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """What a compaction moved: rows of predictions and of feedback, and the number of segments they came from.

    `num_torn` counts the bytes after the last good frame of a segment: writes that were cut short, which nobody was
    told had succeeded; after a power cut also what an earlier segment left in its file.
    """

    rows: int = 0
    feedback: int = 0
    segments: int = 0
    num_torn: int = 0

    def __add__(self, other: Compacted) -> Compacted:
        return Compacted(
            rows=self.rows + other.rows,
            feedback=self.feedback + other.feedback,
            segments=self.segments + other.segments,
            num_torn=self.num_torn + other.num_torn,
        )


class Compactor:
    """Writes the log. All compactors of one log work under leases of one name, whose tokens tell who came later.

    Args:
        db: the catalog.
        journal: checks the lease in the transaction that names the files.
        segments: the folder that gateways append to.
        folder: the log's folder.
    """

    def __init__(self, db: Database, journal: Journal, segments: Segments, folder: Path) -> None:
        self._db = db
        self._journal = journal
        self._segments = segments
        self._files = LogFiles(db, folder)
        self._clean_under: int | None = None  # the token under which nothing was left behind
        self._cleared: dict[str, date] = {}  # by project, up to which day nothing was left behind

    def compact(self, lease: Lease, *, now: datetime) -> Compacted:
        """Move every sealed segment, and those of dead gateways, into the log.

        Raises:
            Fenced: the lease is lost; another compactor goes on where this one stopped.
            Corrupt: a frame holds no batch; the message names the segment.
        """
        with self._tidy(lease):
            self._segments.seal_dead()
            present = self._segments.present()
            done = self._consumed()
            self._segments.remove(done)  # a killed compactor left them
            moved = Compacted()
            for group in _groups([s for s in present if s.sealed and s.name not in done]):
                moved += self._move(group, lease, now)
            return moved

    def merge_small(self, lease: Lease, *, now: datetime) -> int:
        """Merge the small files of a past day, or of today where more than 16 are of like size; count those replaced.

        Raises:
            Fenced: the lease is lost.
        """
        with self._tidy(lease):
            replaced = 0
            small = self._files.find(smaller_than=_MERGED_BYTES // 2)
            for group in _mergeable(small, today=now.date().isoformat()):
                with suppress(Conflict, FileNotFoundError):  # one of them has left the log meanwhile (see `forget`)
                    for schema, files in self._alike(group):
                        self._merge(schema, files, lease, now)
                        replaced += len(files)
            return replaced

    def forget(self, project: str, *, now: datetime, age: timedelta, write: Write) -> int:
        """Delete the whole days of a project's log that are older than `age`; return how many files that were.

        Examples and datasets have copies of their own. `write` gives the transaction that takes the files out of the
        log; no lease of the compactor's is needed.
        """
        before = (now - age).date()
        old = self._files.find(project, ended_before=micros(datetime.combine(before, time(), UTC)))
        if old:
            with write() as conn:
                drop_files(conn, [file.path for file in old])
            self._files.remove(file.path for file in old)
        if self._cleared.get(project) != before:
            self._files.clear_days(project, before=before.isoformat(), unless_after=now.timestamp() - _LEFT_BEHIND_S)
            self._cleared[project] = before
        return len(old)

    def waiting(self) -> list[Segment]:
        """Return the segments that are not in the log yet, open ones among them."""
        done = self._consumed()
        return [segment for segment in self._segments.present() if segment.name not in done]

    def remove_consumed(self) -> None:
        """Delete the segments that are in the log and that a killed compactor left; no lease is needed."""
        self._segments.remove(self._consumed())

    @contextmanager
    def _tidy(self, lease: Lease) -> Iterator[None]:
        """Delete leftovers first, unless the last run was this compactor's and ended well: then there are none."""
        if self._clean_under is None or lease.token > self._clean_under + 1:  # somebody had the lease in between
            self._files.sweep(lease.token)
        self._clean_under = None
        yield
        self._clean_under = lease.token

    def _consumed(self) -> set[str]:
        with self._db.read() as conn:
            return set(conn.execute(select(consumed.c.segment)).scalars())

    def _move(self, group: Sequence[Segment], lease: Lease, now: datetime) -> Compacted:
        rows = _Rows()
        counts = [{"segment": s.name, "num_rows": rows.add(s), "committed_at": micros(now)} for s in group]
        with self._naming(self._written(rows, lease, now), lease, now) as conn:
            conn.execute(delete(consumed))  # those files are gone by now: only a later crash makes names needed again
            conn.execute(insert(consumed), counts)
        self._segments.remove(s.name for s in group)
        return Compacted(
            rows=rows.num_predictions, feedback=rows.num_feedback, segments=len(group), num_torn=rows.num_torn
        )

    def _written(self, rows: _Rows, lease: Lease, now: datetime) -> list[LogFile]:
        """Write files; where an heir swept one that was half written, the lease is lost, and that is what is told."""
        try:
            return rows.write(self._files, lease.token)
        except FileNotFoundError:
            with self._journal.write(lease, now=now):  # raises Fenced when somebody took over
                raise

    def _alike(self, group: Sequence[LogFile]) -> list[tuple[pa.Schema, list[LogFile]]]:
        """Part files whose columns have different types: those stay apart, so that each keeps what was logged."""
        parts: list[tuple[pa.Schema, list[LogFile]]] = []
        for file in group:
            schema = pq.read_schema(self._files.folder / file.path)
            for at, (known, files) in enumerate(parts):
                try:
                    parts[at] = (pa.unify_schemas([known, schema]), [*files, file])
                    break
                except (pa.ArrowTypeError, pa.ArrowInvalid):
                    continue
            else:
                parts.append((schema, [file]))
        return [(schema, files) for schema, files in parts if len(files) > 1]

    def _merge(self, schema: pa.Schema, files: Sequence[LogFile], lease: Lease, now: datetime) -> None:
        first = files[0]
        tables = (_read(self._files.folder / file.path, schema) for file in files)
        merged = self._files.write(tables, project=first.project, kind=first.kind, day=first.day, fence=lease.token)
        assert merged.num_rows == sum(file.num_rows for file in files)
        replaced = [file.path for file in files]
        with self._naming([merged], lease, now) as conn:
            if drop_files(conn, replaced) < len(replaced):
                raise Conflict(f"a file of {first.day} is no longer in the log.", "merge what is left of that day")
        self._files.remove(replaced)

    @contextmanager
    def _naming(self, files: Sequence[LogFile], lease: Lease, now: datetime) -> Iterator[Connection]:
        """Give the transaction that makes `files` part of the log."""
        try:
            with self._journal.write(lease, now=now) as conn:
                add_files(conn, files, now=micros(now))
                yield conn
        except (Fenced, Conflict):
            self._files.remove(file.path for file in files)  # nobody can have named them
            raise


@dataclass
class _Rows:
    """The rows of some segments, by project and UTC day."""

    predictions: dict[tuple[str, int], list[Prediction]] = field(default_factory=lambda: defaultdict(list))
    feedback: dict[tuple[str, int], list[Feedback]] = field(default_factory=lambda: defaultdict(list))
    profiles: dict[tuple[str, int], list[DeviceProfile]] = field(default_factory=lambda: defaultdict(list))
    num_predictions: int = 0
    num_feedback: int = 0
    num_torn: int = 0

    def add(self, segment: Segment) -> int:
        """Read a segment and return its number of rows."""
        before = self.num_predictions + self.num_feedback
        try:
            frames = read_frames(segment.path)
        except FileNotFoundError as error:
            raise Fenced(f"segment {segment.name} is gone: another compactor took it.", "acquire the lease") from error
        for payload in frames.payloads:
            batch = decode(payload, name=segment.name)
            for row in batch.predictions:
                self.predictions[batch.project, row.received_at // _DAY].append(row)
            for fact in batch.feedback:
                self.feedback[batch.project, fact.received_at // _DAY].append(fact)
            for profile in batch.profiles:
                self.profiles[batch.project, profile.received_at // _DAY].append(profile)
            self.num_predictions += len(batch.predictions)
            self.num_feedback += len(batch.feedback)
        self.num_torn += frames.num_torn
        return self.num_predictions + self.num_feedback - before

    def write(self, files: LogFiles, fence: int) -> list[LogFile]:
        """Write the rows and return the files, which no row names yet."""
        written = []
        for (project, day), rows in self.predictions.items():
            rows.sort(key=lambda row: (row.received_at, row.request_id))
            place = {"project": project, "kind": "predictions", "day": _name(day)}
            written += [files.write([table], **place, fence=fence) for table in prediction_tables(rows)]
        for (project, day), facts in self.feedback.items():
            facts.sort(key=lambda fact: (fact.received_at, fact.request_id))
            place = {"project": project, "kind": "feedback", "day": _name(day)}
            written.append(files.write([feedback_table(facts)], **place, fence=fence))
        for (project, day), profiles in self.profiles.items():
            place = {"project": project, "kind": "profiles", "day": _name(day)}
            written.append(files.write([profile_table(profiles)], **place, fence=fence))
        return written


def _groups(segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    """Part segments so that the rows of a group fit in memory."""
    group: list[Segment] = []
    for segment in segments:
        if group and sum(s.num_bytes for s in group) + segment.num_bytes > _GROUP_BYTES:
            yield group
            group = []
        group.append(segment)
    if group:
        yield group


def _mergeable(files: Iterable[LogFile], *, today: str) -> Iterator[list[LogFile]]:
    """Choose the files to merge: of a past day all small ones, of today those of a size of which there are many."""
    alike: dict[tuple[str, str, str, int], list[LogFile]] = defaultdict(list)
    for file in files:
        if file.num_bytes < _MERGED_BYTES // 2:
            tier = file.num_bytes.bit_length() // 3 if file.day >= today else 0
            alike[file.project, file.kind, file.day, tier].append(file)
    for (_, _, day, _), group in alike.items():
        if day < today or len(group) > _FAN_IN:
            yield from _bounded(group)


def _bounded(files: Sequence[LogFile]) -> Iterator[list[LogFile]]:
    part: list[LogFile] = []
    for file in files:
        if part and sum(f.num_bytes for f in part) + file.num_bytes > _MERGED_BYTES:
            yield part
            part = []
        part.append(file)
    if len(part) > 1:
        yield part


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a file into a wider schema: what it does not have is null."""
    return pa.concat_tables([schema.empty_table(), pq.ParquetFile(path).read()], promote_options="default")


def _name(day: int) -> str:
    return from_micros(day * _DAY).date().isoformat()
