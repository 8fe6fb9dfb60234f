"""A policy's level is re-fitted with a guarantee, or left as it is with a word on what lacks."""

from __future__ import annotations

import numpy as np
import pytest

from tidemill.errors import ProjectError
from tidemill.policy import Policy
from tidemill.records import Outcome
from tidemill.schema import Classes
from tidemill.strategy.adapt import Abstain, Known, Never, Threshold, fewest

OUTPUT = Classes(["ok", "toxic"])


def known(num: int, *, seed: int = 0, flat: float | None = None) -> Known:
    """Answers whose score is their chance of being right, or that are right `flat` of the time whatever it is."""
    rng = np.random.default_rng(seed)
    top, best = rng.uniform(0.5, 1.0, num), rng.integers(0, 2, num)
    scores = np.where(np.arange(2) == best[:, None], top[:, None], 1 - top[:, None])
    right = rng.random(num) < (top if flat is None else flat)
    labels = np.array(OUTPUT.names, dtype=object)[np.where(right, best, 1 - best)]
    return Known(scores=scores, labels=labels, held_out=np.arange(num) % 2 == 1)


def true_error(level: float) -> float:
    """Of `known` answers with a score of at least `level`."""
    return 1 - (max(level, 0.5) + 1.0) / 2


def test_of_what_is_decided_too_much_is_wrong_alpha_of_the_time_at_most() -> None:
    member, broken, fitted = Abstain(errors=0.1, alpha=0.1), 0, 0
    for seed in range(200):
        refit = member.fit(known(2400, seed=seed), OUTPUT, Policy())
        if refit.policy.abstain_below is not None:
            fitted += 1
            broken += true_error(refit.policy.abstain_below) > 0.1
    assert fitted > 150
    assert broken <= 200 * 0.1 + 3 * (200 * 0.1 * 0.9) ** 0.5


def test_more_outcomes_let_it_decide_more() -> None:
    few, many = (Abstain(errors=0.1).fit(known(num), OUTPUT, Policy()).policy.abstain_below for num in (600, 20_000))
    assert few is not None
    assert many is not None
    assert 0.8 <= many < few  # .8 keeps exactly one in ten wrong


def test_a_level_that_need_not_be_is_taken_away() -> None:
    refit = Abstain(errors=0.05).fit(known(4000, flat=0.99), OUTPUT, Policy(abstain_below=0.9))
    assert refit.policy.abstain_below is None
    assert "moves from 0.9 to 0" in refit.verdict.reason


def test_too_few_outcomes_change_nothing_and_say_how_many_more_it_takes() -> None:
    refit = Abstain(errors=0.05).fit(known(40), OUTPUT, Policy(abstain_below=0.7))
    assert refit.policy == Policy(abstain_below=0.7)
    assert refit.verdict.outcome is Outcome.INCONCLUSIVE
    assert "about 140 more outcomes" in refit.verdict.reason
    assert fewest(0.05, 0.05) == 59


def test_where_nothing_keeps_the_errors_down_nothing_changes() -> None:
    refit = Abstain(errors=0.05).fit(known(4000, flat=0.7), OUTPUT, Policy())
    assert (refit.policy, refit.verdict.outcome) == (Policy(), Outcome.INCONCLUSIVE)


def test_rows_that_were_held_out_can_speak_against_it() -> None:
    fine, bad = known(2000, flat=0.99), known(2000, seed=1, flat=0.8)
    mixed = Known(
        scores=np.where(fine.held_out[:, None], bad.scores, fine.scores),
        labels=np.where(fine.held_out, bad.labels, fine.labels),
        held_out=fine.held_out,
    )
    refit = Abstain(errors=0.05).fit(mixed, OUTPUT, Policy(abstain_below=0.9))
    assert refit.policy == Policy(abstain_below=0.9)
    assert (refit.verdict.outcome, refit.verdict.back_to) == (Outcome.FAIL, "data")


def test_a_level_that_fits_already_stays_without_news() -> None:
    member = Abstain(errors=0.1)
    first = member.fit(known(5000), OUTPUT, Policy())
    again = member.fit(known(5000), OUTPUT, first.policy)
    assert again.policy == first.policy
    assert "stays at" in again.verdict.reason


def test_the_threshold_of_one_class_leaves_the_others_alone() -> None:
    before = Policy(thresholds={"ok": 0.4}, abstain_below=0.6)
    refit = Threshold(label="toxic", precision=0.9).fit(known(8000), OUTPUT, before)
    assert refit.policy.thresholds["ok"] == 0.4
    assert refit.policy.abstain_below == 0.6
    assert 0.78 <= refit.policy.thresholds["toxic"] <= 0.94


def test_never_leaves_the_policy_to_people() -> None:
    assert Never().fit(known(5000), OUTPUT, Policy(abstain_below=0.3)).policy == Policy(abstain_below=0.3)


@pytest.mark.parametrize("wrong", [{"errors": 0}, {"alpha": 1}, {"every": "0s"}, {"trust": "nobody"}])
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ProjectError, match=r"adapt\.Abstain"):
        Abstain(**wrong)  # type: ignore[arg-type]
