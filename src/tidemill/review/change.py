"""How the training data has changed: the examples that are new in a dataset against the last training set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tidemill.schema import Array, Columns, Input, Schema, Sensitive, Text
from tidemill.stats.change import Distance, category_distance, number_distance

MOST_ROWS = 5_000  # of each side: enough to tell a distance of .03 from chance


@dataclass(frozen=True, kw_only=True)
class Change:
    """How far one thing about an input, or the label, has moved.

    `distance` is 0 to 1 (see `stats.change`); two samples of the same stay below `chance` 95 times in 100. `before` and
    `after` say what the two sides look like: the mean of a number, the category that moved most with its share.
    """

    name: str
    what: str
    distance: float
    chance: float
    before: str
    after: str
    num_before: int
    num_after: int


def changes(
    schema: Schema, before: Columns, after: Columns, targets: tuple[Array, Array], rng: np.random.Generator
) -> tuple[Change, ...]:
    """Return what moved between two sets of training rows, the largest distance first.

    Args:
        schema: the project's inputs and output.
        before: columns of the last training set, a sample of at most `MOST_ROWS` rows.
        after: columns of the rows that are new.
        targets: what `schema.output.targets` gives for both.
        rng: draws what chance alone would do.
    """
    found = [_label(schema, targets, rng)]
    for name, kind in schema.inputs.items():
        found += [_change(name, what, *sides, rng) for what, sides in _views(kind, before[name], after[name]).items()]
    return tuple(sorted((c for c in found if c is not None), key=lambda c: (-c.distance, c.name, c.what)))


def _views(kind: Input, before: Array, after: Array) -> Mapping[str, tuple[Array, Array]]:
    """Return what is compared of an input: numbers float64 (n,), or categories object (n,)."""
    if isinstance(kind, Text):
        lengths = [np.array([len(text) for text in side], dtype=np.float64) for side in (before, after)]
        return {"length": (lengths[0], lengths[1]), "words": (_words(before), _words(after))}
    if before.dtype == object:
        return {"hashed values" if isinstance(kind, Sensitive) else "values": (before, after)}
    if before.ndim > 1:
        flat = [side.reshape(len(side), -1).astype(np.float64) for side in (before, after)]
        means, spreads = [side.mean(axis=1) for side in flat], [side.std(axis=1) for side in flat]
        return {"mean": (means[0], means[1]), "spread": (spreads[0], spreads[1])}
    return {"values": (before.astype(np.float64), after.astype(np.float64))}


def _words(texts: Array) -> Array:
    words = [word for text in texts for word in text.lower().split()[:50]]
    return np.array([*words, None], dtype=object)[:-1]


def _change(name: str, what: str, before: Array, after: Array, rng: np.random.Generator) -> Change | None:
    if before.dtype == object:
        found = category_distance(before.tolist(), after.tolist(), rng)
        shown = _moved_most(before.tolist(), after.tolist(), hidden=what == "hashed values")
    else:
        found, shown = number_distance(before, after), (_mean(before), _mean(after))
    return None if found is None else _of(name, what, found, shown)


def _of(name: str, what: str, found: Distance, shown: tuple[str, str]) -> Change:
    return Change(
        name=name, what=what, distance=found.value, chance=found.chance, before=shown[0], after=shown[1],
        num_before=found.nums[0], num_after=found.nums[1],
    )  # fmt: skip


def _label(schema: Schema, targets: tuple[Array, Array], rng: np.random.Generator) -> Change | None:
    names = getattr(schema.output, "names", None)
    if names is None:
        return _change("label", "values", targets[0].astype(np.float64), targets[1].astype(np.float64), rng)
    sides = [np.array([*(names[at] for at in side), None], dtype=object)[:-1] for side in targets]
    return _change("label", "values", sides[0], sides[1], rng)


def _mean(values: Array) -> str:
    return f"mean {np.nanmean(values):.3g}" if (~np.isnan(values)).any() else "none"


def _moved_most(before: Sequence[str], after: Sequence[str], *, hidden: bool) -> tuple[str, str]:
    """Return the share of the category that moved most on both sides; hashes of people are not shown."""
    if not before or not after:
        return "none", "none"
    shares = [_shares(side) for side in (before, after)]
    most = max(sorted({*shares[0], *shares[1]}), key=lambda v: abs(shares[0].get(v, 0) - shares[1].get(v, 0)))
    name = "one value" if hidden else most if len(most) <= 40 else f"{most[:37]}..."
    return f"{name} {shares[0].get(most, 0):.1%}", f"{name} {shares[1].get(most, 0):.1%}"


def _shares(values: Sequence[str]) -> dict[str, float]:
    kinds, counts = np.unique(np.array(values, dtype=str), return_counts=True)
    return dict(zip(kinds.tolist(), (counts / len(values)).tolist(), strict=True))
