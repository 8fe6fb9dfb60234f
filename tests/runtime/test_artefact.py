"""An artefact is read back as it was written, and anything else is refused with the file's name."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from artefacts import EXAMPLE, SCHEMA
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import ModelError
from tidemill.model import Artefact
from tidemill.runtime.artefact import (
    decode_row,
    encode_row,
    example_rows,
    read_artefact,
    read_example_scores,
    read_params,
    write_artefact,
)

ARTEFACT = Artefact(
    format="onnx", schema=SCHEMA.to_json(), example=[encode_row(row) for row in EXAMPLE], notes="naïve ✓"
)
PARAMS = {"0.mean": np.arange(3.0), "1.words": np.frombuffer(b'["a"]', np.uint8)}
SCORES = np.full((2, 3), 0.25, np.float32)


def test_everything_is_read_back_as_it_was_written(tmp_path):
    write_artefact(tmp_path, ARTEFACT, params=PARAMS, scores=SCORES)
    assert read_artefact(tmp_path) == ARTEFACT
    assert example_rows(read_artefact(tmp_path)) == EXAMPLE
    assert {name: array.tolist() for name, array in read_params(tmp_path).items()} == {
        name: array.tolist() for name, array in PARAMS.items()
    }
    assert read_example_scores(tmp_path).tolist() == SCORES.tolist()


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.binary(), st.floats(allow_nan=False, allow_infinity=False))))
def test_any_canonical_row_survives_json(row):
    assert decode_row(json.loads(json.dumps(encode_row(row)))) == row


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no readable artefact.json"),
        ("{", "no readable artefact.json"),
        ("[]", "no readable artefact.json"),
        ('{"schema": {}}', "no readable artefact.json"),
        ('{"format": "pickle", "schema": {}}', "unknown format 'pickle'"),
        ('{"format": "onnx", "schema": {}, "version": 99}', "format 99, newer than 1"),
    ],
)
def test_what_is_no_artefact_is_refused(tmp_path, text, says):
    if text is not None:
        (tmp_path / "artefact.json").write_text(text)
    with pytest.raises(ModelError, match=says):
        read_artefact(tmp_path)


def test_a_pickle_in_an_array_file_is_never_loaded(tmp_path):
    write_artefact(tmp_path, ARTEFACT, params=PARAMS, scores=SCORES)
    with (tmp_path / "transforms.npz").open("wb") as file:
        np.savez(file, **{"0.mean": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(ModelError, match=r"transforms\.npz is not readable"):
        read_params(tmp_path)


def test_an_array_that_would_need_a_pickle_is_not_written(tmp_path):
    with pytest.raises(ModelError, match=r"'0\.words' holds Python objects"):
        write_artefact(tmp_path, ARTEFACT, params={"0.words": np.array(["a"], dtype=object)}, scores=SCORES)


@pytest.mark.parametrize("num_rows", [0, 9])
def test_an_artefact_without_an_example_or_with_too_large_a_one_is_not_written(tmp_path, num_rows):
    artefact = replace(ARTEFACT, example=[encode_row(EXAMPLE[0])] * num_rows)
    with pytest.raises(ModelError, match="example rows"):
        write_artefact(tmp_path, artefact, params={}, scores=np.zeros((num_rows, 3), np.float32))
