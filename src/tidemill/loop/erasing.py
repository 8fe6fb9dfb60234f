"""An erasure in one turn: how far it is, what is known by now, and how its stages write and rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from tidemill.clock import micros, rest_s
from tidemill.loop.person import Person
from tidemill.loop.world import Turn, World
from tidemill.records import Json
from tidemill.stores.erasures import Erasure, Erasures
from tidemill.stores.models import Run
from tidemill.stores.struck import Looked

FILES_A_TURN = 32
"""How many files of the log are written again before the other steps, guards among them, have their turn."""
LOOKS_A_TURN = 128
"""How many files of the log are looked at before the other steps have their turn."""
_WAIT_S = 2.0


@dataclass(frozen=True)
class Work:
    """An erasure in one turn."""

    turn: Turn
    erasure: Erasure

    @property
    def body(self) -> Json:
        """What is known so far. A rest is over when a stage is taken."""
        return {name: part for name, part in self.erasure.body.items() if name != "rest"}

    @property
    def person(self) -> Person:
        """Whom it is about, with what was found of them."""
        e, requests = self.erasure, self.body.get("requests")
        assert e.subject is not None, "the subject is kept until all was found"
        return Person(
            self.turn.world, e.subject, e.asked_at, by_unit=e.by_unit, examples=tuple(self.body.get("examples", ())),
            cased=tuple(self.body.get("cased", ())), known=None if requests is None else frozenset(requests),
        )  # fmt: skip

    @property
    def looked(self) -> Looked:
        """The files of the log that this stage has looked at, and some more that it may look at in this turn."""
        return Looked(self.body.get("looked_files", ()), at_most=LOOKS_A_TURN)

    @contextmanager
    def write(self, stage: str, **changes: Json) -> Iterator[Connection]:
        """Give the transaction of a part, which writes down what stage comes next and what is known now."""
        with self.turn.write() as conn:
            yield conn
            Erasures(self.turn.world.db).put(conn, self.erasure.id, stage=stage, body={**self.body, **changes})

    def wait(self, why: str, *, longest_s: float = _WAIT_S) -> bool:
        """Rest for something that takes its time, longer and longer; others have their turn.

        Returns False: nothing was done.
        """
        before = self.erasure.rest
        times = before.get("times", 0) + 1 if before.get("why") == why else 1
        return self._rest(rest_s(times, first_s=_WAIT_S, longest_s=longest_s), why=why, times=times)

    def fail(self, error: str) -> bool:
        """Note that a stage failed, and rest; the next time twice as long. Returns False: nothing was done."""
        before = self.erasure.rest if "error" in self.erasure.rest else {}
        times, since = before.get("times", 0) + 1, before.get("since", micros(self.turn.now))
        return self._rest(rest_s(times), why=error, error=error, times=times, since=since)

    def _rest(self, seconds: float, **rest: Json) -> bool:
        rest["again_at"] = micros(self.turn.now + timedelta(seconds=seconds))
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
        return any(run.body.get("dataset") in datasets for run in running(world, name))

    def counted(self, **more: int) -> dict[str, int]:
        """Return the counts with some more."""
        counts: Mapping[str, int] = self.body["counts"]
        return {**counts, **{name: counts.get(name, 0) + num for name, num in more.items()}}


def running(world: World, name: str) -> list[Run]:
    """Return the trainings whose process runs."""
    runs = [run for run in world.catalog.runs(name) if run.status == "running"]
    return [run for run in runs if world.runner.poll(world.workdir(run.run)).state == "running"]
