"""How well rows are told apart is Mann and Whitney's statistic, whatever ties there are."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import mannwhitneyu

from tidemill.stats.separation import separation


@given(arrays(np.float64, st.integers(6, 40), elements=st.integers(-3, 3).map(float)), st.integers(0, 2**32 - 1))
def test_the_share_of_pairs_is_scipys(values: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 2, size=len(values))
    found = separation("x", values[:, None], blocks, 2)
    picks = np.array([[0.0, 1.0]])
    half = np.arange(len(values)) % 2 == 0
    aucs = []
    for judged in (half, ~half):
        directions = found._directions(picks, ~judged)
        scores = (found.rows[judged] @ directions.T)[:, 0]
        chosen = blocks[judged] == 1
        num_pairs = int(chosen.sum() * (~chosen).sum())
        above = mannwhitneyu(scores[chosen], scores[~chosen]).statistic if num_pairs else 0.5
        aucs.append(float(above) / max(num_pairs, 1))
    assert np.isclose(found.values(picks)["auc"][0], np.mean(aucs), atol=1e-9)
