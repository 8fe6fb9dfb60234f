"""Whether a window is alarming: one chance of a false alarm, whatever the columns."""

from __future__ import annotations

import numpy as np
import pytest

from tidemill.stats.alarm import raised
from tidemill.stats.cells import missing_cells, number_cells, sketched_cells, word_cells
from tidemill.stats.separation import separation
from tidemill.stats.sketch import NumberSketch, WordSketch

NUM, NOW, SIZE = 40, 10, 50
BLOCKS = np.repeat(np.arange(NUM), SIZE)
LAST = BLOCKS >= NUM - NOW


def rng_of(seed):
    return np.random.default_rng(seed)


def ask(columns, seed=0, alpha=0.05, sets=199):
    return raised(columns, num_blocks=NUM, num_now=NOW, alpha=alpha, rng=rng_of(seed), num_sets=sets)


def calm(rng):
    """Columns in which nothing happens, one of them of as many values as there are rows."""
    numbers = [number_cells(f"n{i}", rng.lognormal(size=len(BLOCKS)), BLOCKS, NUM)[0] for i in range(3)]
    words = [word_cells(f"w{k}", rng.integers(0, k, len(BLOCKS)), BLOCKS, NUM)[0] for k in (2, 800)]
    return [*numbers, *words]


def test_a_window_in_which_nothing_happens_is_alarming_at_most_as_often_as_is_allowed():
    ranks = np.array([ask(calm(rng_of(seed)), seed, sets=99).rank for seed in range(150)])
    assert (ranks <= 0.1).sum() <= 26, "150 at .1 are 15 on average; 26 are passed less than once in 300"
    assert abs(np.mean(ranks) - 0.5) < 0.08, "ranks are spread evenly: the test gives nothing away"


@pytest.mark.parametrize("change", ["place", "spread", "tail", "word", "many words", "missing"])
def test_a_column_that_moves_among_calm_ones_is_found_and_only_it_is_named(change):
    rng = rng_of(3)
    x, codes = rng.normal(size=len(BLOCKS)), rng.integers(0, 800, len(BLOCKS))
    x[LAST] = {"place": x[LAST] + 0.6, "spread": x[LAST] * 2}.get(change, x[LAST])
    some = LAST & (rng.random(len(x)) < 0.1)
    x[some] = {"tail": 9.0, "missing": np.nan}.get(change, x[some])
    if change == "word":
        codes[some] = 800
    if change == "many words":
        codes[LAST] //= 4
    gone = missing_cells("x missing", np.isnan(x), BLOCKS, NUM)
    moved = [number_cells("x", x, BLOCKS, NUM)[0], word_cells("codes", codes, BLOCKS, NUM)[0]]
    found = ask([*calm(rng), *moved, *([] if gone is None else [gone])], alpha=0.01)
    assert found.rank <= 0.01
    assert {name.split()[0] for name in found.moved} == {"codes" if "word" in change else "x"}


def test_a_large_move_does_not_hide_a_smaller_one_beside_it():
    rng = rng_of(4)
    large, small = rng.normal(size=(2, len(BLOCKS)))
    large[LAST] += 50
    small[LAST] += 0.8
    found = ask([number_cells(n, x, BLOCKS, NUM)[0] for n, x in (("large", large), ("small", small))], alpha=0.01)
    assert set(found.moved) == {"large", "small"}


@pytest.mark.parametrize("change", ["place", "spread", "nothing"])
def test_vectors_are_told_apart_by_place_and_by_spread(change):
    rng = rng_of(5)
    rows = rng.normal(size=(len(BLOCKS), 50)) @ rng.normal(size=(50, 50))
    if change == "place":
        rows[LAST] += rows.std(axis=0) * 0.8
    if change == "spread":
        rows[LAST] *= 1.6
    found = ask([separation("e", rows, BLOCKS, NUM)], alpha=0.01)
    assert (found.rank <= 0.01) == (change != "nothing")
    assert (found.sizes["e"]["auc"] > 0.6) == (change != "nothing")


def test_vectors_that_are_all_alike_say_nothing():
    assert ask([separation("e", np.ones((len(BLOCKS), 3)), BLOCKS, NUM)]).rank == 1.0


def test_sketches_of_blocks_are_as_good_as_their_rows():
    rng = rng_of(6)
    x, words = rng.normal(size=len(BLOCKS)), rng.choice(["a", "b", "c"], size=len(BLOCKS))
    x[LAST] += 0.6
    parts = [b == BLOCKS for b in range(NUM)]
    numbers = sketched_cells("x", [NumberSketch().add(x[part]) for part in parts])
    texts = sketched_cells("w", [WordSketch().add({w: int((words[part] == w).sum()) for w in "abc"}) for part in parts])
    found = ask([numbers, texts], alpha=0.01)
    assert found.moved == ("x",)
    assert numbers.counts.sum() == pytest.approx(len(x))


def test_columns_without_any_value_and_windows_without_blocks():
    empty = number_cells("x", np.full(len(BLOCKS), np.nan), BLOCKS, NUM)[0]
    assert ask([empty]).rank == 1.0
    assert sketched_cells("x", [NumberSketch(), NumberSketch()]).counts.sum() == 0
    with pytest.raises(ValueError, match="no window"):
        raised([empty], num_blocks=NUM, num_now=NUM, alpha=0.01, rng=rng_of(0))
