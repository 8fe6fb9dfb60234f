"""Suites: named, versioned sets of test cases that say how a model must behave, whatever its accuracy.

The kinds are those of CheckList (Ribeiro, Wu, Guestrin, Singh: Beyond Accuracy: Behavioral Testing of NLP Models with
CheckList, ACL 2020), for any inputs: minimum functionality, invariance, directional expectation, and past bugs in a
file that grows. Candidate and live version answer the same cases.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from tidemill.errors import InvalidInput, ProjectError
from tidemill.fingerprint import callable_json, digest
from tidemill.records import Json, Scalar
from tidemill.schema import Array, Classes, Input, Output, Schema, Sensitive

Inputs = Mapping[str, Any]
Perturb = Callable[[dict[str, Any], np.random.Generator], Mapping[str, Any] | None]
"""Takes one example's inputs by name (images and tensors as arrays) and returns them changed; None leaves it out."""

_HASH = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_ROUNDING = 1e-6  # two batches of the same rows may differ in the last digits of a float32


@dataclass(frozen=True, kw_only=True)
class Case:
    """One question to a model, by canonical inputs: with the answer that is right, or the `original` it came from."""

    id: str
    inputs: Inputs
    label: str | float | None = None
    original: Inputs | None = None
    note: str = ""


class Answer(NamedTuple):
    """What a version says to one row: its decision, None where it abstains, and its scores float32 (K,)."""

    said: str | float | None
    scores: Array


@dataclass(frozen=True)
class Sources:
    """Where cases come from: `read` opens a suite's file, and `take` returns the canonical inputs of some of `ids`."""

    schema: Schema
    ids: Sequence[str]
    take: Callable[[Sequence[int]], Sequence[Inputs]]
    read: Callable[[str], Sequence[Case]]


@dataclass(frozen=True)
class Suite:
    """Base of the suites: `ask` gives the cases, `passes` judges one, and a share of `at_least` has to pass.

    `sampled` says that the cases are drawn from many, so that a few more failures may be chance.
    """

    name: str
    _: KW_ONLY
    at_least: float = 0.95
    sampled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.require(
            isinstance(self.name, str) and _NAME.fullmatch(self.name) is not None,
            f"is called {self.name!r}", "use lower-case letters, digits, '-' and '_', such as 'past_bugs'",
        )  # fmt: skip
        self.require(0 < self.at_least <= 1, f"has at_least={self.at_least!r}", "give a share above 0, up to 1")

    def check(self, output: Output) -> None:
        """Refuse, with a `ProjectError`, what cannot be asked of a model with this output."""

    def ask(self, sources: Sources) -> tuple[Case, ...]:
        """Return the cases.

        Raises:
            ProjectError: a case cannot be had; the message names the suite, the case and the next move.
        """
        raise NotImplementedError

    def passes(self, case: Case, answer: Answer, before: Answer | None, output: Output) -> bool:
        """Judge one case. `before` is the answer to its original, where it has one."""
        raise NotImplementedError

    def wanted(self, case: Case, before: Answer | None) -> str:
        """Say what the answer had to be."""
        raise NotImplementedError

    def version(self, cases: Sequence[Case]) -> str:
        """Return 16 hex digits: another content, source or parameter is another version."""
        return digest({"suite": self.to_json(), "cases": []})

    def to_json(self) -> Json:
        """Return kind and parameters; a function is known by its source."""
        return {"kind": type(self).__name__, **{s.name: self._plain(s.name) for s in fields(self)}}

    def require(self, ok: bool, problem: str, hint: str) -> None:
        """Raise a `ProjectError` that names this suite unless `ok`."""
        if not ok:
            raise ProjectError(f"suites.{type(self).__name__} {self.name!r} {problem}.", hint)

    def _plain(self, field: str) -> Json:
        value = getattr(self, field)
        return callable_json(value, f"suite {self.name!r}: {field}") if callable(value) else value


@dataclass(frozen=True)
class Labelled(Suite):
    """Base of the suites whose cases have a right answer; of a number, one within `tolerance`."""

    _: KW_ONLY
    tolerance: float = 0.0

    def passes(self, case: Case, answer: Answer, before: Answer | None, output: Output) -> bool:
        """Compare with the label. Who abstains has not answered."""
        return answer.said is not None and _alike(answer.said, case.label, self.tolerance)

    def wanted(self, case: Case, before: Answer | None) -> str:
        """Name the label."""
        return _said(case.label)

    def version(self, cases: Sequence[Case]) -> str:
        """Count what the cases hold, whatever their order."""
        content = sorted(digest([to_lines(case.inputs), case.label]) for case in cases)
        return digest({"suite": {**self.to_json(), "path": None, "cases": None}, "cases": content})


@dataclass(frozen=True)
class Cases(Labelled):
    """Cases with their right answer in a JSON lines file, such as past bugs; `tidemill suite add` grows it.

    A line is `{"inputs": {...}, "label": ..., "note": "why it is here"}`. `path` counts from the project file's folder.
    """

    path: str
    _: KW_ONLY
    at_least: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(str(self.path).endswith(".jsonl"), f"has the file {self.path!r}", "name a .jsonl file")
        object.__setattr__(self, "path", str(self.path))

    def ask(self, sources: Sources) -> tuple[Case, ...]:
        """Read the file."""
        return tuple(sources.read(self.path))


@dataclass(frozen=True)
class MinimumFunctionality(Labelled):
    """Simple cases that any usable model answers: `(inputs, label)` pairs, or a function that returns them.

    The function takes nothing and is called once a report, so it may fill templates.
    """

    cases: Sequence[tuple[Inputs, str | float]] | Callable[[], Iterable[tuple[Inputs, str | float]]]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.cases):
            object.__setattr__(self, "cases", tuple(self.cases))
            self.require(bool(self.cases), "has no cases", "give (inputs, label) pairs, or a function")

    def ask(self, sources: Sources) -> tuple[Case, ...]:
        """Check the pairs against the schema."""
        return tuple(self._case(pair, f"case {i}", sources.schema) for i, pair in enumerate(self._all(), start=1))

    def _all(self) -> Iterable[tuple[Inputs, str | float]]:
        if not callable(self.cases):
            return self.cases
        try:
            return list(self.cases())
        except Exception as error:
            raise _raised(self, "its cases", error) from error

    def _case(self, pair: Any, id_: str, schema: Schema) -> Case:
        try:
            inputs, label = pair
            return Case(id=id_, inputs=canonical(inputs, schema), label=schema.output.parse_label(label))
        except (InvalidInput, TypeError, ValueError) as error:
            raise _refused(self, id_, error, "give (inputs, label) pairs that fit the project") from error

    def to_json(self) -> Json:
        """Return kind and parameters; of pairs, the version counts the content."""
        body = {"kind": type(self).__name__, "name": self.name, "at_least": self.at_least, "tolerance": self.tolerance}
        return {**body, "cases": self._plain("cases") if callable(self.cases) else len(self.cases)}


@dataclass(frozen=True)
class Perturbed(Suite):
    """Base of the suites that change test rows: up to `num` of them, the same in every report while they are there."""

    perturb: Perturb
    _: KW_ONLY
    num: int = 200
    sampled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(callable(self.perturb), f"has perturb={self.perturb!r}", "give a function (inputs, rng) -> inputs")
        self.require(self.num >= 1, f"has num={self.num!r}", "give how many rows to change")
        _ = self.to_json()  # refuses a lambda

    def ask(self, sources: Sources) -> tuple[Case, ...]:
        """Change the rows. Those that stay as they were, or for which `perturb` returns None, are no cases."""
        order = sorted(range(len(sources.ids)), key=lambda i: self._draw(sources.ids[i]))[: self.num]
        made = (
            self._case(sources.ids[i], row, sources.schema) for i, row in zip(order, sources.take(order), strict=True)
        )
        return tuple(case for case in made if case is not None)

    def _case(self, id_: str, row: Inputs, schema: Schema) -> Case | None:
        given = {n: _writable(kind.column([row[n]])[0]) for n, kind in schema.inputs.items()}
        try:
            changed = self.perturb(given, np.random.default_rng(self._draw(id_)))
        except Exception as error:
            raise _raised(self, f"perturb, on example {id_},", error) from error
        if changed is None:
            return None
        try:
            inputs = canonical(changed, schema)
        except (InvalidInput, TypeError, ValueError) as error:
            raise _refused(self, f"what perturb made of example {id_}", error, "return all inputs, as given") from error
        return None if inputs == dict(row) else Case(id=id_, inputs=inputs, original=row)

    def _draw(self, id_: str) -> int:
        """Return a number that stands for an example in this suite: it orders them, and seeds their generators."""
        return int.from_bytes(hashlib.blake2b(f"{self.name}/{id_}".encode(), digest_size=8).digest(), "big")


@dataclass(frozen=True)
class Invariant(Perturbed):
    """The decision does not change when `perturb` changes what should not matter, such as a typo.

    Of a number, it changes by no more than `tolerance`.
    """

    _: KW_ONLY
    tolerance: float = 0.0

    def passes(self, case: Case, answer: Answer, before: Answer | None, output: Output) -> bool:
        """Compare with the answer to the row as it was."""
        assert before is not None, "a changed row has an original"
        if answer.said is None or before.said is None:
            return answer.said is before.said
        return _alike(answer.said, before.said, self.tolerance)

    def wanted(self, case: Case, before: Answer | None) -> str:
        """Name the answer before."""
        return f"{_said(before.said if before else None)}, as before"


@dataclass(frozen=True)
class Directional(Perturbed):
    """A score goes `expect` ("up" or "down") when `perturb` changes the row: that of the class `of`, or the number.

    It may stay where it was, and must not go the other way; with `by` above 0 it has to move by that much, and with
    `by` below 0 that much the other way is tolerated.
    """

    expect: Literal["up", "down"]
    _: KW_ONLY
    of: str | None = None
    by: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.expect in ("up", "down"), f"has expect={self.expect!r}", "give 'up' or 'down'")
        self.require(math.isfinite(self.by), f"has by={self.by!r}", "give a finite number")

    def check(self, output: Output) -> None:
        """Refuse a class that there is not."""
        names = tuple(output.names) if isinstance(output, Classes) else ()
        known = f"name one of {', '.join(names)}" if names else "leave it out: the output is a number"
        self.require(self.of in names if names else self.of is None, f"has of={self.of!r}", known)

    def passes(self, case: Case, answer: Answer, before: Answer | None, output: Output) -> bool:
        """Compare the score with that of the row as it was."""
        assert before is not None, "a changed row has an original"
        k = tuple(output.names).index(self.of) if isinstance(output, Classes) and self.of is not None else 0
        moved = float(answer.scores[k]) - float(before.scores[k])
        return (moved if self.expect == "up" else -moved) >= self.by - _ROUNDING

    def wanted(self, case: Case, before: Answer | None) -> str:
        """Name the score and the way."""
        by = f" by {self.by:g}" if self.by > 0 else ""
        return f"{f'the score of {self.of!r}' if self.of is not None else 'the number'} {self.expect}{by}"


def canonical(inputs: Any, schema: Schema) -> dict[str, Any]:
    """Return the canonical form of one row; a sensitive input is the hash that the log has, and is not hashed again.

    Raises:
        InvalidInput: an input is missing, unknown or does not fit.
    """
    if not isinstance(inputs, Mapping):
        raise InvalidInput(f"inputs are of type {type(inputs).__name__}, not by name.", "give a dict", "inputs")
    for name in [*schema.required, *inputs]:
        if name not in inputs or name not in schema.inputs:
            problem = "is not declared" if name in inputs else "is missing"
            raise InvalidInput(f"input {name!r} {problem}.", f"give {', '.join(schema.inputs)}", str(name))
    return {name: _parsed(kind, inputs.get(name), name) for name, kind in schema.inputs.items()}


def _parsed(kind: Input, value: Any, name: str) -> Any:
    parsed = kind.parse(_item(value), name)
    if isinstance(kind, Sensitive) and not _HASH.fullmatch(parsed):  # the value itself must not reach a message
        raise InvalidInput(
            f"{name!r} is sensitive, and not given as a hash.", "write the 32 hex digits of the log", name
        )
    return parsed


def to_lines(inputs: Inputs) -> dict[str, Scalar]:
    """Return canonical inputs as JSON has them: bytes are base64."""
    return {n: base64.b64encode(v).decode() if isinstance(v, bytes) else v for n, v in inputs.items()}


def _item(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _writable(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else _item(value)


def _alike(said: Any, wanted: Any, tolerance: float) -> bool:
    if isinstance(said, str) or isinstance(wanted, str):
        return bool(said == wanted)
    return abs(float(said) - float(wanted)) <= tolerance + _ROUNDING * max(1.0, abs(float(wanted)))


def _said(value: Any) -> str:
    if value is None:
        return "no answer"
    return repr(value) if isinstance(value, str) else f"{value:.6g}"


def _raised(suite: Suite, what: str, error: Exception) -> ProjectError:
    return ProjectError(f"suite {suite.name!r}: {what} raised {type(error).__name__}: {error}", "mend the function")


def _refused(suite: Suite, what: str, error: Exception, hint: str) -> ProjectError:
    told, own = (error.message, error.hint) if isinstance(error, InvalidInput) else (str(error), "")
    return ProjectError(f"suite {suite.name!r}: {what} does not fit: {told}", own or hint)
