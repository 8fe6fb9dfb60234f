"""The step that deletes a person's data: stage after stage, each of which may be cut short anywhere and taken again.

What later stages look for is deleted last: the predictions, which say what is about the person. Each stage writes how
far it is in the transaction that does its part, so that what it counts is counted once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from tidemill.clock import micros
from tidemill.errors import Conflict, Fenced, ProjectError, TidemillError
from tidemill.loop.ending import close
from tidemill.loop.person import COUNTS, Person
from tidemill.loop.quoted import unquote
from tidemill.loop.shown_rows import without_person
from tidemill.loop.world import Turn, World
from tidemill.records import Json, Outcome, Verdict
from tidemill.runtime.artefact import ARTEFACT_JSON, EXAMPLE_NPZ
from tidemill.stores.audit import Audit
from tidemill.stores.case_file import cases_of, remove_cases
from tidemill.stores.erasures import Erasure, Erasures
from tidemill.stores.models import Run
from tidemill.stores.struck import about
from tidemill.training import runner

FILES_A_TURN = 32
"""How many files of the log are written again before the other steps, guards among them, have their turn."""
_WAIT = timedelta(seconds=2)  # for a training
_LONGEST_REST_S = 300.0  # of an erasure that failed; others go on meanwhile

_logger = logging.getLogger(__name__)


def forget(turn: Turn) -> bool:
    """Take the next stage of the oldest erasure that does not rest; return whether there was anything to do."""
    if turn.world.runner is not runner:
        return False  # a backtest forgets nobody
    erasure = Erasures(turn.world.db).next(turn.name, now=turn.now)
    if erasure is None:
        return False
    work = _Work(turn, erasure)
    try:
        return _STAGES[erasure.stage](work)
    except (Fenced, Conflict):
        raise
    except Exception as error:
        told = str(error) if isinstance(error, TidemillError) else f"{type(error).__name__}: {error}"
        is_known = isinstance(error, TidemillError)
        _logger.warning("erasure %s rests at %s: %s", erasure.id, erasure.stage, told, exc_info=not is_known)
        return work.fail(told)


@dataclass(frozen=True)
class _Work:
    """An erasure in one turn."""

    turn: Turn
    erasure: Erasure

    @property
    def body(self) -> Json:
        """What is known so far. A rest is over when a stage is taken."""
        return {name: part for name, part in self.erasure.body.items() if name != "rest"}

    @property
    def person(self) -> Person:
        e = self.erasure
        assert e.subject is not None, "the subject is kept until all was found"
        return Person(
            self.turn.world, e.subject, e.asked_at, by_unit=e.by_unit, examples=tuple(self.body.get("examples", ())),
            cased=tuple(self.body.get("cased", ())),
        )  # fmt: skip

    @contextmanager
    def write(self, stage: str, **changes: Json) -> Iterator[Connection]:
        """Give the transaction of a part, which writes down what stage comes next and what is known now."""
        with self.turn.write() as conn:
            yield conn
            Erasures(self.turn.world.db).put(conn, self.erasure.id, stage=stage, body={**self.body, **changes})

    def wait(self, why: str) -> bool:
        """Rest a moment for something that takes its time; others have their turn. Returns False: nothing was done."""
        return self._rest({"why": why, "again_at": micros(self.turn.now + _WAIT)})

    def fail(self, error: str) -> bool:
        """Note that a stage failed, and rest; the next time twice as long. Returns False: nothing was done."""
        before = self.erasure.rest
        times = before.get("times", 0) + 1
        rest_s = min(2.0**times, _LONGEST_REST_S)
        again_at = micros(self.turn.now + timedelta(seconds=rest_s))
        since = before.get("since", micros(self.turn.now))
        return self._rest({"why": error, "error": error, "times": times, "since": since, "again_at": again_at})

    def _rest(self, rest: Json) -> bool:
        erasures = Erasures(self.turn.world.db)
        known = erasures.one(self.turn.name, self.erasure.id)  # a stage that failed may have written before
        with self.turn.write() as conn:
            erasures.put(conn, known.id, stage=known.stage, body={**known.body, "rest": rest})
        return False

    def learnt_since(self) -> dict[str, list[Any]]:
        """Return the datasets and models with those that were made since they were looked for; {} where none was."""
        person = self.person
        datasets = person.find_datasets(self.body["examples"])
        known: dict[str, set[Any]] = {
            "datasets": {one.digest for one in datasets}, "models": set(person.find_models(datasets)),
        }  # fmt: skip
        if all(found <= set(self.body[name]) for name, found in known.items()):
            return {}
        return {name: sorted(found | set(self.body[name])) for name, found in known.items()}

    def is_learning(self) -> bool:
        """Tell whether a version may yet come, or be reported about, that learnt from the datasets that hold them."""
        world, name, datasets = self.turn.world, self.turn.name, self.body["datasets"]
        cycle = world.journal.cycle(name)
        if cycle is not None and cycle.dataset in datasets:
            asks = world.journal.step(name, cycle.number, "test.waiting") is not None  # the report is written
            if cycle.step == "train" or (cycle.step == "test" and not asks):
                return True
        return any(run.body.get("dataset") in datasets for run in _running(world, name))

    def counted(self, **more: int) -> dict[str, int]:
        """Return the counts with some more."""
        counts: Mapping[str, int] = self.body["counts"]
        return {**counts, **{name: counts.get(name, 0) + num for name, num in more.items()}}


def _find(work: _Work) -> bool:
    """Note what is to be found, once all that was received before the request is in the log."""
    if work.turn.known_until < work.erasure.asked_at:
        return False
    person, before = work.person, work.body
    examples = sorted({*person.find_examples(), *before.get("examples", ())})
    person = replace(person, examples=tuple(examples))
    datasets = person.find_datasets(examples)
    counts, cases = before.get("counts", dict.fromkeys(COUNTS, 0)), person.find_cases()
    new = [request for request in cases if request not in before.get("cased", ())]
    known = {
        "examples": examples,
        "datasets": sorted({*before.get("datasets", ()), *(version.digest for version in datasets)}),
        "models": sorted({*before.get("models", ()), *person.find_models(datasets)}),
        "counts": {**counts, "cases": counts["cases"] + len(new)},
        "cased": sorted({*before.get("cased", ()), *cases}),
        "looked": [],
    }
    with work.write("quotes", **known):
        return True


def _quotes(work: _Work) -> bool:
    """Take what reports and verdicts quote of them out."""
    quoted = _shown(work)
    with work.write("cases") as conn:
        _unquote(work, conn, quoted)
    return True


def _shown(work: _Work) -> set[str]:
    return work.person.shown(work.body["examples"], work.body["datasets"])


def _unquote(work: _Work, conn: Connection, quoted: set[str]) -> None:
    unquote(conn, work.turn.name, ids=work.body["examples"], shown=quoted, datasets=work.body["datasets"])


def _cases(work: _Work) -> bool:
    """Take their cases out of the suites; where a file cannot be written, once all else is deleted."""
    person, quoted, left = work.person, _shown(work), ""
    for path in person.case_files:
        try:
            if cases_of(path, person.requests):
                remove_cases(path, person.requests)
        except ProjectError as error:
            left = str(error)
    if left and work.body.get("cases_left"):
        return work.fail(left)
    if left:
        _logger.warning("erasure %s goes on, and tries again before its end: %s", work.erasure.id, left)
    with work.write("models", cases_left=left) as conn:
        _unquote(work, conn, quoted)  # a report may have been written since
    return True


def _models(work: _Work) -> bool:
    """Let no artefact show their inputs among its example rows; one version at a time.

    A training that goes on from another version opens that one's folder when it pleases: none runs meanwhile.
    """
    world, looked = work.turn.world, work.body.get("looked", [])
    if work.body.get("replaced") and any(run.body.get("parent") is not None for run in _running(world, world.name)):
        return work.wait("a training goes on from a version that shows such rows")
    for old, new in work.body.get("replaced", {}).items():
        if not world.catalog.is_named(old):
            world.blobs.overwrite(old, new, (ARTEFACT_JSON, EXAMPLE_NPZ))
    left = [version for version in work.body["models"] if version not in looked]
    if not left:
        with work.write("examples", replaced={}):
            return True
    model = world.catalog.model(world.name, left[0])
    new = None if model.retired_at else without_person(work.person, model, work.body["examples"])
    with work.write("models", looked=[*looked, left[0]], replaced={} if new is None else {model.artefact: new}) as conn:
        if new is not None:
            world.catalog.replace_artefact(conn, world.name, model.artefact, new)
    return True


def _running(world: World, name: str) -> list[Run]:
    """Return the trainings whose process runs."""
    runs = [run for run in world.catalog.runs(name) if run.status == "running"]
    return [run for run in runs if world.runner.poll(world.workdir(run.run)).state == "running"]


def _examples(work: _Work) -> bool:
    """Take their examples out of the reservoir: no dataset that is formed from here on holds them."""
    world = work.turn.world
    known, since = len(world.datasets.all(world.name)), work.learnt_since()
    if since:
        with work.write("quotes", **since):
            return True
    with work.turn.write() as conn:
        if len(world.datasets.all(world.name)) != known:
            return True  # one was imported meanwhile: look again
        removed = world.reservoir.remove(conn, world.name, work.body["examples"], sameness=world.sameness)
        body = {**work.body, "counts": work.counted(**removed._asdict())}
        Erasures(world.db).put(conn, work.erasure.id, stage="inputs", body=body)
    return True


def _inputs(work: _Work) -> bool:
    with work.write("datasets") as conn:
        work.turn.world.reservoir.sweep(conn, work.turn.name)
    return True


def _datasets(work: _Work) -> bool:
    """Mark the versions that hold them as erased, where that was asked for; a cycle that learns from one ends."""
    if not work.erasure.with_datasets:
        with work.write("feedback"):
            return True
    world, digests, since = work.turn.world, work.body["datasets"], work.learnt_since()
    if since:  # while its rows still tell which of them a version shows
        with work.write("quotes", **since):
            return True
    with work.write("shards") as conn:
        _end_cycle(work, conn)
        world.datasets.erase(conn, world.name, digests, now=work.turn.now)
    return True


def _end_cycle(work: _Work, conn: Connection) -> None:
    turn, world = work.turn, work.turn.world
    cycle = world.journal.cycle(turn.name)
    if cycle is None or cycle.step not in ("train", "test") or cycle.dataset not in work.body["datasets"]:
        return
    for run in world.catalog.runs(turn.name):
        if run.cycle == cycle.number and run.status == "running":
            world.runner.kill(world.workdir(run.run), "somebody in its dataset was forgotten")
            result = world.runner.poll(world.workdir(run.run)).result
            if result is not None and not world.catalog.is_named(result["artefact"]):
                world.blobs.remove(result["artefact"])  # it was done, and its example rows are of the dataset
            world.catalog.end_run(conn, turn.name, run.run, "failed", {"error": "stopped"}, turn.now)
    reason = "somebody in its dataset was forgotten, and the dataset is erased: retrain for another"
    verdict = Verdict(outcome=Outcome.FAIL, by="forget", reason=reason, back_to="data")
    close(turn, conn, cycle, "failed", verdict, step=cycle.step)


def _shards(work: _Work) -> bool:
    with work.write("feedback") as conn:
        work.turn.world.datasets.sweep(conn, work.turn.name)
    return True


# --- the log


def _feedback(work: _Work) -> bool:
    requests = work.person.requests
    return _strike(work, "feedback", about(requests) if requests else None, then="predictions")


def _predictions(work: _Work) -> bool:
    return _strike(work, "predictions", work.person.rows, then="profiles")


def _profiles(work: _Work) -> bool:
    return _strike(work, "profiles", work.person.profiles, then="strip")


def _strike(work: _Work, kind: str, rows: object | None, *, then: str) -> bool:
    """Delete rows of the log, file by file; the one that was replaced last may still be there."""
    turn, world, log = work.turn, work.turn.world, work.person.struck
    body = dict(work.body)
    log.tidy(
        turn.name, token=turn.lease.token, compactor_token=world.journal.token("compactor"), left=body.get("left", []),
    )  # fmt: skip

    @contextmanager
    def swap(path: str, num: int) -> Iterator[Connection]:
        new = {**body, "counts": {**body["counts"], kind: body["counts"].get(kind, 0) + num}, "left": [path]}
        with turn.write() as conn:
            yield conn
            Erasures(world.db).put(conn, work.erasure.id, stage=work.erasure.stage, body=new)
        body.update(new)

    given: dict[str, Any] = {"token": turn.lease.token, "now": turn.now, "swap": swap, "at_most": FILES_A_TURN}
    if rows is None or log.strike(turn.name, kind, rows, **given):
        with turn.write() as conn:
            Erasures(world.db).put(conn, work.erasure.id, stage=then, body={**body, "left": []})
    return True


# --- the end


def _strip(work: _Work) -> bool:
    """Forget who it was: what stays is a mark, what was deleted, and who learnt from it."""
    world, person = work.turn.world, replace(work.person, examples=())
    if person.find_examples():  # picked meanwhile, by somebody who still saw them in the log
        with work.write("find"):
            return True
    if work.is_learning():
        return work.wait("a training or a test with their examples goes on")
    since = work.learnt_since()
    if since or work.body.get("cases_left"):
        with work.write("quotes", **since):
            return True
    quoted = _shown(work)
    world.compactor.remove_consumed()
    kept = {name: work.body[name] for name in ("counts", "datasets", "models")}
    with work.turn.write() as conn:
        _unquote(work, conn, quoted)  # in reports that were written since
        Erasures(world.db).strip(conn, work.erasure.id, stage="wipe", body=kept)
    return True


def _wipe(work: _Work) -> bool:
    """Leave nothing in the database's own files.

    That may take longer than the lease lasts, so what follows does not ask for it: whoever did it may say so.
    """
    world, erasure = work.turn.world, work.erasure
    if not world.db.wipe():
        return False
    with world.db.begin() as conn:
        if Erasures(world.db).finish(conn, erasure.id, now=work.turn.now):
            Audit(world.db).add(
                conn, world.name, by=erasure.by, verb="forget", thing=f"subject {erasure.mark}", reason=erasure.reason,
                result=_told(erasure), via=erasure.via, now=work.turn.now,
            )  # fmt: skip
    return True


def _told(erasure: Erasure) -> str:
    found = erasure.body["counts"]
    counts = ", ".join(f"{found[name]} {name}" for name in COUNTS if found[name]) or "nothing"
    num = len(erasure.body["datasets"])
    if not num:
        return f"deleted {counts}"
    what = "erased" if erasure.with_datasets else "kept"
    return f"deleted {counts}; {num} dataset version{'' if num == 1 else 's'} {what}"


_STAGES: Mapping[str, Callable[[_Work], bool]] = {
    "find": _find,
    "quotes": _quotes,
    "cases": _cases,
    "models": _models,
    "examples": _examples,
    "inputs": _inputs,
    "datasets": _datasets,
    "shards": _shards,
    "feedback": _feedback,
    "predictions": _predictions,
    "profiles": _profiles,
    "strip": _strip,
    "wipe": _wipe,
}
