"""Inputs read by column are those that are read by row, and rows of other names, types or none are told apart."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.stores.inputs import InputStore

NUMBERS = count()
TYPES = {"a": pa.large_string(), "b": pa.float64(), "c": pa.large_binary()}
KINDS = {"a": str, "b": float, "c": bytes}
VALUES = st.text(max_size=6) | st.floats(allow_nan=False) | st.binary(max_size=6)
ROWS = st.dictionaries(st.sampled_from("abcd"), VALUES, min_size=1) | st.fixed_dictionaries(
    {"a": st.text(max_size=6), "b": st.floats(allow_nan=False), "c": st.binary(max_size=6)},
    optional={"d": VALUES},
)


@pytest.fixture
def store(tmp_path: Path) -> InputStore:
    return InputStore(tmp_path)


def fits(row: dict[str, Any]) -> bool:
    return all(isinstance(row.get(name), kind) for name, kind in KINDS.items())


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(ROWS, min_size=1, max_size=6), max_size=4), data=st.data())
def test_columns_hold_what_rows_do(store: InputStore, batches: list[list[dict[str, Any]]], data: st.DataObject) -> None:
    project, rows, places = f"p{next(NUMBERS)}", [], []
    for batch in batches:
        found = store.put(project, {str(i): dict(sorted(row.items())) for i, row in enumerate(batch)})
        rows += batch
        places += [found[str(i)] for i in range(len(batch))]
    columns = store.columns(project, places, TYPES, {})
    assert columns.fits.tolist() == [fits(row) for row in rows]
    good = [at for at, row in enumerate(rows) if fits(row)]
    index = data.draw(st.lists(st.sampled_from(good), max_size=8)) if good else []
    taken = columns.take(pa.array(index, pa.int64()).to_numpy())
    assert taken.schema == pa.schema(TYPES)
    assert taken.to_pylist() == [{name: rows[at][name] for name in TYPES} for at in index]
    assert [columns.lengths["a"][at] for at in good] == [len(rows[at]["a"].encode()) for at in good]
    assert [columns.lengths["c"][at] for at in good] == [len(rows[at]["c"]) for at in good]
