"""Which labels are probably wrong, by scores of a model that did not learn from them."""

from __future__ import annotations

import numpy as np

from tidemill.schema import Array


def label_suspicion(scores: Array, labels: Array) -> Array:
    """Return how suspect each label is, float64 (N,): above 0 where it is probably wrong, the more the surer.

    Confident learning: a class is likely for a row where its score is at least the mean score of that class among the
    rows that bear it. A label is suspect where another class is likely and the likeliest of all that are. How much is
    the other's score less the label's own. Northcutt, Jiang and Chuang, JAIR 70 (2021). 0 where it is not suspect, and
    where a score is missing.

    Args:
        scores: float (N, K), each row of a model that was not trained on it.
        labels: class indices, int (N,).
    """
    found = np.zeros(len(labels))
    known = ~np.isnan(scores).any(axis=1)
    if not known.any():
        return found
    mine, given = np.asarray(scores[known], dtype=np.float64), labels[known]
    own = mine[np.arange(len(given)), given]
    counts = np.bincount(given, minlength=scores.shape[1])
    sums = np.bincount(given, weights=own, minlength=scores.shape[1])
    usual = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)  # a class that nothing bears is likely nowhere
    likely = np.where(mine >= usual, mine, -1.0)
    best = likely.argmax(axis=1)
    apart = (likely.max(axis=1) > 0) & (best != given)
    found[np.flatnonzero(known)[apart]] = np.maximum(mine[apart, best[apart]] - own[apart], 1e-9)
    return found
