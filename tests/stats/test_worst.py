"""The search for the worst slices finds what is there, and cries wolf no more often than it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tidemill.stats.worst import Column, worst_slices


def columns(rng: np.random.Generator, size: int, num: int = 6, cells: int = 4) -> list[Column]:
    names = [f"c{i}" for i in range(num)]
    return [
        Column(name=n, cells=tuple(f"{n}={k}" for k in range(cells)), codes=rng.integers(-1, cells, size))
        for n in names
    ]


def test_a_pair_of_columns_is_found_where_neither_alone_is_to_blame() -> None:
    rng = np.random.default_rng(1)
    found = columns(rng, 4_000)
    bad = (found[1].codes == 2) & (found[4].codes == 0)
    loss = (rng.random(4_000) < np.where(bad, 0.7, 0.1)).astype(float)
    worst = worst_slices(loss, found, rng, least=40)
    assert worst[0].parts == (("c1", "c1=2"), ("c4", "c4=0"))
    assert worst[0].p == pytest.approx(1 / 400)
    assert worst[0].rows.tolist() == np.flatnonzero(bad).tolist()
    assert worst[0].inside == pytest.approx(loss[bad].mean()) and worst[0].outside == pytest.approx(loss[~bad].mean())


def test_of_noise_something_is_found_as_often_as_was_asked_for() -> None:
    rng, found = np.random.default_rng(2), 0
    for _ in range(200):
        cells = columns(rng, 400)
        loss = (rng.random(400) < 0.2).astype(float)
        worst = worst_slices(loss, cells, rng, least=20, num_shuffles=99)
        found += worst[0].p <= 0.05
    assert found <= 19, "5 % of 200 are 10; more than 19 come by chance once in 300 times"


def test_of_noise_in_columns_that_were_sampled_by_another_column_nothing_more_is_found() -> None:
    rng, found = np.random.default_rng(6), 0
    for _ in range(200):
        first, *others = columns(rng, 600)
        chance = np.where(first.codes == 0, 1.0, 0.2)
        kept = rng.random(600) < chance
        weights = np.where(kept, 1 / chance, 0.0)
        sampled = [replace(one, weights=weights) for one in others]
        loss = (rng.random(600) < 0.2).astype(float)
        worst = worst_slices(loss, [first, *sampled], rng, least=20, num_shuffles=99)
        found += worst[0].p <= 0.05
    assert found <= 19, "5 % of 200 are 10; more than 19 come by chance once in 300 times"


def test_slices_have_support_inside_and_outside_and_tell_different_things() -> None:
    rng = np.random.default_rng(3)
    size = 2_000
    one = rng.integers(0, 2, size)
    same = Column(name="b", cells=("b=0", "b=1"), codes=one)
    rare = Column(name="r", cells=("r",), codes=np.where(np.arange(size) < 9, 0, -1), alone=True)
    most = Column(name="m", cells=("m",), codes=np.where(np.arange(size) < 1_995, 0, -1), alone=True)
    loss = (rng.random(size) < np.where(one == 1, 0.6, 0.2)) * 1.0
    worst = worst_slices(loss, [Column(name="a", cells=("a=0", "a=1"), codes=one), same, rare, most], rng, least=10)
    assert [w.parts for w in worst] == [(("a", "a=1"),)]


def test_nothing_is_worst_where_all_are_alike_or_nothing_is_known() -> None:
    rng = np.random.default_rng(4)
    assert worst_slices(np.ones(100), columns(rng, 100), rng, least=5) == []
    assert worst_slices(np.zeros(0), columns(rng, 0), rng, least=5) == []
