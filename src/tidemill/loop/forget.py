"""The step that deletes a person's data: stage after stage, each of which may be cut short anywhere and taken again.

What later stages look for is deleted last: the predictions, which say what is about the person. Each stage writes how
far it is in the transaction that does its part, so that what it counts is counted once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from tidemill.errors import Conflict, Fenced, ProjectError, TidemillError, told
from tidemill.loop.ending import close
from tidemill.loop.erasing import FILES_A_TURN, Work, running
from tidemill.loop.leavings import clear_leavings
from tidemill.loop.person import COUNTS, told_count
from tidemill.loop.quoted import unquote
from tidemill.loop.shown_rows import without_person
from tidemill.loop.world import Turn, World
from tidemill.records import Outcome, Verdict
from tidemill.runtime.artefact import ARTEFACT_JSON, EXAMPLE_NPZ
from tidemill.stores.audit import Audit
from tidemill.stores.case_file import cases_of, remove_cases
from tidemill.stores.erasures import Erasure, Erasures
from tidemill.stores.projects import lock_project
from tidemill.stores.struck import about
from tidemill.stores.versions import every
from tidemill.strategy.wording import counted
from tidemill.training import runner

_LONGEST_WAIT_S = 60.0  # for those who read or write the database

_logger = logging.getLogger(__name__)


def forget(turn: Turn) -> bool:
    """Take the next stage of the oldest erasure that does not rest; return whether there was anything to do."""
    if turn.world.runner is not runner:
        return False  # a backtest forgets nobody
    erasure = Erasures(turn.world.db).next(turn.name, now=turn.now)
    if erasure is None:
        return False
    work = Work(turn, erasure)
    try:
        return _STAGES[erasure.stage](work)
    except (Fenced, Conflict):
        raise
    except Exception as error:
        is_known = isinstance(error, TidemillError)
        _logger.warning("erasure %s rests at %s: %s", erasure.id, erasure.stage, told(error), exc_info=not is_known)
        return work.fail(told(error))


def _find(work: Work) -> bool:
    """Note what is to be found, once all that was received before the request is in the log."""
    if work.turn.known_until < work.erasure.asked_at:
        return False
    before, looked = work.body, work.looked
    requests = {*before.get("requests", ()), *work.person.logged(looked)}
    gathered = {"requests": sorted(requests), "looked_files": sorted(looked.names)}
    if not looked.is_whole:
        with work.write("find", **gathered):
            return True
    person = replace(work.person, known=frozenset(requests))
    examples = sorted({*person.find_examples(), *before.get("examples", ())})
    person = replace(person, examples=tuple(examples))
    datasets = person.find_datasets(examples)
    known = {
        **gathered,
        "examples": examples,
        "datasets": sorted({*before.get("datasets", ()), *(version.digest for version in datasets)}),
        "models": sorted({*before.get("models", ()), *person.find_models(datasets)}),
        "counts": before.get("counts", dict.fromkeys(COUNTS, 0)),
        "looked": [],
        "looked_files": [],
    }
    with work.write("quotes", **known):
        return True


def _quotes(work: Work) -> bool:
    """Take what reports and verdicts quote of them out."""
    quoted = _shown(work)
    with work.write("cases") as conn:
        _unquote(work, conn, quoted)
    return True


def _shown(work: Work) -> set[str]:
    return work.person.shown(work.body["examples"], work.body["datasets"])


def _unquote(work: Work, conn: Connection, quoted: set[str]) -> None:
    unquote(conn, work.turn.name, ids=work.body["examples"], shown=quoted, datasets=work.body["datasets"])


def _cases(work: Work) -> bool:
    """Take their cases out of the suites; where a file cannot be read or written, once all else is deleted."""
    person, cased = work.person, work.body.get("cased", ())
    cases = person.find_cases()
    new = [request for request in cases if request not in cased]
    if new:  # counted first: they are found once
        with work.write("cases", cased=sorted({*cased, *cases}), counts=work.counted(cases=len(new))):
            return True
    quoted, left = _shown(work), ""
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


def _models(work: Work) -> bool:
    """Let no artefact show their inputs among its example rows; one version at a time.

    A training that goes on from another version opens that one's folder when it pleases: none runs meanwhile.
    """
    world, looked = work.turn.world, work.body.get("looked", [])
    if work.body.get("replaced") and any(run.body.get("parent") is not None for run in running(world, world.name)):
        return work.wait("a training goes on from a version that shows such rows")
    for old, new in work.body.get("replaced", {}).items():
        _replace(world, old, new)
    shows = sorted({*work.body["models"], *work.person.find_unknown_models()})
    left = [version for version in shows if version not in looked]
    if not left:
        with work.write("examples", replaced={}):
            return True
    model = world.catalog.model(world.name, left[0])
    new = None if model.retired_at else without_person(work.person, model, work.body["examples"])
    with work.write("models", looked=[*looked, left[0]], replaced={} if new is None else {model.artefact: new}) as conn:
        if new is not None:
            world.catalog.replace_artefact(conn, world.name, model.artefact, new)
    return True


def _replace(world: World, old: str, new: str) -> None:
    """Let an artefact that no version has any more show what the new one shows; those that it once replaced too."""
    names = (ARTEFACT_JSON, EXAMPLE_NPZ)
    for one in [*world.blobs.alike(old, names), old]:  # itself at the end: by it the others are found again
        if not world.catalog.is_named(one):
            world.blobs.overwrite(one, new, names)


def _examples(work: Work) -> bool:
    """Take their examples out of the reservoir: no dataset that is formed from here on holds them."""
    world = work.turn.world
    known, since = len(world.datasets.all(world.name)), work.learnt_since()
    if since:
        with work.write("quotes", **since):
            return True
    with work.turn.write() as conn:
        lock_project(conn, world.name)  # first: from here on none is formed, and none was that is not seen
        if len(every(conn, world.name)) != known:
            return True  # one was imported meanwhile: look again
        removed = world.reservoir.remove(conn, world.name, work.body["examples"], sameness=world.sameness)
        body = {**work.body, "counts": work.counted(**removed._asdict())}
        Erasures(world.db).put(conn, work.erasure.id, stage="inputs", body=body)
    return True


def _inputs(work: Work) -> bool:
    with work.write("datasets") as conn:
        work.turn.world.reservoir.sweep(conn, work.turn.name)
    return True


def _datasets(work: Work) -> bool:
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


def _end_cycle(work: Work, conn: Connection) -> None:
    turn, world = work.turn, work.turn.world
    cycle = world.journal.cycle(turn.name)
    if cycle is None or cycle.step not in ("train", "test") or cycle.dataset not in work.body["datasets"]:
        return
    for run in world.catalog.runs(turn.name):
        if run.cycle == cycle.number and run.status == "running":
            world.runner.kill(world.workdir(run.run), "somebody in its dataset was forgotten")
            world.catalog.end_run(conn, turn.name, run.run, "failed", {"error": "stopped"}, turn.now)
    reason = "somebody in its dataset was forgotten, and the dataset is erased: retrain for another"
    verdict = Verdict(outcome=Outcome.FAIL, by="forget", reason=reason, back_to="data")
    close(turn, conn, cycle, "failed", verdict, step=cycle.step)


def _shards(work: Work) -> bool:
    with work.write("feedback") as conn:
        work.turn.world.datasets.sweep(conn, work.turn.name)
    return True


# --- the log


def _feedback(work: Work) -> bool:
    requests = work.person.requests
    return _strike(work, "feedback", about(requests) if requests else None, then="predictions")


def _predictions(work: Work) -> bool:
    return _strike(work, "predictions", work.person.rows, then="profiles")


def _profiles(work: Work) -> bool:
    return _strike(work, "profiles", work.person.profiles, then="strip")


def _strike(work: Work, kind: str, rows: object | None, *, then: str) -> bool:
    """Delete rows of the log, file by file and some in a turn; the one that was replaced last may still be there."""
    turn, world, log = work.turn, work.turn.world, work.person.struck
    body, looked = dict(work.body), work.looked
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
    is_done = rows is None or log.strike(turn.name, kind, rows, looked=looked, **given)
    stage = then if is_done else work.erasure.stage
    body |= {"left": [], "looked_files": []} if is_done else {"looked_files": sorted(looked.names)}
    with turn.write() as conn:
        Erasures(world.db).put(conn, work.erasure.id, stage=stage, body=body)
    return True


# --- the end


def _strip(work: Work) -> bool:
    """Forget who it was: what stays is a mark, what was deleted, and who learnt from it."""
    if work.is_learning():
        return work.wait("a training or a test with their examples goes on")
    world, person = work.turn.world, replace(work.person, examples=())
    if person.find_examples():  # picked meanwhile, by somebody who still saw them in the log
        with work.write("find"):
            return True
    since = work.learnt_since()
    if since or work.body.get("cases_left"):
        with work.write("quotes", **since):
            return True
    quoted = _shown(work)
    clear_leavings(world)
    world.compactor.remove_consumed()
    kept = {name: work.body[name] for name in ("counts", "datasets", "models")}
    with work.turn.write() as conn:
        _unquote(work, conn, quoted)  # in reports that were written since
        Erasures(world.db).strip(conn, work.erasure.id, stage="wipe", body=kept)
    return True


def _wipe(work: Work) -> bool:
    """Leave nothing in the database's own files: they are written anew once, then the write-ahead log is emptied.

    That may take longer than the lease lasts, so what follows does not ask for it: whoever did it may say so.
    """
    world, erasure = work.turn.world, work.erasure
    if not work.body.get("rewritten"):
        if not world.db.rewrite():
            return work.wait("others write into the database all the time", longest_s=_LONGEST_WAIT_S)
        with world.db.begin() as conn:
            Erasures(world.db).put(conn, erasure.id, stage="wipe", body={**work.body, "rewritten": True})
        return True
    if not world.db.empty_log():
        return work.wait("somebody still reads an older state of the database", longest_s=_LONGEST_WAIT_S)
    with world.db.begin() as conn:
        if Erasures(world.db).finish(conn, erasure.id, now=work.turn.now):
            Audit(world.db).add(
                conn, world.name, by=erasure.by, verb="forget", thing=f"subject {erasure.mark}", reason=erasure.reason,
                result=_summary(erasure), via=erasure.via, now=work.turn.now,
            )  # fmt: skip
    return True


def _summary(erasure: Erasure) -> str:
    found = erasure.body["counts"]
    counts = ", ".join(told_count(name, found[name]) for name in COUNTS if found[name]) or "nothing"
    num = len(erasure.body["datasets"])
    if not num:
        return f"deleted {counts}"
    what = "erased" if erasure.with_datasets else "kept"
    return f"deleted {counts}; {counted(num, 'dataset version')} {what}"


_STAGES: Mapping[str, Callable[[Work], bool]] = {
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
