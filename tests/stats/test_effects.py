"""How far a column has moved: exactly, and from sketches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon

from tidemill.errors import InvalidInput
from tidemill.stats.drift import number_effect, sketched_effect, word_effect
from tidemill.stats.profile import Profile
from tidemill.stats.sketch import NumberSketch, WordSketch

numbers = st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=60).map(np.array)
counts = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 50), min_size=1)


@given(numbers, numbers)
def test_numbers_are_as_far_apart_as_scipy_says(before, after):
    effect = number_effect(before, after)
    assert effect.ks == pytest.approx(stats.ks_2samp(before, after, method="asymp").statistic, abs=1e-12)
    if before.std() > 1e-6:
        moved = stats.wasserstein_distance(before, after) / before.std()
        assert effect.wasserstein == pytest.approx(moved, rel=1e-9, abs=1e-9)


@given(counts, counts)
def test_words_are_as_far_apart_as_scipy_says(before, after):
    words = sorted({*before, *after})
    p, q = ([side.get(word, 0) for word in words] for side in (before, after))
    effect = word_effect(before, after)
    assert effect.js == pytest.approx(jensenshannon(p, q, base=2), abs=1e-7)
    smooth = [(np.array(side) + 0.5) / (sum(side) + 0.5 * len(words)) for side in (p, q)]
    assert effect.psi == pytest.approx(stats.entropy(*smooth) + stats.entropy(*smooth[::-1]))


def test_the_index_of_numbers_is_that_of_the_first_sides_deciles():
    before, after = np.arange(1000.0), np.arange(500.0, 1500.0)
    edges = np.array([before[int(0.1 * i * 999)] for i in range(1, 10)])
    p, q = (np.histogram(side, [-np.inf, *(edges + 0.5), np.inf])[0] for side in (before, after))
    smooth = [(side + 0.5) / (1000 + 5) for side in (p, q)]
    index = sum((a - b) * np.log(a / b) for a, b in zip(*smooth, strict=True))
    assert number_effect(before, after).psi == pytest.approx(index)


def test_missing_values_are_counted_apart_and_a_column_without_values_has_no_other_effect():
    before, after = np.array([1.0, 2.0, np.nan, 4.0]), np.array([np.nan, np.nan])
    assert number_effect(before, after).missing == 0.75
    assert number_effect(before, after).ks is None
    assert word_effect({"a": 3}, {"a": 1}, (1, 1)).missing == 0.25


def test_a_constant_that_moves_is_infinitely_far_and_one_that_stays_is_not():
    assert number_effect(np.ones(5), np.ones(9)).wasserstein == 0
    assert number_effect(np.ones(5), np.zeros(9)).wasserstein == np.inf


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.5])
def test_sketches_of_many_rows_tell_nearly_the_same_in_a_few_kilobytes(shift):
    rng = np.random.default_rng(1)
    before, after = rng.lognormal(size=100_000), rng.lognormal(shift, size=100_000)
    exact = number_effect(before, after)
    sides = [NumberSketch().add(side) for side in (before, after)]
    told = sketched_effect(*sides)
    assert abs(told.ks - exact.ks) <= 0.005
    assert abs(told.psi - exact.psi) <= 0.001 + 0.02 * exact.psi
    assert told.wasserstein == pytest.approx(exact.wasserstein, rel=0.1, abs=0.02)
    assert all(len(Profile_of(side)) < 30_000 for side in sides)


def Profile_of(sketch) -> bytes:
    profile = Profile()
    profile.columns["x"] = sketch
    return profile.to_bytes()


@settings(max_examples=30)
@given(st.lists(st.lists(st.one_of(st.floats(-1e3, 1e3, width=32), st.just(np.nan)), max_size=30), min_size=1))
def test_merged_profiles_of_small_parts_are_the_profile_of_all_rows(parts):
    arrays = [np.array(part, dtype=np.float64) for part in parts]
    words = [np.array([*map(str, np.round(part) // 100), None], dtype=object) for part in arrays]
    merged, whole = Profile(), Profile()
    for part, text in zip(arrays, words, strict=True):
        merged.merge(Profile.from_bytes(Profile().add({"x": part}).add({"w": text}).to_bytes()))
    whole.add({"x": np.concatenate(arrays)}).add({"w": np.concatenate(words)})
    one, other = (sketched_effect(merged.columns[n], whole.columns[n]) for n in "xw")
    assert merged.num_rows == whole.num_rows
    assert (one.missing, other.missing, other.js or 0.0) == (0.0, 0.0, 0.0)
    assert one.ks in (None, 0.0)
    x, y = merged.columns["x"], whole.columns["x"]
    assert (x.num, x.mean, x.deviation) == pytest.approx((y.num, y.mean, y.deviation), abs=1e-6)


def test_merged_profiles_of_large_parts_tell_what_all_rows_would():
    rng = np.random.default_rng(2)
    rows, merged = rng.normal(size=200_000), Profile()
    for part in np.split(rows, 40):
        merged.merge(Profile().add({"x": part}))
    told = sketched_effect(merged.columns["x"], NumberSketch().add(rows))
    assert told.ks < 0.006
    assert merged.columns["x"].num == 200_000


def test_a_sketch_of_words_knows_frequent_ones_exactly_and_how_many_there_are():
    sketch = WordSketch().add({f"w{i}": i + 1 for i in range(1000)}, 7)
    assert sketch.counts() == {f"w{i}": i + 1 for i in range(1000)}
    assert sketch.num_different == pytest.approx(1000, rel=0.1)
    many = WordSketch().add({f"user-{i}": 1 for i in range(20_000)})
    assert sum(many.counts().values()) == 20_000
    assert many.num_different == pytest.approx(20_000, rel=0.1)
    assert len(Profile_of(many)) < 45_000


def test_a_profile_that_was_tampered_with_or_retyped_is_refused():
    body = Profile().add({"x": np.arange(10.0)}).to_bytes()
    for wrong in (b"", b"\x00", body[:-30], body.replace(b"\xa3num\n", b"\xa3num\x09")):
        with pytest.raises(InvalidInput):
            Profile.from_bytes(wrong)
    words = Profile().add({"x": np.array(["a"], dtype=object)})
    with pytest.raises(InvalidInput, match="numbers in one profile and of words"):
        Profile.from_bytes(body).merge(words)
    with pytest.raises(TypeError):
        sketched_effect(words.columns["x"], NumberSketch())
