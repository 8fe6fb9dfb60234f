"""The facts and the answers that pass between layers: plain values, no behaviour beyond reading themselves.

Times are timezone-aware UTC `datetime`s, but in the two rows written on the hot path (`Prediction`, `Feedback`), where
they are integer microseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

Json = Any
"""A value that `json` can write: None, bool, int, float, str, list, dict with string keys."""

Scalar = str | float | int | bool | None


class Trust(StrEnum):
    """How far the source of a label is trusted, weakest first."""

    FUNCTIONS = "functions"
    CROWD = "crowd"
    PEOPLE = "people"
    TRUTH = "truth"

    @property
    def rank(self) -> int:
        """0 for the weakest source, 3 for the system of record."""
        return list(Trust).index(self)


class Outcome(StrEnum):
    """What a verdict says. A trigger fires, is quiet or does not know; a test passes, fails or is inconclusive."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    FIRE = "fire"
    QUIET = "quiet"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A decision with its reason and its numbers.

    `by` names the member that gave it. `back_to` names, for a failure, where to mend it: data, labels, training or
    strategy. `parts` are the verdicts it was composed of.
    """

    outcome: Outcome
    by: str
    reason: str
    numbers: Mapping[str, Scalar] = field(default_factory=dict)
    back_to: str = ""
    parts: tuple[Verdict, ...] = ()

    def to_json(self) -> Json:
        """Return the verdict as plain JSON."""
        return {
            "outcome": str(self.outcome),
            "by": self.by,
            "reason": self.reason,
            "numbers": dict(self.numbers),
            "back_to": self.back_to,
            "parts": [part.to_json() for part in self.parts],
        }

    @classmethod
    def from_json(cls, data: Json) -> Verdict:
        """Read what `to_json` wrote."""
        return cls(
            outcome=Outcome(data["outcome"]),
            by=data["by"],
            reason=data["reason"],
            numbers=data["numbers"],
            back_to=data["back_to"],
            parts=tuple(cls.from_json(part) for part in data["parts"]),
        )


class Prediction(msgspec.Struct, array_like=True, gc=False, kw_only=True):
    """One row of the log, key `(request_id, role, answered_version)`; the fields are written in this order.

    `inputs` holds canonical values by name (see `tidemill.schema`) and is None when the log stage dropped them; `tags`
    are the inputs declared `tag=True`, always kept. `answered_version` is 0 when no version could answer; then `error`
    says why; its `decision`, if it has one, is the project's declared default. A failure counts against
    `assigned_version`. `outlier` names the inputs outside the range that the answering version learnt from, None where
    there are none; `top_k` the best classes, the decision first, where the policy asks for them.

    A new field comes last and has a default, so that rows written before are read as they are.
    """

    request_id: str
    received_at: int
    role: str  # "answer" or "shadow"
    unit: str
    subject: str | None
    rollout: str | None
    share: float  # the candidate's share of traffic in force when the request was routed
    salt: str
    route_revision: int
    assigned_version: int
    answered_version: int
    fallback_reason: str | None
    error: str | None
    policy_version: int
    tags: dict[str, Any]
    inputs: dict[str, Any] | None
    scores: list[float] | None
    decision: str | float | None
    abstained: bool
    cached: bool
    latency_ms: float
    keep_probability: float
    outlier: list[str] | None = None
    top_k: list[str] | None = None


CONFIRM = "confirm"
"""The kind of feedback that says the decision was right, whatever it was."""
LABEL_KINDS = ("label", CONFIRM, "correct", "override")
"""Kinds of feedback that say what is true: by itself, or by a word on the decision that a person gave."""

JUDGEMENTS = ("rating", "thumbs")
"""Kinds that say how good an answer was: nobody's silence is a rating of 0."""


class Feedback(msgspec.Struct, array_like=True, gc=False, kw_only=True):
    """Something learned later about a request: a label, a rating, thumbs, or an event with a value."""

    request_id: str
    received_at: int
    kind: str  # one of LABEL_KINDS, "rating", "thumbs", or the name of an event
    value: str | float | bool | None
    source: str
    trust: str


class DeviceProfile(msgspec.Struct, array_like=True, gc=False, kw_only=True):
    """What a device posted of the rows that it saw in (after, until]: sketches (`stats.profile`) and no row."""

    device: str
    received_at: int
    after: int
    until: int
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Route:
    """Who answers. `revision` counts changes; a change is a compare-and-set on it.

    `candidate` answers `share` of the units (by hash with `salt`) until `lapses_at`, unless the loop that watches it
    moves that time on. `fallback` answers when the assigned version cannot. Shadows answer nobody.
    """

    revision: int
    stable: int
    fallback: int | None = None
    candidate: int | None = None
    share: float = 0.0
    salt: str = ""
    rollout: str | None = None
    shadows: tuple[int, ...] = ()
    lapses_at: datetime | None = None
    policy_version: int = 1

    def versions(self) -> tuple[int, ...]:
        """Every version that must be loaded to serve this route, the stable one first."""
        wanted = (self.stable, self.candidate, self.fallback, *self.shadows)
        return tuple(dict.fromkeys(v for v in wanted if v is not None))


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A stored artefact and where it came from. `version` counts from 1 within a project."""

    version: int
    artefact: str  # blob digest of the artefact's folder
    created_at: datetime
    dataset: str | None  # digest of the dataset version it was trained on
    strategy: str  # digest of the strategy in force
    parent: int | None  # the version it was fine-tuned from
    cycle: int | None
    run: str  # id of the training run: parameters, metrics, code and environment are kept with it
    status: str = "ready"  # ready, live, retired, rejected, rolled back
    retired_at: datetime | None = None  # since when its artefact is gone


@dataclass(frozen=True, kw_only=True)
class Example:
    """A curated point in the reservoir. `probability` is its inclusion probability, None where it is unknown."""

    id: str
    request_id: str | None
    unit: str
    received_at: datetime  # when the request came
    picked_at: datetime
    reason: str
    probability: float | None
    split: str  # "train" or "test", fixed when the example is inserted
    inputs: Mapping[str, Any]  # canonical values, tags included
    decision: str | float | None = None  # what the answering version said
    version: int | None = None  # the answering version
    label: str | float | None = None
    trust: Trust | None = None
    source: str | None = None
    labelled_at: datetime | None = None
    subject: str | None = None  # whom it is about, so that it can be deleted


@dataclass(frozen=True, kw_only=True)
class DatasetVersion:
    """An immutable, content-addressed list of examples with weights. `number` counts from 1 within a project."""

    digest: str
    number: int
    parent: str | None
    formed_by: str  # the dataset stage, as text
    created_at: datetime
    num_train: int
    num_test: int
    erased_at: datetime | None = None  # since when its rows are gone, because somebody in it was forgotten
    retired_at: datetime | None = None  # the same, because it was too old to keep

    @property
    def is_gone(self) -> bool:
        """Whether only this record is left, and no row."""
        return self.state != "kept"

    @property
    def state(self) -> str:
        """What became of its rows, in a word: kept, erased or retired."""
        return "erased" if self.erased_at is not None else "retired" if self.retired_at is not None else "kept"


@dataclass(frozen=True, kw_only=True)
class Cycle:
    """One trip round the loop. `step` is the one it is in; `outcome` is None until it ends."""

    number: int
    opened_at: datetime
    trigger: Verdict
    strategy: str
    step: str
    candidate: int | None = None
    dataset: str | None = None
    closed_at: datetime | None = None
    outcome: str | None = None  # promoted, rejected, rolled back, failed
    reason: str = ""
