"""Fingerprints find what is nearly the same, and keep apart what is not: on made-up and on real data."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from tidemill.schema import Category, Image, Number, Sensitive, Tensor, Text
from tidemill.stats.likeness import Fingerprint, Floats, Likeness, Pixels, Words, likeness_of, words_of

REAL = Path(__file__).parents[3] / "shared" / "data"


def meet(likeness: Likeness, a: Any, b: Any) -> bool:
    """Tell whether two values share a band and are alike: what an index of fingerprints finds."""
    one, other = likeness.fingerprints([a, b])
    if one is None or other is None:
        return False
    found = bool(set(one.bands) & set(other.bands))
    return found and bool(np.isfinite(likeness.distances(one.data, [other.data])[0]))


def groups(likeness: Likeness, values: Sequence[Any]) -> list[int]:
    """Return for each value the first one that it is grouped with: itself, or the nearest earlier leader."""
    prints = likeness.fingerprints(values)
    index: dict[bytes, list[int]] = defaultdict(list)
    leader = []
    for at, found in enumerate(prints):
        assert found is not None
        near = sorted({other for band in found.bands for other in index[band]})
        distances = likeness.distances(found.data, [data(prints[other]) for other in near]) if near else np.zeros(0)
        joins = bool(near) and bool(np.isfinite(distances.min()))
        leader.append(near[int(distances.argmin())] if joins else at)
        if not joins:
            for band in found.bands:
                index[band].append(at)
    return leader


def data(found: Fingerprint | None) -> bytes:
    assert found is not None
    return found.data


# --- text

LONG = (
    "the mill turns with the tide of the data and the engineer goes home early because nothing has to be retrained by"
    " hand any more and the night is quiet"
)


@pytest.mark.parametrize(
    ("text", "other", "alike"),
    [
        (LONG, LONG.upper(), True),
        (LONG, LONG.replace(" and", ", and") + "!", True),
        (LONG, f"{LONG} indeed", True),
        (LONG, LONG.replace("night", "day"), True),
        ("Good.", "good!", True),
        ("ﬁne café", "fine café", True),
        ("今天天气很好我们去公园散步吧然后一起吃晚饭聊聊天", "今天天气很好我们去公园散步吧然后一起吃晚饭聊聊", True),
        (LONG, " ".join(reversed(LONG.split())), False),
        (LONG, LONG[: len(LONG) // 2], False),
        ("good", "bad", False),
        ("I like this film", "I like this song", False),
        ("learn C++ in a day", "learn C# in a day", False),
        ("great 😀", "great 😡", False),
        ("😀", "😡", False),
        ("order 1234 is late", "order 1235 is late", False),
        ("今天天气很好", "明天天气不好", False),
    ],
)
def test_text_is_alike_when_few_neighbouring_words_differ(text: str, other: str, alike: bool) -> None:
    assert meet(Words(), text, other) is alike
    assert meet(Words(), other, text) is alike


def test_text_without_words_is_like_nothing() -> None:
    assert Words().fingerprints(["", "  \n", "...", "?!"]) == [None] * 4


@given(st.text(max_size=60))
def test_any_text_has_the_same_fingerprint_again_or_none(text: str) -> None:
    first, again = Words().fingerprints([text, text])
    assert first == again
    assert (first is None) == (not words_of(text))
    assert first is None or Words().distances(first.data, [first.data]) == [0]


def test_one_word_changed_in_sixty_is_found_and_a_third_changed_is_not() -> None:
    rng, found, mistaken = np.random.default_rng(0), 0, 0
    for _ in range(300):
        words = [f"w{i}" for i in rng.permutation(400)[:60]]
        at = int(rng.integers(60))
        found += meet(Words(), " ".join(words), " ".join([*words[:at], "changed", *words[at + 1 :]]))
        mistaken += meet(Words(), " ".join(words), " ".join([f"other{w}" if i % 3 else w for i, w in enumerate(words)]))
    assert found >= 295
    assert mistaken == 0


def test_a_very_long_text_costs_no_more_than_its_first_words() -> None:
    assert len(words_of("word " * 1_000_000)) == 5_000
    assert meet(Words(), "a b c " * 200_000, "a b c " * 200_000 + "d")


def test_fingerprints_are_the_same_in_another_process() -> None:
    code = (
        "from tidemill.stats.likeness import Words, Floats; import numpy as np;"
        "print([p.bands[0].hex() for p in Words().fingerprints(['tide mill'])"
        " + Floats(200).fingerprints([np.arange(200, dtype='<f4').tobytes()])])"
    )
    said = {
        subprocess.check_output([sys.executable, "-c", code], text=True, env={"PYTHONHASHSEED": seed, "PYTHONPATH": p})
        for p in [str(Path(__file__).parents[2] / "src")]
        for seed in ("1", "2")
    }
    assert len(said) == 1
    (text,) = Words().fingerprints(["tide mill"])
    assert text is not None and text.bands[0].hex() in said.pop()


# --- images


def scene(seed: int, size: int = 64, channels: int = 3) -> np.ndarray:
    """A smooth picture, as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (6, 6, channels))
    at = np.linspace(0, 4.999, size)
    low, part = at.astype(int), (at % 1)[:, None, None]
    rows = coarse[low] * (1 - part) + coarse[low + 1] * part
    part = part.transpose(1, 0, 2)
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


def pixels(picture: np.ndarray) -> bytes:
    return np.clip(picture.round(), 0, 255).astype(np.uint8).tobytes()


@pytest.mark.parametrize("seed", range(8))
def test_a_picture_with_noise_or_a_little_brighter_is_alike_and_another_is_not(seed: int) -> None:
    picture, rng = scene(seed), np.random.default_rng(seed)
    likeness = Pixels((64, 64, 3))
    assert meet(likeness, pixels(picture), pixels(picture + rng.normal(0, 4, picture.shape)))
    assert meet(likeness, pixels(picture), pixels(picture * 0.97 + 3))
    assert meet(likeness, pixels(picture), pixels(np.where(rng.random((64, 64, 1)) < 0.0005, 0, picture)))
    assert not meet(likeness, pixels(picture), pixels(scene(seed + 100)))
    assert not meet(likeness, pixels(picture), pixels(picture[:, ::-1]))
    assert not meet(likeness, pixels(picture), pixels(picture * 0.5))
    assert not meet(likeness, pixels(picture), pixels(picture[..., ::-1])), "colour counts"


def test_pictures_without_contrast_are_like_nothing() -> None:
    assert Pixels((8, 8)).fingerprints([bytes([7] * 64), bytes([7, 8] * 32)]) == [None, None]


@pytest.mark.parametrize("shape", [(1, 5), (3, 3), (17, 16), (33, 100, 1), (5, 40, 4)])
def test_pictures_of_any_shape_have_fingerprints_that_meet_themselves(shape: tuple[int, ...]) -> None:
    value = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8).tobytes()
    likeness = Pixels(shape)
    assert likeness.fits(value) and not likeness.fits(value[1:]) and not likeness.fits("text")
    assert meet(likeness, value, value)


# --- tensors


@settings(max_examples=50)
@given(num=st.sampled_from([2, 64, 128, 129, 1000]), scale=st.sampled_from([1e-6, 1.0, 1e6]), seed=st.integers(0, 999))
def test_a_tensor_rounded_to_half_precision_is_alike_and_another_is_not(num: int, scale: float, seed: int) -> None:
    vector, other = np.random.default_rng(seed).normal(size=(2, num))
    rounded = vector.astype(np.float16).astype(np.float64)
    likeness = Floats(num)
    assert meet(likeness, *((v * scale).astype("<f4").tobytes() for v in (vector, rounded)))
    for unlike in (other, -vector, 1.02 * vector, vector + 0.05 * np.linalg.norm(vector) / np.sqrt(num)):
        assert not meet(likeness, *((v * scale).astype("<f4").tobytes() for v in (vector, unlike)))


def test_a_tensor_of_zeros_is_like_nothing() -> None:
    assert Floats(3).fingerprints([bytes(12)]) == [None]


def test_which_inputs_can_be_nearly_the_same() -> None:
    kinds = [likeness_of(kind) for kind in (Text(), Image((4, 4)), Tensor((2, 3)), Number(), Category(), Sensitive())]
    assert [type(kind) for kind in kinds] == [Words, Pixels, Floats, *[type(None)] * 3]


# --- real data


def test_real_digits_do_not_collapse() -> None:
    digits = load_digits()
    images = (digits.images * 15.9).astype(np.uint8)
    assert len(set(groups(Pixels((8, 8)), [image.tobytes() for image in images]))) >= 1_790
    assert len(set(groups(Floats(64), [image.astype("<f4").tobytes() for image in digits.images]))) >= 1_790


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data")
def test_hand_writing_of_five_collections_does_not_collapse_and_digits_are_not_mixed() -> None:
    frame = pl.read_parquet(REAL / "digit_cohorts.parquet")[::3]
    labels, found = frame["label"].to_list(), groups(Pixels((16, 16)), frame["image"].to_list())
    assert len(set(found)) > 0.98 * len(found)
    assert max(Counter(found).values()) <= 10
    assert [labels[at] for at in found] == labels


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data")
def test_titles_of_papers_do_not_collapse() -> None:
    titles = pl.read_parquet(REAL / "arxiv_titles.parquet")["title"].to_list()[::4]
    found = groups(Words(), titles)
    assert len(set(found)) > 0.995 * len(set(titles))
    assert max(Counter(found).values()) <= 10
