"""A version answers under a changed declaration as long as what it reads has the form that it was trained with."""

from __future__ import annotations

import pytest

from tidemill.errors import ModelError
from tidemill.runtime.fits import check_fits, difference, taken_over
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


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"n": Number(low=-5), "c": Category(["a"]), "t": Text(tag=True), "i": Image((2, 2))}, ""),
        ({**THEN.inputs, "m": Number(default=0)}, ""),
        ({**THEN.inputs, "m": Number()}, "input 'm' is new"),
        ({**THEN.inputs, "i": Image((2, 3))}, "input 'i' has another form"),
        ({n: t for n, t in THEN.inputs.items() if n != "c"}, "input 'c' is gone"),
    ],
)
def test_what_callers_or_models_would_notice_is_told(now, said):
    assert difference(THEN, Schema(now, THEN.output)) == said


def test_an_input_that_loses_its_default_is_wanted_of_everybody():
    then = Schema({"n": Number(default=0)}, Value())
    assert difference(then, Schema({"n": Number()}, Value())) == "input 'n' has no default any more"


def test_a_schema_that_comes_back_keeps_the_bounds_of_today():
    now = Schema({"n": Number(low=-9), "new": Text()}, Classes(("a", "b")))
    assert taken_over(THEN, now) == Schema({**THEN.inputs, "n": Number(low=-9)}, THEN.output)
