"""A version answers under a changed declaration as long as what it reads has the form that it was trained with."""

from __future__ import annotations

import pytest

from tidemill.errors import ModelError
from tidemill.runtime.fits import check_fits
from tidemill.schema import Category, Classes, Image, Number, Schema, Tensor, Text, Value

THEN = Schema({"n": Number(low=0), "c": Category(["a"]), "t": Text(max_chars=5), "i": Image((2, 2))}, Value(high=5))


@pytest.mark.parametrize(
    "changed",
    [
        {"n": Number(low=-5, high=9, outliers="refuse"), "c": Category(["a", "b"], tag=True), "t": Text(max_chars=9)},
        {"new": Tensor((3,))},
    ],
)
def test_what_the_edge_lets_through_is_no_matter_of_the_version(changed):
    check_fits(THEN, THEN.inputs, Schema({**THEN.inputs, **changed}, Value(low=1, high=9)))


def test_an_input_that_it_does_not_read_may_go():
    check_fits(THEN, ["n"], Schema({"n": Number()}, Value()))


@pytest.mark.parametrize(
    ("inputs", "output", "named"),
    [
        ({**THEN.inputs, "n": Text()}, Value(), "input 'n'"),
        ({**THEN.inputs, "i": Image((2, 3))}, Value(), "input 'i'"),
        ({name: kind for name, kind in THEN.inputs.items() if name != "c"}, Value(), "input 'c'"),
        (THEN.inputs, Classes(("a", "b")), "the output"),
    ],
)
def test_another_form_is_refused_by_name(inputs, output, named):
    with pytest.raises(ModelError, match=f"trained with {named} declared otherwise"):
        check_fits(THEN, THEN.inputs, Schema(inputs, output))
