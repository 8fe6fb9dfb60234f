"""The project file of a running loop: looked at between turns, so that a changed one is taken up without a restart.

A file that was saved is read once two looks in a row have found it the same: an editor may still be writing. What a
file beside it defines, and the project file imports, is read anew with it. A file that is wrong changes nothing: the
loop goes on with the project that it has, and `tidemill status` shows what is wrong until the file is mended. One
whose schema the live version was not trained on waits: it is taken up once a version of it answers.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from importlib.util import cache_from_source
from pathlib import Path
from types import ModuleType

from tidemill.errors import ProjectError
from tidemill.fingerprint import digest
from tidemill.loop.looked_for import check_looked_for
from tidemill.loop.world import Turn, World
from tidemill.monitor.cohorts import check_cohorts
from tidemill.monitor.drift import check_drift
from tidemill.project import Project, load_project
from tidemill.schema import Schema
from tidemill.stores.audit import Audit

_OURS = __name__.partition(".")[0]

_Looks = tuple[tuple[str, int, int, int], ...]
"""By file: its path, inode, size and time of change in nanoseconds."""


def checked_project(path: str) -> Project:
    """Load a project file, and check what only the loop's layers can: its cohorts, and what its stages look for.

    Raises:
        ProjectError: it is wrong; the message names the part.
    """
    project = load_project(path)
    check_cohorts(project)
    check_looked_for(project)
    check_drift(project)
    return project


class ProjectFile:
    """Knows which content of the project file the loop works with."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._beside = self._neighbours()
        self._loaded = self._seen = self._looks()
        self._refused: _Looks | None = None
        self._held: tuple[_Looks, object] | None = None
        self.waiting: Schema | None = None

    @property
    def is_refused(self) -> bool:
        """Whether the file as it is now is wrong, and an earlier content of it is at work."""
        return self._refused is not None

    def reread(self, turn: Turn) -> World | None:
        """Return the world with the project that the file declares now, published; None when nothing is new.

        None too while its schema waits for a version: it is `waiting` then.

        Raises:
            ProjectError: the file was changed, and is wrong. It is told once for each content.
            Fenced: another loop has taken over.
        """
        looks, before = self._looks(), self._seen
        self._seen = looks
        if looks == self._loaded:
            self._refused = self._held = self.waiting = None
            return None
        held = looks, served(turn.world)
        if looks != before or looks == self._refused or held == self._held:
            return None
        self._held = self.waiting = None
        try:
            project, waits = self._take_up(turn)
        except ProjectError:
            self._refused = looks
            raise
        if waits:
            self._held, self.waiting, self._refused = held, project.schema, None
            return None
        self._beside = self._neighbours()
        self._loaded = self._seen = self._looks()
        self._refused = None
        return replace(turn.world, project=project)

    def _take_up(self, turn: Turn) -> tuple[Project, bool]:
        """Import the file and what lies beside it anew, and publish it unless its schema waits; tell whether it does.

        The modules stay as they were where it does, or where that fails.
        """
        name = turn.name
        dropped = {module: sys.modules.pop(module) for module in self._beside if module in sys.modules}
        try:
            for file, *_ in self._looks():  # compiled code is told apart by whole seconds and size alone
                Path(cache_from_source(file)).unlink(missing_ok=True)
            project = checked_project(self._path)
            if project.name != name:
                raise ProjectError(f"the file now declares {project.name!r}, not {name!r}.", "start a loop for each")
        except ProjectError:
            sys.modules.update(dropped)
            raise
        waits = not publish(turn, project)
        if waits:
            sys.modules.update(dropped)
        return project, waits

    def _looks(self) -> _Looks:
        found = []
        for file in [self._file, *self._beside.values()]:
            with contextlib.suppress(OSError):  # gone, or between two names: an editor is at work
                about = file.stat()
                found.append((str(file), about.st_ino, about.st_size, about.st_mtime_ns))
        return tuple(found)

    @property
    def _file(self) -> Path:
        return Path(self._path.partition(":")[0])

    def _neighbours(self) -> dict[str, Path]:
        """Return the modules that were imported from the file's folder, but for this program and what is installed."""
        folder = self._file.resolve().parent
        return {
            name: Path(str(module.__file__))
            for name, module in list(sys.modules.items())
            if name.partition(".")[0] not in (_OURS, "__main__") and _lies_in(module, folder, but=self._file)
        }


def _lies_in(module: ModuleType, folder: Path, *, but: Path) -> bool:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py") or not file.startswith(str(folder)):  # most end here
        return False
    path = Path(file)
    if not path.is_relative_to(folder) or path == but.resolve():
        return False
    return not any(part.startswith(".") or part == "site-packages" for part in path.relative_to(folder).parts)


def served(world: World) -> object:
    """Return what is in force and the version that answers: what waits is held against it, another may end that."""
    manifest, route = world.schemas.in_force()
    return manifest["schema"], None if route is None else route.stable


def publish(turn: Turn, project: Project) -> bool:
    """Write the manifest and the strategy under the loop's lease; return False, and write nothing, if its schema waits.

    Another declaration than before is a row of the audit log, as where a person publishes it.
    """
    manifest, strategy, world = project.compile().to_json(), project.strategy.to_json(), turn.world
    with turn.write() as conn:
        held = world.schemas.within(conn)
        if held.change(project.schema):  # as it is now: a person may just have moved the route
            return False
        before, _ = held.in_force()
        number = world.catalog.publish(conn, manifest, strategy, file=world.project_file, now=turn.now)
        if digest(before) != digest(manifest):
            Audit(world.db).add(
                conn, world.name, by="the loop", verb="publish", thing=f"strategy {number}", result="in force",
                reason="the project file was changed", via="loop", now=turn.now,
            )  # fmt: skip
    return True


def put_back(turn: Turn) -> bool:
    """Put back in force what the live version reads, where it cannot read what is; tell whether that was so."""
    world, by = turn.world, "the loop"
    with turn.write() as conn:
        is_mended = world.schemas.mend(conn, now=turn.now, by=by)
        if is_mended:
            Audit(world.db).add(
                conn, world.name, by=by, verb="publish", thing="the inputs before", result="in force",
                reason="the live version cannot read what was in force", via="loop", now=turn.now,
            )  # fmt: skip
    return is_mended
