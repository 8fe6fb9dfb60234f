"""Which examples a candidate learns from, and with what weight."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.clock import micros
from tidemill.errors import ProjectError
from tidemill.strategy.dataset import (
    Balanced,
    Dataset,
    Everything,
    ExampleIndex,
    Recent,
    Replay,
    Selection,
    Union,
    Window,
)
from tidemill.testing import facts

NOW = facts.NOW
members = st.sampled_from(
    [Everything(), Window("30d"), Window("100d"), Replay(5), Replay(1000), Recent(7), Balanced(Recent(20), at_most=2)]
)


def form(stage: Dataset, index: ExampleIndex, seed: int = 0) -> Selection:
    return stage.form(index, NOW, np.random.default_rng(seed))


def weights(stage: Dataset, index: ExampleIndex, seed: int = 0) -> dict[str, float]:
    chosen = form(stage, index, seed)
    return dict(zip(chosen.ids, chosen.weights, strict=True))


@given(st.lists(members, min_size=1, max_size=3), st.integers(0, 60), st.integers(0, 1000))
@settings(deadline=None)
def test_a_test_example_is_never_learnt_from(stages: list[Dataset], num: int, seed: int):
    index = facts.examples(np.random.default_rng(seed), num)
    chosen = form(Union(tuple(stages)), index, seed)
    split = dict(zip(index.ids, index.split, strict=True))
    assert {split[id_] for id_ in chosen.ids} <= {"train"}
    assert len(set(chosen.ids)) == len(chosen.ids)


@given(st.integers(1, 60), st.integers(0, 1000))
@settings(deadline=None)
def test_weights_add_where_two_members_choose_the_same_example(num: int, seed: int):
    index = facts.examples(np.random.default_rng(seed), num)
    old, new = weights(Everything(), index), weights(Window("60d"), index)
    both = weights(Everything() + Window("60d"), index)
    assert both == dict(Counter(old) + Counter(new))


def test_everything_is_all_that_is_labelled_for_training():
    index = facts.examples(np.random.default_rng(0), 50)
    assert form(Everything(), index).ids == tuple(index.ids[index.split == "train"])


def test_a_window_reaches_back_from_now_by_the_time_of_the_request():
    index = facts.examples(np.random.default_rng(0), 50)
    edge = micros(NOW - timedelta(days=30))
    recent = (index.split == "train") & (index.received_at > edge)
    assert form(Window("30d"), index).ids == tuple(index.ids[recent])


@given(st.integers(0, 80), st.integers(1, 30), st.integers(0, 1000))
@settings(deadline=None)
def test_recent_is_the_newest_and_as_many_as_there_are(num: int, most: int, seed: int):
    index = facts.examples(np.random.default_rng(seed), num)
    ids = np.array(form(Everything(), index).ids, dtype=object)
    assert form(Recent(most), index).ids == tuple(ids[-most:])  # facts.examples are in the order of their requests


@given(st.integers(1, 300), st.floats(1, 50), st.integers(0, 1000))
@settings(deadline=None)
def test_balanced_classes_weigh_the_same_and_all_together_what_they_did(num: int, at_most: float, seed: int):
    rng = np.random.default_rng(seed)
    index = replace(
        facts.examples(rng, num), label=rng.choice(["a", "b", "c"], num, p=[0.9, 0.08, 0.02]).astype(object)
    )
    plain, balanced = weights(Everything(), index), weights(Balanced(at_most=at_most), index)
    assert balanced.keys() == plain.keys()
    assert sum(balanced.values()) == pytest.approx(len(plain))
    class_of = dict(zip(index.ids, index.label, strict=True))
    count = Counter(class_of[id_] for id_ in plain)
    each = {class_of[id_]: weight for id_, weight in balanced.items()}
    assert all(each[class_of[id_]] == weight for id_, weight in balanced.items()), "alike within a class"
    for name in count:
        times = min(max(count.values()) / count[name], at_most)
        assert each[name] == pytest.approx(times * min(each.values()))


def test_what_is_not_known_yet_is_not_learnt_from():
    """A backtest stands at a `now` in the past: labels that came later do not exist for it."""
    index = facts.examples(np.random.default_rng(0), 50)
    past = NOW - timedelta(days=60)
    chosen = Everything().form(index, past, np.random.default_rng(0))
    labelled = dict(zip(index.ids, index.labelled_at, strict=True))
    assert chosen.ids
    assert all(labelled[id_] <= micros(past) for id_ in chosen.ids)


def test_replay_is_a_uniform_sample_of_the_training_examples():
    index = facts.examples(np.random.default_rng(0), 40)
    pool = index.ids[index.split == "train"]
    counts = Counter(id_ for seed in range(600) for id_ in form(Replay(8), index, seed).ids)
    expected = 600 * 8 / len(pool)
    assert set(counts) == set(pool)
    assert all(abs(count - expected) < 5 * np.sqrt(expected) for count in counts.values())
    assert len(form(Replay(8), index).ids) == 8
    assert form(Replay(1000), index).ids == tuple(pool)


def test_the_same_generator_forms_the_same_dataset():
    index = facts.examples(np.random.default_rng(0), 40)
    assert form(Replay(8), index, 3) == form(Replay(8), index, 3)
    assert form(Replay(8), index, 3) != form(Replay(8), index, 4)


def test_sums_are_flat_and_read_as_written():
    assert (Everything() + Window("30d")) + Replay(5) == Everything() + (Window("30d") + Replay(5))
    assert str(Window("30d") + Replay(20_000)) == "Window('30d') + Replay(20000)"


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Replay(0), "num is 0"),
        (lambda: Recent(-1), "num is -1"),
        (lambda: Balanced(at_most=0.5), "at_most is 0.5"),
        (lambda: Balanced("all"), "of is 'all'"),
        (lambda: Window("later"), "Window.period is 'later', which is not a duration"),
        (lambda: Union(("all",)), "all is no dataset stage"),
    ],
)
def test_parameters_that_make_no_sense_are_refused_by_name(make: object, problem: str):
    with pytest.raises(ProjectError, match=problem):
        make()  # type: ignore[operator]
