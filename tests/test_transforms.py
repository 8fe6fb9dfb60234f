"""Features are the same in training and in serving, in every process, and for any input the schema lets in."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.errors import ModelError, ProjectError
from tidemill.schema import Category, Classes, Image, Number, Schema, Sensitive, Tensor, Text
from tidemill.transforms import (
    AsIs,
    Flatten,
    HashedNgrams,
    OneHot,
    Pipeline,
    ScaleImage,
    Standardise,
    default_transforms,
    transform_from_json,
)

SCHEMA = Schema(
    {
        "text": Text(),
        "country": Category(),
        "age": Number(),
        "photo": Image((2, 3)),
        "vector": Tensor((4,)),
        "user": Sensitive(),
        "plan": Category(tag=True),
    },
    Classes(("a", "b")),
)
ALL = Pipeline(
    (
        HashedNgrams("text", bits=8),
        OneHot("country"),
        Standardise("age", "vector"),
        ScaleImage("photo"),
        Flatten("vector"),
        AsIs("age"),
    )
)

texts = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(
    ["", "👍🏽 ok", "a\0", "Ünï çödé", "ab ab ab"]
)
rows = st.fixed_dictionaries(
    {
        "text": texts,
        "country": texts,
        "age": st.floats(allow_nan=False, allow_infinity=False),
        "photo": st.binary(min_size=6, max_size=6),
        "vector": st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=4, max_size=4).map(
            lambda v: np.array(v, dtype="<f4").tobytes()
        ),
        "user": texts,
        "plan": texts,
    }
)


def stored(pipeline: Pipeline, params: dict) -> tuple[Pipeline, dict]:
    """Return the pipeline and its arrays as a gateway reads them back: from JSON and an `.npz` without pickle."""
    buffer = io.BytesIO()
    np.savez(buffer, **params)
    with np.load(io.BytesIO(buffer.getvalue()), allow_pickle=False) as arrays:
        return Pipeline.from_json(pipeline.to_json()), dict(arrays)


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, min_size=1, max_size=6), st.lists(rows, min_size=1, max_size=4))
def test_serving_one_row_gives_the_features_of_the_training_batch(training, later):
    """Any later row, alone and through the stored form, has the features it has in a batch in the training process."""
    params = ALL.fit(SCHEMA.columns(training))
    served, arrays = stored(ALL, params)
    batch = ALL.apply(SCHEMA.columns(later), params)
    for i, row in enumerate(later):
        single = served.apply(SCHEMA.columns([row]), arrays)
        assert set(single) == set(batch) == {"text_ids", "text_weights", "x", "age"}
        for name in ("x", "age"):
            np.testing.assert_array_equal(single[name][0], batch[name][i])
        width = single["text_ids"].shape[1]
        np.testing.assert_array_equal(single["text_ids"][0], batch["text_ids"][i, :width])
        np.testing.assert_array_equal(single["text_weights"][0], batch["text_weights"][i, :width])
        assert (batch["text_ids"][i, width:] == 256).all()
        assert (batch["text_weights"][i, width:] == 0).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, min_size=0, max_size=6), st.lists(rows, min_size=1, max_size=4))
def test_every_feature_is_finite_and_typed(training, later):
    """Extreme numbers are clipped: no input the schema lets in makes a feature NaN or infinite."""
    features = ALL.apply(SCHEMA.columns(later), ALL.fit(SCHEMA.columns(training)))
    assert {n: f.dtype for n, f in features.items()} == {
        "text_ids": np.int64,
        "text_weights": np.float32,
        "x": np.float32,
        "age": np.float32,
    }
    assert all(np.isfinite(f).all() and len(f) == len(later) for f in features.values())


@given(st.lists(texts, min_size=1, max_size=5), st.sampled_from(["l2", "counts", "binary"]), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_ngrams_are_padded_with_the_last_id_and_weighed_as_told(batch, weights, max_terms):
    made = HashedNgrams("text", bits=10, weights=weights, max_terms=max_terms)
    features = made.apply({"text": Text().column(batch)}, {})
    ids, weight = features["text_ids"], features["text_weights"]
    assert ids.shape == weight.shape
    assert 1 <= ids.shape[1] <= max_terms
    assert ((ids == 1024) == (weight == 0)).all()
    assert ((ids >= 0) & (ids <= 1024)).all()
    for row in ids:
        kept = row[row < 1024]
        assert len(set(kept)) == len(kept)
    if weights == "l2":
        lengths = np.sqrt((weight**2).sum(axis=1))
        assert np.allclose(lengths[(ids < 1024).any(axis=1)], 1, atol=1e-6)


def test_ngrams_are_the_same_in_every_process():
    """Python salts its own hash per process; these ids must outlive the process that trained."""
    program = (
        "from tidemill.transforms import HashedNgrams; import numpy as np;"
        "print(HashedNgrams('t').apply({'t': np.array(['Hello, wörld 👍🏽'], dtype=object)}, {})['t_ids'].tolist())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "src"},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    here = HashedNgrams("t").apply({"t": Text().column(["Hello, wörld 👍🏽"])}, {})["t_ids"].tolist()
    assert seen == {f"{here}\n"}
    assert here[0][0] == 191497  # frozen: changing the hash would unlearn every stored text model


def test_emoji_count_as_words_and_empty_text_has_no_terms():
    made = HashedNgrams("t", words=(1, 1), weights="counts")
    features = made.apply({"t": Text().column(["", "so good 👍👍", "so good"])}, {})
    assert (features["t_ids"] < made.size).sum(axis=1).tolist() == [0, 3, 2]
    assert sorted(features["t_weights"][1].tolist()) == [1, 1, 2]


def test_the_rarest_terms_of_a_long_text_are_dropped():
    made = HashedNgrams("t", words=(1, 1), max_terms=1, weights="counts")
    twice = made.apply({"t": Text().column(["once twice twice"])}, {})
    alone = made.apply({"t": Text().column(["twice"])}, {})
    assert twice["t_ids"].tolist() == alone["t_ids"].tolist()


def test_one_hot_gives_an_unknown_value_no_column():
    made = OneHot("c", max_values=2)
    params = made.fit({"c": Text().column(["fr", "de", "fr", "it", "de"])})
    features = made.apply({"c": Text().column(["de", "fr", "it", ""])}, params)
    assert features["x"].tolist() == [[1, 0], [0, 1], [0, 0], [0, 0]]


def test_standardise_centres_and_leaves_constants_at_zero():
    made = Standardise("a", "b")
    columns = {"a": np.array([1.0, 3.0]), "b": np.array([0.1, 0.1])}
    assert made.apply(columns, made.fit(columns))["x"].tolist() == [[-1, 0], [1, 0]]


def test_a_picture_keeps_its_shape_for_a_network():
    grey, colour = np.full((5, 4, 6), 255, np.uint8), np.zeros((5, 4, 6, 3), np.uint8)
    assert ScaleImage("p", flatten=False).apply({"p": grey}, {})["p"].shape == (5, 1, 4, 6)
    assert ScaleImage("p", flatten=False).apply({"p": colour}, {})["p"].shape == (5, 3, 4, 6)
    assert ScaleImage("p", flatten=False, channels_first=False).apply({"p": colour}, {})["p"].shape == (5, 4, 6, 3)
    assert ScaleImage("p").apply({"p": grey}, {})["x"].max() == 1


def test_the_usual_transforms_read_every_input_that_is_no_tag():
    usual = Pipeline(default_transforms(SCHEMA))
    usual.check(SCHEMA)
    assert usual.inputs == ("text", "country", "age", "photo", "vector", "user")


def test_a_schema_without_anything_to_learn_from_has_no_usual_transforms():
    with pytest.raises(ProjectError, match="every input is a tag"):
        default_transforms(Schema({"plan": Category(tag=True)}, Classes(("a", "b"))))


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ((Standardise("height"),), "'height'"),
        ((Standardise("text"),), "a Text"),
        ((ScaleImage("age"),), "a Number"),
        ((HashedNgrams("text"), HashedNgrams("text", bits=9)), "'text_ids'"),
        ((AsIs("age"), AsIs("age")), "'age'"),
        ((), "no transforms"),
    ],
)
def test_transforms_that_do_not_fit_the_schema_are_refused(transforms, message):
    with pytest.raises(ProjectError, match=message):
        Pipeline(transforms).check(SCHEMA)


@pytest.mark.parametrize(
    "make",
    [
        Standardise,
        lambda: OneHot("c", max_values=0),
        lambda: HashedNgrams("t", bits=40),
        lambda: HashedNgrams("t", words=(2, 1)),
        lambda: HashedNgrams("t", max_terms=0),
        lambda: HashedNgrams("t", weights="tfidf"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(make):
    with pytest.raises(ProjectError, match=r"transforms\."):
        make()


@pytest.mark.parametrize("data", [{"type": "Wavelet"}, {"type": "HashedNgrams", "name": "t", "stem": True}, {}])
def test_a_transform_of_a_newer_program_is_refused(data):
    with pytest.raises(ModelError, match="transform"):
        transform_from_json(data)


@pytest.mark.parametrize("transform", [*ALL.transforms, HashedNgrams("t", words=(2, 3)), ScaleImage("p", False, False)])
def test_a_transform_is_its_json(transform):
    assert transform_from_json(transform.to_json()) == transform


def test_serving_transforms_needs_numpy_only():
    """The gateway imports this module; scikit-learn, torch and pyarrow must not come with it."""
    program = (
        "import sys, tidemill.transforms;"
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'sklearn', 'torch', 'scipy', 'pyarrow', 'polars', 'duckdb', 'onnx'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": "src"}, capture_output=True, check=True, text=True
    )
    assert done.stdout == "[]\n"
