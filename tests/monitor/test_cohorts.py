"""A row is in a cohort when its tags, inputs and projections meet the condition, and not where they are unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from log_rows import Mill
from mail import everything, mail, row

from tidemill.errors import ProjectError
from tidemill.monitor.cohorts import cohort_masks, columns_needed, with_projections
from tidemill.monitor.outcomes import answered_frame
from tidemill.project import Project
from tidemill.runtime.routing import position

DARK = {"is_dark": lambda r: r["logo"].mean() < 100, "words": lambda r: len(r["text"].split())}
DARK_COHORTS = {"dark": "is_dark", "wordy_dutch": "words > 1 AND country = 'NL'", "dutch": "country = 'NL'"}


def masks(project: Project, mill: Mill) -> dict[str, list[bool]]:
    frame = answered_frame(mill.log, project, everything(mill))
    return {name: mask.tolist() for name, mask in cohort_masks(project, frame).items()}


def test_conditions_over_tags_and_inputs_hold_row_by_row(mill: Mill) -> None:
    mill.put(
        row(mill, 1, tags={"country": "NL", "age": 20.0}),
        row(mill, 2, tags={"country": "BE", "age": 29.9}, inputs={"text": "a", "num_links": 2.0, "logo": bytes(4)}),
        row(mill, 3, tags={"country": "NL", "age": 30.0}),
        project="mail",
    )
    assert masks(mail(), mill) == {
        "dutch": [True, False, True], "young": [True, True, False], "linked": [False, True, False]
    }  # fmt: skip


def test_a_row_whose_inputs_were_dropped_is_in_the_cohorts_of_its_tags_only(mill: Mill) -> None:
    mill.put(
        row(mill, 1, inputs=None), row(mill, 2, inputs={"text": "", "num_links": 9.0, "logo": bytes(4)}), project="mail"
    )
    cohorts = {"dutch": "country = 'NL'", "few": "num_links < 5", "not_few": "NOT num_links < 5"}
    assert masks(mail(cohorts=cohorts), mill) == {
        "dutch": [True, True], "few": [False, False], "not_few": [False, True]
    }  # fmt: skip


def test_projections_see_images_as_arrays_and_become_columns(mill: Mill) -> None:
    light = {"text": "two words", "num_links": 0.0, "logo": b"\xff" * 4}
    mill.put(row(mill, 1), row(mill, 2, inputs=light), row(mill, 3, inputs=None), project="mail")
    project = mail(projections=DARK, cohorts=DARK_COHORTS)
    assert masks(project, mill) == {
        "dark": [True, False, False], "wordy_dutch": [False, True, False], "dutch": [True] * 3
    }  # fmt: skip
    frame = with_projections(project, answered_frame(mill.log, project, everything(mill)))
    assert frame["is_dark"].to_list() == [True, False, None] and frame["words"].to_list() == [1, 2, None]


@pytest.mark.parametrize("inputs", [None, "never any"])
def test_where_all_inputs_of_a_window_were_dropped_no_row_is_in_a_cohort_of_projections(
    mill: Mill, inputs: Any
) -> None:
    if inputs == "never any":
        mill.put(row(mill, 0, second=-100, inputs={"text": "a"}), project="mail")
    mill.put(row(mill, 1, inputs=None), row(mill, 2, inputs=None), project="mail")
    project = mail(projections=DARK, cohorts={**DARK_COHORTS, "light": "NOT is_dark", "texts": "lower(text) = 'a'"})
    found = masks(project, mill)
    assert [found[name][-2:] for name in ("dark", "wordy_dutch", "light", "texts")] == [[False, False]] * 4
    assert found["dutch"][-2:] == [True, True]


def sampled(mill: Mill, num: int) -> list[tuple[bool, bool]]:
    """Requests of which the gateway kept a quarter, half of them from before there was `num_links`: kept, has links."""
    known = []
    for i in range(num):
        kept, has = position("keep", f"r{i}") < 0.25, i % 2 == 0
        inputs = {"text": "hi", "logo": bytes(4), **({"num_links": 3.0} if has else {})}
        mill.put(row(mill, i, second=i, inputs=inputs if kept else None, keep_probability=0.25), project="mail")
        known.append((kept, has))
    return known


def test_of_dropped_inputs_it_is_not_known_whether_they_are_null(mill: Mill) -> None:
    known = sampled(mill, 60)
    none, some = [kept and not has for kept, has in known], [kept and has for kept, has in known]
    dutch = [kept for kept, _ in known]
    cohorts = {
        "none": "num_links IS NULL", "some": "num_links IS NOT NULL", "few": "coalesce(num_links, 0) < 3",
        "dutch": "country = 'NL' OR num_links > 2", "other": "country = 'NL'",
    }  # fmt: skip
    found = masks(mail(cohorts=cohorts), mill)
    assert found == {"none": none, "some": some, "few": none, "dutch": dutch, "other": [True] * 60}
    assert 0 < sum(none) < sum(dutch) < 60


def test_null_inputs_of_rows_that_are_kept_for_sure_are_null(mill: Mill) -> None:
    inputs = {"text": "hi", "logo": bytes(4)}
    mill.put(row(mill, 1, inputs=inputs), row(mill, 2, inputs=None, keep_probability=0.0), project="mail")
    assert masks(mail(cohorts={"none": "num_links IS NULL"}), mill) == {"none": [True, False]}


def first_letter(example: Any) -> str:
    return str(example["text"][0])  # an empty text has none


def test_a_row_on_which_a_projection_fails_is_in_none_of_its_cohorts_and_stops_nothing(
    mill: Mill, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["apple", "", "berry"]
    mill.put(
        *(row(mill, i, inputs={"text": t, "num_links": 0.0, "logo": bytes(4)}) for i, t in enumerate(texts)),
        project="mail",
    )
    cohorts = {"a": "first = 'a'", "not_a": "NOT first = 'a'", "dutch": "country = 'NL'"}
    found = masks(mail(projections={"first": first_letter}, cohorts=cohorts), mill)
    assert found == {"a": [True, False, False], "not_a": [False, False, True], "dutch": [True, True, True]}
    assert "1 of 3 rows are left out: projection 'first' raised IndexError" in caplog.text


def test_one_strange_row_alone_stops_nothing_either(mill: Mill) -> None:
    mill.put(row(mill, 1, inputs={"text": "", "num_links": 0.0, "logo": bytes(4)}), project="mail")
    assert masks(mail(projections={"first": first_letter}, cohorts={"a": "first = 'a'"}), mill) == {"a": [False]}


def test_a_projection_that_fails_on_every_row_is_named(mill: Mill) -> None:
    mill.put(*(row(mill, i) for i in range(20)), project="mail")
    with pytest.raises(ProjectError, match="'broken' raised ZeroDivisionError"):
        masks(mail(projections={"broken": lambda r: 1 / 0}, cohorts={"x": "broken > 0"}), mill)


def test_only_what_conditions_need_is_read_from_the_log() -> None:
    assert columns_needed(mail()) == ["num_links", "country", "age"]
    assert columns_needed(mail(cohorts={})) == ["country", "age"]
    assert columns_needed(mail(cohorts={"x": "length(text) > 3"})) == ["text", "country", "age"]
    assert columns_needed(mail(projections=DARK)) == ["num_links", "country", "age"], "no cohort is told by one"
    every = ["text", "num_links", "logo", "country", "age"]
    assert columns_needed(mail(projections=DARK, cohorts=DARK_COHORTS)) == every


def test_no_rows_are_in_every_cohort_of_length_0(mill: Mill) -> None:
    assert masks(mail(), mill) == {"dutch": [], "young": [], "linked": []}
    assert cohort_masks(mail(cohorts={}), pl.DataFrame({"country": ["NL"]})) == {}


def test_masks_are_bool_arrays(mill: Mill) -> None:
    mill.put(row(mill, 1), project="mail")
    frame = answered_frame(mill.log, mail(), everything(mill))
    assert all(mask.dtype == np.bool_ for mask in cohort_masks(mail(), frame).values())
