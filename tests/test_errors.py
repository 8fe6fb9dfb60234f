"""Errors tell the next move, and stay themselves across processes."""

from __future__ import annotations

import pickle

import pytest

from tidemill import errors
from tidemill.errors import InvalidInput, InvalidRequest, MissingExtra, TidemillError
from tidemill.records import Outcome, Verdict
from tidemill.serving.protocol import Unanswered
from tidemill.training.smoke import SmokeTestError


def subclasses(cls: type[TidemillError]) -> list[type[TidemillError]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in subclasses(sub))]


DECLARED = [cls for cls in subclasses(TidemillError) if cls.__module__ == errors.__name__]
FAILED = Verdict(outcome=Outcome.FAIL, by="smoke.labels", reason="one label only", back_to="labels")
RICH = [
    InvalidInput("'age' is 'x'.", "send a number", "age"),
    MissingExtra("the torch trainer", "torch"),
    Unanswered("nobody answers.", "see /v1/models", "id-1"),
    SmokeTestError((FAILED,)),
]
PLAIN = [cls("it broke.", "mend it") for cls in DECLARED if cls is not MissingExtra]


@pytest.mark.parametrize("error", [*RICH, *PLAIN], ids=lambda e: type(e).__name__)
def test_an_error_comes_back_from_another_process_with_all_it_knew(error: TidemillError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


@pytest.mark.parametrize("error", [*RICH, *PLAIN], ids=lambda e: type(e).__name__)
def test_the_text_of_an_error_says_what_is_wrong_and_what_to_do_next(error: TidemillError) -> None:
    assert str(error) == f"{error.message.removesuffix('.')}. Next: {error.hint}"


def test_without_a_hint_the_text_is_the_message() -> None:
    assert str(TidemillError("it broke.")) == "it broke."


def test_the_tree_in_the_documentation_names_every_error() -> None:
    assert errors.__doc__ is not None
    drawn = {word for line in errors.__doc__.splitlines() for word in line.replace("─", " ").split()}
    assert {cls.__name__ for cls in DECLARED} <= drawn


@pytest.mark.parametrize("cls", [cls for cls in DECLARED if issubclass(cls, InvalidRequest)], ids=lambda c: c.__name__)
def test_a_refused_request_has_a_status_and_a_title(cls: type[InvalidRequest]) -> None:
    assert 400 <= cls.status < 600 and cls.title
