"""The member of curation that learns from feedback where the model is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from tidemill.schema import Array
from tidemill.stats.logistic import Logistic
from tidemill.strategy.candidates import Candidates, CurateContext, CurateNeeds, Draw, Judgements
from tidemill.strategy.curate_uncertain import doubt
from tidemill.strategy.curating import Curate

_LEAST_KNOWN = 50
_LEAST_OF_EACH = 5  # errors, and right answers
_MAX_LEVELS = 20


@dataclass(frozen=True)
class ExpectedError(Curate):
    """Choose where an error is likeliest, by what feedback has shown: pi = 1 in their stratum.

    A logistic regression of the error on the scores, the decision, the tags and the columns `by` (inputs or
    projections), calibrated on rows that it was not fitted on. So it finds what the model is sure of and wrong, where
    tags tell it. Chooses nothing before feedback has come on 50 requests, 5 of each kind. Without scores of its own a
    request is not chosen.
    """

    share: float | None = None
    by: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse a name in place of a list of names."""
        super().check()
        listed = isinstance(self.by, tuple) and all(isinstance(name, str) for name in self.by)
        self.require(listed, f"by is {self.by!r}", "give a list of inputs, tags or projections, as in by=['country']")

    @property
    def reason(self) -> str:
        """`expected error`."""
        return "expected error"

    def needs(self) -> CurateNeeds:
        """Ask for the tags, and for requests whose feedback has come."""
        return CurateNeeds(columns=self.by, tags=True, judged=True, distinct=True)

    def draw(self, candidates: Candidates, context: CurateContext, budget: int, rng: np.random.Generator) -> Draw:
        """Take those of the highest expected error."""
        chance = expected_error(candidates, context.judged)
        return Draw.of_highest(chance, budget, np.arange(len(candidates)))


def expected_error(candidates: Candidates, judged: Judgements | None) -> Array:
    """Return the calibrated chance of an error, float64 (N,); NaN where it is not known."""
    unknown = np.full(len(candidates), np.nan)
    if judged is None or not len(candidates):
        return unknown
    answered = ~np.isnan(judged.scores).any(axis=1) & ~np.isnan(judged.losses)
    losses = judged.losses[answered]
    of_each = min(losses.sum(), (1 - losses).sum()) if len(losses) else 0
    if len(losses) < _LEAST_KNOWN or of_each < _LEAST_OF_EACH:
        return unknown
    layout = _Layout.of(judged)
    model = Logistic.fit(layout.features(judged.scores, judged.decisions, judged.columns)[answered], losses)
    if model.slope > 0:  # else what is known says nothing about rows that the model was not fitted on
        known = ~np.isnan(candidates.scores).any(axis=1)
        mine = layout.features(candidates.scores, candidates.decisions, candidates.columns)
        unknown[known] = model.probability(mine[known])
    return unknown


@dataclass(frozen=True)
class _Layout:
    """Which columns are numbers, with their means, and which levels the others have."""

    levels: Mapping[str, tuple[str, ...]]
    means: Mapping[str, float]

    @classmethod
    def of(cls, judged: Judgements) -> _Layout:
        columns = {**judged.columns, "": _objects(judged.decisions)}
        numeric = {name for name, column in columns.items() if all(map(_is_number, column.tolist()))}
        levels = {name: _common(column.tolist()) for name, column in columns.items() if name not in numeric}
        return cls(levels, {name: _mean(_floats(column)) for name, column in columns.items() if name in numeric})

    def features(self, scores: Array, decisions: Sequence[object], columns: Mapping[str, Array]) -> Array:
        """Return float64 (N, D)."""
        columns = {**columns, "": _objects(decisions)}
        numbers = (np.where(np.isnan(v := _floats(columns[n])), mean, v) for n, mean in self.means.items())
        flags = (
            np.array([str(value) == level for value in columns[name].tolist()], dtype=np.float64)
            for name, levels in self.levels.items()
            for level in levels
        )
        return np.column_stack([np.zeros((len(scores), 0)), *_of_scores(scores), *chain(numbers, flags)])


def _of_scores(scores: Array) -> list[Array]:
    if scores.shape[1] < 2:
        return [np.nan_to_num(scores[:, 0])]
    return [np.nan_to_num(doubt(scores, by)) for by in ("margin", "entropy", "least_confidence")]


def _common(values: Sequence[object]) -> tuple[str, ...]:
    """Return the commonest values as text, at most 20, the commonest first."""
    counts = Counter(map(str, values))
    return tuple(sorted(counts, key=lambda value: (-counts[value], value))[:_MAX_LEVELS])


def _mean(values: Array) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _floats(column: Array) -> Array:
    return np.array([float(v) if _is_number(v) and v is not None else np.nan for v in column.tolist()])


def _objects(values: Sequence[object]) -> Array:
    return np.array([*values, None], dtype=object)[:-1]
