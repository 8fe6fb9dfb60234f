"""Similarity search is exact: what it finds is what sorting all similarities would, in blocks or at once."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from dataset_pool import Pool
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import StoreError
from tidemill.stores import similar
from tidemill.stores.database import Database
from tidemill.stores.similar import nearest


def by_sorting(query: np.ndarray, column: np.ndarray, k: int) -> np.ndarray:
    lengths = np.linalg.norm(column, axis=1)
    alike = np.divide(column @ query, lengths, out=np.zeros(len(column)), where=lengths > 0)
    return np.sort(alike / np.linalg.norm(query))[::-1][:k]


@given(seed=st.integers(0, 10_000), num=st.integers(0, 60), k=st.integers(1, 70), parts=st.integers(1, 5))
def test_it_finds_what_sorting_finds(seed: int, num: int, k: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    column = rng.integers(-2, 3, (num, 3)).astype(np.float32)  # with ties, opposites and zeros
    queries = rng.normal(size=(2, 3)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similar, "_BLOCK_BYTES", 12 * 7)
        rows, found = nearest(queries[0], column, k)
        many, both = nearest(queries, np.array_split(column, parts), k)
    assert found == pytest.approx(by_sorting(queries[0], column, k), abs=1e-5)
    assert both.shape == many.shape == (2, min(k, num))
    assert both == pytest.approx(np.stack([by_sorting(query, column, k) for query in queries]), abs=1e-5)
    for query, which, alike in ((queries[0], rows, found), (queries[1], many[1], both[1])):
        assert len(set(which.tolist())) == len(which)
        directions = column[which] / np.maximum(np.linalg.norm(column[which], axis=1, keepdims=True), 1e-9)
        assert directions @ (query / np.linalg.norm(query)) == pytest.approx(alike, abs=1e-5)


def test_of_two_as_similar_the_earlier_comes_first() -> None:
    column = np.tile(np.array([[1, 0], [0, 1]], np.float32), (50, 1))
    rows, alike = nearest(np.array([2.0, 0.0]), column, 3)
    assert rows.tolist() == [0, 2, 4] and alike.tolist() == [1, 1, 1]


def test_a_column_on_disk_is_searched_as_it_lies_there(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(5_000, 16)).astype(np.float32)
    vectors.tofile(tmp_path / "column")
    mapped = np.memmap(tmp_path / "column", np.float32, mode="r", shape=(5_000, 16))
    rows, alike = nearest(vectors[4_321], mapped, 1)
    assert rows.tolist() == [4_321] and alike == pytest.approx([1.0])


@pytest.mark.parametrize("query", [[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0], [1.0, 2.0, 3.0]])
def test_a_vector_without_direction_or_of_another_length_is_refused(query: list[float]) -> None:
    with pytest.raises(StoreError):
        nearest(np.array(query), np.ones((3, 2), np.float32), 1)


# --- in the reservoir


@pytest.fixture
def pool(tmp_path: Path, database: Database, noon: datetime) -> Pool:
    """Examples with vectors around a circle, added a few at a time, and some of another kind."""
    pool = Pool(database, tmp_path, noon)
    for degree in range(0, 360, 10):
        angle = np.deg2rad(degree)
        vector = np.array([np.cos(angle), np.sin(angle)], "<f4").tobytes()
        pool.add("p", f"{degree}", text="", inputs={"vector": vector, "text": f"{degree}"})
    pool.add("p", "longer", text="", inputs={"vector": bytes(12)})
    pool.add("p", "other", text="", inputs={"text": "no vector"})
    pool.add("q", "theirs", text="", inputs={"vector": np.array([1, 0], "<f4").tobytes()})
    return pool


def test_the_examples_that_point_the_same_way_are_found(pool: Pool) -> None:
    found = pool.reservoir.similar("p", "vector", np.array([0.0, 5.0]), 3)
    assert found[0].id == "90" and {found[1].id, found[2].id} == {"80", "100"}
    assert [n.similarity for n in found] == pytest.approx([1, np.cos(np.deg2rad(10)), np.cos(np.deg2rad(10))], abs=1e-5)
    assert len(pool.reservoir.similar("p", "vector", np.array([1.0, 1.0]), 1_000)) == 36


def test_examples_of_equal_inputs_are_all_found(pool: Pool) -> None:
    inputs = {"vector": np.array([1, 0], "<f4").tobytes(), "text": "0"}
    for id_ in ("again", "once more"):
        pool.add("p", id_, text="", inputs=inputs)
    found = pool.reservoir.similar("p", "vector", np.array([1.0, 0.0]), 3)
    assert {n.id for n in found} == {"0", "again", "once more"}


@pytest.mark.parametrize(
    ("project", "field", "length"), [("p", "text", 2), ("p", "none", 2), ("p", "vector", 4), ("r", "vector", 2)]
)
def test_a_field_without_such_vectors_is_refused_by_name(pool: Pool, project: str, field: str, length: int) -> None:
    with pytest.raises(StoreError, match=f"has a tensor '{field}' of {length} numbers"):
        pool.reservoir.similar(project, field, np.ones(length), 1)
