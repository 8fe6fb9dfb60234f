"""What people do at the label queue: take tasks, answer them, and see how well they agree."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from operator import itemgetter
from typing import NamedTuple
from uuid import uuid4

import msgspec
import numpy as np

from tidemill.clock import Clock, micros
from tidemill.errors import ProjectError
from tidemill.loop.suspects import Suspect, suspects
from tidemill.loop.world import World
from tidemill.records import Example, Feedback, Trust
from tidemill.schema import Value
from tidemill.stats.agreement import cohen_kappa, krippendorff_alpha
from tidemill.stats.intervals import wilson
from tidemill.stores.labellings import Answered, Labellings, Skipped
from tidemill.stores.labellings import Labelling as Said
from tidemill.stores.segments import Batch, SegmentWriter
from tidemill.strategy.label import Queue

_LEAST_SHARED = 10


class Labeller(NamedTuple):
    """How a labeller does: answers given, golden examples met, and the share of them right, with its 95 % interval."""

    name: str
    num_answers: int
    num_golden: int
    accuracy: float | None
    low: float | None
    high: float | None


class Agreement(NamedTuple):
    """How far labellers agree beyond chance: alpha over all, kappa of each pair who share 10 examples; 1 is fully."""

    num_examples: int
    alpha: float
    kappas: Mapping[tuple[str, str], float]


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """The label queue of a project, as labellers and those who look after them use it."""

    world: World
    clock: Clock

    @property
    def stage(self) -> Queue:
        """The strategy's queue.

        Raises:
            ProjectError: there is none.
        """
        queue = self.world.project.strategy.label.queue
        if queue is None:
            raise ProjectError("the strategy has no label queue.", "add tm.label.Queue() to its label stage")
        return queue

    def waiting(self, limit: int = 20) -> list[Example]:
        """Return examples that wait for a label, the most urgent first; nobody takes them by looking."""
        return [self.world.of_today(one) for one in self.world.reservoir.next_in_queue(self.world.name, limit)]

    def take(self, limit: int = 20, *, by: str) -> list[Example]:
        """Lend tasks to a labeller, and return them with those taken before; nobody else gets them meanwhile.

        Raises:
            ProjectError: the strategy has no queue.
        """
        stage, name = self.stage, self.world.name
        with self.world.db.begin() as conn:
            ids = self._labellings.take(
                conn, name, by, limit, now=self.clock.now(), lease=stage.lease, per_example=stage.per_example,
                golden_share=stage.golden,
            )  # fmt: skip
            return self.world.examples(ids, conn=conn)

    def answer(self, answers: Sequence[tuple[str, object]], *, by: str, key: str = "") -> bool:
        """Label examples as `(id, label)`; each counts once as many people as the strategy asks have agreed.

        Another answer of the same labeller replaces the one before. Answers that come with a `key` are taken once,
        however often they are sent; return whether they were taken now.

        Raises:
            InvalidInput: a label does not fit the output; none of them is written.
            NotFound: an id is not in the reservoir.
            ProjectError: the strategy has no queue.
        """
        parsed = [(id_, self.world.project.output.parse_label(value)) for id_, value in answers]
        parsed.sort(key=itemgetter(0))  # the loop's order too, so that neither waits for the other
        stage, name = self.stage, self.world.name
        found = {e.id: e for e in self.world.reservoir.examples(name, [id_ for id_, _ in parsed])}
        with self.world.db.begin() as conn:
            if key and not self._labellings.is_first(conn, name, key, now=self.clock.now()):
                return False
            settled: dict[str, str | float] = {}
            for id_, value in parsed:
                if self._labellings.say(conn, name, id_, by=by, label=value, now=self.clock.now()):
                    said = [value] if stage.per_example == 1 else self._labellings.said(conn, name, id_)
                    agreed = self._agreed(said)
                    if agreed is not None:
                        settled[id_] = agreed
            self._log([found[id_] for id_ in settled], settled, by)
            for id_, label in settled.items():
                self.world.reservoir.answer(
                    conn, name, id_, value=label, by=by, now=self.clock.now(), trust=Trust(stage.trust)
                )
        return True

    def skip(self, id_: str, *, by: str, reason: str, key: str = "") -> bool:
        """Leave a task to others: this labeller does not get it again, and what they said of it is taken back.

        Where what they said had counted already, the example is asked for once more; until somebody answers, the label
        stays. `key` as for `answer`.

        Raises:
            NotFound: the id is not in the reservoir.
            ProjectError: the strategy has no queue.
        """
        _, name, now = self.stage, self.world.name, self.clock.now()
        self.world.reservoir.examples(name, [id_])
        with self.world.db.begin() as conn:
            if key and not self._labellings.is_first(conn, name, key, now=now):
                return False
            had_said = self._labellings.skip(conn, name, id_, by=by, reason=reason, now=now)
            if had_said and self.world.reservoir.is_answered(conn, name, id_):
                self.world.reservoir.ask_again(conn, name, [id_], priority=0.0, now=now)
                self._labellings.skip(conn, name, id_, by=by, reason=reason, now=now)  # in the new round too
        return True

    def drop(self, ids: Sequence[str], *, by: str) -> None:
        """Take examples off the queue: nobody is asked for their labels any more.

        Raises:
            NotFound: an id is not in the reservoir.
        """
        self.world.reservoir.examples(self.world.name, ids)
        with self.world.db.begin() as conn:
            for id_ in sorted(ids):
                self.world.reservoir.skip(conn, self.world.name, id_, by=by, now=self.clock.now())

    def skipped(self, limit: int = 100) -> list[Skipped]:
        """Return tasks that wait and that somebody skipped, with the reason, the newest first."""
        return self._labellings.skipped(self.world.name, limit)

    def recent(self, limit: int = 10, *, by: str) -> list[Answered]:
        """Return what a labeller said last, the newest first."""
        return self._labellings.recent(self.world.name, by, limit)

    def num_answered(self, *, by: str, since: datetime) -> int:
        """Return how many examples a labeller has answered since a time."""
        return self._labellings.num_answered(self.world.name, by, since=since)

    def ask(self, ids: Sequence[str], *, priority: float = 1.0) -> None:
        """Ask for the labels of examples, again where they were answered; the higher the priority, the sooner.

        Raises:
            NotFound: an id is not in the reservoir.
            ProjectError: the strategy has no queue.
        """
        _ = self.stage
        self.world.reservoir.examples(self.world.name, ids)
        with self.world.db.begin() as conn:
            self.world.reservoir.ask_again(conn, self.world.name, ids, priority=priority, now=self.clock.now())

    def make_golden(self, labels: Sequence[tuple[str, object]]) -> None:
        """Let examples with known labels, as `(id, label)`, measure labellers.

        Raises:
            InvalidInput: a label does not fit the output; none of them is written.
            NotFound: an id is not in the reservoir.
        """
        parsed = {id_: self.world.project.output.parse_label(value) for id_, value in labels}
        self.world.reservoir.examples(self.world.name, list(parsed))
        with self.world.db.begin() as conn:
            self._labellings.make_golden(conn, self.world.name, parsed)

    def labellers(self) -> list[Labeller]:
        """Return how each labeller does, by name."""
        of: dict[str, list[Said]] = defaultdict(list)
        for one in self._labellings.answers(self.world.name):
            of[one.labeller].append(one)
        return [_measured(name, said) for name, said in sorted(of.items())]

    def agreement(self) -> Agreement:
        """Return how far labellers agree on the examples that several of them labelled in one round."""
        rounds: dict[tuple[str, int], dict[str, str | float]] = defaultdict(dict)
        for one in self._labellings.answers(self.world.name):
            rounds[one.example, one.asked_at][one.labeller] = one.label
        shared = [said for said in rounds.values() if len(said) > 1]
        kappas = {}
        for pair in combinations(sorted({name for said in shared for name in said}), 2):
            both = [(said[pair[0]], said[pair[1]]) for said in shared if pair[0] in said and pair[1] in said]
            if len(both) >= _LEAST_SHARED:
                kappas[pair] = cohen_kappa([a for a, _ in both], [b for _, b in both])
        alpha = krippendorff_alpha([list(said.values()) for said in shared], numeric=self._numeric)
        return Agreement(len(shared), alpha, kappas)

    def suspects(self, limit: int = 20) -> list[Suspect]:
        """Return the examples whose labels look most wrong, the worst first."""
        return suspects(self.world, limit)

    @property
    def _labellings(self) -> Labellings:
        return Labellings(self.world.db)

    @property
    def _numeric(self) -> bool:
        return isinstance(self.world.project.output, Value)

    def _agreed(self, said: Sequence[str | float]) -> str | float | None:
        """Return the label that counts, None while more people have to be asked."""
        if len(said) < self.stage.per_example:
            return None
        if self._numeric:
            return float(np.median([float(value) for value in said]))
        (best, votes), *others = Counter(said).most_common()
        return None if others and others[0][1] == votes else best

    def _log(self, examples: Sequence[Example], labels: Mapping[str, str | float], by: str) -> None:
        """Write labels as feedback too, so that triggers, guards and quality see what people said."""
        trust = str(Trust(self.stage.trust))
        # The segment is there before the time is taken: nothing may be received behind the log's low-water mark.
        writer = SegmentWriter(self.world.home.segments, f"labels-{uuid4().hex}", low_at=micros(self.clock.now()))
        at = micros(self.clock.now())
        rows = [
            Feedback(request_id=e.request_id, received_at=at, kind="label", value=labels[e.id], source=by, trust=trust)
            for e in examples
            if e.request_id is not None
        ]
        if rows:
            writer.append(msgspec.msgpack.encode(Batch(project=self.world.name, feedback=rows)))
        writer.close()


def _measured(name: str, said: Sequence[Said]) -> Labeller:
    known = [one.label == one.known for one in said if one.known is not None]
    if not known:
        return Labeller(name, len(said), 0, None, None, None)
    share = wilson(sum(known), len(known))
    return Labeller(name, len(said), len(known), sum(known) / len(known), share.low, share.high)
