"""Where the candidate fails: its costliest test rows, grouped into failures that are alike, with what is typical."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from tidemill.schema import Array, Columns, Input, Schema, Sensitive, Text
from tidemill.stats.metrics import SMALLEST_PROBABILITY, Judged

_MOST_ROWS, _MOST_GROUPS, _LEAST_SIZE = 1_000, 8, 3
_WIDTH = 64  # numbers that stand for an input
_COSTLY_SHARE = 0.05  # of numbers, where every answer is a little wrong
_NUM_IDS, _NUM_TYPICAL = 5, 4


@dataclass(frozen=True, kw_only=True)
class FailureGroup:
    """Failures that are alike: how many, their share of the loss of all test rows, what is typical, example ids.

    `typical` holds phrases, the most telling first: what was said instead of what, words, values and means that are
    more frequent here than in all test rows. The first of `ids` is the group's middle.
    """

    size: int
    loss_share: float
    typical: tuple[str, ...]
    ids: tuple[str, ...]


def failure_groups(
    judged: Judged, schema: Schema, columns: Columns, ids: Array, *, most: int = _MOST_GROUPS
) -> tuple[FailureGroup, ...]:
    """Return the groups of the costliest test rows, the largest share of the loss first; small ones are left out.

    The loss of a row is -ln of the score of the true class, or the distance of a number; of classes the rows decided
    wrongly are grouped, of numbers the twentieth that is furthest off, 1,000 at most. Inputs become numbers (words and
    categories by hashing), and rows are merged by Ward's method (J. Am. Stat. Assoc. 58, 1963). Nothing is drawn.
    """
    losses = _losses(judged)
    rows = _costliest(judged, losses)
    if len(rows) < _LEAST_SIZE:
        return ()
    features = _features(judged, schema, {name: column[rows] for name, column in columns.items()}, rows)
    num = min(most, max(1, len(rows) // 10))
    cluster = fcluster(linkage(features, method="ward"), num, criterion="maxclust")
    whole = float(np.nansum(losses))
    groups = [np.flatnonzero(cluster == at) for at in np.unique(cluster)]
    found = [
        FailureGroup(
            size=len(at),
            loss_share=float(losses[rows[at]].sum() / whole) if whole > 0 else 0.0,
            typical=_typical(judged, schema, columns, rows[at]),
            ids=tuple(ids[rows[at[_middle(features[at])]]].tolist()),
        )
        for at in groups
        if len(at) >= _LEAST_SIZE
    ]
    return tuple(sorted(found, key=lambda group: (-group.loss_share, group.ids)))


def _losses(judged: Judged) -> Array:
    """Return the loss of each row, float64 (N,), NaN where it is not known."""
    out = np.full(len(judged), np.nan)
    known = np.flatnonzero(judged.known)
    if judged.classes:
        known = known[judged.targets[known] >= 0]
        chance = judged.scores[known, judged.targets[known]].astype(np.float64)
        out[known] = -np.log(np.clip(chance, SMALLEST_PROBABILITY, 1.0))
    else:
        out[known] = np.abs(judged.decisions[known].astype(np.float64) - judged.labels[known].astype(np.float64))
    return out


def _costliest(judged: Judged, losses: Array) -> Array:
    known = np.flatnonzero(~np.isnan(losses))
    if judged.classes:
        rows = known[judged.decisions[known] != judged.labels[known]]
    else:
        edge = np.quantile(losses[known], 1 - _COSTLY_SHARE) if len(known) else 0.0
        rows = known[(losses[known] >= edge) & (losses[known] > 0)]
    return np.asarray(rows[np.argsort(-losses[rows], kind="stable")[:_MOST_ROWS]])


# --- what rows are compared by ----------------------------------------------------------------------------------------


def _features(judged: Judged, schema: Schema, columns: Columns, rows: Array) -> Array:
    """Return float64 (n, D): a block per input, each of like weight, and what was said instead of what."""
    blocks = [_scaled(_block(kind, columns[name])) for name, kind in schema.inputs.items()]
    if judged.classes:
        said = [f"{a} for {b}" for a, b in zip(judged.decisions[rows], judged.labels[rows], strict=True)]
        blocks.append(_scaled(_hashed([[text] for text in said])))
    return np.hstack(blocks)


def _block(kind: Input, column: Array) -> Array:
    if isinstance(kind, Sensitive):
        return np.zeros((len(column), 1))
    if isinstance(kind, Text):
        return _hashed([text.lower().split() for text in column])
    if column.dtype == object:
        return _hashed([[value] for value in column])
    flat = column.reshape(len(column), -1).astype(np.float64)
    if flat.shape[1] <= _WIDTH:
        return np.asarray((flat - flat.mean(axis=0)) / (flat.std(axis=0) + 1e-12))
    centred = flat - flat.mean(axis=0)
    left, spread, _ = np.linalg.svd(centred @ centred.T if len(flat) < flat.shape[1] else centred, full_matrices=False)
    spread = np.sqrt(spread) if len(flat) < flat.shape[1] else spread
    return np.asarray(left[:, :_WIDTH] * spread[:_WIDTH])


def _hashed(words: list[list[str]]) -> Array:
    """Return the words of each row as counts in `_WIDTH` places, signed so that clashes cancel; length 1 or 0."""
    out = np.zeros((len(words), _WIDTH))
    for row, found in enumerate(words):
        for word in found:
            place = crc32(word.encode())
            out[row, place % _WIDTH] += 1.0 if place >> 16 & 1 else -1.0
    return np.asarray(out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12))


def _scaled(block: Array) -> Array:
    """Return a block whose rows are 1 from its mean on average, so that no input drowns the others."""
    centred = block - block.mean(axis=0)
    spread = float(np.sqrt((centred**2).sum(axis=1).mean()))
    return np.asarray(centred / spread) if spread > 1e-9 else np.zeros_like(block)


def _middle(features: Array) -> Array:
    """Return the positions of the rows nearest to the group's mean, nearest first."""
    distance = np.linalg.norm(features - features.mean(axis=0), axis=1)
    return np.argsort(distance, kind="stable")[:_NUM_IDS]


# --- what is typical --------------------------------------------------------------------------------------------------


def _typical(judged: Judged, schema: Schema, columns: Columns, rows: Array) -> tuple[str, ...]:
    phrases: list[tuple[float, str]] = []
    if judged.classes:
        pairs = list(zip(judged.decisions[rows].tolist(), judged.labels[rows].tolist(), strict=True))
        said, true = max(sorted(set(pairs)), key=pairs.count)
        phrases.append((np.inf, f"said {said}, was {true} ({pairs.count((said, true))} of {len(rows)})"))
    for name, kind in schema.inputs.items():
        phrases += _telling(name, kind, columns[name], rows)
    ordered = sorted(phrases, key=lambda phrase: (-phrase[0], phrase[1]))
    return tuple(text for _, text in ordered[: _NUM_TYPICAL + 1])


def _telling(name: str, kind: Input, column: Array, rows: Array) -> list[tuple[float, str]]:
    """Return phrases about an input, each with how telling it is: standard errors from all test rows."""
    if isinstance(kind, Sensitive):
        return []
    if isinstance(kind, Text):
        return _frequent(name, [set(text.lower().split()) for text in column], rows, verb="has")
    if column.dtype == object:
        return _frequent(name, [{value} for value in column], rows, verb="is")
    values = column.reshape(len(column), -1).mean(axis=1, dtype=np.float64)
    spread = float(values.std())
    if spread <= 0:
        return []
    score = abs(values[rows].mean() - values.mean()) / spread * np.sqrt(len(rows))
    what = name if column.ndim == 1 else f"mean of {name}"
    return [(float(score), f"{what} {values[rows].mean():.3g}, of all {values.mean():.3g}")] if score > 2 else []


def _frequent(name: str, values: list[set[str]], rows: Array, *, verb: str) -> list[tuple[float, str]]:
    """Return the values that are more frequent among `rows` than among all, by the z-score of the share."""
    here, everywhere = _counts([values[row] for row in rows]), _counts(values)
    n, found = len(rows), []
    for value, num in here.items():
        share = everywhere[value] / len(values)
        score = (num / n - share) / np.sqrt(max(share * (1 - share), 1e-9) / n)
        if num >= 2 and num / n >= 0.2 and score > 2:
            shown = value if len(value) <= 40 else f"{value[:37]}..."
            found.append((float(score), f"{name} {verb} {shown!r} ({num / n:.0%}, of all {share:.0%})"))
    return sorted(found, reverse=True)[:_NUM_TYPICAL]


def _counts(values: list[set[str]]) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for found in values:
        for value in found:
            counts[value] = counts.get(value, 0) + 1
    return counts
