"""What is known of a person: the requests, examples and cases about them, and who learnt from these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import chain, product
from pathlib import Path
from typing import Any, Self

import msgspec

from tidemill.clock import micros
from tidemill.errors import InvalidInput
from tidemill.loop.suites import suites_folder
from tidemill.loop.world import World
from tidemill.records import DatasetVersion, Feedback, Prediction
from tidemill.review.suites import shown
from tidemill.schema import Schema
from tidemill.stores.case_file import cases_from, cases_of, unreadable
from tidemill.stores.datasets import Split
from tidemill.stores.erasures import Erasures, mark_of
from tidemill.stores.frames import read_frames
from tidemill.stores.rows import parts
from tidemill.stores.segments import Batch, decode
from tidemill.stores.struck import Looked, Struck, about, of_device, of_person
from tidemill.strategy.wording import counted
from tidemill.suites import Cases, canonical

COUNTS = ("predictions", "feedback", "profiles", "examples", "tasks", "labellings", "cases")
MOST_SCHEMAS = 32
"""Under how many of a project's schemas, today's and the newest ones, rows are looked for in reports."""


@dataclass(frozen=True, kw_only=True)
class KnownOf:
    """What is kept about a person: rows by kind, and the numbers of the dataset and model versions they are in.

    The rows of the dataset versions in `erased` are gone. `unread` says which files of suites could not be looked into.
    """

    counts: Mapping[str, int]
    datasets: Sequence[int]
    erased: Sequence[int]
    models: Sequence[int]
    unread: Sequence[str] = ()

    @classmethod
    def of(
        cls, counts: Mapping[str, int], datasets: Sequence[DatasetVersion], models: Sequence[int],
        *, unread: Sequence[str] = (),
    ) -> Self:  # fmt: skip
        """Put it together."""
        return cls(
            counts=counts, datasets=[one.number for one in datasets if not one.is_gone],
            erased=[one.number for one in datasets if one.is_gone], models=models, unread=unread,
        )  # fmt: skip


@dataclass(frozen=True)
class Person:
    """A subject of a project, as of a time; with `by_unit`, also the unit of that name.

    `examples` are the ids of examples that are known already to be about them, `cased` the requests that cases of
    suites were taken from: both tell who they were when the log does not any more. `known` are all requests about them
    in the log, where it was looked through before.
    """

    world: World
    subject: str
    until: datetime
    by_unit: bool = False
    examples: tuple[str, ...] = field(default=())
    cased: tuple[str, ...] = field(default=())
    known: frozenset[str] | None = None

    @property
    def struck(self) -> Struck:
        """Finds rows of the log."""
        return Struck(self.world.db, self.world.home.log)

    @property
    def rows(self) -> Any:
        """The condition of their predictions."""
        return of_person(self.subject, by_unit=self.by_unit, until=self.until)

    @property
    def profiles(self) -> Any:
        """The condition of the profiles of the device of that name."""
        return of_device(self.subject, until=self.until)

    @cached_property
    def requests(self) -> set[str]:
        """The requests about them: those in the log, and those of examples whose predictions have left it."""
        logged = self.logged(Looked()) if self.known is None else self.known
        return {*logged, *self.examples, *self.cased}

    def logged(self, looked: Looked) -> set[str]:
        """Return the requests about them in the files of the log that were not looked at yet."""
        found = self.struck.found(self.world.name, "predictions", self.rows, ["request_id"], looked=looked)
        return {id_ for table in found for id_ in table["request_id"].to_pylist()}

    def find_examples(self) -> list[str]:
        """Return the ids of the examples about them."""
        return self.world.reservoir.about(
            self.world.name, self.subject, self.requests, by_unit=self.by_unit, until=self.until
        )

    def find_datasets(self, examples: Iterable[str]) -> list[DatasetVersion]:
        """Return the dataset versions that hold them, by their examples, or by what earlier erasures wrote down."""
        world = self.world
        mark = mark_of(world.catalog.secret(world.name), self.subject)
        before = {digest for one in Erasures(world.db).of(world.name, mark) for digest in one.body["datasets"]}
        holding = {version.digest for version in world.datasets.holding(world.name, self.requests | set(examples))}
        return [version for version in world.datasets.all(world.name) if version.digest in before | holding]

    def find_models(self, datasets: Iterable[DatasetVersion]) -> list[int]:
        """Return the model versions that learnt from these datasets."""
        digests = {version.digest for version in datasets}
        return [m.version for m in self.world.catalog.models(self.world.name) if m.dataset in digests]

    def find_unknown_models(self) -> list[int]:
        """Return the model versions of which nobody can say whether they learnt from them: their dataset is gone."""
        gone = {version.digest for version in self.world.datasets.all(self.world.name) if version.is_gone}
        return [m.version for m in self.world.catalog.models(self.world.name) if m.dataset in gone]

    # --- what they sent

    def inputs(self, examples: Iterable[str], names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """Yield the inputs of these names that are kept of their requests, and all that are of the examples."""
        for table in self.struck.found(self.world.name, "predictions", self.rows, list(names)):
            yield from table.to_pylist()
        yield from self._of_examples(examples)

    def learnt(self, dataset: str, examples: Iterable[str]) -> Iterator[Mapping[str, Any]]:
        """Yield the inputs of those examples in a dataset version, shard by shard; none of one that is gone."""
        world, wanted = self.world, set(examples)
        if not self.is_kept(dataset):
            return
        inputs = world.datasets.shards(world.name, dataset).form.inputs
        splits: tuple[Split, ...] = ("train", "test")
        for table in (table for split in splits for table in world.datasets.tables(world.name, dataset, split)):
            rows = [row for row, id_ in enumerate(table["id"].to_pylist()) if id_ in wanted]
            if rows:
                yield from table.select(list(inputs)).take(rows).to_pylist()

    def is_kept(self, dataset: str) -> bool:
        """Tell whether the rows of a dataset version are there."""
        return any(one.digest == dataset and not one.is_gone for one in self.world.datasets.all(self.world.name))

    def shown(self, examples: Sequence[str], datasets: Iterable[str]) -> set[str]:
        """Return their examples and cases as reports of suites quote them, or did under an earlier schema.

        Of examples that have left the reservoir, the inputs are taken from these dataset versions.
        """
        schemas, found = self._schemas, set[str]()
        left = set(examples) - self.world.reservoir.present(self.world.name, list(examples))
        kept = (row for dataset in datasets for row in self.learnt(dataset, left)) if left else ()
        for row in chain(self._of_examples(examples), kept):
            found |= {form for schema in schemas for form in _forms(row, schema)}
        for path in self._readable:
            for inputs, schema in product(cases_from(path, self.requests), schemas):
                try:
                    found.add(shown(canonical(inputs, schema)))
                except InvalidInput:
                    continue  # no suite showed it under that one
        return found

    @cached_property
    def _schemas(self) -> list[Schema]:
        """The schemas that rows may have been quoted under: today's, and those that versions were trained on."""
        distinct: dict[str, Schema] = {}
        for one in (self.world.project.schema, *self.world.schemas.of_versions()):
            distinct.setdefault(repr(one.to_json()["inputs"]), one)
        return list(distinct.values())[:MOST_SCHEMAS]

    def _of_examples(self, examples: Iterable[str]) -> Iterator[Mapping[str, Any]]:
        """Yield the inputs of those examples that are there still, a part of them in memory at a time."""
        reservoir, name = self.world.reservoir, self.world.name
        for some in parts(sorted(reservoir.present(name, list(examples)))):
            yield from reservoir.inputs(name, some)

    @property
    def case_files(self) -> list[Path]:
        """The files of the project's suites."""
        folder = suites_folder(self.world.project_file)
        return sorted({folder / suite.path for suite in self.world.project.suites if isinstance(suite, Cases)})

    @property
    def unread(self) -> list[str]:
        """Why which of them cannot be read."""
        return [why for path in self.case_files if (why := unreadable(path))]

    @property
    def _readable(self) -> list[Path]:
        return [path for path in self.case_files if not unreadable(path)]

    # --- counted before anything is done

    def counts(self) -> dict[str, int]:
        """Count what there is about them, in the log and in what gateways have not handed over yet."""
        log, name = self.struck, self.world.name
        waiting = list(self._waiting())
        requests = self.requests | {row.request_id for row in waiting if isinstance(row, Prediction)}
        examples = self.find_examples()
        tasks, said = self.world.reservoir.tasks_of(name, examples)
        told = log.found(name, "feedback", about(requests), ["request_id"]) if requests else ()
        return {
            "predictions": _num(log.found(name, "predictions", self.rows, ["request_id"]))
            + sum(isinstance(row, Prediction) for row in waiting),
            "feedback": _num(told)
            + sum(isinstance(row, Feedback) and row.request_id in requests for row in self._rows_waiting()),
            "profiles": _num(log.found(name, "profiles", self.profiles, ["device"])),
            "examples": len(examples),
            "tasks": tasks,
            "labellings": said,
            "cases": self.num_cases(),
        }

    def num_cases(self) -> int:
        """Count the cases of suites that were taken from their requests, in files that can be read."""
        return len(self.find_cases())

    def find_cases(self) -> list[str]:
        """Return the requests that cases of suites were taken from, one for each case in files that can be read."""
        return [request for path in self._readable for request in cases_of(path, self.requests)]

    def _waiting(self) -> Iterator[Prediction]:
        for row in self._rows_waiting():
            if isinstance(row, Prediction) and row.received_at <= micros(self.until) and self._is_theirs(row):
                yield row

    def _is_theirs(self, row: Prediction) -> bool:
        return row.subject == self.subject or (self.by_unit and row.unit == self.subject)

    def _rows_waiting(self) -> Iterator[Prediction | Feedback]:
        """Yield what lies in segments; one that the compactor takes meanwhile is left out."""
        for batch in self._batches():
            yield from batch.predictions
            yield from batch.feedback

    def _batches(self) -> Iterator[Batch]:
        for segment in self.world.compactor.waiting():
            try:
                frames = read_frames(segment.path)
            except FileNotFoundError:
                continue
            for payload in frames.payloads:
                batch = decode(payload, name=segment.name)
                if batch.project == self.world.name:
                    yield batch


def told_count(name: str, num: int) -> str:
    """Return how many there are of one of `COUNTS`, in words."""
    return f"{num:,} {name}" if name == "feedback" else counted(num, name.removesuffix("s"))


def _forms(row: Mapping[str, Any], schema: Schema) -> Iterator[str]:
    """Yield how a row is quoted under a schema: with the defaults of what it lacks, and without."""
    is_of = not row.keys().isdisjoint(schema.inputs)  # else what it says under it is nothing, or the same of everybody
    for one in (row, schema.filled(row)):
        yield shown(one)
        if is_of:
            yield shown({name: one[name] for name in schema.inputs if name in one})


def row_key(row: Mapping[str, Any], names: Iterable[str]) -> bytes:
    """Return bytes that rows of equal canonical inputs share."""
    values = [row.get(name) for name in names]
    return msgspec.msgpack.encode([float(v) + 0.0 if isinstance(v, int | float) else v for v in values])


def _num(tables: Iterable[Sized]) -> int:
    return sum(map(len, tables))
