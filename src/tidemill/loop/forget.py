"""The step that deletes a person's data: stage after stage, each of which may be cut short anywhere and taken again.

What later stages look for is deleted last: the predictions, which say what is about the person. Each stage writes how
far it is in the transaction that does its part, so that what it counts is counted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from tidemill.loop.ending import close
from tidemill.loop.person import COUNTS, Person
from tidemill.loop.quoted import unquote
from tidemill.loop.shown_rows import without_person
from tidemill.loop.world import Turn
from tidemill.records import Json, Outcome, Verdict
from tidemill.runtime.artefact import ARTEFACT_JSON, EXAMPLE_NPZ
from tidemill.stores.audit import Audit
from tidemill.stores.case_file import remove_cases
from tidemill.stores.erasures import Erasure, Erasures
from tidemill.stores.struck import about
from tidemill.training import runner

FILES_A_TURN = 32
"""How many files of the log are written again before the other steps, guards among them, have their turn."""


def forget(turn: Turn) -> bool:
    """Take the next stage of the oldest erasure; return whether there was anything to do."""
    if turn.world.runner is not runner:
        return False  # a backtest forgets nobody
    erasure = Erasures(turn.world.db).next(turn.name)
    return erasure is not None and _STAGES[erasure.stage](_Work(turn, erasure))


@dataclass(frozen=True)
class _Work:
    """An erasure in one turn."""

    turn: Turn
    erasure: Erasure

    @property
    def body(self) -> Json:
        return self.erasure.body

    @property
    def person(self) -> Person:
        e = self.erasure
        assert e.subject is not None, "the subject is kept until all was found"
        return Person(
            self.turn.world, e.subject, e.asked_at, by_unit=e.by_unit, examples=tuple(self.body.get("examples", ()))
        )

    @contextmanager
    def write(self, stage: str, **changes: Json) -> Iterator[Connection]:
        """Give the transaction of a part, which writes down what stage comes next and what is known now."""
        with self.turn.write() as conn:
            yield conn
            Erasures(self.turn.world.db).put(conn, self.erasure.id, stage=stage, body={**self.body, **changes})

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
    counts = before.get("counts", dict.fromkeys(COUNTS, 0))
    known = {
        "examples": examples,
        "datasets": sorted({*before.get("datasets", ()), *(version.digest for version in datasets)}),
        "models": sorted({*before.get("models", ()), *person.find_models(datasets)}),
        "counts": {**counts, "cases": counts["cases"] + person.num_cases()},
        "looked": [],
    }
    with work.write("quotes", **known):
        return True


def _quotes(work: _Work) -> bool:
    """Take what reports and verdicts quote of them out."""
    quoted = work.person.shown(work.body["examples"])
    world = work.turn.world
    with work.write("cases") as conn:
        unquote(conn, world.name, ids=work.body["examples"], shown=quoted, datasets=work.body["datasets"])
    return True


def _cases(work: _Work) -> bool:
    person = work.person
    for path in person.case_files:
        remove_cases(path, person.requests)
    with work.write("models"):
        return True


def _models(work: _Work) -> bool:
    """Let no artefact show their inputs among its example rows; one version at a time."""
    world, looked = work.turn.world, work.body.get("looked", [])
    for old, new in work.body.get("replaced", {}).items():
        if not world.catalog.is_named(old):
            world.blobs.overwrite(old, new, (ARTEFACT_JSON, EXAMPLE_NPZ))
    left = [version for version in work.body["models"] if version not in looked]
    if not left:
        with work.write("examples", replaced={}):
            return True
    model = world.catalog.model(world.name, left[0])
    new = None if model.retired_at else without_person(work.person, model.artefact, work.body["examples"])
    with work.write("models", looked=[*looked, left[0]], replaced={} if new is None else {model.artefact: new}) as conn:
        if new is not None:
            world.catalog.replace_artefact(conn, world.name, model.artefact, new)
    return True


def _examples(work: _Work) -> bool:
    world = work.turn.world
    with work.turn.write() as conn:
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
    world, digests = work.turn.world, work.body["datasets"]
    with work.write("shards") as conn:
        _end_cycle(work, conn)
        world.datasets.erase(conn, world.name, digests, now=work.turn.now)
    return True


def _end_cycle(work: _Work, conn: Connection) -> None:
    turn = work.turn
    cycle = turn.world.journal.cycle(turn.name)
    if cycle is None or cycle.step not in ("train", "test") or cycle.dataset not in work.body["datasets"]:
        return
    for run in turn.world.catalog.runs(turn.name):
        if run.cycle == cycle.number and run.status == "running":
            turn.world.runner.kill(turn.world.workdir(run.run), "somebody in its dataset was forgotten")
            turn.world.catalog.end_run(conn, turn.name, run.run, "failed", {"error": "stopped"}, turn.now)
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
    world.compactor.remove_consumed()
    kept = {name: work.body[name] for name in ("counts", "datasets", "models")}
    with work.turn.write() as conn:
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
