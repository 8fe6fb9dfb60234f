"""A batch prediction from beginning to end: read, hand out parts, deliver them in order, and appear at once.

Every part is written to disk by itself and has its name only when it is whole, so whatever kills this process, the next
one makes the parts that are missing and no others. The output is put together from parts in their order.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from tidemill.clock import Clock
from tidemill.deploy.crew import Crew
from tidemill.deploy.hands import Beside, Hand, Here
from tidemill.deploy.making import load_for
from tidemill.deploy.order import PROGRESS, Order, Progress, check_unchanged, kept, read_progress
from tidemill.deploy.pace import Pace, find_pace, most_hands, num_jobs, num_threads
from tidemill.deploy.task import Task
from tidemill.errors import Conflict, NotFound
from tidemill.manifest import Manifest
from tidemill.policy import Policy
from tidemill.records import Json
from tidemill.runtime.fits import check_fits
from tidemill.runtime.load import Loaded
from tidemill.schema import Schema, Sensitive
from tidemill.stores import sinks
from tidemill.stores.blobs import Blobs
from tidemill.stores.catalog import Catalog
from tidemill.stores.home import Home
from tidemill.stores.outputs import Layout, PartFiles
from tidemill.stores.places import file_place
from tidemill.stores.sources import Source, open_source
from tidemill.stores.spool import spool, table_identity

LOCK = "lock"
_SPOOL = "input.parquet"
_TELL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Done:
    """How far a batch prediction is, or how it ended.

    `num_rows` were predicted, `num_before` of them by a job that was interrupted. `left_s` is None as long as nobody
    knows.
    """

    fraction: float = 0.0
    num_rows: int = 0
    num_refused: int = 0
    num_before: int = 0
    seconds: float = 0.0
    left_s: float | None = None
    version: int = 0
    policy_version: int = 0
    jobs: int = 0

    def to_json(self) -> Json:
        """Return it as JSON."""
        return asdict(self)


Tell = Callable[[Done], None]


def predict_table(order: Order, *, project: str, home: Home, catalog: Catalog, clock: Clock, tell: Tell) -> Done:
    """Predict every row of a table, and write the predictions to another; an interrupted job goes on where it was.

    Raises:
        Conflict: the output is there already, the same job is at work, or what was interrupted was another job.
        InvalidInput: a row does not fit the schema, and bad rows are not skipped.
        ModelError: the version does not load, does not fit, or fails.
        NotFound: there is no version.
        ProjectError: a table does not exist, or lacks a column.
        StoreError: something cannot be read or written.
    """
    workdir = order.workdir(home.runs / project)
    workdir.mkdir(parents=True, exist_ok=True)
    with _alone(workdir, order):
        task = _task(order, project, home, catalog, workdir)
        job = _Job(order, task, clock, tell)
        done = job.run()
        _forget(workdir)
    return done


def _forget(workdir: Path) -> None:
    """Delete what a job leaves, that it is done last of all."""
    for left in workdir.iterdir():
        if left.name not in (PROGRESS, LOCK):
            left.unlink()
    (workdir / PROGRESS).unlink(missing_ok=True)
    shutil.rmtree(workdir)


@contextmanager
def _alone(workdir: Path, order: Order) -> Iterator[None]:
    with (workdir / LOCK).open("wb") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another process is writing {order.to}.", "wait for it, or stop it") from None
        yield


def _task(order: Order, project: str, home: Home, catalog: Catalog, workdir: Path) -> Task:
    """Look up the version, the policy and the schema; what depends on the data is filled in later."""
    route = catalog.route(project)
    if route is None and order.version is None:
        raise NotFound(f"{project!r} has no version yet.", "make one with `tidemill train DATA`")
    version = order.version if order.version is not None else (route.stable if route is not None else 0)
    policy_version = 1 if route is None else route.policy_version
    manifest = Manifest.from_json(catalog.manifest(project))
    return Task(
        folder=str(Blobs(home.blobs).folder(catalog.artefact(project, version))),
        project_file=catalog.file(project),
        schema=manifest.schema.to_json(),
        policy=catalog.policy(project, policy_version).to_json(),
        policy_version=policy_version,
        version=version,
        key=catalog.secret(project),
        keep=[],
        typed=True,
        on_bad_row=order.on_bad_row,
        batch_rows=order.batch_rows or 0,
        threads=num_threads(manifest.limits.threads, order.jobs),
        workdir=str(workdir),
    )


class _Job:
    """One run of an order."""

    def __init__(self, order: Order, task: Task, clock: Clock, tell: Tell) -> None:
        self._order, self._task, self._clock, self._tell = order, task, clock, tell
        self._workdir = Path(task.workdir)
        self._files = PartFiles(self._workdir)
        self._schema = Schema.from_json(task.schema)
        self._begun = self._told = time.monotonic()
        self._sent = 0
        self._done = Done(version=task.version, policy_version=task.policy_version)

    def run(self) -> Done:
        order = self._order
        about = self._about()
        progress = self._progress_before(about)
        if progress is not None and (progress.ended or self._is_delivered(progress)):
            return self._ended(progress)
        if not order.replace and sinks.exists(order.to):
            raise Conflict(f"{order.to} is there already.", "give another name, or let it give way with --replace")
        self._sweep()
        source = self._source()
        self._task.typed = source.typed
        sensitive = [name for name, kind in self._schema.inputs.items() if isinstance(kind, Sensitive)]
        self._task.keep = kept(source.names, self._schema, sensitive, order.keep)
        loaded = load_for(self._task)
        try:
            check_fits(loaded.schema, loaded.inputs, self._schema)
            head = source.head(self._columns(source))
            pace = find_pace(loaded, self._schema, head, self._task, num_rows=source.num_rows, jobs=order.jobs)
            if progress is None:
                progress = Progress(
                    about=about, part_rows=order.part_rows or pace.part_rows, batch_rows=pace.batch_rows
                )
                progress.write(self._workdir)
            self._task.batch_rows = progress.batch_rows
            top_k = Policy.from_json(self._task.policy).top > 1
            layout = Layout.of(head, self._task.keep, self._schema.output, top_k=top_k)
            return self._make(source, progress, pace, loaded, layout)
        finally:
            loaded.close()

    def _columns(self, source: Source) -> list[str]:
        there = [name for name in self._schema.inputs if name in source.names]  # what is not has a default
        return list(dict.fromkeys([*there, *self._task.keep]))

    # ---- what is there already

    def _about(self) -> Json:
        order, task = self._order, self._task
        source = order.source
        return {
            "input": table_identity(source) if source.kind == "sql" else open_source(source).identity(),
            "output": str(order.to),
            "version": task.version,
            "artefact": Path(task.folder).name,
            "schema": task.schema,
            "policy_version": task.policy_version,
            "policy": task.policy,
            "on_bad_row": order.on_bad_row,
            "keep": None if order.keep is None else list(order.keep),
            "slot": order.slot,
        }

    def _progress_before(self, about: Json) -> Progress | None:
        """Return what an interrupted job of the same kind left; another's is refused or, if so wished, thrown away."""
        order = self._order
        progress = None if order.restart else read_progress(self._workdir)
        if progress is not None and not (order.restart_if_changed and progress.about != about):
            check_unchanged(progress.about, about)
            if progress.about != about:
                progress.about = about
                progress.write(self._workdir)
            return progress
        for left in self._workdir.iterdir():
            if left.name != LOCK:
                left.unlink()
        return None

    def _is_delivered(self, progress: Progress) -> bool:
        """Tell whether the job was killed between the last thing it did and forgetting about it."""
        order = self._order
        if order.to.kind != "sql":
            return sinks.is_written(order.to, progress.inode)
        if progress.inode is None:
            return False
        span = self._files.span()
        if span is None:
            return False
        fields, (num_rows, _) = next(self._files.made()).schema, self._files.counts()
        return sinks.holds(order.to, fields, num_rows=num_rows, first=span[0], last=span[1])

    def _ended(self, progress: Progress) -> Done:
        """Note that the output is there, before anything that shows it is deleted."""
        if progress.ended is None:
            num_rows, num_refused = self._files.counts()
            done = replace(self._done, fraction=1.0, left_s=0.0, num_rows=num_rows, num_refused=num_refused)
            progress.ended = done.to_json()
            progress.write(self._workdir)
        return Done(**progress.ended)

    def _sweep(self) -> None:
        """Delete what a kill left half done."""
        for place in (self._order.to, self._order.refused_to):
            if place.kind != "sql":
                sinks.sweep(place)
        self._files.sweep()

    def _source(self) -> Source:
        order = self._order
        if order.source.kind != "sql":
            return open_source(order.source)
        copy = self._workdir / _SPOOL
        if not copy.exists():
            spool(order.source, copy, self._schema)
        return open_source(file_place(copy))

    # ---- work

    def _make(self, source: Source, progress: Progress, pace: Pace, loaded: Loaded, layout: Layout) -> Done:
        done = self._files.done()
        self._count_before()
        jobs = self._order.jobs or num_jobs(source, pace, done=self._done.num_before, threads=self._task.threads)
        self._done = replace(self._done, jobs=jobs)
        with ExitStack() as stack:
            deliver = _Delivery(self._order, self._workdir, layout, progress, stack)
            crew = Crew(self._hands(jobs, loaded), partial(self._told_of, source))
            try:
                for part in source.parts(self._columns(source), progress.part_rows, done):
                    self._sent += len(part.rows) + len(part.lost)
                    crew.put(part)
                    self._count(crew)
                    self._told_of(source)
                    deliver.ready()
                crew.finish()
                self._count(crew)
            finally:
                crew.close()
            deliver.finish()
        self._done = replace(self._done, fraction=1.0, left_s=0.0, seconds=time.monotonic() - self._begun)
        progress.ended = self._done.to_json()
        progress.write(self._workdir)
        self._tell(self._done)
        return self._done

    def _hands(self, jobs: int, loaded: Loaded) -> list[Callable[[], Hand]]:
        """Return who works: a Python model has a process of its own already, and what is alone needs none.

        What is not worth another process is shared by threads of this one, unless it was asked for so: they start at
        once, and most of the work leaves the interpreter to others.
        """
        first: Callable[[], Hand] = partial(Here, self._task, self._clock, loaded)
        if loaded.is_python:
            return [first, *[partial(Here, self._task, self._clock) for _ in range(jobs - 1)]]
        if jobs > 1:
            return [partial(Beside, self._task) for _ in range(jobs)]
        return [first] * (1 if self._order.jobs else most_hands(self._task.threads))

    def _count_before(self) -> None:
        num_rows, num_refused = self._files.counts()
        self._done = replace(self._done, num_rows=num_rows, num_refused=num_refused, num_before=num_rows + num_refused)

    def _count(self, crew: Crew) -> None:
        for _, counts in crew.results():
            num_rows, num_refused = self._done.num_rows + counts["rows"], self._done.num_refused + counts["refused"]
            self._done = replace(self._done, num_rows=num_rows, num_refused=num_refused)

    def _told_of(self, source: Source) -> None:
        now = time.monotonic()
        if now - self._told < _TELL_S:
            return
        self._told = now
        one = self._done
        all_done = one.num_rows + one.num_refused
        new, seconds = all_done - one.num_before, now - self._begun
        total: float | None = source.num_rows
        if total is None and source.fraction > 0:
            total = one.num_before + self._sent / source.fraction
        left = None if total is None or not new else seconds * max(0.0, total - all_done) / new
        fraction = 0.0 if not total else min(1.0, all_done / total)
        self._done = replace(one, fraction=fraction, seconds=seconds, left_s=left)
        self._tell(self._done)


class _Delivery:
    """Puts the output together: a file while parts are made, a table in one transaction at the end."""

    def __init__(self, order: Order, workdir: Path, layout: Layout, progress: Progress, stack: ExitStack) -> None:
        self._order, self._workdir, self._layout = order, workdir, layout
        self._files, self._progress = PartFiles(workdir), progress
        self._stack, self._next = stack, 0
        self._sink: sinks.FileSink | None = None
        if order.to.kind != "sql":
            self._sink = stack.enter_context(sinks.file_sink(order.to, layout.made))
            progress.inode = self._sink.inode
            progress.write(workdir)

    def ready(self) -> None:
        """Write the parts whose turn it is."""
        if self._sink is not None:
            for table in self._files.made(self._next):
                self._sink.add(table)
                self._next += 1

    def finish(self) -> None:
        """Write the rest. Refused rows come first: who sees the output finds them."""
        self._finish_refused()
        if self._sink is not None:
            self.ready()
            self._stack.close()
            return
        self._progress.inode = 0  # from here on the table may be ours
        self._progress.write(self._workdir)
        sinks.write_table(self._order.to, self._layout.made, self._files.made(), replace=self._order.replace)

    def _finish_refused(self) -> None:
        place, tables = self._order.refused_to, self._files.refused()
        if not tables:
            if self._order.replace and sinks.exists(place):
                sinks.remove(place)  # those of an earlier output
        elif place.kind == "sql":
            sinks.write_table(place, self._layout.refused, tables, replace=True)
        else:
            with sinks.file_sink(place, self._layout.refused) as sink:
                for table in tables:
                    sink.add(table)
