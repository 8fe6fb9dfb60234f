"""Near-duplicates share a split, in whatever batches they come; what differs does not, and no group is everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sqlalchemy import func, select

from tidemill.records import Example
from tidemill.schema import Category, Classes, Image, Number, Schema, Tensor, Text
from tidemill.stores.database import Database
from tidemill.stores.duplicates import Sameness
from tidemill.stores.reservoir import Reservoir
from tidemill.stores.tables import duplicate_bands, duplicate_leaders

NUMBERS = count()
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
OUTPUT = Classes(["ok", "toxic"])
TEXTS = Schema({"text": Text(), "age": Number(tag=True)}, OUTPUT)


@pytest.fixture
def reservoir(tmp_path: Path, database: Database) -> Reservoir:
    return Reservoir(database, tmp_path / "reservoir")


def add(
    reservoir: Reservoir, rows: Sequence[dict[str, Any]], schema: Schema = TEXTS, *, project: str = "p", first: int = 0,
    near: bool = True, units: Sequence[str] | None = None,
) -> None:  # fmt: skip
    examples = [
        Example(
            id=f"{first + i}", request_id=None, unit=f"{first + i}" if units is None else units[i], received_at=NOON,
            picked_at=NOON, reason="", probability=None, split="", inputs=row,
        )
        for i, row in enumerate(rows)
    ]  # fmt: skip
    with reservoir._db.begin() as conn:
        reservoir.add(conn, project, examples, sameness=Sameness.of(schema, near_duplicates=near))


def column(reservoir: Reservoir, name: str, project: str = "p") -> list[str]:
    """Return a column of the index in the order of insertion."""
    index = reservoir.index(project)
    return [value for _, value in sorted(zip(map(int, index["id"]), index[name], strict=True))]


def groups(reservoir: Reservoir, project: str = "p") -> list[int]:
    """Return for each example the number of the first of its group."""
    found = column(reservoir, "duplicates", project)
    return [found.index(group) for group in found]


LONG = "the tide comes in and the mill turns all day and all night until the data runs dry and the miller sleeps"


def test_what_differs_little_is_one_group_and_what_differs_much_is_not(reservoir: Reservoir) -> None:
    texts = [LONG, LONG.upper(), f"{LONG} well", "something else", LONG.replace(" and", ","), "Something else!"]
    add(reservoir, [{"text": text, "age": float(i)} for i, text in enumerate(texts)])
    assert groups(reservoir) == [0, 0, 0, 3, 4, 3]


def test_only_equal_ones_are_a_group_where_the_project_says_so(reservoir: Reservoir) -> None:
    add(reservoir, [{"text": text, "age": 1.0} for text in (LONG, LONG.upper(), LONG)], near=False)
    assert groups(reservoir) == [0, 1, 0]
    with reservoir._db.read() as conn:
        assert conn.execute(select(func.count()).select_from(duplicate_leaders)).scalar() == 0


def test_numbers_and_categories_must_be_equal_and_tags_may_differ(reservoir: Reservoir) -> None:
    schema = Schema({"text": Text(), "price": Number(), "kind": Category(), "app": Category(tag=True)}, OUTPUT)
    rows = [
        {"text": LONG, "price": 1.0, "kind": "a", "app": "v1"},
        {"text": LONG.upper(), "price": 1.0, "kind": "a", "app": "v2"},
        {"text": LONG.upper(), "price": 1.1, "kind": "a", "app": "v1"},
        {"text": LONG.upper(), "price": 1.0, "kind": "b", "app": "v1"},
    ]
    add(reservoir, rows, schema)
    assert groups(reservoir) == [0, 0, 2, 3]


def test_an_example_from_before_an_input_had_a_default_is_a_duplicate_of_what_it_reads_as(reservoir: Reservoir) -> None:
    old = Schema({"x": Number(), "measure": Category()}, OUTPUT)
    new = Schema({"speed": Number(default=-1), "x": Number(), "measure": Category(default="m")}, OUTPUT)
    add(reservoir, [{"x": 1.0, "measure": "m"}, {"x": 2.0, "measure": "km"}], old)
    rows = [
        {"speed": -1.0, "x": 1.0, "measure": "m"},
        {"speed": -1.0, "x": 2.0, "measure": "km"},
        {"speed": 3.0, "x": 1.0, "measure": "m"},
        {"speed": -1.0, "x": 3.0, "measure": "m"},
        {"x": 3.0, "measure": "m"},
    ]
    add(reservoir, rows, new, first=2)
    assert groups(reservoir) == [0, 1, 0, 1, 4, 5, 5]


def test_so_is_one_that_is_nearly_the_same(reservoir: Reservoir) -> None:
    old = Schema({"text": Text(), "measure": Category()}, OUTPUT)
    more = {"speed": Number(default=-1), "note": Text(default="no note was written")}
    new = Schema({"text": Text(), "measure": Category(default="m"), **more}, OUTPUT)
    add(reservoir, [{"text": LONG, "measure": "m"}], old)
    row = {"text": LONG.upper(), "measure": "m", "speed": -1.0, "note": "no note was written"}
    others = [{"text": f"{LONG} well"}, {"speed": 3.0}, {"measure": "km"}]
    add(reservoir, [row, *({**row, **other} for other in others)], new, first=1)
    assert groups(reservoir) == [0, 0, 0, 3, 4]
    splits = column(reservoir, "split")
    assert len(set(splits[:3])) == 1


def test_of_several_texts_and_pictures_all_must_be_alike(reservoir: Reservoir) -> None:
    schema = Schema({"title": Text(), "body": Text(), "picture": Image((8, 8))}, OUTPUT)
    picture, other = np.random.default_rng(0).integers(0, 256, (2, 64), dtype=np.uint8)
    near = np.clip(picture.astype(int) + 1, 0, 255).astype(np.uint8)
    rows = [
        {"title": "Tide", "body": LONG, "picture": picture.tobytes()},
        {"title": "TIDE", "body": LONG.upper(), "picture": near.tobytes()},
        {"title": "Mill", "body": LONG.upper(), "picture": near.tobytes()},
        {"title": "Tide", "body": "something else", "picture": near.tobytes()},
        {"title": "Tide", "body": LONG, "picture": other.tobytes()},
        {"title": "", "body": LONG, "picture": picture.tobytes()},
        {"title": "", "body": LONG.upper(), "picture": picture.tobytes()},
    ]
    add(reservoir, rows, schema)
    assert groups(reservoir) == [0, 0, 2, 3, 4, 5, 5]


def test_examples_that_do_not_fit_the_schema_are_duplicates_of_equal_ones_only(reservoir: Reservoir) -> None:
    schema = Schema({"picture": Image((2, 2)), "vector": Tensor((2,))}, OUTPUT)
    rows = [{"picture": bytes([1, 200]), "vector": bytes(4)}, {"picture": "text"}, {"other": 1.0}] * 2
    add(reservoir, rows, schema)
    assert groups(reservoir) == [0, 1, 2, 0, 1, 2]


def test_a_project_does_not_see_the_examples_of_another(reservoir: Reservoir) -> None:
    for project in ("p", "q"):
        add(reservoir, [{"text": LONG.upper() if project == "q" else LONG, "age": 1.0}], project=project)
    (one,), (other,) = column(reservoir, "duplicates"), column(reservoir, "duplicates", "q")
    assert one != other


# --- the split


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_groups_and_splits_do_not_depend_on_the_batches_and_never_change(
    reservoir: Reservoir, data: st.DataObject
) -> None:
    whole, parted = f"p{next(NUMBERS)}", f"p{next(NUMBERS)}"
    stems = [LONG, LONG[::-1], "a b c d e f", "x"]
    texts = st.builds(lambda stem, end: stems[stem] + end, st.integers(0, 3), st.sampled_from(["", "!", " z", " z y"]))
    rows = [{"text": text, "age": 1.0} for text in data.draw(st.lists(texts, min_size=1, max_size=25))]
    units = [f"user {data.draw(st.integers(0, 5))}" for _ in rows]
    add(reservoir, rows, project=whole, units=units)
    at, seen = 0, []
    while at < len(rows):
        until = at + data.draw(st.integers(1, 6))
        add(reservoir, rows[at:until], project=parted, units=units[at:until], first=at)
        assert column(reservoir, "split", parted)[: len(seen)] == seen
        at, seen = until, column(reservoir, "split", parted)
    for name in ("duplicates", "split"):
        assert column(reservoir, name, parted) == column(reservoir, name, whole)
    by_group = zip(column(reservoir, "duplicates", whole), column(reservoir, "split", whole), strict=True)
    assert len(set(by_group)) == len(set(column(reservoir, "duplicates", whole)))


def test_a_near_duplicate_has_the_split_of_what_was_there_whoever_it_is_from(reservoir: Reservoir) -> None:
    texts = [f"{LONG} {i} {i * 7} {i * 13}" if i % 2 else str(i) for i in range(60)]
    add(reservoir, [{"text": text, "age": 1.0} for text in texts], units=[f"user {i}" for i in range(60)])
    first = column(reservoir, "split")
    again = [{"text": f"{text.upper()}!", "age": 2.0} for text in texts]
    add(reservoir, again, first=60, units=[f"somebody else {i}" for i in range(60)])
    assert column(reservoir, "split")[60:] == first
    assert set(first) == {"train", "test"}


# --- no group is everything


def camera(num: int) -> list[dict[str, Any]]:
    """Pictures of a fixed camera: nearly the same, all of them."""
    rng = np.random.default_rng(0)
    scene = rng.integers(40, 200, (16, 16))
    return [{"picture": (scene + rng.integers(0, 3, (16, 16))).astype(np.uint8).tobytes()} for _ in range(num)]


def test_a_fixed_camera_does_not_put_everything_into_one_split(reservoir: Reservoir) -> None:
    add(reservoir, camera(1000), Schema({"picture": Image((16, 16))}, OUTPUT))
    sizes = Counter(groups(reservoir))
    assert max(sizes.values()) <= 20
    assert 0.1 < column(reservoir, "split").count("test") / 1000 < 0.3


def test_equal_examples_are_one_group_however_large_it_is(reservoir: Reservoir) -> None:
    rows = camera(40)
    add(reservoir, [rows[i % 2] for i in range(30)] + rows, Schema({"picture": Image((16, 16))}, OUTPUT))
    found = groups(reservoir)
    assert {*found[:30], *found[30:32]} == {0}
    assert len(set(found)) > 1, "the others find no room in it"
    add(reservoir, rows, Schema({"picture": Image((16, 16))}, OUTPUT), first=70)
    assert groups(reservoir)[70:] == found[30:]


def test_what_is_looked_at_for_an_example_is_bounded(reservoir: Reservoir) -> None:
    schema = Schema({"picture": Image((16, 16))}, OUTPUT)
    add(reservoir, camera(1500), schema)
    query = select(func.count()).select_from(duplicate_bands).group_by(duplicate_bands.c.band)
    with reservoir._db.read() as conn:
        assert max(conn.execute(query).scalars()) == 32


def test_real_digits_keep_their_fifth_for_tests(reservoir: Reservoir) -> None:
    images = (load_digits().images * 15.9).astype(np.uint8)
    add(reservoir, [{"picture": image.tobytes()} for image in images], Schema({"picture": Image((8, 8))}, OUTPUT))
    assert len(set(groups(reservoir))) > 1_790
    assert 0.17 < column(reservoir, "split").count("test") / len(images) < 0.23


def test_what_a_default_is_today_does_not_change_what_equals_what() -> None:
    before, after = (Sameness(("x", "speed"), {}, {"speed": value}) for value in (-1.0, 0.0))
    row = {"x": 1.0, "speed": -1.0}
    assert before.content(row) in after.contents(row)
    assert before.content(row) != after.content({"x": 1.0, "speed": 0.0})
