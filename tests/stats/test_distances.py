"""Distances, clusters and near-duplicates of many vectors, beside the plain ways to compute them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.schema import Array, Category, Classes, Image, Number, Schema, Tensor, Text
from tidemill.stats import distances
from tidemill.stats.clusters import clusters
from tidemill.stats.distances import best_cosines, k_center, nearest_squares
from tidemill.stats.embedding import Embedding
from tidemill.stats.near_duplicates import near_duplicates
from tidemill.stats.vectors import Vectors

seeds = st.integers(0, 10_000)


def drawn(seed: int, num: int, width: int = 24) -> Array:
    return np.random.default_rng(seed).normal(size=(num, width)).astype(np.float32)


@given(seeds, st.integers(1, 120), st.integers(0, 40), st.sampled_from([0, 3]), st.sampled_from([1, 8, 1000]))
@settings(deadline=None, max_examples=60)
def test_each_pick_of_k_center_is_the_farthest_of_all(seed: int, num: int, k: int, num_known: int, active: int):
    rows, centres = drawn(seed, num), drawn(seed + 1, num_known)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "_ACTIVE", active)
        picked = k_center(Vectors(rows), k, centres).tolist()
    assert len(set(picked)) == len(picked) == min(num, k)
    known = [*(centres if num_known else rows.mean(axis=0, keepdims=True))]
    for one in picked:
        apart = np.min([((rows - c).astype(np.float64) ** 2).sum(axis=1) for c in known], axis=0)
        assert apart[one] >= apart.max() * (1 - 1e-4)  # rounding may choose between two that are as far
        known.append(rows[one])


@given(seeds, st.integers(0, 50))
@settings(deadline=None, max_examples=30)
def test_k_center_picks_each_once_even_where_all_are_equal(seed: int, k: int):
    picked = k_center(Vectors(np.ones((20, 3), dtype=np.float32)), k, drawn(seed, 1, 3))
    assert len(set(picked.tolist())) == len(picked) == min(k, 20)


@given(seeds, st.integers(0, 60), st.integers(0, 600))
@settings(deadline=None, max_examples=30)
def test_the_nearest_and_the_likest_are_those_of_all_pairs(seed: int, num: int, num_targets: int):
    rows, targets = drawn(seed, num, 5), drawn(seed + 1, num_targets, 5)
    apart = ((rows[:, None].astype(np.float64) - targets[None]) ** 2).sum(axis=2).min(axis=1, initial=np.inf)
    assert np.allclose(nearest_squares(Vectors(rows), targets), apart, atol=1e-4)
    lengths = np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(targets, axis=1)[None]
    assert np.allclose(
        best_cosines(Vectors(rows), targets), (rows @ targets.T / lengths).max(axis=1, initial=-1), atol=1e-5
    )


def test_vectors_are_taken_by_number_and_none_is_copied():
    rows = drawn(0, 10)
    some = Vectors(rows).take(np.array([7, 3, 5])).take(np.array([2, 0]))
    assert some.base is rows
    assert np.array_equal(some.rows(np.array([0, 1])), rows[[5, 7]])
    assert np.array_equal(np.concatenate([block for _, block in some.blocks()]), rows[[5, 7]])


@given(seeds, st.integers(1, 400))
@settings(deadline=None, max_examples=30)
def test_of_equal_vectors_all_but_the_first_are_duplicates_and_of_unlike_ones_none(seed: int, num: int):
    rows = drawn(seed, num)
    again = np.random.default_rng(seed).integers(0, num, size=30)
    found = near_duplicates(Vectors(np.concatenate([rows, rows[again]])))
    assert not found[:num].any()
    assert found[num:].all()


def test_near_ones_are_mostly_found_and_others_never_marked():
    rng, rows = np.random.default_rng(0), drawn(3, 2_000, 64)
    noise = rng.normal(size=rows.shape)
    noise *= 0.03 * np.linalg.norm(rows, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    found = near_duplicates(Vectors(np.concatenate([rows, rows + noise.astype(np.float32)])))
    assert not found[:2_000].any()
    assert found[2_000:].mean() > 0.9


def test_clusters_find_clumps():
    rng = np.random.default_rng(0)
    clumps = rng.integers(0, 4, size=600)
    rows = (10 * np.eye(4)[clumps] + rng.normal(size=(600, 4))).astype(np.float32)
    found = clusters(Vectors(rows), 12, np.random.default_rng(1))
    assert all(len(set(clumps[found == one].tolist())) == 1 for one in set(found.tolist()))


SCHEMA = Schema(
    {
        "text": Text(), "photo": Image((20, 20)), "vector": Tensor((3,)), "age": Number(), "kind": Category(),
        "country": Category(tag=True),
    },
    Classes(["a", "b"]),
)  # fmt: skip


def row(seed: int, **changed: object) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    drawn_ = {
        "text": " ".join(rng.choice(["wind", "rain", "sun", "snow", "hail"], size=4)),
        "photo": rng.integers(0, 256, size=(20, 20), dtype=np.uint8).tobytes(),
        "vector": rng.normal(size=3).astype("<f4").tobytes(),
        "age": float(rng.integers(1, 90)),
        "kind": str(rng.choice(["x", "y"])),
        "country": "IS",
    }
    return {**drawn_, **changed}


def test_an_embedding_tells_apart_what_differs_in_any_feature_and_only_there():
    rows = [row(seed) for seed in range(40)]
    embedding = Embedding.fit(SCHEMA, rows)
    base = embedding.of([rows[0]])[0]
    for name in SCHEMA.features:
        assert not np.allclose(embedding.of([{**rows[0], name: rows[1][name] if name != "kind" else "z"}])[0], base)
    assert np.array_equal(embedding.of([row(0, country="NO")])[0], base)
    assert embedding.of(rows).dtype == np.float32
    assert embedding.of([]).shape == (0, len(base))
