"""Keeps the versions loaded that the routes need: watches the routes in a thread, and switches when all is ready."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from tidemill.clock import rest_s
from tidemill.errors import ModelError, told
from tidemill.manifest import Manifest
from tidemill.policy import Policy
from tidemill.records import Json, Route
from tidemill.runtime.artefact import read_artefact
from tidemill.runtime.fits import check_fits, reads
from tidemill.runtime.load import Loaded, load
from tidemill.runtime.threads import asked_for, cores, is_worth_keeping, is_worth_trying, share
from tidemill.schema import Schema
from tidemill.serving.metrics import Metrics
from tidemill.serving.table import Plan, Unloaded, Warm
from tidemill.stores.blobs import Blobs
from tidemill.stores.catalog import Catalog

_FIRST_PAUSE_S = 5.0

_logger = logging.getLogger(__name__)


@dataclass
class Slot:
    """A version that is wanted: being loaded, loaded, or not loadable until `retry_at` (`time.monotonic`).

    `artefact` is the digest of what was loaded last, or is being loaded. A version that is given another stays as it is
    until that is loaded: `state` and `future` are both set meanwhile.
    """

    artefact: str | None = None
    future: Future[Warm | Unloaded] | None = None
    state: Warm | Unloaded | None = None
    num_failures: int = 0
    retry_at: float = 0.0


@dataclass
class Watched:
    """What is known of a project: what was installed last, and its versions."""

    slots: dict[int, Slot] = field(default_factory=dict)
    needs: Json = None
    manifest: Json = None
    policies: dict[int, Policy] = field(default_factory=dict)
    installed: Plan | None = None


class VersionWatch:
    """Polls the routes and hands a `Plan` to `install` once every version it needs is loaded, or known not to load.

    Until then the plan before stays, so a route is never switched to a version that is still loading. Versions load
    side by side in threads of their own, so one that hangs while loading does not keep a rollback from taking effect.
    A version that does not load is tried again after a pause that grows from 5 s to 5 min. One that is given another
    artefact, as when somebody is forgotten, is loaded anew: the folder of the one before is deleted some day, and a
    worker that has to be replaced then could not start from it. Until the new one is loaded the one before answers.

    Args:
        install: called in the watching thread with each new plan.
        report: called in the watching thread with what keeps the routes from being read, empty when they can be, and
            the names of the published projects.
        refresh: called in the watching thread before the routes are read, for what else the store says.
        num_workers: how many gateway processes share this machine's cores.
    """

    def __init__(
        self,
        catalog: Catalog,
        blobs: Blobs,
        metrics: Metrics,
        *,
        install: Callable[[Plan], object],
        report: Callable[[str, tuple[str, ...]], object],
        refresh: Callable[[], object] = tuple,
        poll_s: float = 0.5,
        num_workers: int = 1,
    ) -> None:
        self._num_workers = num_workers
        self._catalog, self._blobs, self._metrics = catalog, blobs, metrics
        self._install, self._report, self._refresh, self._poll_s = install, report, refresh, poll_s
        self._projects: dict[str, Watched] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="tidemill-routes", daemon=True)
        self._said: tuple[str, tuple[str, ...]] = ("", ())

    def start(self, *, wait_s: float) -> None:
        """Load what the routes name, for at most `wait_s`, then go on watching in a thread."""
        ends_at = time.monotonic() + wait_s
        while not self.poll() and not self._stopping and time.monotonic() < ends_at:
            self._pause(0.02)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; what was installed stays loaded."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def wake(self) -> None:
        """Look at the routes now; from any thread."""
        self._wake.set()

    def poll(self) -> bool:
        """Look at the routes once; return whether everything they need is installed."""
        try:
            self._refresh()
            names = tuple(self._catalog.projects())
            settled = [self._poll_project(name) for name in names]
        except Exception as error:  # the routes in force stay in force, whatever is wrong with the store
            self._metrics.poll_failures[()] += 1
            self._say(f"the routes cannot be read: {error}", self._said[1])
            return False
        self._say("", names)
        return all(settled)

    def _run(self) -> None:
        while not self._stopping:
            self._pause(self._poll_s)
            if not self._stopping:
                self.poll()

    def _pause(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    def _say(self, problem: str, names: tuple[str, ...]) -> None:
        if (problem, names) != self._said:
            if problem and problem != self._said[0]:
                _logger.warning("%s", problem)
            self._said = (problem, names)
            self._report(problem, names)

    def _poll_project(self, name: str) -> bool:
        manifest, route = self._catalog.in_force(name)
        if route is None:
            return True
        watched = self._projects.setdefault(name, Watched())
        needs = _needs(manifest)
        if needs != watched.needs:
            self._forget(watched, ())  # every version is checked against the schema it is loaded for
            watched.needs = needs
        spare = _spare(watched, route)
        wanted = [*route.versions(), *(() if spare is None else (spare,))]
        if not self._settle(name, watched, wanted, manifest):
            return False
        policy = self._policy(name, watched, route.policy_version)
        states = {version: _state(watched.slots[version]) for version in wanted}
        before = watched.installed
        if before is not None and _would_silence(before, manifest, states, route.stable):
            return True
        if before is None or (before.route, watched.manifest, before.versions) != (route, manifest, states):
            plan = Plan(
                manifest=Manifest.from_json(manifest),
                secret=self._catalog.secret(name),
                route=route,
                policy=policy,
                versions=states,
                spare=spare,
            )
            self._install(plan)
            self._forget(watched, wanted)
            watched.installed, watched.manifest = plan, manifest
        return True

    def _policy(self, name: str, watched: Watched, number: int) -> Policy:
        """Return a policy, read once: its number never gets another meaning."""
        if number not in watched.policies:
            watched.policies = {number: self._catalog.policy(name, number)}
        return watched.policies[number]

    def _settle(self, name: str, watched: Watched, wanted: Sequence[int], manifest: Json) -> bool:
        """Start what is to be loaded and gather what has been; return whether every wanted version is settled."""
        digests = self._catalog.digests(name, wanted)
        for version in wanted:
            slot, artefact = watched.slots.setdefault(version, Slot()), digests.get(version)
            is_new = artefact is not None and artefact != slot.artefact
            if slot.future is None and (slot.state is None or is_new or time.monotonic() >= slot.retry_at):
                slot.artefact = artefact
                slot.future = _in_thread(partial(self._load, name, version, Manifest.from_json(manifest)))
                slot.future.add_done_callback(lambda _: self.wake())
            elif slot.future is not None and slot.future.done():
                self._gather(name, version, slot, watched.installed)
        return all(watched.slots[version].state is not None for version in wanted)

    def _gather(self, name: str, version: int, slot: Slot, installed: Plan | None) -> None:
        assert slot.future is not None
        future, slot.future = slot.future, None
        error = future.exception()
        if error is None:
            before, slot.state, slot.retry_at = slot.state, future.result(), math.inf
            _close_unless_given(before, installed)
            return
        problem = told(error)
        if not isinstance(slot.state, Warm):  # else what it had before answers on
            slot.state = Unloaded(problem)
        slot.num_failures += 1
        slot.retry_at = time.monotonic() + rest_s(slot.num_failures, first_s=_FIRST_PAUSE_S)
        self._metrics.load_failures[name, str(version)] += 1
        _logger.error("version %s of %s does not load: %s", version, name, problem)

    def _load(self, name: str, version: int, manifest: Manifest) -> Warm | Unloaded:
        folder = self._blobs.folder(self._catalog.artefact(name, version))
        limits, artefact = manifest.limits, read_artefact(folder)
        try:
            check_fits(Schema.from_json(artefact.schema), reads(artefact), manifest.schema)
        except ModelError as error:  # it is fine, and answers when its schema is in force again
            return Unloaded(error.message, is_other=True)
        several = asked_for(os.environ) or share(cores(), workers=self._num_workers, copies=limits.copies)
        open_with = partial(
            load,
            folder,
            project_file=self._catalog.file(name),
            copies=limits.copies,
            timeout_s=limits.timeout_s,
            growth_bytes=limits.worker_growth_bytes,
        )
        is_onnx = artefact.format == "onnx"
        warm = _warmed(open_with(threads=limits.threads or (1 if is_onnx else several)), manifest)
        on_cpu = is_onnx and warm.loaded.device == "cpu"  # threads are no use to a GPU
        if limits.threads is None and on_cpu and is_worth_trying(warm.batch_s, several):
            on_several = _warmed(open_with(threads=several), manifest)
            if is_worth_keeping(warm.batch_s, on_several.batch_s):
                warm = on_several
        return warm

    def _forget(self, watched: Watched, wanted: Collection[int]) -> None:
        """Drop the versions that are not wanted, and close those that the gateway was never given."""
        for version in [v for v in watched.slots if v not in wanted]:
            slot = watched.slots.pop(version)
            if slot.future is not None:
                slot.future.add_done_callback(_close_loaded)
            _close_unless_given(slot.state, watched.installed)


def _needs(manifest: Json) -> Json:
    """Return what of a manifest a version is loaded for: another needs it loaded anew."""
    limits = manifest["limits"]
    return [manifest["schema"], *(limits.get(name) for name in ("copies", "threads", "worker_growth_bytes"))]


def _warmed(loaded: Loaded, manifest: Manifest) -> Warm:
    try:
        # A Python model never runs in the loop, so only its first call matters.
        return Warm(loaded, loaded.warm(1 if loaded.is_python else manifest.limits.max_batch))
    except BaseException:
        loaded.close()
        raise


def _spare(watched: Watched, route: Route) -> int | None:
    """Return the last stable version that could be loaded, while the route's own is not."""
    before, slot = watched.installed, watched.slots.get(route.stable)
    if before is None or (slot is not None and isinstance(slot.state, Warm)):
        return None
    last = before.route.stable if before.spare is None else before.spare
    return last if last not in route.versions() and isinstance(before.versions[last], Warm) else None


def _would_silence(before: Plan, manifest: Json, states: Mapping[int, Warm | Unloaded], stable: int) -> bool:
    """Tell whether nobody could answer under another schema, since its version does not load: what answers goes on."""
    if before.manifest.schema.to_json() == manifest["schema"]:
        return False  # where the same is asked, those before stand in
    live = states[stable]
    if isinstance(live, Warm) or live.is_other or any(isinstance(state, Warm) for state in states.values()):
        return False
    return any(isinstance(state, Warm) for state in before.versions.values())


def _state(slot: Slot) -> Warm | Unloaded:
    assert slot.state is not None
    return slot.state


def _in_thread(work: Callable[[], Warm | Unloaded]) -> Future[Warm | Unloaded]:
    """Run `work` in a thread that does not keep the process from ending, as those of an executor would."""
    future: Future[Warm | Unloaded] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="tidemill-load", daemon=True).start()
    return future


def _close_unless_given(state: Warm | Unloaded | None, installed: Plan | None) -> None:
    """Close a version that the gateway was never given: it closes the others itself."""
    given = () if installed is None else tuple(installed.versions.values())
    if isinstance(state, Warm) and not any(state is one for one in given):
        state.loaded.close()


def _close_loaded(future: Future[Warm | Unloaded]) -> None:
    if future.exception() is None and isinstance(loaded := future.result(), Warm):
        loaded.loaded.close()
